"""The engine in a child process: the same answers, and an end that the kernel survives."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable

import psutil
import pytest
from engine_options import options

from helpers.engine import Completion, Engine, Request
from helpers.errors import (
    ContextOverflowError,
    DeviceError,
    EngineCrashed,
    HelpersError,
    ModelFileError,
)
from helpers.grammars import Grammar
from helpers.isolation import core as isolation
from helpers.isolation import make_core
from helpers.isolation.core import _crashed, frame, read_frame

STORY = "Once upon a time, there was a"
NO_END = ((0, -100.0), (1, -100.0), (2, -100.0))


def child_of(engine: Engine) -> int:
    return engine._core.child_pid  # type: ignore[attr-defined,no-any-return]


def greedy(prompt: str, **changes: object) -> Request:
    return Request(**{"prompt": prompt, "temperature": 0, "max_tokens": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        greedy(STORY),
        greedy(STORY, temperature=1.1, seed=5),
        greedy(STORY, stop=("town",)),
        greedy(STORY, logprobs=2),
        greedy("Yes?", grammar=Grammar.from_string('root ::= "🦙 " [a-z]+ "."')),
        greedy(STORY, echo=True, suffix="."),
    ],
    ids=["greedy", "seeded", "stop", "logprobs", "grammar", "echo"],
)
def test_a_child_answers_as_the_engine_does(
    engine: Engine, isolated: Engine, request_: Request
) -> None:
    here, there = engine.generate(request_), isolated.generate(request_)
    assert there.text == here.text
    assert there.finish_reason == here.finish_reason
    assert (there.logprobs is None) == (here.logprobs is None)
    if here.logprobs and there.logprobs:
        assert there.logprobs["tokens"] == here.logprobs["tokens"]
        assert there.logprobs["token_logprobs"] == pytest.approx(here.logprobs["token_logprobs"])
    *pieces, last = isolated.stream(request_)
    assert isinstance(last, Completion)
    assert "".join(piece.text for piece in pieces) == here.text

    async def streamed() -> str:
        return "".join([p.text async for p in isolated.astream(request_) if p is not last][:-1])

    assert asyncio.run(streamed()) == here.text


def test_a_child_reports_and_measures(isolated: Engine, engine: Engine) -> None:
    report = isolated.load_report
    assert report.isolated
    assert report.by_device == engine.load_report.by_device
    assert "its own" in str(report)
    assert "llama_model_loader" in isolated.native_log
    done = isolated.generate(greedy(STORY))
    assert done.timings.token_ms is not None
    assert len(done.timings.token_ms) == 8
    assert isolated.tokenize("Hello world") == engine.tokenize("Hello world")


def test_a_child_s_exceptions_are_the_engine_s(isolated: Engine) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        isolated.generate(Request(prompt="word " * 3000))
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (3001, 1024)
    with pytest.raises(ValueError, match="surrogate"):
        isolated.tokenize("\ud800")
    with pytest.raises(DeviceError, match="V cache"):
        Engine(options(isolate=True, type_v="q8_0", flash_attn=False), make_core)


def test_cancelling_reaches_the_child(isolated: Engine) -> None:
    stream = isolated.stream(Request(prompt=STORY, temperature=0, logit_bias=NO_END))
    next(stream)
    stream.close()
    assert isolated.generate(greedy(STORY, max_tokens=2)).generated_tokens == 2


def test_close_ends_the_child() -> None:
    engine = Engine(options(isolate=True, n_ctx=256), make_core)
    child = psutil.Process(child_of(engine))
    engine.close()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    with pytest.raises(HelpersError, match="has been closed"):
        engine.generate(greedy(STORY))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("name", "cause"),
    [("SIGABRT", "assertion"), ("SIGSEGV", "crashed"), ("SIGKILL", "lack of memory")],
)
def test_a_child_that_dies_is_reported_and_replaced(name: str, cause: str) -> None:
    number = getattr(signal, name)
    with Engine(options(isolate=True, n_ctx=256), make_core) as engine:
        first = child_of(engine)
        stream = engine.stream(Request(prompt=STORY, temperature=0, logit_bias=NO_END))
        next(stream)
        os.kill(first, number)
        with pytest.raises(EngineCrashed, match=cause) as caught:
            list(stream)
        assert name in str(caught.value)
        assert caught.value.exit_status == -number
        assert engine.generate(greedy(STORY, max_tokens=2)).generated_tokens == 2
        assert child_of(engine) != first
        assert engine._shared.users == 1


@pytest.mark.parametrize(
    ("status", "log", "cause"),
    [
        (-6, ("CUDA error: out of memory",), "ran out of memory"),
        (-6, ("ggml-rpc.cpp: Remote RPC server crashed",), "RPC server was lost"),
        (1, ("ImportError: no module",), "ImportError"),
    ],
)
def test_the_likely_cause_is_named(status: int, log: tuple[str, ...], cause: str) -> None:
    error = _crashed(status, log)
    assert cause in str(error)
    assert error.native_log == log


def test_a_failed_load_leaves_no_child(tmp_path_factory: pytest.TempPathFactory) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ModelFileError, match="LoRA"):
        Engine(options(isolate=True, lora_path=options().model_path), make_core)
    after = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    assert set(after) <= before


@pytest.mark.parametrize("cut", [0, 3, 8, 12])
def test_half_a_message_is_the_end(cut: int) -> None:
    raw = frame({"a": [1, 2, 3]})
    assert read_frame(io.BytesIO(raw)) == {"a": [1, 2, 3]}
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(raw[:cut]))


def test_arguments_that_cannot_be_pickled_fail_at_the_call(isolated: Engine) -> None:
    class Local(str):
        def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
            raise TypeError("stays here")

    with pytest.raises(TypeError, match="stays here"):
        isolated.generate(Request(prompt=Local("x")))
    assert isolated.generate(greedy(STORY, max_tokens=1)).generated_tokens == 1


def test_a_grammar_is_sent_to_the_child_once(
    isolated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def recording(message: object) -> bytes:
        sent.append(frame(message))
        return sent[-1]

    def grammar(word: str) -> Grammar:
        return Grammar.from_json_schema({"enum": [word]})  # a new object each time

    def carriers(word: str) -> int:
        return sum(word.encode() in raw for raw in sent)

    def answer(word: str) -> str:
        request = Request(prompt="Say it:", temperature=0, max_tokens=16, grammar=grammar(word))
        return isolated.generate(request).text

    monkeypatch.setattr(isolation, "frame", recording)
    for _ in range(3):
        assert answer("unmistakable") == '"unmistakable"'
    assert carriers("unmistakable") == 1
    # A batch of more grammars than are kept: each is at hand when its request is.
    monkeypatch.setattr(isolation, "_GRAMMARS_KEPT", 2)
    words = ["one", "two", "three", "four"]
    requests = [
        Request(prompt="Say it:", temperature=0, max_tokens=8, grammar=grammar(word))
        for word in words
    ]
    texts = [completion.text for completion in isolated.generate_many(requests)]
    assert texts == [f'"{word}"' for word in words]
    assert answer("four") == '"four"' and answer("unmistakable") == '"unmistakable"'
    assert carriers("unmistakable") == 2
