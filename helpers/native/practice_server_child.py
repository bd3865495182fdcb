"""The RPC servers of the practice accelerator, all in one process: its memory is the device's.

The broker (`practice_broker_child`) asks it for `memory`, to `serve` (a port that no client has),
to `seal` a port whose client has connected, and tells it which one is `free` again. Its argument is
the device's memory in MiB.

llama.cpp's server lets in whoever connects to its port, and any user of the machine can. So a port
is open only until its client has connected; then the server has that one client, and ends with it.
On Windows, where a port cannot be sealed so, it stays open and the next client gets it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from pathlib import Path

import psutil

from helpers.children import Parent
from helpers.native.library import ggml
from helpers.native.registry import available_mib, device_pointer, devices, usable_cores

_MIB = 1024 * 1024
_SLACK_MIB = 40.0
"""What a server needs beside its clients' buffers: graphs, stacks, and the tensor on its way in."""
_START_SECONDS = 10.0


def main() -> None:
    """Serve until the broker has gone."""
    parent = Parent()
    threading.stack_size(512 * 1024)
    pool = _Pool(float(sys.argv[1]))
    parent.serve(lambda request: getattr(pool, request[0])(*request[1:]))


class _Pool:
    """The servers."""

    def __init__(self, limit_mib: float) -> None:
        first = _start_server()
        self._base = _data_mib()
        self._idle = [] if _seal(first) else [first]
        self._sealed: set[int] = set()
        self._limit = limit_mib
        if limit_mib:
            _limit_memory(self._base + limit_mib + _SLACK_MIB)

    def serve(self) -> dict[str, int]:
        """The port of a server without a client, and whose it is."""
        return {"port": self._idle.pop() if self._idle else _start_server(), "pid": os.getpid()}

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
        used = max(0.0, _data_mib() - self._base - 1.0)
        return {"free_mib": max(0.0, self._limit - used), "total_mib": self._limit}


def _start_server() -> int:
    """Start a server in a thread, for as long as this process lives, and return its port."""
    library = ggml("ggml-rpc")
    assert library is not None
    cpu = device_pointer(next(device.name for device in devices() if device.kind == "cpu"))
    serve = library.ggml_backend_rpc_start_server
    serve.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    serve.restype = None
    served = (ctypes.c_void_p * 1)(cpu)
    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        arguments = (f"127.0.0.1:{port}".encode(), None, usable_cores(), 1, served)
        thread = threading.Thread(target=serve, args=arguments, daemon=True)
        thread.start()
        begin = time.monotonic()
        while thread.is_alive() and time.monotonic() - begin < _START_SECONDS:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return port
            time.sleep(0.002)
    raise OSError("no port of 127.0.0.1 could be used")


def _seal(port: int) -> bool:
    """Close the port of a server, which ends when its client goes; whether that can be done.

    The server's own descriptor becomes one of the null device: the next client cannot be accepted.
    """
    with contextlib.suppress(OSError):  # no such folder: Windows
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 (its entries come and go)
            if _listens(int(name), port):
                with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (the null device is no Path)
                    os.dup2(nothing.fileno(), int(name), inheritable=False)
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    pass  # it waits for a client: this is the last one
                return True
    return False


def _listens(descriptor: int, port: int) -> bool:
    try:
        with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as copy:
            waits = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return bool(waits) and copy.getsockname()[1] == port
    except OSError:  # no socket, or gone
        return False


def _data_mib() -> float:
    """MiB of this process's own writable memory, as the system counts it for the limit."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _limit_memory(total_mib: float) -> None:
    """Let the system refuse more memory than that (Linux; elsewhere it stays a promise)."""
    if sys.platform == "linux":
        import resource

        size = int(total_mib * _MIB)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


if __name__ == "__main__":
    main()
