"""Answers on their way to a client: whole or as events, and ended as soon as nobody reads them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from helpers.engine import Chunk, Completion, Engine, Request
from helpers.errors import EngineCrashed
from helpers.remote.codec import timings_to_json
from helpers.serve.keys import Key
from helpers.serve.limits import Admission
from helpers.serve.metrics import Metrics
from helpers.serve.problems import Problem, described
from helpers.serve.sending import Wire, unless_gone

Item = Chunk | Completion

_LAST_WORDS_S = 5.0
"""How long a client may take to read why its answer has ended."""

_CHARACTERS_PER_TOKEN = 4
"""What a prompt is charged by whose tokens nobody has counted: its answer was given up."""


class Writer(Protocol):
    """Puts one answer into the protocol's words."""

    def pieces(self, item: Item) -> Iterable[dict[str, Any]]:
        """What a stream's choices say of a piece; the last one of a `Completion` is the end."""
        ...

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The choice of an answer that is sent as a whole."""
        ...


@dataclass
class Asked:
    """One answer that is wanted.

    Attributes:
        request: What the engine is asked.
        writer: Who writes the answer down.
        prompt: The prompt's number: several answers to one prompt read it once.
    """

    request: Request
    writer: Writer
    prompt: int = 0


@dataclass(frozen=True)
class Envelope:
    """What surrounds the choices of an answer.

    Attributes:
        id: The answer's name.
        kind: Its kind, such as "chat.completion".
        chunk_kind: That of a stream's pieces.
        model: Name of the model.
        stream: Whether it goes out piece by piece.
        include_usage: Whether a stream ends with the counts of tokens.
        usage_with_end: Whether the last piece of each answer has its own counts: clients that add
            up what pieces say would count a chat's twice.
    """

    id: str
    kind: str
    chunk_kind: str
    model: str
    stream: bool
    include_usage: bool
    usage_with_end: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        """The fields before the choices."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass
class Desk:
    """What the answers of one server share.

    Attributes:
        engine: What computes them.
        admission: Who is let in.
        metrics: What is noted.
        request_s: Longest time for a request.
        answers: Those that are on their way.
    """

    engine: Engine
    admission: Admission
    metrics: Metrics
    request_s: float
    answers: set[Answer] = field(default_factory=set)

    def end_all(self) -> None:
        """Give up all answers: the server ends."""
        for answer in list(self.answers):
            answer.end(Problem(503, "shutting_down", "The server was stopped.", retry_after=10))

    @property
    def running(self) -> int:
        """Answers that are computed now."""
        return min(self.admission.in_flight, self.admission.n_parallel)

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return self.admission.in_flight - self.running


class Answer(Response):
    """The response to one body: an ASGI application that computes, sends, and gives up in time.

    Args:
        desk: The server's.
        key: Who asks.
        asked: The answers that are wanted.
        envelope: How they are wrapped.
        began: When the request came, by the monotonic clock.
    """

    def __init__(
        self, desk: Desk, key: Key, asked: Sequence[Asked], envelope: Envelope, began: float
    ) -> None:
        super().__init__()  # FastAPI asks whether it is a response; it is sent by `__call__`
        self._desk, self._key, self._envelope, self._began = desk, key, envelope, began
        # Whose request it is, the key says, never the body: users are served in turn.
        self._asked = [replace(one, request=replace(one.request, user=key.name)) for one in asked]
        self._pieces = [0] * len(asked)
        self._done: dict[int, Completion] = {}
        self._last: float | None = None
        self._ended: Problem | None = None
        self._task: asyncio.Task[Any] | None = None

    def end(self, problem: Problem) -> None:
        """Give the answer up; the client learns why."""
        self._ended = problem
        if self._task is not None:
            self._task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a client that hangs up ends the work at once."""
        metrics, outcome = self._desk.metrics, "stopped"
        self._desk.answers.add(self)
        try:
            outcome = await unless_gone(receive, self._work(Wire(send)))
        except Problem as gone:
            outcome = gone.code
            metrics.problem(self._key.name, gone.status, outcome)
        finally:
            self._desk.answers.discard(self)
            metrics.requests.labels(scope["path"], outcome).inc()
            metrics.duration.observe(time.monotonic() - self._began)

    async def _work(self, wire: Wire) -> str:
        """Compute and send; how it ended, in a word for the metrics."""
        self._task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._desk.request_s):
                with self._desk.admission.admit(self._key, len(self._asked)) as ticket:
                    try:
                        await (self._stream if self._envelope.stream else self._whole)(wire)
                    finally:
                        ticket.tokens = self._charge()
            return "ok"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if self._ended is None:
                    raise
                error = self._ended
            status, body, headers = described(error)
            code = str(body["error"]["code"])
            self._desk.metrics.problem(self._key.name, status, code)
            if isinstance(error, EngineCrashed):
                self._desk.metrics.crashes.inc()
            if code == "timeout" and self._desk.metrics.last_token < self._began:
                self._desk.metrics.stuck = True  # nobody got a token all the while
            with suppress(TimeoutError):  # it does not read: the server ends the connection
                async with asyncio.timeout(_LAST_WORDS_S):
                    if wire.began:
                        await wire.event(json.dumps(body).encode(), more=False)
                    else:
                        await wire.whole(body, status, headers)
            return code

    async def _stream(self, wire: Wire) -> None:
        envelope = self._envelope
        head = json.dumps(envelope.head(envelope.chunk_kind))[:-1] + ', "choices": ['
        tail = ', "usage": null}' if envelope.include_usage else "}"
        async with aclosing(self._items()) as items:
            async for index, item in items:
                for choice in self._asked[index].writer.pieces(item):
                    written = json.dumps({**choice, "index": index})
                    if isinstance(item, Completion) and choice["finish_reason"] is not None:
                        facts = json.dumps(self._facts(item))[1:]
                        await wire.event(f"{head}{written}], {facts}".encode())
                    else:
                        await wire.event(f"{head}{written}]{tail}".encode())
        if envelope.include_usage:
            last = {**envelope.head(envelope.chunk_kind), "choices": [], "usage": self._usage()}
            await wire.event(json.dumps(last).encode())
        await wire.event(b"[DONE]", more=False)

    async def _whole(self, wire: Wire) -> None:
        async with aclosing(self._items()) as items:
            async for _ in items:
                pass
        choices = [
            {**asked.writer.whole(self._done[index]), "index": index}
            for index, asked in enumerate(self._asked)
        ]
        body = {
            **self._envelope.head(self._envelope.kind),
            "choices": choices,
            "usage": self._usage(),
        }
        if len(choices) == 1:
            body |= self._facts(self._done[0])
        else:
            for index, choice in enumerate(choices):
                choice |= self._facts(self._done[index])
        await wire.whole(body)

    async def _items(self) -> AsyncGenerator[tuple[int, Item]]:
        """The pieces of all answers as they come, counted and timed."""
        metrics = self._desk.metrics
        async with aclosing(_merged(self._desk.engine, self._asked)) as items:
            async for index, item in items:
                now = time.monotonic()
                if isinstance(item, Completion):
                    self._done[index] = item
                    metrics.completed(item, self._pieces[index])
                else:
                    self._pieces[index] += 1
                    metrics.piece(now, self._began if self._last is None else None, self._last)
                    self._last = now
                yield index, item

    def _facts(self, completion: Completion) -> dict[str, Any]:
        """What is told of an answer beyond OpenAI's protocol."""
        facts: dict[str, Any] = {
            "timings": timings_to_json(completion.timings),
            "notes": list(completion.notes),
        }
        if self._envelope.usage_with_end:
            facts["usage"] = usage_of([completion], [completion])
        elif self._envelope.include_usage:
            facts["usage"] = None
        return facts

    def _usage(self) -> dict[str, Any]:
        """Counts of tokens; a prompt that has several answers was read once."""
        first: dict[int, Completion] = {}
        for index, asked in enumerate(self._asked):
            first.setdefault(asked.prompt, self._done[index])
        return usage_of(first.values(), self._done.values())

    def _charge(self) -> int:
        """The tokens that the key has used: of an answer that was given up, a guess."""
        used = 0
        for index, asked in enumerate(self._asked):
            if index in self._done:
                used += self._done[index].prompt_tokens + self._done[index].generated_tokens
            else:
                length = len(asked.request.prompt)
                text = isinstance(asked.request.prompt, str)
                used += self._pieces[index] + length // (_CHARACTERS_PER_TOKEN if text else 1)
        return used


async def _merged(engine: Engine, asked: Sequence[Asked]) -> AsyncGenerator[tuple[int, Item]]:
    """The pieces of several answers, with the number of the one that they belong to."""
    if len(asked) == 1:
        async with aclosing(engine.astream(asked[0].request)) as items:
            async for item in items:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, Item | BaseException]] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async with aclosing(engine.astream(asked[index].request)) as items:
                async for item in items:
                    queue.put_nowait((index, item))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index)) for index in range(len(asked))]
    try:
        left = len(tasks)
        while left:
            index, found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            left -= isinstance(found, Completion)
            yield index, found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage_of(read: Iterable[Completion], written: Iterable[Completion]) -> dict[str, Any]:
    """Counts of tokens: of the prompts of some answers, and of others themselves."""
    read = list(read)
    prompts = sum(one.prompt_tokens for one in read)
    answers = sum(one.generated_tokens for one in written)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": answers,
        "total_tokens": prompts + answers,
        "prompt_tokens_details": {
            "cached_tokens": sum(one.timings.cached_tokens or 0 for one in read)
        },
    }
