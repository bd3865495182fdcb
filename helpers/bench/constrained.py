"""What a grammar costs: time per token with and without one, on one engine, alternating."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel

from helpers.bench.contestants import Remote
from helpers.bench.table import Comparison, describe_machine
from helpers.engine import Engine, LoadOptions, Request
from helpers.grammars import Grammar, Vocabulary
from helpers.models import default_model, format_prompt
from helpers.native import Model

TOKENS = 96
LEAST = 48
"""Shorter texts tell more about their first token than about the others."""

_TASK = "Describe a person in JSON, with name, job, city, hobbies and a short biography."
_JSON_FILE = Path(__file__).resolve().parents[2] / "grammars" / "json.gbnf"


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
    result = Comparison(describe_machine())
    say("making grammars and a vocabulary")
    Grammar.from_pydantic(Person)  # the first one also imports what it needs
    making = [(_milliseconds(lambda: Grammar.from_pydantic(Person)), 10.0) for _ in range(rounds)]
    model = Model(LoadOptions(model_path=str(default_model()), n_gpu_layers=0, vocab_only=True))
    preparing = [
        (_milliseconds(lambda: Vocabulary(model, model.vocab)), 1000.0) for _ in range(rounds)
    ]
    ends = Vocabulary(model, model.vocab).eog
    model.close()
    _add_engine_rows(result, rounds, ends, say)
    _add_raw_row(result, rounds, say)
    _add_isolated_row(result, rounds, say)
    result.add("10 ms / making the schema's grammar", making, target=1, unit="ms")
    result.add("1 s / preparing the vocabulary, once per model", preparing, target=1, unit="ms")
    return result


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _add_engine_rows(
    result: Comparison, rounds: int, ends: Sequence[int], say: Callable[[str], None]
) -> None:
    grammars = {
        "json.gbnf": Grammar.from_file(_JSON_FILE),
        "a pydantic schema": Grammar.from_pydantic(Person),
    }
    prompt = format_prompt([("user", _TASK)])
    options = LoadOptions(
        model_path=str(default_model()), n_gpu_layers=0, isolate=False, n_ctx=1024
    )
    with Engine(options) as engine:
        # A text without a grammar must not end early; one with a grammar ends where that says so.
        endless = tuple((token, -1e5) for token in ends)

        def per_token(grammar: Grammar | None, forward: bool) -> float:
            done = engine.generate(
                Request(
                    prompt=prompt,
                    max_tokens=TOKENS,
                    temperature=0,
                    repeat_penalty=1.0,
                    grammar=grammar,
                    fast_forward=forward,
                    logit_bias=() if grammar is not None else endless,
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


def _add_isolated_row(result: Comparison, rounds: int, say: Callable[[str], None]) -> None:
    """The first token, which waits for the grammar: a process of its own must not add to that."""
    call = ("first_constrained", format_prompt([("user", _TASK)]), Person.model_json_schema())
    with Remote("ours") as ours, Remote("isolated") as isolated:
        say("the first token, isolated")
        pairs = []
        for index in range(8 * rounds + 1):
            pair = []
            for one in (isolated, ours):
                time.sleep(0.05)  # compute threads of the other wait busily for a while
                pair.append(one(*call))
            if index:  # the first calls read the prompt, prepare the vocabulary and the grammar
                pairs.append((pair[0], pair[1]))
    what = "in-process / isolated: first token under a schema grammar"
    result.add(what, pairs, target=1 / 1.1, unit="ms")


def _add_raw_row(result: Comparison, rounds: int, say: Callable[[str], None]) -> None:
    """What the same costs with llama-cpp-python's class, which masks before every choice.

    llama.cpp's common sampler, the one in llama-server, tries the unconstrained choice first, as
    the engine here does; it is not in llama-cpp-python.
    """
    prompt = format_prompt([("user", _TASK)])
    text = _JSON_FILE.read_text("utf-8")
    with Remote("raw") as raw:

        def per_token(grammar: str | None) -> float:
            _, speed = raw("generate", prompt, TOKENS, 1.0, grammar)
            return 1000 / float(speed)

        say("llama-cpp-python's Llama")
        per_token(text)
        pairs = [(per_token(text), per_token(None)) for _ in range(rounds)]
    what = "unconstrained / json.gbnf, llama-cpp-python's Llama (a mask for every token)"
    result.add(what, pairs, target=None, unit="ms/token")
