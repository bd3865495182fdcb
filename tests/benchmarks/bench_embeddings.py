"""Documents per second: `LlamaCppEmbeddings`, a bare decode loop, and `llama_cpp.Llama.embed`.

`python -m tests.benchmarks.bench_embeddings [MODEL]`: each contestant in a process of its own, one
round after the other, all with the same texts. "bare" makes tokens, fills the same batches, decodes
and copies the vectors, and does nothing else. "one by one" calls `Llama.embed` for each text.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from helpers import default_model, inspect_model
from tests.support import ROOT

ROUNDS = 7
CONTESTANTS = ("ours", "bare", "one by one")


def texts() -> list[str]:
    """Passages of 10 to 130 tokens."""
    words = (ROOT / "notebooks" / "data" / "river.txt").read_text("utf-8").split()
    return [" ".join(words[n : n + 8 + 23 * (n % 5)]) for n in range(0, len(words) - 110, 2)]


def ours(model: str) -> Callable[[list[str]], Any]:
    from helpers import LlamaCppEmbeddings

    vectors = LlamaCppEmbeddings(model_path=model, n_gpu_layers=0, show_progress=False)
    return vectors.embed_documents


def one_by_one(model: str) -> Callable[[list[str]], Any]:
    import llama_cpp

    n_ctx = min(2048, inspect_model(model).n_ctx_train)
    llm = llama_cpp.Llama(
        model,
        embedding=True,
        verbose=False,
        n_ctx=n_ctx,
        n_batch=n_ctx,
        n_ubatch=n_ctx,
        pooling_type=1,
        n_gpu_layers=0,
    )
    return lambda passages: [llm.embed(text, normalize=True) for text in passages]


def bare(model: str) -> Callable[[list[str]], Any]:
    import llama_cpp.llama_cpp as native

    from helpers.engine.embedder import BATCH_TOKENS, pack
    from helpers.native import usable_cores

    native.llama_backend_init()
    bare.silent = native.llama_log_callback(lambda *_: None)  # type: ignore[attr-defined]  # kept
    native.llama_log_set(bare.silent, None)  # type: ignore[attr-defined]
    params = native.llama_model_default_params()
    params.n_gpu_layers = 0
    loaded = native.llama_model_load_from_file(model.encode(), params)
    vocab = native.llama_model_get_vocab(loaded)
    settings = native.llama_context_default_params()
    n_ctx = min(2048, native.llama_model_n_ctx_train(loaded))
    settings.n_ctx = settings.n_batch = settings.n_ubatch = n_ctx
    settings.n_seq_max, settings.kv_unified, settings.embeddings = 128, True, True
    settings.n_threads = settings.n_threads_batch = usable_cores()
    settings.flash_attn_type = 0
    settings.pooling_type = 1
    if hasattr(settings, "n_outputs_max"):
        settings.n_outputs_max = n_ctx
    context = native.llama_init_from_model(loaded, settings)
    memory = native.llama_get_memory(context)
    width = native.llama_model_n_embd(loaded)
    batch = native.llama_batch_init(n_ctx, 0, 1)

    def run(passages: list[str]) -> list[Any]:
        tokens = []
        for text in passages:
            raw = text.encode()
            room = (ctypes.c_int32 * (len(raw) + 8))()
            count = native.llama_tokenize(vocab, raw, len(raw), room, len(room), True, False)
            tokens.append(room[:count])
        found: list[Any] = [None] * len(tokens)
        for numbers in pack([len(one) for one in tokens], min(BATCH_TOKENS, n_ctx)):
            at = 0
            for sequence, number in enumerate(numbers):
                for position, token in enumerate(tokens[number]):
                    batch.token[at], batch.pos[at] = token, position
                    batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, sequence, 1
                    at += 1
            batch.n_tokens = at
            if memory:
                native.llama_memory_clear(memory, False)
            assert native.llama_decode(context, batch) == 0
            for sequence, number in enumerate(numbers):
                pointer = native.llama_get_embeddings_seq(context, sequence)
                vector = np.ctypeslib.as_array(pointer, (width,)).copy()
                found[number] = (vector / np.linalg.norm(vector)).tolist()
        return found

    return run


def serve(name: str, model: str) -> None:
    """Compute all texts each time that a line is read; write the seconds that it took."""
    make = {"ours": ours, "bare": bare, "one by one": one_by_one}[name]
    run, passages = make(model), texts()
    run(passages[:8])
    for _ in sys.stdin:
        started = time.perf_counter()
        found = run(passages)
        seconds = time.perf_counter() - started
        print(json.dumps([seconds, [float(x) for x in found[0]]]), flush=True)


def main(model: str) -> None:
    """Print the table."""
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_embeddings", model, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in CONTESTANTS
    }
    times: dict[str, list[float]] = {name: [] for name in children}
    vectors: dict[str, Any] = {}
    for _ in range(ROUNDS):
        for name, child in children.items():
            assert child.stdin and child.stdout
            child.stdin.write("go\n")
            child.stdin.flush()
            seconds, vectors[name] = json.loads(child.stdout.readline())
            times[name].append(seconds)
    for child in children.values():
        child.communicate()
    count = len(texts())
    for name in CONTESTANTS:
        cosine = float(np.dot(vectors[name], vectors["bare"]))
        median = statistics.median(times[name])
        print(f"{name:12} {count / median:8.1f} documents/s, cosine with bare {cosine:.7f}")
    for name, target in (("bare", 0.97), ("one by one", 2.5)):
        ratios = [theirs / mine for mine, theirs in zip(times["ours"], times[name], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"ours / {name}: {middle:.3f} (target {target}; {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    serve(sys.argv[2], path) if len(sys.argv) > 2 else main(path)
