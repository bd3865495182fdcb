"""One machine's share of a cluster: the server's application in a replica of Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Message

from helpers.engine import Request
from helpers.serve.app import make_app
from helpers.serve.house import House
from helpers.serve.keys import Key
from helpers.serve.limits import Admission, Ticket
from helpers.serve.settings import KeyLimits, ServeSettings

_PROBE = Request(prompt="1", max_tokens=1, temperature=0.0, user="health")
_NO_LIMITS = KeyLimits(in_flight=10_000, tokens_per_minute=2**31 - 1)

_tickets: ContextVar[list[Ticket]] = ContextVar("_tickets")
"""What the request that is being answered was charged."""


@dataclass(frozen=True)
class Asked:
    """A request on its way from the gate to a replica.

    Attributes:
        method: Of HTTP.
        path: As the client asked for it.
        query: What follows the question mark.
        headers: Those that matter.
        body: The whole body.
        user: Name of the key's owner.
    """

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    user: str

    def scope(self) -> dict[str, Any]:
        """The request as ASGI describes it; the name stands where a client's key stood."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": [*self.headers, (b"authorization", b"Bearer " + self.user.encode())],
            "client": None,
            "server": None,
        }


class Gated:
    """The keys of a replica: the gate has looked at the client's, and gives its owner's name."""

    async def find(self, secret: str) -> Key | None:
        """Whoever the gate says."""
        return Key(secret, limits=_NO_LIMITS)


class _Told(Admission):
    """An admission that tells each request what it was charged."""

    @contextmanager
    def admit(self, key: Key, answers: int) -> Iterator[Ticket]:
        with super().admit(key, answers) as ticket:
            _tickets.get([]).append(ticket)
            yield ticket


class Replica:
    """Answers what the gate passes on.

    Args:
        settings: Those of the whole cluster; keys, limits and the queue are the gate's.
        probe_after_s: After so long without a token, a health check asks for one.
        probe_s: How long that one may take while no other comes.
    """

    def __init__(
        self, settings: ServeSettings, probe_after_s: float = 20.0, probe_s: float = 60.0
    ) -> None:
        inner = replace(settings, host="127.0.0.1", keys=None, queue=100_000, limits=_NO_LIMITS)
        self._app = make_app(inner, Gated())
        self._house: House = self._app.state.house
        told = _Told(inner.n_parallel, inner.queue, _NO_LIMITS)
        self._house.admission = self._house.desk.admission = told
        self._probe_after_s, self._probe_s = probe_after_s, probe_s
        self._looked = time.monotonic()

    async def ask(self, asked: Asked) -> AsyncGenerator[Message]:
        """Answer a request.

        Yields:
            ASGI's messages, and at last `{"type": "charged", "tokens": …}`.
        """
        messages: asyncio.Queue[Message] = asyncio.Queue()
        gone = asyncio.Event()
        tickets: list[Ticket] = []
        _tickets.set(tickets)
        bodies = iter([{"type": "http.request", "body": asked.body, "more_body": False}])

        async def receive() -> Message:
            for message in bodies:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        work = asyncio.create_task(self._app(asked.scope(), receive, messages.put))
        work.add_done_callback(lambda _: messages.put_nowait({"type": "end"}))
        try:
            while (message := await messages.get())["type"] != "end":
                yield message
            await work  # what the application raised
            yield {"type": "charged", "tokens": sum(ticket.tokens for ticket in tickets)}
        finally:
            gone.set()  # the client has gone, or the gate
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def check_health(self) -> None:
        """What Serve calls every few seconds: whether the model still gives tokens.

        Raises:
            RuntimeError: It gives none. Its process is ended, so that those who wait learn of it;
                the next question starts another, and if that fails too, Serve ends this replica.
        """
        if time.monotonic() - self._last_sign < self._probe_after_s:
            return
        before = self._house.metrics.last_token
        try:
            async with asyncio.timeout(self._probe_s):
                async with aclosing(self._house.served.engine.astream(_PROBE)) as items:
                    async for _ in items:
                        self._looked = time.monotonic()
        except TimeoutError:
            # Other answers' tokens came meanwhile: it is busy, and the probe has waited its turn.
            if self._house.metrics.last_token > before:
                return
            self._end_engine()
            raise RuntimeError(
                f"The model gave no token in {self._probe_s:g} seconds, though one was asked for: "
                "its process was ended."
            ) from None

    @property
    def _last_sign(self) -> float:
        return max(self._house.metrics.last_token, self._looked)

    def _end_engine(self) -> None:
        pid = getattr(self._house.served.engine._core, "child_pid", None)
        if pid is not None and sys.platform != "win32":
            # Not its pipe's end, which is how a child is told: one that hangs does not notice.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
