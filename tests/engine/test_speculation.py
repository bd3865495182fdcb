"""Guessed tokens: the answers of the model alone, in fewer decodes, or at least in no more time."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import LlamaCpp, predict_memory, quantize
from helpers.engine import Completion, Engine, Request
from helpers.engine.core import settle
from helpers.engine.speculation import _MOST_STAKE, _SHARE, _STAKE, Economy, Lookup, Speculation
from helpers.errors import ModelFileError
from helpers.grammars import Grammar
from helpers.isolation import make_core
from helpers.models import default_model
from helpers.native import Context, Model, practice_accelerator
from tests.models.gguf_builders import tiny_llama, tiny_mamba
from tests.support import options

PLACES = (
    "The mill stands at the river. The bridge stands at the river. The house stands at the river. "
)
NAMES = '{"name": "Ada Lovelace", "city": "London"}\n{"name": "Alan Turing", "city": "London"}\n'
PROMPTS = (PLACES + "The mill stands", NAMES * 2, "1, 2, 3, 4, 5, 6. 1, 2, 3, 4, 5, 6. 1, 2", "Hi")
"""With an answer of 60 tokens they stay below 256 tokens of context, from which ggml computes the
attention of a single token in another way than that of several."""


def plain(prompt: str, **more: Any) -> Request:
    return Request(
        prompt=prompt, **{"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 60} | more
    )


@pytest.fixture(scope="module")
def guessing() -> Iterator[Engine]:
    with Engine(options(speculate="lookup", n_parallel=4)) as made:
        yield made


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every guess, whether it pays or not."""
    monkeypatch.setattr(Economy, "allows", lambda self, pending: True)
    monkeypatch.setattr(
        Economy, "worth", lambda self, pending, chances, drafting=0.0: len(list(chances))
    )


def same(one: Completion, other: Completion) -> bool:
    return (one.text, one.finish_reason, one.generated_tokens, one.logprobs) == (
        other.text,
        other.finish_reason,
        other.generated_tokens,
        other.logprobs,
    )


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0.9, "seed": 11},
        {"temperature": 0.9, "seed": 12, "repeat_penalty": 1.2, "presence_penalty": 0.2},
        {"stop": ("river. The", "London")},
        {"logprobs": 3},
        {"max_tokens": 7},
        {"logit_bias": ((28, -math.inf),)},
        {"echo": True, "suffix": "!"},
    ],
    ids=str,
)
def test_answers_are_those_without_guesses(guessing: Engine, more: dict[str, Any]) -> None:
    right = 0
    for prompt in PROMPTS:
        request = plain(prompt, **more)
        alone = guessing.generate(replace(request, speculate=False))
        done = guessing.generate(request)
        assert same(done, alone)
        assert alone.timings.guessed_tokens is None
        right += done.timings.right_tokens or 0
        assert len(done.timings.token_ms or ()) == done.generated_tokens
        decoded = done.timings.eval_tokens or 0
        assert decoded in (done.generated_tokens - 1, done.generated_tokens)
    assert right > 0


@pytest.mark.usefixtures("eager")
def test_right_guesses_save_decodes(guessing: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    decode = Context.decode_runs

    def counted(context: Context, runs: Any, guesses: int = 0) -> list[int]:
        nonlocal calls
        calls += 1
        return decode(context, runs, guesses)

    monkeypatch.setattr(Context, "decode_runs", counted)
    done = guessing.generate(plain(PROMPTS[2]))
    assert done.timings.right_tokens
    assert calls == (done.timings.eval_tokens or 0) - done.timings.right_tokens
    assert calls < 0.7 * done.generated_tokens


@pytest.mark.usefixtures("eager")
def test_a_grammar_holds_and_the_text_is_the_same(guessing: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
        "required": ["name", "city"],
        "additionalProperties": False,
    }
    grammar = Grammar.from_json_schema(schema)
    prompt = NAMES + "The first of them again: "
    for fast_forward, seed in itertools.product((True, False), (None, 1, 2, 3)):
        request = plain(
            prompt,
            grammar=grammar,
            fast_forward=fast_forward,
            seed=seed,
            temperature=0.0 if seed is None else 0.8,
        )
        done = guessing.generate(request)
        assert same(done, guessing.generate(replace(request, speculate=False)))
        assert done.finish_reason == "length" or grammar.matches(done.text)


@pytest.mark.usefixtures("eager")
def test_what_was_guessed_wrong_is_forgotten(guessing: Engine) -> None:
    """The next call finds the cache as if nothing had been guessed."""
    for prompt in PROMPTS[:3]:
        first = guessing.generate(plain(prompt, max_tokens=20))
        later = prompt + first.text + " And"
        warm = guessing.generate(plain(later, max_tokens=20, speculate=False))
        assert warm.timings.cached_tokens
        guessing.generate(plain("Something else.", max_tokens=1))
        with Engine(options()) as fresh:
            fresh.generate(plain(prompt, max_tokens=20))
            assert fresh.generate(plain(later, max_tokens=20)).text == warm.text


@pytest.mark.usefixtures("eager")
def test_beside_others_and_in_a_child(guessing: Engine) -> None:
    requests = [plain(prompt) for prompt in PROMPTS]
    alone = [guessing.generate(replace(request, speculate=False)).text for request in requests]
    assert [done.text for done in guessing.generate_many(requests)] == alone
    with Engine(options(speculate="lookup", isolate=True), make_core) as child:
        assert [child.generate(request).text for request in requests] == alone


@pytest.mark.usefixtures("eager")
def test_drawn_tokens_have_the_models_own_distribution(guessing: Engine) -> None:
    """Pearson's test against the exact probabilities, for tokens that were guessed, too."""
    prompt = "red blue " * 9 + "green red blue red blue red blue red blue"
    settings = {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 4}
    before = guessing.generate(plain(prompt, max_tokens=2, logprobs=0, speculate=False))
    exact = guessing.generate(
        plain(prompt + before.text, max_tokens=1, logprobs=5000, speculate=False)
    )
    assert exact.logprobs is not None and before.logprobs is not None
    top = {text: math.exp(one / 0.6) for text, one in exact.logprobs["top_logprobs"][0].items()}
    likely = {text: p / sum(top.values()) for text, p in top.items() if p > 0.02}
    seen: Counter[str] = Counter()
    guessed = 0
    for seed in range(150):
        done = guessing.generate(plain(prompt, seed=seed, logprobs=0, **settings))
        assert done.logprobs is not None
        guessed += done.timings.guessed_tokens or 0
        # The third token is chosen from the row of a guess, which was right.
        if done.logprobs["tokens"][:2] == before.logprobs["tokens"] and done.generated_tokens > 2:
            seen[done.logprobs["tokens"][2]] += 1
    count = seen.total()
    assert guessed and count > 25
    chi2 = sum((seen[t] - count * p) ** 2 / (count * p) for t, p in likely.items())
    rest, share = count - sum(seen[t] for t in likely), 1 - sum(likely.values())
    chi2 += (rest - count * share) ** 2 / (count * share)
    # Wilson and Hilferty's approximation: 4.5 standard deviations above what is expected.
    freedom = len(likely)
    limit = freedom * (1 - 2 / (9 * freedom) + 4.5 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi2 < limit, (chi2, limit, seen)


@pytest.mark.usefixtures("eager")
def test_a_long_answer_differs_at_most_where_two_tokens_are_close() -> None:
    """From 256 tokens of context on, rounding decides ties: no token is chosen that was not one."""
    settled = settle(options(n_ctx=1024, speculate="lookup"))
    text = " ".join(f"Line {n}: {PLACES}" for n in range(12))
    with Engine(settled) as engine:
        request = plain(text, max_tokens=150)
        done, alone = engine.generate(request), engine.generate(replace(request, speculate=False))
        assert (done.timings.right_tokens or 0) > 50
    model = Model(settled)
    context = Context(model, settled)
    tokens = model.tokenize(text)
    answer = model.tokenize(text + done.text)[len(tokens) :]
    context.decode(tokens, 0, 0, logits=True)
    for place, token in enumerate(answer):
        logits = context.logits(-1)
        assert logits.max() - logits[token] < 1.5, (place, done.text, alone.text)
        context.decode([token], len(tokens) + place, 0, logits=True)
    context.close()
    model.close()


# -- a draft model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draft")
    return Path(
        quantize(default_model(), "Q4_0", folder / "draft.gguf", allow_requantize=True).path
    )


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("isolate", [False, True])
def test_a_draft_model_guesses_and_the_answers_are_the_same(small: Path, isolate: bool) -> None:
    chosen = options(speculate=str(small), isolate=isolate, n_ctx=512)
    with Engine(chosen, make_core) as engine:
        for prompt, seed in itertools.product(PROMPTS, (None, 3)):
            request = plain(prompt, max_tokens=30, seed=seed, temperature=0.7 if seed else 0.0)
            done = engine.generate(request)
            assert same(done, engine.generate(replace(request, speculate=False)))
            assert isolate or done.timings.right_tokens  # a child judges what pays by itself


@pytest.mark.usefixtures("eager")
def test_on_a_device(small: Path) -> None:
    with practice_accelerator() as device:
        place = (device.name, device.endpoint)
        for speculate in ("lookup", str(small)):
            chosen = options(speculate=speculate, n_gpu_layers=-1, devices=(place,), n_ctx=512)
            with Engine(chosen, make_core) as engine:
                request = plain(PROMPTS[0], max_tokens=20)
                assert same(
                    engine.generate(request), engine.generate(replace(request, speculate=False))
                )
                held = engine.load_report.by_device[device.name]
                assert held["weights"] > (150 if speculate != "lookup" else 80)


def test_memory_of_both_is_predicted_and_reported(small: Path) -> None:
    plan = predict_memory(n_ctx=1024, n_gpu_layers=0, speculate=str(small))
    assert plan.draft is not None and plan.draft.model == small.name
    assert small.name in str(plan) and plan.draft.total_mib > 80
    with LlamaCpp(model_path=default_model(), n_ctx=1024, speculate=small, isolate=True) as llm:
        real = llm.load_report.by_device["CPU"]
        for kind, mib in plan.by_device["CPU"].items():
            assert mib == pytest.approx(real[kind], abs=0.6), kind


def test_what_cannot_guess_is_refused(small: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other.gguf")
    with pytest.raises(ModelFileError, match=r"other\.gguf cannot guess for .*vocabulary"):
        Engine(options(speculate=str(other)))
    state = tiny_mamba(tmp_path / "state.gguf")
    with pytest.raises(ModelFileError, match="cannot forget"):
        Engine(options(speculate=str(state)))
    with pytest.raises(ModelFileError, match=r"nothing\.gguf"):
        LlamaCpp(model_path=default_model(), speculate=tmp_path / "nothing.gguf")
    with pytest.raises(ValueError, match=r"mtp.*C interface"):
        options(speculate="mtp")
    with pytest.raises(ValueError, match=r"mtp.*C interface"):
        LlamaCpp(model_path=default_model(), speculate="mtp")
    with pytest.raises(TypeError, match="speculate=7"):
        options(speculate=7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert settle(options(model_path=str(state), speculate="lookup")).speculate is None
    assert "cannot forget" in str(caught[-1].message)


def test_a_call_can_leave_the_guesses_out() -> None:
    with LlamaCpp(model_path=default_model(), temperature=0, max_tokens=8, n_ctx=512) as llm:
        with pytest.raises(ValueError, match="loaded without guesses"):
            llm.invoke("Hi", speculate=True)
        text = llm.invoke("Hi")
        assert llm.last_timings is not None and llm.last_timings.guessed_tokens is None
        fast = llm.model_copy(update={"speculate": "lookup"})
        assert fast.invoke("Hi") == text == fast.invoke("Hi", speculate=False)
        fast.invoke("Hi")
        assert fast.last_timings is not None and fast.last_timings.guessed_tokens is not None
        fast.close()


# -- what pays ------------------------------------------------------------------------------------


class _Fixed:
    """A source that is always as sure of itself, right or wrong."""

    priors = {0: 0.95}
    seconds = 0.0
    free = False

    def guess(self, tokens: Sequence[int], most: int) -> tuple[list[int], list[int]]:
        return [7] * most, [0] * most


def played(right: float, on_cpu: bool = True, tokens: int = 1000) -> tuple[float, int]:
    """Time and guesses of an answer, in decodes of one token, if a share of guesses is right."""
    draw = random.Random(5)
    economy = Economy(on_cpu=on_cpu)
    speculation = Speculation(_Fixed(), economy, [])
    slope = 0.45 if on_cpu else 0.03
    spent, written, guessed = 0.0, 0, 0
    while written < tokens:
        guesses = len(speculation.guess(1, 31))
        hits = sum(1 for _ in itertools.takewhile(lambda _: draw.random() < right, range(guesses)))
        cost = 1 + slope * guesses
        speculation.note(1, guesses, hits, cost / 100)
        spent, written, guessed = spent + cost, written + hits + 1, guessed + guesses
    return spent / written, guessed


def test_wrong_guesses_cost_the_stake_and_two_percent_at_most() -> None:
    for on_cpu in (True, False):
        each, guessed = played(0.0, on_cpu)
        assert guessed
        assert each <= 1 + _SHARE + _STAKE / 1000 + 0.005


@pytest.mark.parametrize("allowed", [None, lambda guesses: len(guesses), lambda guesses: 0])
def test_what_is_not_guessed_is_learned_from(allowed: Any) -> None:
    """A source that costs nothing is believed once it would have been right for a while."""

    class Modest(_Fixed):
        priors = {0: 0.4}
        free = True

    speculation = Speculation(Modest(), Economy(on_cpu=True), [1])
    assert speculation.guess(1, 31, allowed) == []
    for _ in range(20):
        speculation.tokens.append(7)
        speculation.note(1, 0, 0, 0.01)
        guesses = speculation.guess(1, 31, allowed)
    refused = allowed is not None and not allowed([7])
    assert bool(guesses) is not refused and speculation.guessed == 0
    for _ in range(40):
        speculation.tokens.append(8)
        speculation.note(1, len(guesses), 0, 0.01)
        guesses = speculation.guess(1, 31, allowed)
    assert guesses == []


def test_what_was_not_guessed_counts_once_beside_others() -> None:
    """There, decodes are noted without being asked for guesses."""

    class Modest(_Fixed):
        priors = {0: 0.2}
        free = True

    speculation = Speculation(Modest(), Economy(on_cpu=True), [1])
    assert speculation.guess(1, 31) == []
    for _ in range(20):
        speculation.tokens.append(7)
        speculation.note(1, 0, 0, 0.01)
    assert speculation.guess(1, 31) == []


def test_right_guesses_are_made_and_pay() -> None:
    assert played(0.99)[0] < 0.65
    assert played(0.9, on_cpu=False)[0] < 0.25
    # Where two of three are right, a CPU as slow at it as this gains nothing, and loses little.
    assert played(0.66)[0] < 1.03


def test_what_was_won_can_be_lost_again_up_to_a_bound() -> None:
    economy = Economy(on_cpu=True)
    for _ in range(200):
        economy.note(1, 0, 0, 0.01)
        economy.note(1, 8, 8, 0.04)
    assert economy.balance <= _MOST_STAKE
    assert economy.worth(1, [0.99] * 31) > 5
    economy.balance = 0.1
    assert economy.worth(1, [0.99] * 31) == 0


def test_lookup_finds_the_longest_match_and_stops_at_control_tokens(engine: Engine) -> None:
    settled = settle(options())
    model = Model(settled)
    try:
        text = "The grey cat sat down. The old dog ran off. A grey cat sat down. The grey cat sat"
        tokens = model.tokenize(text)
        guesses, grades = Lookup(model).guess(tokens, 4)
        assert b"".join(map(model.piece, guesses)).startswith(b" down. The")
        assert grades == sorted(grades)
        chat = model.tokenize("Say it: one two three<|im_end|>\nSay it: one two")
        guesses, _ = Lookup(model).guess(chat, 8)
        assert [model.piece(token) for token in guesses] == [b" three"]
        assert Lookup(model).guess(model.tokenize("nothing twice here"), 8) == ([], [])
        # The text counts, not the tokens: "Lovelace" begins without a blank here.
        quoted = model.tokenize('It was Augusta Lovelace who wrote. "Augusta')
        assert np.array_equal(Lookup(model).guess(quoted, 1)[0], model.tokenize(" Lovelace")[:1])
    finally:
        model.close()
