"""A model whose memory is one state (Mamba): nothing of it can be cut off, or gone back to."""

from __future__ import annotations

import pytest

from helpers.engine import Engine, Request
from helpers.native.context import Context
from tests.models.gguf_builders import tiny_mamba
from tests.support import options

NO_END = tuple((token, float("-inf")) for token in (0, 1, 2))
PROMPT = "the hello world and all that is the case " * 30


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf"))


def _request(prompt: str) -> Request:
    return Request(prompt=prompt, temperature=0, max_tokens=12, logit_bias=NO_END)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_call_after_an_interrupted_one_is_as_if_it_were_the_first(
    path: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(options(model_path=path, n_ctx=2048, n_batch=256, n_ubatch=256)) as engine:
        expected = engine.generate(_request(PROMPT + "x")).text

    with Engine(options(model_path=path, n_ctx=2048, n_batch=256, n_ubatch=256)) as engine:
        compute, count = Context._run, 0

        def interrupted(context: Context, tokens: int) -> None:
            nonlocal count
            if count == at:  # the abort flag is up while the graph is computed
                context.abort()
            count += 1
            compute(context, tokens)

        monkeypatch.setattr(Context, "_run", interrupted)
        assert engine.generate(_request(PROMPT)).finish_reason == "cancelled"
        monkeypatch.undo()
        for prompt in (PROMPT + "x", PROMPT + "x"):  # with the same beginning as what was aborted
            assert engine.generate(_request(prompt)).text == expected


def test_a_shared_beginning_is_computed_again(path: str) -> None:
    with Engine(options(model_path=path, n_ctx=2048)) as engine:
        alone = [engine.generate(_request(PROMPT + end)).text for end in ("a", "b", "a")]
        beside = engine.generate_many([_request(PROMPT + end) for end in ("a", "b")])
    assert alone[0] == alone[2]
    assert [one.text for one in beside] == alone[:2]
