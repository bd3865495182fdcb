"""How bytes reach a client: a response as a whole, or as events that leave at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.types import Receive, Send

from helpers.serve.problems import Problem

_T = TypeVar("_T")

_EVENTS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # a proxy must not collect what is to be read at once
}
_JSON = {"content-type": "application/json"}


class Wire:
    """One response over ASGI, without Starlette's machinery, which costs for each event.

    Args:
        send: ASGI's.

    Attributes:
        began: Whether the status has gone out: from then on an error can only be an event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.began = False

    async def event(self, data: bytes, *, more: bool = True) -> None:
        """Send an event; the first one brings the headers, the last one ends the response."""
        if not self.began:
            await self._begin(200, _EVENTS)
        await self._send(
            {
                "type": "http.response.body",
                "body": b"data: " + data + b"\n\n",
                "more_body": more,
            }
        )

    async def whole(
        self, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a response in one piece."""
        raw = json.dumps(body).encode()
        await self._begin(status, {**_JSON, "content-length": str(len(raw)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": raw})

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.began = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """What some work gives; it is cancelled as soon as the client has hung up.

    Args:
        receive: ASGI's; the body must have been read.
        work: The work.

    Raises:
        Problem: The client has hung up.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Problem(499, "client_gone", "The client has hung up.")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
