"""The engine in a child process: the same answers, and an end that the kernel survives."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import BaseModel, Field

from helpers.children import Child
from helpers.engine import Completion, Engine, Request
from helpers.errors import (
    ContextOverflowError,
    DeviceError,
    EngineCrashed,
    GrammarError,
    HelpersError,
    ModelFileError,
)
from helpers.grammars import Grammar
from helpers.isolation import core as isolation
from helpers.isolation import make_core
from helpers.isolation.wire import frame, read_frame
from tests.support import alive, child_of, options

STORY = "Once upon a time, there was a"
NO_END = ((0, -100.0), (1, -100.0), (2, -100.0))


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
    assert not alive(child)
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


def test_a_failed_load_leaves_no_child(tmp_path_factory: pytest.TempPathFactory) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ModelFileError, match="LoRA"):
        Engine(options(isolate=True, lora_path=options().model_path), make_core)
    assert {child for child in psutil.Process().children() if alive(child)} <= before


@pytest.mark.parametrize("cut", [0, 3, 8, 12])
def test_half_a_message_is_the_end(cut: int) -> None:
    raw = frame("verb", 1, {"a": [1, 2, 3]})
    assert read_frame(io.BytesIO(raw)) == ("verb", 1, {"a": [1, 2, 3]})
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(raw[:cut]))


class Word(str, Enum):  # noqa: UP042 (its `str()` is not its content)
    TOWN = "town"


class Count(int, Enum):
    TWO = 2


class Local(str):
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        raise TypeError("stays here")


def test_what_derives_from_plain_data_is_sent_as_such(engine: Engine, isolated: Engine) -> None:
    request = greedy(
        Local(STORY), stop=(Word.TOWN,), suffix=Word.TOWN, max_tokens=np.int64(9), top_k=Count.TWO,
        logit_bias=((np.int64(5), np.float32(-1)), (Count.TWO, -1)), logprobs=Count.TWO,
    )  # fmt: skip
    pickle.loads(pickle.dumps(request))
    plain = {str, int, float, bool, tuple, type(None)}
    assert {type(value) for value in vars(request).values()} <= plain
    assert {type(value) for pair in request.logit_bias for value in pair} <= plain
    assert type(request.stop[0]) is str
    assert isolated.generate(request).text == engine.generate(request).text
    assert isolated.tokenize(Word.TOWN) == engine.tokenize("town")
    tokens = tuple(np.array(engine.tokenize(STORY)))
    numbers = Request(prompt=tokens, temperature=0, max_tokens=2)
    assert isolated.generate(numbers).text == engine.generate(numbers).text


def test_a_class_of_the_notebook_is_refused_where_it_is_sent(isolated: Engine) -> None:
    class Own(Grammar):
        pass

    own = Own(Grammar.from_string('root ::= "a"')._source)
    with pytest.raises(TypeError, match=r"Own.*does not know. Give plain data"):
        isolated.generate(greedy(STORY, grammar=own))
    child = child_of(isolated)
    assert isolated.generate(greedy(STORY, max_tokens=1)).generated_tokens == 1
    assert child_of(isolated) == child


def _unreadable(verb: str, to: object) -> bytes:
    """A message as a newer or a hostile side might send it: with a call in it."""
    raw = pickle.dumps((verb, to, pickle.dumps(os.getcwd)))
    return struct.pack("<Q", len(raw)) + raw


def test_a_message_that_cannot_be_read_is_answered(
    isolated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = child_of(isolated)
    with monkeypatch.context() as patched:
        patched.setattr(isolation, "frame", lambda verb, to, content=None: _unreadable(verb, to))
        with pytest.raises(HelpersError, match=r"could not be read.*getcwd is not a class"):
            isolated.tokenize("x")
        with pytest.raises(HelpersError, match="could not be read"):
            isolated.generate(greedy(STORY))
        with pytest.raises(HelpersError, match="could not be read"):
            isolated.generate_many([greedy(STORY), greedy("x")])
        fresh = Grammar.from_string('root ::= "never read"')
        with pytest.raises(HelpersError, match="could not be read"):
            isolated.generate(greedy(STORY, grammar=fresh))
    with pytest.raises(HelpersError, match="grammar did not reach"):
        isolated.generate(greedy(STORY, grammar=fresh))
    assert isolated.generate(greedy(STORY, max_tokens=1)).generated_tokens == 1
    assert child_of(isolated) == child


@pytest.mark.parametrize(
    "hostile",
    [os.getcwd, subprocess.Popen, eval, getattr, io.open, Path("x"), SystemExit(3), type, Child],
)
def test_no_message_makes_another_object(hostile: object) -> None:
    raw = pickle.dumps(("reply", 1, pickle.dumps(hostile)))
    _, _, content = read_frame(io.BytesIO(struct.pack("<Q", len(raw)) + raw))
    assert isinstance(content, HelpersError) and "may be sent" in str(content)
    if not isinstance(hostile, type):
        with pytest.raises(TypeError, match="does not know"):
            frame("reply", 1, hostile)


def test_grammars_of_every_kind_and_exceptions_come_through() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Ball(BaseModel):
        colour: Colour
        size: Decimal = Field(ge=1)
        inside: list[Ball] = []

    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
    for grammar in (
        Grammar.from_string('root ::= "a" b{2,3}\nb ::= [^a-c]+ | "é"?'),
        Grammar.from_json_schema(tree),
        Grammar.from_json_schema({"type": "string", "not": {"pattern": "a"}}, strict=False),
        Grammar.from_json_schema({"enum": [Word.TOWN, Count.TWO, Decimal("1.5")]}),
        Grammar.from_pydantic(Ball),
        Grammar.from_typescript("interface P { x: number; y?: string[] }"),
    ):
        _, _, content = read_frame(io.BytesIO(frame("submit", [1], {"k": grammar})))
        assert content["k"].gbnf == grammar.gbnf
        assert content["k"].matches('"town"') == grammar.matches('"town"')
    for error in (
        GrammarError("x", line=2), ContextOverflowError(2, 1),
        ValueError("town"), "\ud800".encode, OSError(2, "no", "file"),
    ):  # fmt: skip
        if callable(error):
            with pytest.raises(UnicodeEncodeError) as caught:
                error()
            error = caught.value
        _, _, content = read_frame(io.BytesIO(frame("reply", 1, error)))
        assert type(content) is type(error)
        assert str(content) == str(error)


def test_a_grammar_is_sent_to_the_child_once(
    isolated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def recording(*message: Any) -> bytes:
        sent.append(frame(*message))
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


FORKED = """
import os, signal, sys
from helpers import LlamaCpp, default_model
llm = LlamaCpp(model_path=default_model(), isolate=True, n_ctx=256)
pid = os.fork()
if pid == 0:
    signal.alarm(30)  # who waits for an answer that cannot come is ended
    try:
        llm.get_num_tokens("Hello")
    except Exception as error:
        print(type(error).__name__, "forked from" in str(error), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(llm.get_num_tokens("Hello") > 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
def test_a_fork_is_told_that_the_model_is_not_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True
    )
    assert done.stdout.split() == ["HelpersError", "True", "True"], done.stderr
