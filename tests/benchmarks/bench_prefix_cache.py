"""After a restart: the first token of a question on a known document, with `cache_dir` and without.

`python -m tests.benchmarks.bench_prefix_cache [MODEL [TOKENS [ROUNDS]]]`: each call in a process of
its own, with and without in turn. Another process has asked another question on the document
before. The model's load, which is the same for both, is not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers import LlamaCpp, default_model
from tests.support import ROOT

QUESTIONS = (
    "Where does the river begin?",
    "Who lives beside the water, and what do they live on?",
    "What happens in spring?",
    "How long is the river, from its source to the sea?",
    "What do the boats carry?",
)


def ask(model: str, tokens: str, folder: str, number: str) -> None:
    """Ask one question; print the answer and the times."""
    text = (ROOT / "notebooks" / "data" / "river.txt").read_text("utf-8")
    with LlamaCpp(
        model_path=model,
        n_ctx=int(tokens) + 512,
        n_gpu_layers=0,
        temperature=0,
        max_tokens=8,
        logit_bias={0: -1e5, 1: -1e5, 2: -1e5},  # no end at once
        cache_dir=None if folder == "-" else folder,
    ) as llm:
        ids = llm.get_token_ids(text)
        document = text * (int(tokens) // len(ids) + 1)
        while llm.get_num_tokens(document) > int(tokens):
            document = document[: int(len(document) * 0.995)]
        answer = llm.invoke(f"{document}\n\nQuestion: {QUESTIONS[int(number)]}\nAnswer:")
        timings = llm.last_timings
        assert timings is not None
        print(json.dumps([answer, timings.to_dict()]))


def run(*arguments: object) -> Any:
    """`ask` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_prefix_cache", "ask"]
    done = subprocess.run(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def main(model: str, tokens: int = 3000, rounds: int = 4) -> None:
    """Print a line for each round, and the medians."""
    with tempfile.TemporaryDirectory() as folder:
        _, first = run(model, tokens, folder, 0)
        (kept,) = Path(folder).iterdir()
        print(
            f"filled: {first['prompt_tokens']} tokens, first token after "
            f"{first['first_token_ms']:,.0f} ms, then {first['token_ms'][1]:,.0f} ms to the second "
            f"(with the copy of {kept.stat().st_size / 2**20:.0f} MiB)"
        )
        ratios, times = [], []
        for number in range(1, rounds + 1):
            (text, without), (same, with_) = (
                run(model, tokens, where, number) for where in ("-", folder)
            )
            assert text == same, (text, same)
            pair = without["first_token_ms"], with_["first_token_ms"]
            times.append(pair)
            ratios.append(pair[0] / pair[1])
            outside = pair[1] - with_["prompt_ms"]
            print(
                f"without {pair[0]:9,.0f} ms; with {pair[1]:7,.0f} ms, of which {outside:,.0f} "
                f"outside of the prompt's {with_['prompt_tokens']} tokens "
                f"({with_['cached_tokens']} from the file); {ratios[-1]:.1f} times sooner",
                flush=True,
            )
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        print(
            f"medians {medians[0]:,.0f} and {medians[1]:,.0f} ms: {statistics.median(ratios):.1f} "
            f"times sooner (target 20; {min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        ask(*sys.argv[2:])
    else:
        main(sys.argv[1] if sys.argv[1:] else str(default_model()), *map(int, sys.argv[2:]))
