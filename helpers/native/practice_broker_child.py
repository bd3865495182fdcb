"""The practice accelerator's process: gives every client an RPC server of its own.

One of llama.cpp's servers talks to one client after the other, so a second model would wait for
the first to be closed. A client connects here instead, sends one line, `TOKEN VERB`, and reads one
of JSON:

- `memory` -> `{"free_mib": …, "total_mib": …}`
- `serve` -> `{"port": …}`; the server at that port is its own until it closes this connection. A
  second line says that it is connected for good: the port then closes for everybody else.

Every user of the machine can connect to 127.0.0.1. The token, which the owner gets through its
pipe, keeps strangers out; what they send is bounded in length, time and number.

The servers live in another process (`practice_server_child`), which may die of a lack of memory as
a driver's would: the next client gets a new one. This one must survive that, so it runs as a script
and loads no native library. Its argument is the device's memory in MiB (0 for no limit); its owner
asks it for its address, once.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import sys
import threading
import time
from collections import deque

from helpers.children import Child, Parent
from helpers.errors import HelpersError

_LINE_BYTES = 64
_LINE_SECONDS = 5.0
_SILENT = 32
"""Connections at once that have not said who they are; one more, and the oldest has to go."""


def main() -> None:
    """Serve until the owner has gone, which ends the servers too."""
    parent = Parent()
    servers = Child("helpers.native.practice_server_child", sys.argv[1], role="held the device")
    servers.ask(["memory"])  # they work, or this process ends with their last words
    listener = socket.create_server(("127.0.0.1", 0))
    broker = _Broker(servers, secrets.token_hex(16))
    threading.Thread(target=broker.accept, args=(listener,), daemon=True).start()
    parent.serve(lambda _: f"{broker.token}@127.0.0.1:{listener.getsockname()[1]}")


class _Broker:
    """Answers whoever knows the token."""

    def __init__(self, servers: Child, token: str) -> None:
        self.token = token
        self._servers = servers
        self._silent: deque[socket.socket] = deque()

    def accept(self, listener: socket.socket) -> None:
        """Answer each connection in a thread of its own."""
        while True:
            client, _ = listener.accept()
            self._silent.append(client)
            if len(self._silent) > _SILENT:
                with contextlib.suppress(IndexError, OSError):
                    self._silent.popleft().shutdown(socket.SHUT_RDWR)
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        """Serve one connection; one closed without an answer is a device that cannot start."""
        with client, contextlib.suppress(OSError, HelpersError):
            token, _, verb = _line(client).partition(b" ")
            with contextlib.suppress(ValueError):  # had to go
                self._silent.remove(client)
            known = hmac.compare_digest(token, self.token.encode())
            if not known or verb not in (b"memory", b"serve"):
                return
            answer = self._servers.ask([verb.decode()])
            client.sendall(json.dumps(answer).encode() + b"\n")
            if verb == b"serve":
                server = [answer["port"], answer["pid"]]
                with contextlib.suppress(OSError):
                    client.settimeout(None)
                    if client.recv(1):
                        self._servers.ask(["seal", *server])
                        client.recv(1)  # returns when the client has gone
                self._servers.ask(["free", *server])


def _line(client: socket.socket) -> bytes:
    """The first line that a client sends; what has come in the given time, or of such length."""
    raw, end = b"", time.monotonic() + _LINE_SECONDS
    while not raw.endswith(b"\n") and len(raw) < _LINE_BYTES:
        client.settimeout(max(0.001, end - time.monotonic()))
        part = client.recv(_LINE_BYTES - len(raw))
        if not part:
            break
        raw += part
    return raw.strip()


if __name__ == "__main__":
    main()
