"""The engine's choice of tokens, held against llama-cpp-python's own class and plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.engine import Engine, LoadOptions, Request
from helpers.engine.sequence import _Penalties
from helpers.grammars import Grammar, trace_choices
from helpers.grammars.mask.token_text import token_bytes
from helpers.native import Context, Model, SamplerChain

PROMPTS = [
    "Once upon a time, there was a",
    "The capital of France is",
    "def fibonacci(n):\n",
    "1, 2, 3, 1, 2, 3, 1, 2,",
]


def raw_text(raw: Any, prompt: str, **settings: Any) -> dict[str, Any]:
    raw.reset()
    return raw.create_completion(prompt, **settings)["choices"][0]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "penalties",
    [
        {"repeat_penalty": 1.0},
        {"repeat_penalty": 1.1},
        {"repeat_penalty": 1.0, "frequency_penalty": 0.7, "presence_penalty": 0.4},
        {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": -0.5},
    ],
    ids=["none", "default", "frequency", "all"],
)
def test_greedy_text_is_that_of_llama_cpp_python(
    engine: Engine, raw: Any, prompt: str, penalties: dict[str, float]
) -> None:
    expected = raw_text(raw, prompt, temperature=0, max_tokens=20, **penalties)
    got = engine.generate(Request(prompt=prompt, temperature=0, max_tokens=20, **penalties))
    assert got.text == expected["text"]
    assert got.finish_reason == expected["finish_reason"]


@pytest.mark.parametrize("seed", [1, 42, 2**31])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.0, "typical_p": 0.5, "repeat_penalty": 1.2},
    ],
    ids=["default", "wide", "typical"],
)
def test_seeded_text_is_that_of_llama_cpp_python(
    engine: Engine, raw: Any, seed: int, settings: dict[str, float]
) -> None:
    given = {"temperature": 0.8, "repeat_penalty": 1.1, **settings}
    prompt = PROMPTS[0]
    expected = raw_text(raw, prompt, seed=seed, max_tokens=16, **given)["text"]
    got = engine.generate(Request(prompt=prompt, seed=seed, max_tokens=16, **given))
    assert got.text == expected


def test_draws_have_the_distribution_that_the_settings_describe() -> None:
    """top_k 30, top_p 0.9, min_p 0.02 at temperature 1.3, by arithmetic and by 4,000 draws."""
    from helpers.models import default_model

    model = Model(LoadOptions(model_path=str(default_model()), n_gpu_layers=0))
    context = Context(model, replace(model.options, n_ctx=64, n_batch=64, n_ubatch=64))
    tokens = model.tokenize(PROMPTS[0])
    context.decode(tokens, 0, 0, logits=True)
    logits = context.logits(-1).astype(np.float64)
    chain = SamplerChain(
        temperature=1.3, top_k=30, top_p=0.9, min_p=0.02, typical_p=1.0, seed=20260101
    )
    count = 4000
    drawn = np.bincount([chain.sample(context, -1) for _ in range(count)], minlength=len(logits))
    chain.close()
    context.close()
    model.close()

    best = np.argsort(-logits)[:30]
    share = np.exp(logits[best] - logits[best[0]])
    share /= share.sum()
    kept = int(np.searchsorted(np.cumsum(share), 0.9)) + 1
    best, share = best[:kept], share[:kept]
    best = best[share >= 0.02 * share[0]]
    expected = np.exp((logits[best] - logits[best[0]]) / 1.3)
    expected *= count / expected.sum()
    assert drawn.sum() == drawn[best].sum()  # nothing else was ever drawn
    chi2 = float(((drawn[best] - expected) ** 2 / expected).sum())
    freedom = len(best) - 1
    assert freedom > 3
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)  # the seed is fixed: no chance involved


def test_penalties_are_llama_cpp_s_own() -> None:
    import llama_cpp

    draw = np.random.default_rng(1)
    request = Request(
        prompt="", repeat_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.9, last_n=6
    )
    ours = _Penalties(request)
    arguments = (6, 1.3, 0.4, 0.9)
    if len(llama_cpp.llama_sampler_init_penalties.argtypes) > 4:  # the vocabulary's size first
        arguments = (40, *arguments)
    native = llama_cpp.llama_sampler_init_penalties(*arguments)
    for _ in range(30):
        logits = draw.normal(0, 5, 40).astype(np.float32)
        data = (llama_cpp.llama_token_data * 40)(
            *[llama_cpp.llama_token_data(i, value, 0.0) for i, value in enumerate(logits)]
        )
        array = llama_cpp.llama_token_data_array(data, 40, -1, False)
        llama_cpp.llama_sampler_apply(native, array)
        ours.apply(logits)
        np.testing.assert_allclose(logits, [entry.logit for entry in data], rtol=1e-5)
        token = int(draw.integers(12))
        llama_cpp.llama_sampler_accept(native, token)
        ours.accept(token)
    llama_cpp.llama_sampler_free(native)


@pytest.mark.parametrize("last_n", [0, 1, 5, -1])
def test_penalties_look_at_the_last_tokens(engine: Engine, last_n: int) -> None:
    request = Request(
        prompt=PROMPTS[3], temperature=0, max_tokens=24, repeat_penalty=5.0, last_n=last_n
    )
    text = engine.generate(request).text
    plain = engine.generate(
        Request(prompt=PROMPTS[3], temperature=0, max_tokens=24, repeat_penalty=1.0)
    ).text
    assert (text == plain) == (last_n in (0, 1))  # one token back, this text repeats nothing
    if last_n < 0:
        tokens = engine.tokenize(text)
        assert len(set(tokens)) == len(tokens)  # so strong a penalty lets nothing come twice


@pytest.mark.parametrize("top", [0, 1, 5])
def test_log_probabilities_are_those_of_all_logits(engine: Engine, top: int) -> None:
    import llama_cpp

    prompt = PROMPTS[0]
    request = Request(prompt=prompt, temperature=0, max_tokens=6, repeat_penalty=1.0, logprobs=top)
    found = engine.generate(request).logprobs
    assert found is not None
    whole = llama_cpp.Llama(
        engine.options.model_path,
        n_ctx=1024,
        logits_all=True,
        flash_attn=True,
        n_threads=engine.options.n_threads,
        verbose=False,
    )
    expected = whole.create_completion(
        prompt, temperature=0, max_tokens=6, repeat_penalty=1.0, logprobs=max(top, 1)
    )["choices"][0]["logprobs"]
    whole.close()
    assert found["tokens"] == expected["tokens"]
    np.testing.assert_allclose(found["token_logprobs"], expected["token_logprobs"], atol=2e-3)
    for ours, theirs, chosen in zip(
        found["top_logprobs"], expected["top_logprobs"], found["tokens"], strict=True
    ):
        assert sum(math.exp(value) for value in ours.values()) <= 1 + 1e-6
        assert max(ours, key=ours.__getitem__) == chosen  # greedy takes the likeliest
        assert len(ours) == max(top, 1)
        if top:
            assert ours == pytest.approx(theirs, abs=2e-3)


def test_all_log_probabilities_sum_to_one(engine: Engine) -> None:
    request = Request(prompt="Hi", max_tokens=1, temperature=0, logprobs=100_000)
    found = engine.generate(request).logprobs
    assert found is not None
    total = sum(math.exp(value) for value in found["top_logprobs"][0].values())
    assert total == pytest.approx(1)
    assert len(found["top_logprobs"][0]) == 49152  # not two tokens share a key


@pytest.mark.parametrize("echo", [False, True])
def test_parts_of_characters_are_told_by_their_bytes_and_counted_when_whole(
    engine: Engine, echo: bool
) -> None:
    text = "é🦙 안녕"
    grammar = Grammar.from_string(f'root ::= "{text}"')
    request = Request(
        prompt="Say:", grammar=grammar, max_tokens=60, temperature=0, logprobs=20, echo=echo
    )
    done = engine.generate(request)
    found = done.logprobs
    assert found is not None
    raw = [token_bytes(token) for token in found["tokens"]]
    assert b"".join(raw).decode() == text
    assert any(token.startswith("bytes:\\x") for token in found["tokens"])
    assert not any("�" in name for top in found["top_logprobs"] for name in top)
    for at, (token, offset, logprob, top) in enumerate(zip(*found.values(), strict=True)):
        before = b"".join(raw[:at]).decode("utf-8", "ignore")
        assert offset == len("Say:" if echo else "") + len(before)
        assert len(top) in (20, 21)  # the chosen one is always there
        assert top[token] == logprob
        assert list(top.values()) == sorted(top.values(), reverse=True)
    chosen = trace_choices(grammar, found)
    assert all(c.allowed for t in chosen for c in t.choices if c.text == t.text)


def test_bias_forces_and_bans(engine: Engine) -> None:
    (paris,) = engine.tokenize(" Paris")
    forced = Request(
        prompt="2 + 2 =", temperature=1.5, max_tokens=2, logit_bias=((paris, 100.0),),
        repeat_penalty=1.0,
    )  # fmt: skip
    assert engine.generate(forced).text == " Paris Paris"
    banned = Request(
        prompt=PROMPTS[1], temperature=0, max_tokens=2, logit_bias=((paris, -math.inf),)
    )
    assert "Paris" not in engine.generate(banned).text
    with pytest.raises(ValueError, match="49152 is not in the vocabulary"):
        engine.generate(Request(prompt="x", logit_bias=((49_152, 1.0),)))


def test_one_candidate_leaves_nothing_to_chance(engine: Engine) -> None:
    greedy = Request(prompt=PROMPTS[0], temperature=0, max_tokens=8)
    expected = engine.generate(greedy).text
    for narrow in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-6}):
        request = Request(**{**greedy.__dict__, "temperature": 2.0, **narrow})
        assert engine.generate(request).text == expected, narrow
