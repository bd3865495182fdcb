"""The practice accelerator's process: gives every client an RPC server of its own.

One of llama.cpp's servers talks to one client after the other, so a second model would wait for
the first to be closed. A client connects here instead, sends one line, and reads one of JSON:

- `memory` -> `{"free_mib": …, "total_mib": …}`
- `serve` -> `{"port": …}`; the server at that port is its own until it closes this connection.

The servers live in another process (`practice_server_child`), which may die of a lack of memory as
a driver's would: the next client gets a new one. This one must survive that, so it runs as a script
and loads no native library. Its argument is the device's memory in MiB (0 for no limit); its owner
asks it for its port, once.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading

from helpers.children import Child, Parent
from helpers.errors import HelpersError


def main() -> None:
    """Serve until the owner has gone, which ends the servers too."""
    parent = Parent()
    servers = Child("helpers.native.practice_server_child", sys.argv[1], role="held the device")
    servers.ask(["memory"])  # they work, or this process ends with their last words
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, servers), daemon=True).start()
    parent.serve(lambda _: listener.getsockname()[1])


def _accept(listener: socket.socket, servers: Child) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_answer, args=(client, servers), daemon=True).start()


def _answer(client: socket.socket, servers: Child) -> None:
    """Serve one connection; one that is closed without an answer is a device that cannot start."""
    with client, contextlib.suppress(OSError, HelpersError):
        verb = client.makefile("rb").readline().decode("ascii", "replace").strip()
        if verb not in ("memory", "serve"):
            return
        answer = servers.ask([verb])
        client.sendall(json.dumps(answer).encode() + b"\n")
        if verb == "serve":
            with contextlib.suppress(OSError):
                client.recv(1)  # returns when the client has gone
            servers.ask(["free", answer["port"], answer["pid"]])


if __name__ == "__main__":
    main()
