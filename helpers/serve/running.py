"""The application on uvicorn: bounded connections, and an end that lets answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from helpers.serve.settings import ServeSettings

_HEADER_S = 15.0
"""Longest time from the first byte of a request to the end of its headers."""

_IDLE_S = 30
"""How long a connection may stay open without a request."""

_HEADER_BYTES = 16 * 1024
_BACKLOG = 256
_MOST_CONNECTIONS = 900
"""A process may have 1,024 files open, on most systems."""


def bound_socket(settings: ServeSettings) -> socket.socket:
    """A socket on the address of the settings, before a model is loaded for nothing.

    Raises:
        OSError: The address is not this machine's, or the port is taken.
    """
    host = settings.host.strip("[]")
    family, kind, number, _, address = socket.getaddrinfo(
        host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, number)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR shares a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def run(
    app: FastAPI,
    settings: ServeSettings,
    bound: socket.socket,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers finish; a second one ends at once.

    Args:
        app: The application, from `make_app`.
        settings: What it was made with.
        bound: From `bound_socket`.
        ready: Is called when the server can be asked.
    """
    protocol = type("Protocol", (BoundedProtocol,), {"stall_s": settings.stall_s})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    GracefulServer(config, app, settings.grace_s, ready).run([bound])


class GracefulServer(uvicorn.Server):
    """uvicorn that answers 503 while the running answers finish, then ends with status 0.

    Args:
        config: uvicorn's settings.
        app: The application.
        grace_s: How long the answers may go on.
        ready: Is called when the server can be asked.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, grace_s: float, ready: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._house, self._grace_s, self._ready = app.state.house, grace_s, ready
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals over; unlike uvicorn's, an end that was asked for is no failure."""
        if threading.current_thread() is not threading.main_thread():  # where no signal arrives
            yield
            return
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.end)

        before = {number: signal.signal(number, handle) for number in _signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self) -> None:
        """Begin to end; asked again, end at once."""
        if self._ending is not None:
            self._house.desk.end_all()
            self.should_exit = self.force_exit = True
        else:
            self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        await self._house.drain(self._grace_s)
        self.should_exit = True


def _signals() -> list[int]:
    return [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGBREAK", 0)])]


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP, that waits neither for headers nor for readers for ever."""

    stall_s = ServeSettings.stall_s

    _patience: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection begins: its first request must come soon."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """More came: if a request is whole, the wait for its headers is over."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._rest()
        elif before is None or before.response_complete:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._rest()
        self.resume_writing()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(_HEADER_S, self._give_up)

    def _rest(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def pause_writing(self) -> None:
        """The client does not read: what it does not take in time, nobody computes for it."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stall_s, self._give_up)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing is asked any more; what was not read by now never will be."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _give_up(self) -> None:
        logging.getLogger("helpers.serve").info("a connection was ended: it came to nothing")
        self.transport.abort()
