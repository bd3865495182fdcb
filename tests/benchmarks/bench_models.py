"""Time and memory of looking at a model file, by the file's size.

`python -m tests.benchmarks.bench_models [FOLDER]`: the large files are sparse and take no space.
Each row is the best of five calls in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import default_model
from tests.models.gguf_builders import Draft

CHILD = """
import sys, tracemalloc, time
from helpers import inspect_model
from helpers.models import check
from helpers.models.header import read_header
from pathlib import Path

def best(work):
    times = []
    for _ in range(5):
        check._checked.cache_clear()
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)

path = Path(sys.argv[1])
header = best(lambda: read_header(path))
whole = best(lambda: inspect_model(path))
check._checked.cache_clear()
inspect_model(path)
start = time.perf_counter()
inspect_model(path)
again = 1000 * (time.perf_counter() - start)
check._checked.cache_clear()
tracemalloc.start()
inspect_model(path)
peak = tracemalloc.get_traced_memory()[1]
print(f"{header:10.1f} {whole:12.1f} {again:10.2f} {peak / 2**20:10.1f}")
"""


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        rows = [("embedded, 0.1 GB", default_model())]
        base = default_model().read_bytes()[:1_785_664]
        for gigabytes in (1, 10, 40):
            draft = Draft(base)
            # The feed-forward network of every layer grows, as in a larger model.
            share = gigabytes * 10**9 // (30 * 3 * 576 * 20 // 32) // 32 * 32
            for tensor in draft.tensors:
                if b"ffn_down" in tensor[0]:
                    tensor[1] = [share, 576]
                elif b"ffn_gate" in tensor[0] or b"ffn_up" in tensor[0]:
                    tensor[1] = [576, share]
            draft.set("llama.feed_forward_length", "I", 4, share)
            draft.place_tensors()
            path = draft.write(Path(folder) / f"{gigabytes}.gguf")
            rows.append((f"sparse, {path.stat().st_size / 1e9:.1f} GB", path))
        print(
            f"{'file':<20} {'header ms':>10} {'inspect ms':>12} {'again ms':>10} {'peak MiB':>10}"
        )
        for label, path in rows:
            run = subprocess.run(
                [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True
            )
            print(f"{label:<20} {run.stdout.rstrip()}")


if __name__ == "__main__":
    main()
