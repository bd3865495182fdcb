"""What cheaper settings cost: `python -m tests.benchmarks.bench_quality [--quick]`.

For types of the KV cache and for quantizations of the embedded model: perplexity with its standard
error, facts found in a text at five depths, speed and memory. And perplexity by position, up to and
beyond the context that the model was trained with, with and without scaled positions.

Writes `notebooks/data/quality.json`: no paths, no names of machines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from helpers import default_model, quantize
from helpers.bench.table import describe_machine
from helpers.convert.scores import log_probabilities
from helpers.engine import Engine, LoadOptions, Request
from helpers.engine.core import settle
from helpers.native import Context, Model

ROOT = Path(__file__).parents[2]
DATA = ROOT / "notebooks" / "data"
CACHES = (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0"))
TYPES = ("Q8_0", "Q4_1", "Q4_0", "Q2_K")
WORDS = ("lantern", "copper", "violin", "pepper")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
POSITIONS = (1024, 4096, 7680, 8704, 9728)
"""Where 512 tokens are scored; 8,192 were trained."""
SCALES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "positions halved": {"rope_scaling_type": 1, "rope_freq_scale": 0.5},
    "YaRN, twice": {"rope_scaling_type": 2, "rope_freq_scale": 0.5, "yarn_orig_ctx": 8192},
}


def prose() -> str:
    """English text of the project itself, long enough for ten thousand tokens."""
    pages = [*sorted((ROOT / "workshop" / "notes").glob("*.md")), ROOT / "README.md"]
    return "\n".join(page.read_text() for page in pages)


def facts(sentences: int = 30) -> Iterator[tuple[float, str, str]]:
    """Depth, prompt and answer of each question."""
    river = (DATA / "river.txt").read_text().replace("\n", " ")
    story = [part.strip() + "." for part in river.split(".") if part.strip()]
    for depth in DEPTHS:
        for word in WORDS:
            lines = (story * 4)[:sentences]
            lines.insert(round(depth * sentences), f"The secret word is {word}.")
            text = " ".join(lines)
            question = f"{text}\n\nQuestion: What is the secret word?\nAnswer: The secret word is"
            yield depth, question, word


def recall(options: LoadOptions) -> dict[str, Any]:
    """Facts found by depth, how likely the right answer was, and the speeds on the way."""
    found: dict[float, list[bool]] = {}
    likely: list[float] = []
    prompts: list[float] = []
    evals: list[float] = []
    with Engine(options) as engine:
        for depth, prompt, word in facts():
            request = Request(
                prompt=prompt, temperature=0.0, repeat_penalty=1.0, max_tokens=12, logprobs=500
            )
            done = engine.generate(request)
            assert done.logprobs is not None
            found.setdefault(depth, []).append(word in done.text.lower())
            first = done.logprobs["top_logprobs"][0]
            begins = [
                p for text, p in first.items() if text.strip() and word.startswith(text.strip())
            ]
            likely.append(max(begins, default=min(first.values())))
            if done.timings.prompt_per_second and not done.timings.cached_tokens:
                prompts.append(done.timings.prompt_per_second)
            evals.append(done.timings.eval_per_second or 0.0)
        report = engine.load_report
    mib = {kind: sum(one[kind] for one in report.by_device.values()) for kind in ("weights", "kv")}
    return {
        "found": {str(depth): f"{sum(hits)}/{len(hits)}" for depth, hits in found.items()},
        "share_found": round(float(np.mean([hit for hits in found.values() for hit in hits])), 3),
        "mean_logprob": round(float(np.mean(likely)), 3),
        "prompt_per_second": round(float(np.median(prompts or [0.0])), 1),
        "eval_per_second": round(float(np.median(evals)), 1),
        "weights_mib": round(mib["weights"], 1),
        "kv_mib": round(mib["kv"], 1),
    }


def row(path: Path, text: str, **options: Any) -> dict[str, Any]:
    """Everything that is measured of one setting."""
    types = {name: options.get(name) for name in ("type_k", "type_v")}
    scores = -log_probabilities(path, text, **types)
    error = float(scores.std() / np.sqrt(len(scores)))
    loaded = LoadOptions(model_path=str(path), n_ctx=2048, n_gpu_layers=0, isolate=False, **options)
    value = float(np.exp(scores.mean()))
    return {
        "perplexity": round(value, 3),
        "standard_error": round(value * error, 3),
        **recall(loaded),
    }


def by_position(scale: dict[str, Any]) -> dict[str, float]:
    """Perplexity of 512 tokens at each position, all before them in the context."""
    last = max(POSITIONS) + 512
    options = settle(
        LoadOptions(
            model_path=str(default_model()), n_ctx=last, n_gpu_layers=0, isolate=False, **scale
        )
    )
    model = Model(options)
    context = Context(model, replace(options, n_batch=512, n_ubatch=512), n_outputs=512)
    tokens = np.asarray(model.tokenize(prose())[:last], np.int32)
    assert len(tokens) == last, f"the text has {len(tokens)} tokens, {last} are needed"
    found = {}
    for start in range(0, last, 512):
        batch, part = context._batch, tokens[start : start + 512]
        batch.token[:512], batch.position[:512] = part, batch.ramp[:512] + start
        batch.sequence[:512] = 0
        batch.logits[:512] = start in POSITIONS
        batch.logits[511] = 1
        context._run(512)
        if start in POSITIONS:
            losses = []
            for n in range(511):
                logits = context.logits(n).astype(np.float64)
                logits -= logits.max()
                losses.append(np.log(np.exp(logits).sum()) - logits[part[n + 1]])
            found[str(start)] = round(float(np.exp(np.mean(losses))), 2)
    context.close()
    model.close()
    return found


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two settings, no positions")
    parser.add_argument("--out", type=Path, default=DATA / "quality.json")
    arguments = parser.parse_args()
    text = prose()[:8_000]
    caches, quantizations = [], []
    with TemporaryDirectory() as folder:
        for kind_k, kind_v in CACHES[:2] if arguments.quick else CACHES:
            print(f"  K {kind_k}, V {kind_v} …", file=sys.stderr, flush=True)
            types = {"type_k": kind_k, "type_v": kind_v}
            caches.append(types | row(default_model(), text, **types))
        for kind in () if arguments.quick else TYPES:
            print(f"  {kind} …", file=sys.stderr, flush=True)
            path = default_model()
            if kind != "Q4_1":
                path = Path(folder) / f"{kind}.gguf"
                quantize(default_model(), kind, path, allow_requantize=True)
            quantizations.append({"type": kind} | row(path, text))
    positions = {}
    for name, scale in () if arguments.quick else SCALES.items():
        print(f"  {name} …", file=sys.stderr, flush=True)
        positions[name] = by_position(scale)
    data = {
        **describe_machine(),
        "n_ctx_train": 8192,
        "caches": caches,
        "quantizations": quantizations,
        "perplexity_by_position": positions,
    }
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
