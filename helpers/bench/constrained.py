"""What a grammar costs: time per token with and without one, on one engine, alternating."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from helpers.bench.table import Comparison, describe_machine
from helpers.engine import Engine, EngineOptions, Request
from helpers.grammars import Grammar
from helpers.models import default_model, format_prompt

TOKENS = 96
LEAST = 48
"""Shorter texts tell more about their first token than about the others."""

_TASK = "Describe a person in JSON, with name, job, city, hobbies and a short biography."


class Person(BaseModel):
    """What the schema grammar asks for: long enough a text to time its tokens."""

    name: str
    job: str
    city: str
    hobbies: list[str]
    biography: str


def compare_constrained(
    *, rounds: int = 5, say: Callable[[str], None] = lambda line: None
) -> Comparison:
    """Measure constrained against unconstrained generation, tokens decoded together and not.

    Args:
        rounds: Times that each pair is measured.
        say: Told what is going on.

    Returns:
        A table of ratios; times per token, so a ratio of 0.952 means 1.05 times the time.
    """
    json_file = Path(__file__).resolve().parents[2] / "grammars" / "json.gbnf"
    Grammar.from_pydantic(Person)  # the first one also imports what it needs
    started = time.perf_counter()
    schema = Grammar.from_pydantic(Person)
    making = (time.perf_counter() - started) * 1000
    grammars = {"json.gbnf": Grammar.from_file(json_file), "a pydantic schema": schema}
    prompt = format_prompt([("user", _TASK)])
    result = Comparison(describe_machine())
    options = EngineOptions(
        model_path=str(default_model()), n_gpu_layers=0, isolate=False, n_ctx=1024
    )
    with Engine(options) as engine:

        def per_token(grammar: Grammar | None, forward: bool) -> float:
            done = engine.generate(
                Request(
                    prompt=prompt,
                    max_tokens=TOKENS,
                    temperature=0,
                    repeat_penalty=1.0,
                    grammar=grammar,
                    fast_forward=forward,
                    logit_bias=() if grammar is not None else tuple((t, -1e5) for t in (0, 2)),
                )
            )
            timings = done.timings
            if done.generated_tokens < LEAST:
                raise RuntimeError(f"only {done.generated_tokens} tokens: {done.text!r}")
            assert timings.total_ms is not None and timings.first_token_ms is not None
            return (timings.total_ms - timings.first_token_ms) / (done.generated_tokens - 1)

        say("warming up")
        for grammar in grammars.values():
            per_token(grammar, True)
        for name, grammar in grammars.items():
            for forward in (False, True):
                say(f"{name}, fast-forward {'on' if forward else 'off'}")
                pairs = [
                    (per_token(grammar, forward), per_token(None, False)) for _ in range(rounds)
                ]
                what = f"unconstrained / {name}, fast-forward {'on' if forward else 'off'}"
                result.add(what, pairs, target=1 / 1.05, unit="ms/token")
    result.add("10 ms / making the schema's grammar", [(making, 10.0)], target=1, unit="ms")
    return result
