"""The RPC servers of the practice accelerator, all in one process: its memory is the device's.

The broker (`practice_broker_child`) asks it for `memory`, to `serve` (a port that no client has),
to `seal` a port whose client has connected, and tells it which one is `free` again. Its argument is
the device's memory in MiB.

llama.cpp's server lets in whoever connects to its port, and any user of the machine can. So a port
is open only until its client has connected; then the server has that one client, and ends with it.
On Windows, where a port cannot be sealed so, it stays open and the next client gets it.
"""

from __future__ import annotations

import os
import sys
import threading

import psutil

from helpers.children import Parent
from helpers.native.registry import available_mib
from helpers.native.rpc_servers import data_mib, limit_memory, redirect, start_server

_MIB = 1024 * 1024
_SLACK_MIB = 40.0
"""What a server needs beside its clients' buffers: graphs, stacks, and the tensor on its way in."""


def main() -> None:
    """Serve until the broker has gone."""
    parent = Parent()
    threading.stack_size(512 * 1024)
    pool = _Pool(float(sys.argv[1]))
    parent.serve(lambda request: getattr(pool, request[0])(*request[1:]))


class _Pool:
    """The servers."""

    def __init__(self, limit_mib: float) -> None:
        first = start_server()
        self._base = data_mib()
        self._idle = [] if _seal(first) else [first]
        self._sealed: set[int] = set()
        self._limit = limit_mib
        if limit_mib:
            limit_memory(self._base + limit_mib + _SLACK_MIB)

    def serve(self) -> dict[str, int]:
        """The port of a server without a client, and whose it is."""
        return {"port": self._idle.pop() if self._idle else start_server(), "pid": os.getpid()}

    def seal(self, port: int, pid: int) -> None:
        """Let nobody else in; of a server that died with its process there is no port."""
        if pid == os.getpid() and _seal(port):
            self._sealed.add(port)

    def free(self, port: int, pid: int) -> None:
        """The client of a server has gone: one that is not sealed takes the next."""
        if pid == os.getpid() and port not in self._sealed:
            self._idle.append(port)
        self._sealed.discard(port)

    def memory(self) -> dict[str, float]:
        """What the device has, and what is free there, in MiB."""
        if not self._limit:
            return {
                "free_mib": available_mib(),
                "total_mib": psutil.virtual_memory().total / _MIB,
            }
        used = max(0.0, data_mib() - self._base - 1.0)
        return {"free_mib": max(0.0, self._limit - used), "total_mib": self._limit}


def _seal(port: int) -> bool:
    """Close the port of a server, which ends when its client goes; whether that can be done."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (the null device is no Path)
        return redirect(port, nothing.fileno())


if __name__ == "__main__":
    main()
