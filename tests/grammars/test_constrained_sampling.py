"""Constrained draws have the distribution that the documentation promises, computed apart.

With temperature alone: the model's own distribution, restricted to what the grammar allows. With
top_k, top_p and min_p: a draw as without a grammar; if the grammar refuses it, one more, from the
logits that are left under the mask, by the same settings (llama.cpp's own common sampler does so).
Expected probabilities are computed in numpy from raw logits and from the choices' bytes, without a
matcher. All seeds are fixed, so chance has no part in whether these tests pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from helpers.engine import Engine, LoadOptions, Request
from helpers.engine.sequence import Job, Sequence
from helpers.grammars import Grammar, Vocabulary
from helpers.models import default_model
from helpers.native import Context, Model

Floats = npt.NDArray[np.float64]

PROMPT = "Once upon a time, there was a"
RANKS = (3, 5, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 60, 200)
"""Places among the likeliest tokens of those that the grammar allows."""


@dataclass
class Scene:
    """A model that has read the prompt, and a grammar of some of its likely next words."""

    model: Model
    context: Context
    tokens: list[int]
    logits: npt.NDArray[np.float32]
    choices: list[bytes]
    vocabulary: Vocabulary

    @property
    def grammar(self) -> Grammar:
        quoted = (
            "".join(f"\\U{ord(char):08X}" for char in choice.decode()) for choice in self.choices
        )
        return Grammar.from_string("root ::= " + " | ".join(f'"{text}"' for text in quoted))

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """Tokens that are the beginning of a choice, by their bytes."""
        pieces = [self.model.piece(token) for token in range(self.model.n_vocab)]
        return np.array(
            [piece != b"" and any(c.startswith(piece) for c in self.choices) for piece in pieces]
        )

    def draws(self, count: int, **settings: Any) -> npt.NDArray[np.int64]:
        """How often the engine takes each token after the prompt, `count` seeds long."""
        grammar = self.grammar
        counts = np.zeros(self.model.n_vocab, np.int64)
        for seed in range(count):
            self.context.logits(-1)[:] = self.logits  # the last draw has masked them
            request = Request(
                prompt=PROMPT, grammar=grammar, seed=seed, repeat_penalty=1.0, **settings
            )
            matcher = grammar.matcher(self.vocabulary)
            sequence = Sequence(
                Job(request, lambda event: None), self.tokens, self.model, 64, matcher
            )
            sequence.step(self.context, -1, 512)
            counts[sequence.answer[0]] += 1
            sequence.close()
        return counts


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    model = Model(LoadOptions(model_path=str(default_model()), n_gpu_layers=0))
    context = Context(model, replace(model.options, n_ctx=64, n_batch=64, n_ubatch=64))
    tokens = model.tokenize(PROMPT)
    context.decode(tokens, 0, 0, logits=True)
    logits = context.logits(-1).copy()
    ranked = np.argsort(-logits)
    choices = [model.piece(int(ranked[rank])) for rank in RANKS]
    vocabulary = Vocabulary(model, model.vocab)
    yield Scene(model, context, tokens, logits, choices, vocabulary)
    vocabulary.close()
    context.close()
    model.close()


def sampled(
    logits: npt.NDArray[np.float32],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Floats:
    """The distribution of one draw from these logits, filters first, temperature last."""
    result = np.zeros(len(logits))
    best = np.argsort(-logits, kind="stable")
    best = best[np.isfinite(logits[best])]
    if top_k > 0:
        best = best[:top_k]
    values = logits[best].astype(np.float64)
    share = np.exp(values - values[0])
    share /= share.sum()
    if top_p < 1.0:
        best = best[: int(np.searchsorted(np.cumsum(share), top_p)) + 1]
        share = share[: len(best)]
    best = best[share >= min_p * share[0]]
    weights = np.exp((logits[best].astype(np.float64) - logits[best[0]]) / temperature)
    result[best] = weights / weights.sum()
    return result


def assert_drawn_from(expected: Floats, counts: npt.NDArray[np.int64], least: int) -> None:
    """Chi-square over the tokens; those too rare for it are taken together."""
    count = int(counts.sum())
    assert counts[expected == 0].sum() == 0, "a token came that has no probability"
    common = expected * count >= 5
    seen = [*counts[common], counts[~common].sum()]
    wanted = [*(expected[common] * count), expected[~common].sum() * count]
    if wanted[-1] < 5:
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    freedom = len(seen) - 1
    assert freedom >= least, (seen, wanted)
    chi2 = sum((got - want) ** 2 / want for got, want in zip(seen, wanted, strict=True))
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom), (chi2, seen, wanted)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_alone_draws_from_the_masked_distribution(
    scene: Scene, temperature: float
) -> None:
    allowed = scene.allowed
    masked = np.where(allowed, scene.logits, -np.inf).astype(np.float32)
    expected = sampled(masked, temperature=temperature)
    # Both ways to a token are taken: the first draw is kept, and it is refused.
    kept = float(sampled(scene.logits, temperature=temperature)[allowed].sum())
    assert 0.02 < kept < 0.9
    counts = scene.draws(3000, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
    assert_drawn_from(expected, counts, least=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.6, "min_p": 0.0},
        {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.1},
        {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    ],
    ids=["top_k", "top_p", "min_p", "all"],
)
def test_filters_draw_check_and_draw_again_under_the_mask(
    scene: Scene, settings: dict[str, Any]
) -> None:
    allowed = scene.allowed
    free = sampled(scene.logits, **settings)
    masked = np.where(allowed, scene.logits, -np.inf).astype(np.float32)
    kept = np.where(allowed, free, 0.0)
    assert 0.02 < kept.sum() < 0.9
    expected = kept + (1 - kept.sum()) * sampled(masked, **settings)
    # It is not what filtering under the mask alone would give: the test can tell them apart.
    assert np.abs(expected - sampled(masked, **settings)).sum() > 0.02
    counts = scene.draws(3000, **settings)
    assert_drawn_from(expected, counts, least=2)


def test_two_tokens_in_a_row_through_the_engine(scene: Scene) -> None:
    """Side by side, 8 at a time: the second letter's distribution depends on the first."""
    first, second = "abw", "ehm"
    grammar = Grammar.from_string(f"root ::= [{first}] [{second}]")
    ids = {letter: scene.model.tokenize(letter)[-1] for letter in first + second}
    assert all(scene.model.piece(ids[letter]) == letter.encode() for letter in ids)
    pairs = [(a, b) for a in first for b in second]
    # A pair may also be one token, if the vocabulary has it.
    single = {a + b: scene.model.tokenize(a + b) for a, b in pairs}
    start = np.exp(scene.logits.astype(np.float64) - scene.logits.max())
    whole = {text: start[ids[0]] for text, ids in single.items() if len(ids) == 1}
    total = sum(start[ids[letter]] for letter in first) + sum(whole.values())
    expected = []
    for a in first:
        scene.context.truncate(0, len(scene.tokens))
        scene.context.decode([ids[a]], len(scene.tokens), 0, logits=True)
        after = scene.context.logits(-1).astype(np.float64)
        weights = np.exp([after[ids[b]] - after.max() for b in second])
        weights /= weights.sum()
        for b, weight in zip(second, weights, strict=True):
            expected.append((start[ids[a]] * weight + whole.get(a + b, 0.0)) / total)
    count = 300
    requests = [
        Request(
            prompt=PROMPT, grammar=grammar, max_tokens=4, temperature=1.0, top_k=0, top_p=1.0,
            min_p=0.0, repeat_penalty=1.0, seed=seed,
        )
        for seed in range(count)
    ]  # fmt: skip
    with Engine(LoadOptions(model_path=str(default_model()), n_ctx=64, n_gpu_layers=0)) as engine:
        texts = [answer.text for answer in engine.generate_many(requests)]
    counts = np.array([texts.count(a + b) for a, b in pairs])
    assert counts.sum() == count
    assert_drawn_from(np.array(expected), counts, least=3)
