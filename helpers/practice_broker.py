"""The practice accelerator's process: gives every client an RPC server of its own.

One of llama.cpp's servers talks to one client after the other, so a second model would wait for
the first to be closed. A client connects here instead, sends one line, and reads one of JSON:

- `memory` -> `{"free_mib": …, "total_mib": …}`
- `serve` -> `{"port": …}`; the server at that port is its own until it closes this connection.

The servers live in another process (`helpers.native.practice_server`), which may die of a lack of
memory as a driver's would: the next client gets a new one. It runs as
`python -m helpers.practice_broker MEMORY_MIB` (0 for no limit), prints its port, and ends, with
the servers, when its input closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading

from helpers.children import child_command


class _Servers:
    """The process with the servers, started anew when it has died."""

    def __init__(self, limit_mib: str) -> None:
        self._limit = limit_mib
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, line: str, process: object = None) -> tuple[bytes, object]:
        """Send a line and return the answer, and which process gave it.

        Args:
            line: What to send.
            process: Ask this process alone; nothing is sent where it has died.
        """
        with self._lock:
            if process is not None and process is not self._process:
                return b"", None
            for _ in range(2):
                running = self._running()
                assert running.stdin is not None and running.stdout is not None
                with contextlib.suppress(OSError):
                    running.stdin.write(line.encode() + b"\n")
                    running.stdin.flush()
                    if answer := running.stdout.readline():
                        return answer, running
                running.kill()
            return b"", None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                child_command("helpers.native.practice_server", self._limit),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def answer(self, client: socket.socket) -> None:
        """Serve one connection."""
        with client, contextlib.suppress(OSError):
            verb = client.makefile("rb").readline().decode("ascii", "replace").strip()
            if verb not in ("memory", "serve"):
                return
            answer, process = self.ask(verb)
            client.sendall(answer)
            if verb == "serve" and answer:
                with contextlib.suppress(OSError):
                    client.recv(1)  # returns when the client has gone
                self.ask(f"free {json.loads(answer)['port']}", process)


def main() -> None:
    """Serve until the parent closes the pipe."""
    servers = _Servers(sys.argv[1])
    ready, _ = servers.ask("memory")
    if not ready:
        sys.exit(1)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=servers.answer, args=(client,), daemon=True).start()


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)  # closes the servers' input, which ends them


if __name__ == "__main__":
    main()
