"""A core on another machine: each job is a request to a server, each answer a stream from it.

It has the face of `LocalCore`. An event loop in a thread of its own holds the connections, so that
all that is built on an engine (streams, batches, tasks, Ctrl-C) works as with a model loaded here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import queue
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from helpers.engine.options import Chunk, Completion, Request
from helpers.engine.report import LoadReport
from helpers.engine.sequence import Job
from helpers.errors import HelpersError, ServerError
from helpers.load_options import LoadOptions
from helpers.native import Vectors
from helpers.remote.address import Address
from helpers.remote.codec import (
    chunk_from_json,
    completion_from_json,
    error_from_json,
    prompt_to_json,
    request_to_json,
)
from helpers.remote.connection import DONE, Connection
from helpers.remote.errors import shown
from helpers.remote.served import find_model
from helpers.threads import get
from helpers.timings import Timings

_T = TypeVar("_T")

AT_ONCE = LoadOptions.n_parallel
"""Requests that are with the server at a time; the others wait here, in their order."""
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 256, 100_000
"""Texts that one request asks the tokens of: a server takes a megabyte."""
_CLOSED = "This model has been closed. Make a new one to go on."
_ANEW = "Make the model anew: its template and its tokens are others."


class RemoteCore:
    """A model that a server has loaded.

    Args:
        address: The server.
        embeddings: Whether its model for vectors is wanted, or the one that writes.

    Raises:
        ServerError: It is not there, is none of ours, or refuses the key.
        ModelFileError: What it says of its model cannot be read.
    """

    def __init__(self, address: Address, *, embeddings: bool = False) -> None:
        self.pid = os.getpid()
        self.native_log: list[tuple[int, str]] = []
        self._lock = threading.Lock()
        self._closed = self._stale = self._doubted = False
        self._embeddings = embeddings
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._connection = Connection(address)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="helpers-remote", daemon=True)
        self._thread.start()
        try:
            self.served = self._ask(find_model(self._connection, embeddings=embeddings))
        except BaseException:
            self.close()
            raise
        self.load_report: LoadReport = self.served.report

    @property
    def alive(self) -> bool:
        """Whether it can be used: not when closed, in a fork, or when the server has another model.

        Then an engine makes a new one.
        """
        return not self._closed and not self._stale and os.getpid() == self.pid

    def submit(self, jobs: Iterable[Job]) -> None:
        """Send jobs to the server; their sinks are called from this core's thread."""
        self._check_process()
        # Written here, so that what cannot be sent is the caller's exception.
        bodies = [(job, self._body(job.request)) for job in jobs]
        with self._lock:
            self._check_open()
            for job, body in bodies:
                self._loop.call_soon_threadsafe(self._begin, job, body)

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible: the server sees that its client is gone."""
        job.cancelled = True
        if self.alive:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._end, job)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        return self.tokenize_many([text])[0]

    def tokenize_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` for several prompts, in few round trips."""
        found: list[list[int]] = []
        for some in _in_parts(texts):
            body = {"model": self.served.id, "prompts": [prompt_to_json(text) for text in some]}
            answer = self._ask(self._connection.json("/tokenize", body))
            found += _tokens(answer, len(some))
        return found

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of texts, given as tokens."""
        body = {
            "model": self.served.id,
            "input": [list(text) for text in texts],
            "encoding_format": "base64",
            "normalize": False,
        }
        answer = self._ask(self._connection.json("/v1/embeddings", body))
        try:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            raw = [base64.b64decode(row["embedding"], validate=True) for row in rows]
            found = [np.frombuffer(one, "<f4").astype(np.float32) for one in raw]
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise _unreadable(answer) from None
        if len(found) != len(texts) or len({len(one) for one in found}) > 1:
            raise _unreadable(answer)
        return found

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything and close the connections."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _body(self, request: Request) -> dict[str, Any]:
        body = request_to_json(request)
        if request.max_tokens is not None:  # the server refuses more than there can be
            body["max_tokens"] = min(request.max_tokens, self.load_report.n_ctx)
        return {**body, "model": self.served.id, **_STREAMED}

    def _check_process(self) -> None:
        if os.getpid() != self.pid:
            raise HelpersError(
                "This connection belongs to the process that this one was forked from. Make the "
                "model in the process that uses it."
            )

    def _check_open(self) -> None:
        if self._closed:
            raise HelpersError(_CLOSED)

    def _ask(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Let the thread do something, and wait for it in a way that Ctrl-C can end."""
        outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        async def run() -> None:
            try:
                await self._make_sure()
                outcome.put((await work, None))
            except BaseException as error:
                work.close()
                self._note(error)
                outcome.put((None, error))

        try:
            self._check_process()
            with self._lock:
                self._check_open()
                future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        except BaseException:
            work.close()
            raise
        try:
            result, error = get(outcome)
        except BaseException:
            future.cancel()
            raise
        if isinstance(error, asyncio.CancelledError):
            raise HelpersError(_CLOSED)
        if error is not None:
            raise error
        done: _T = result
        return done

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._connection.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _begin(self, job: Job, body: dict[str, Any]) -> None:
        self._tasks[job] = task = self._loop.create_task(self._generate(job, body))
        task.add_done_callback(lambda _: self._tasks.pop(job, None))
        if job.cancelled:  # meanwhile
            self._loop.call_soon(self._end, job)

    def _end(self, job: Job) -> None:
        if job in self._tasks:
            self._tasks[job].cancel()

    async def _make_sure(self) -> None:
        """Where a server was gone, look whether the one that is there now has the same model."""
        if self._doubted:
            found = await find_model(self._connection, embeddings=self._embeddings)
            if (found.id, found.fingerprint) != (self.served.id, self.served.fingerprint):
                self._stale = True
                raise ServerError(
                    f"The server at {self._connection.url} has another model than before, "
                    f"{found.id}. {_ANEW}",
                    code="model_not_found",
                )
            self._doubted = False

    def _note(self, error: BaseException) -> None:
        """What an error says of the server."""
        if isinstance(error, ServerError):
            self._doubted |= error.status is None and hasattr(self, "served")
            self._stale |= error.code == "model_not_found"

    async def _generate(self, job: Job, body: dict[str, Any]) -> None:
        answer = _Answer(job, self.load_report.load_ms)
        try:
            async with self._room:
                await self._make_sure()
                stream = self._connection.events("/v1/completions", body)
                async with contextlib.aclosing(stream):
                    async for event in stream:
                        answer.take(event)
            if not job.ended:
                raise ServerError("The server ended a stream without an answer.")
        except asyncio.CancelledError:
            answer.cancelled()
        except Exception as error:
            self._note(error)
            if not job.ended:
                _tell(job, error)


_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class _Answer:
    """An answer as its pieces come in.

    What the reader waits for is timed here (`total_ms`, `first_token_ms`), with the network and the
    server's queue in it; all else is the server's.
    """

    def __init__(self, job: Job, load_ms: float) -> None:
        self._job = job
        self._load_ms = load_ms
        self._chunks: list[Chunk] = []
        self._last: dict[str, Any] = {}
        self._first_ms: float | None = None

    def take(self, event: Any) -> None:
        """Take what a stream tells, and pass it on."""
        if event is DONE:
            _tell(self._job, self._whole())
            return
        if isinstance(event, dict) and "error" in event:
            raise error_from_json(None, event)
        if self._first_ms is None:
            self._first_ms = self._ms()
        try:
            if event["choices"] and event["choices"][0]["finish_reason"] is None:
                self._chunks.append(chunk_from_json(event))
                _tell(self._job, self._chunks[-1])
            else:  # the last piece, and what came of it all, together or one after the other
                self._last |= {k: v for k, v in event.items() if v not in (None, [])}
        except (KeyError, IndexError, TypeError, ValueError):
            raise _unreadable(event) from None

    def _whole(self) -> Completion:
        try:
            made = completion_from_json(self._last, self._chunks)
        except ValueError:
            raise _unreadable(self._last) from None
        theirs = made.timings
        token_ms = theirs.token_ms
        if token_ms and self._first_ms is not None:
            token_ms = [self._first_ms, *token_ms[1:]]
        first_ms = None if theirs.first_token_ms is None else self._first_ms
        return replace(
            made,
            timings=replace(
                theirs, total_ms=self._ms(), first_token_ms=first_ms, token_ms=token_ms
            ),
        )

    def cancelled(self) -> None:
        """Tell that there will be no more of it, which is no answer unless that was asked for."""
        if not self._job.ended and not self._job.cancelled:
            _tell(self._job, HelpersError("The connection was closed during this call."))
        elif not self._job.ended:
            text = "".join(chunk.text for chunk in self._chunks)
            timings = Timings(load_ms=self._load_ms, total_ms=self._ms())
            _tell(self._job, Completion(text, "cancelled", timings, 0, len(self._chunks)))

    def _ms(self) -> float:
        return (time.perf_counter() - self._job.submitted) * 1000


def _tell(job: Job, event: Chunk | Completion | BaseException) -> None:
    try:
        job.tell(event)
    except Exception:  # the receiver is gone: its event loop is closed
        raise asyncio.CancelledError from None


def _in_parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in groups that a request has room for."""
    part: list[str] = []
    room = 0
    for text in texts:
        if part and (len(part) == _TEXTS_AT_ONCE or len(text) > room):
            yield part
            part = []
        room = (room if part else _CHARACTERS_AT_ONCE) - len(text)
        part.append(text)
    if part:
        yield part


def _tokens(answer: Any, count: int) -> list[list[int]]:
    """The tokens of so many prompts."""
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if (
        not isinstance(found, list)
        or len(found) != count
        or any(not isinstance(one, list) or any(type(t) is not int for t in one) for one in found)
    ):
        raise _unreadable(answer)
    return found


def _unreadable(answer: Any) -> ServerError:
    return ServerError(
        f"An answer of the server cannot be read: {shown(answer)}. Its version may be another one "
        "than that of this program."
    )
