"""The whole ladder of quantizations of the embedded model: size, speed, perplexity.

`python tests/benchmarks/bench_quantize.py [OUTPUT.json]`: about two minutes on two idle cores, most
of them for IQ4_NL, whose best values are searched. Without a path the table is only printed. Speeds
are printed and not kept: they belong to one machine, while sizes and perplexities are the same
everywhere.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers import (
    LlamaCpp,
    default_model,
    environment_summary,
    inspect_model,
    perplexity,
    quantize,
)

LADDER = ("Q8_0", "Q5_1", "Q5_0", "IQ4_NL", "Q4_0", "Q4_K_M", "Q2_K")
TEXT = Path(__file__).parents[2] / "notebooks" / "data" / "river.txt"
SPEEDS = ("eval_per_second", "quantize_seconds")


def measure(path: Path) -> dict[str, Any]:
    """Size, speed and perplexity of one file."""
    info = inspect_model(path)
    speeds = []
    with LlamaCpp(model_path=path, n_gpu_layers=0, temperature=0, max_tokens=32) as llm:
        for _ in range(4):
            llm.invoke("Once upon a time")
            speeds.append(llm.last_timings.eval_per_second)
    return {
        "type": info.quantization,
        "mib": round(info.file_size / 2**20, 1),
        "bits_per_weight": round(info.bits_per_weight, 2),
        "tensor_types": dict(info.tensor_types),
        "eval_per_second": round(max(speeds[1:]), 1),
        "perplexity": round(perplexity(path, TEXT.read_text(encoding="utf-8")), 2),
    }


def main() -> None:
    """Print the table, and keep it where a path is given."""
    rows = [measure(default_model()) | {"fallbacks": 0}]
    with tempfile.TemporaryDirectory() as folder:
        for kind in LADDER:
            made = quantize(default_model(), kind, folder, allow_requantize=True)
            row = measure(made.path) | {"type": kind, "fallbacks": made.fallbacks}
            rows.append(row | {"quantize_seconds": round(made.seconds, 1)})
            made.path.unlink()
            print(rows[-1], flush=True)
    kept = [{key: row[key] for key in row if key not in SPEEDS} for row in rows]
    summary = environment_summary()
    record = {
        "measured_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, CPU only",
        "llama_cpp_python": summary.llama_cpp_python,
        "source": default_model().name + ", requantized",
        "text": f"{TEXT.name}, windows of 512 tokens",
        "rows": kept,
    }
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
