"""A wire between a model and its RPC server: counts what goes through, and makes it slow or broken.

The kernel here shapes bandwidth (`tc`, tbf) but has no delay (netem). So this proxy adds it: what
comes in goes on half a round trip later, however much is on its way.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

ANSWERED = {0, 1, 2, 3, 7, 8, 9, 11, 13, 14, 15}
"""The commands (enum rpc_cmd) whose answer the client waits for."""
GRAPH = 10
"""The command that sends a whole graph: not needed for one more token."""


class Wire:
    """A port of 127.0.0.1 that leads to an RPC server.

    Attributes:
        address: What to give to `remote_device`.
        round_trip_ms: How much longer an answer takes; may be changed at any time.
        up: Bytes sent to the server.
        down: Bytes that came back.
        commands: How often each command was sent, by its number.
    """

    def __init__(self, server: str, round_trip_ms: float = 0.0) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self.round_trip_ms = round_trip_ms
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.reset()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Count from zero."""
        self.up = self.down = 0
        self.commands: Counter[int] = Counter()

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for."""
        return sum(count for command, count in self.commands.items() if command in ANSWERED)

    def close(self) -> None:
        """Let nobody through any more."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server, timeout=10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._open += [client, server]
                for ends, counts in (((client, server), self._sent), ((server, client), None)):
                    for one in ends:
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    reads = (ends[0], late, _Reader(counts) if counts else None)
                    threading.Thread(target=self._receive, args=reads, daemon=True).start()
                    threading.Thread(target=self._send, args=(ends[1], late), daemon=True).start()

    def _receive(
        self,
        source: socket.socket,
        late: queue.SimpleQueue[tuple[float, bytes]],
        reader: _Reader | None,
    ) -> None:
        raw = b"-"
        while raw:
            try:
                raw = source.recv(1 << 18)
            except OSError:
                raw = b""
            late.put((time.monotonic() + self.round_trip_ms / 2000, raw))
            if reader is None:
                self.down += len(raw)
            else:
                self.up += len(raw)
                reader.feed(raw)

    def _send(self, target: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, raw = late.get()
                if (early := due - time.monotonic()) > 0:
                    time.sleep(early)
                if not raw:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(raw)

    def _sent(self, command: int) -> None:
        self.commands[command] += 1


class _Reader:
    """Finds the commands in what a client sends."""

    def __init__(self, found: Callable[[int], None]) -> None:
        self._found = found
        self._head = b""
        self._skip = 0

    def feed(self, raw: bytes) -> None:
        while raw:
            if self._skip:
                gone = min(self._skip, len(raw))
                self._skip, raw = self._skip - gone, raw[gone:]
                continue
            need = 9 - len(self._head)
            self._head, raw = self._head + raw[:need], raw[need:]
            if len(self._head) == 9:
                command, self._skip = struct.unpack("<BQ", self._head)
                self._head = b""
                self._found(command)
