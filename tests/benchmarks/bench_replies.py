"""What the grammar of a reply costs: time per token with and without it, and its reading.

    python -m tests.benchmarks.bench_replies [repetitions]

Each pair is measured in turns, so that other work on the machine meets both, and the median of the
ratios counts. The time of sampling alone, in which the grammar's is, varies less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from helpers.chat.format import HERMES, ChatFormat
from helpers.chat.grammar import reply_grammar
from helpers.chat.reader import ReplyReader
from helpers.engine import Completion, Engine, LoadOptions, Request
from helpers.models import default_model

FORM = ChatFormat(HERMES)
TOOLS: dict[str, Any] = {
    f"get_{name}": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 40},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "kelvin"]},
        },
        "required": ["city", "days", "unit"],
        "additionalProperties": False,
    }
    for name in ("weather", "tides", "pollen")
}
QUESTION = "<|im_start|>user\nTell me a long story about the weather in Seoul.<|im_end|>\n"
PROMPT = f"{QUESTION}<|im_start|>assistant\n"


def timed(engine: Engine, request: Request) -> tuple[float, Completion]:
    """Milliseconds per generated token after the first, and the answer."""
    done = engine.generate(request)
    times = done.timings.token_ms
    assert times
    return sum(times) / len(times), done


def compare(engine: Engine, free: Request, held: Request, rounds: int) -> None:
    """Print what the grammar costs, and on how many tokens."""
    ratios, milliseconds, sampling = [], [], []
    for _ in range(rounds):
        (alone, plain), (under, done) = timed(engine, free), timed(engine, held)
        ratios.append(under / alone)
        milliseconds.append((alone, under))
        sampling.append((_sampling(plain), _sampling(done)))
    alone, under = (statistics.median(column) for column in zip(*milliseconds, strict=True))
    sample, held_sample = (statistics.median(column) for column in zip(*sampling, strict=True))
    print(
        f"  {alone:6.2f} ms per token free, {under:6.2f} ms held, ratio "
        f"{statistics.median(ratios):.3f} ({done.generated_tokens} tokens held); "
        f"sampling {sample:.3f} and {held_sample:.3f} ms"
    )


def _sampling(done: Completion) -> float:
    """Milliseconds of sampling for each token."""
    return (done.timings.sample_ms or 0.0) / max(done.generated_tokens, 1)


def read(text: str, size: int) -> float:
    """Milliseconds to read a reply in pieces."""
    started = time.perf_counter()
    reader = ReplyReader(FORM, TOOLS)
    for at in range(0, len(text), size):
        reader.feed(text[at : at + size])
    reader.finish(cut=False)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Measure, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with Engine(LoadOptions(model_path=str(default_model()), n_ctx=2048)) as engine:
        free = Request(prompt=PROMPT, temperature=0.0, max_tokens=200, repeat_penalty=1.0)
        print("Prose under the grammar of calls:")
        compare(engine, free, replace(free, grammar=reply_grammar(FORM, TOOLS)), rounds)
        print("The same, drawn at temperature 0.8:")
        drawn = replace(free, temperature=0.8, seed=4)
        compare(engine, drawn, replace(drawn, grammar=reply_grammar(FORM, TOOLS)), rounds)
        print("Forced calls:")
        forced = reply_grammar(FORM, TOOLS, choice="any")
        compare(engine, free, replace(free, grammar=forced), rounds)
    big = {"city": '"\\ 서울 </tool_call>{}' * 12_000, "days": 3, "unit": "kelvin"}
    call = json.dumps({"name": "get_tides", "arguments": big}, ensure_ascii=False)
    text = f"<tool_call>\n{call}\n</tool_call>"
    for size in (1, 4, 1000):
        print(f"Reading {len(text):,} characters, {size} at a time: {read(text, size):,.0f} ms")
    tools = {f"tool_{number}": TOOLS["get_tides"] for number in range(500)}
    started = time.perf_counter()
    grammar = reply_grammar(FORM, tools)
    print(f"Grammar of 500 tools: {(time.perf_counter() - started) * 1000:,.0f} ms ({grammar!r})")


if __name__ == "__main__":
    main()
