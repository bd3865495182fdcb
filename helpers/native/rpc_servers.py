"""llama.cpp's own RPC servers in this process: threads that serve one client after the other.

Only for child processes: a server cannot be stopped, and what a client sends may end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.errors import DeviceError
from helpers.native.library import ggml, library_folder
from helpers.native.registry import device_pointer, devices, usable_cores

_MIB = 1024 * 1024
_START_SECONDS = 10.0


def rpc_library(what: str) -> ctypes.CDLL:
    """The library of ggml's RPC.

    Args:
        what: Who needs it, for the message.

    Raises:
        DeviceError: This llama-cpp-python has none.
    """
    library = ggml("ggml-rpc")
    if library is None:
        raise DeviceError(
            f"This llama-cpp-python was built without RPC, which {what} needs "
            f"({library_folder().name}/ has no ggml-rpc library; no prebuilt wheel has it). "
            "Run: python3 -m helpers lab --backend rpc"
        )
    return library


def start_server(
    names: Sequence[str] = (), *, port: int = 0, host: str = "127.0.0.1", cache: str | None = None
) -> int:
    """Start a server in a thread, for as long as this process lives, and return its port.

    Args:
        names: The devices that it serves; none for the processor.
        port: Where it listens; 0 for any free port.
        host: The address there.
        cache: Folder in which it keeps large tensors, so that they need not come again.

    Raises:
        OSError: No port could be used, or this machine cannot reach its own address.
    """
    library = rpc_library("lending a device")
    served = names or [next(device.name for device in devices() if device.kind == "cpu")]
    pointers = (ctypes.c_void_p * len(served))(*map(device_pointer, served))
    serve = library.ggml_backend_rpc_start_server
    serve.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    serve.restype = None
    folder = cache.encode() if cache else None
    for _ in range(1 if port else 20):
        with socket.socket() as probe:
            if sys.platform != "win32":  # there it would let two listen
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            found: int = probe.getsockname()[1]
        arguments = (f"{host}:{found}".encode(), folder, usable_cores(), len(served), pointers)
        thread = threading.Thread(target=serve, args=arguments, daemon=True)
        thread.start()
        begin = time.monotonic()
        while thread.is_alive() and time.monotonic() - begin < _START_SECONDS:
            # Not yet there. Any other fault is of the way to it, such as a loopback that is down.
            with contextlib.suppress(ConnectionError, TimeoutError):
                socket.create_connection((host, found), 1).close()
                return found
            time.sleep(0.002)
        if thread.is_alive():
            break  # it listens and cannot be reached: nor could it be at another port
    raise OSError(f"no port of {host} could be used")


def redirect(port: int, target: int) -> bool:
    """Give a server of 127.0.0.1 another descriptor to take its clients from.

    Its own, of the port at which it listens, becomes a copy of `target`: a socket that listens
    elsewhere, or one that never accepts (then it ends with the client that it has).

    Returns:
        Whether that can be done: not on Windows.
    """
    for descriptor, copy in own_sockets():
        waits = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if waits and copy.getsockname()[1] == port:
            os.dup2(target, descriptor, inheritable=False)
            # It waits for a client at what it had: this is the last one there.
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                pass
            return True
    return False


def own_sockets() -> Iterator[tuple[int, socket.socket]]:
    """The IPv4 sockets of this process: each with its descriptor, and a copy to ask and set it.

    The copy is closed when the next one is given. None where the system does not show them
    (Windows).
    """
    descriptors = []
    with contextlib.suppress(OSError):  # no such folder: Windows
        descriptors = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 (they come and go)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # gone
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(descriptor))
            with copy:
                if (copy.family, copy.type) == (socket.AF_INET, socket.SOCK_STREAM):
                    yield descriptor, copy


def data_mib() -> float:
    """MiB of this process's own writable memory, as the system counts it for the limit."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) / 1024
    return 0.0


def limit_memory(total_mib: float) -> None:
    """Let the system refuse more memory than that (Linux; elsewhere it stays a promise)."""
    if sys.platform == "linux":
        import resource

        size = int(total_mib * _MIB)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
