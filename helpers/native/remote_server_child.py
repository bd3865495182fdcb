"""The process of `python -m helpers rpc`: llama.cpp's RPC servers for the devices of this machine.

A server talks to one client after the other, and would keep all others waiting for as long as a
model is loaded, or a scanner holds a connection. So on Linux there are always more of them than
clients, and all take their clients from one port; elsewhere there is one.

Its argument is JSON: `host`, `port`, `memory_mib` (0 for no limit), `cache` (a folder, or None) and
`names` of devices (none for the GPUs, or else the processor). It is asked to `start`, then to
`watch`, which has no answer and tells who comes and goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from helpers.children import Parent
from helpers.errors import DeviceError
from helpers.native.registry import Device, available_mib, device_pointer, devices
from helpers.native.remote import keep_alive
from helpers.native.rpc_servers import data_mib, limit_memory, own_sockets, redirect, start_server

_MIB = 1024 * 1024
_POINTER = ctypes.c_void_p
_SPARE = 2
_MOST = 64
_CLIENT_SECONDS = 30
"""Without a sign of life for so long, a client is lost, and what it had is free again."""
_SILENT_SECONDS = 10.0
"""Who connects and says nothing for so long is no client."""
_SLACK_MIB = 40.0
"""What is needed beside the clients' buffers: graphs, stacks, and the tensor on its way in."""


def main() -> None:
    """Serve until the owner has gone."""
    parent = Parent()
    threading.stack_size(512 * 1024)
    servers = _Servers(parent, **json.loads(sys.argv[1]))
    parent.serve(lambda verb: getattr(servers, verb)())


class _Servers:
    """The servers behind one port."""

    def __init__(
        self,
        parent: Parent,
        *,
        host: str,
        port: int,
        memory_mib: float,
        cache: str | None,
        names: list[str],
    ) -> None:
        self._parent = parent
        self._address = (host, port)
        self._cache = cache
        self._limit = memory_mib
        self._names = names
        self._running = 0
        self._listener: socket.socket | None = None

    def start(self) -> list[list[Any]]:
        """Open the port; returns name, description, MiB free and MiB in all of each device."""
        served = self._choose()
        if self._cache:
            _drop_halves(Path(self._cache))
        self._names = [device.name for device in served]
        host, port = self._address
        try:
            if sys.platform == "linux":
                self._listener = socket.create_server(self._address, backlog=64)
            else:
                start_server(self._names, host=host, port=port, cache=self._cache)
        except OSError as error:
            raise DeviceError(
                f"Nothing can listen at {host}:{port} ({error.strerror or error}). Take another "
                "--port, or as --host an address that this machine has."
            ) from error
        if self._listener:
            keep_alive(self._listener, _CLIENT_SECONDS)
            self._grow(_SPARE)
        self._base = {d.name: d.total_mib - d.free_mib for d in served}
        on_cpu = [device.name for device in served if device.kind == "cpu"]
        self._base |= dict.fromkeys(on_cpu, data_mib())
        if self._limit and len(on_cpu) == len(served):
            limit_memory(data_mib() + self._limit + max(_SLACK_MIB, self._limit / 8))
        for device in served:
            if self._limit or device.kind == "cpu":
                _report(device.name, functools.partial(self._memory, device))
        return [[d.name, d.description, *self._memory(d, d.free_mib, d.total_mib)] for d in served]

    def watch(self) -> None:
        """Tell who comes and goes, and have a server ready for the next; never ends."""
        known: dict[Any, float] = {}
        while True:
            time.sleep(0.1)
            here = {}
            for _, copy in own_sockets() if self._listener else ():
                with contextlib.suppress(OSError):  # it listens, or its client is lost
                    peer = copy.getpeername()
                    if copy.getsockname()[1] == self._address[1]:
                        here[peer] = since = known.get(peer, time.monotonic())
                        if time.monotonic() - since > _SILENT_SECONDS and not _has_sent(copy):
                            copy.shutdown(socket.SHUT_RDWR)
            for peer in here.keys() - known.keys():
                self._parent.progress("connected", *peer)
            for peer in known.keys() - here.keys():
                self._parent.progress("gone", *peer)
            known = here
            if self._listener:
                self._grow(min(_MOST, len(known) + _SPARE))

    def _choose(self) -> list[Device]:
        found = devices()
        missing = set(self._names) - {device.name for device in found}
        if missing:
            raise DeviceError(
                f"There is no device {', '.join(sorted(missing))}. Devices here: "
                f"{', '.join(device.name for device in found)}."
            )
        if self._names:
            return [device for name in self._names for device in found if device.name == name]
        return [d for d in found if d.offloads] or [d for d in found if d.kind == "cpu"]

    def _grow(self, count: int) -> None:
        assert self._listener is not None
        while self._running < count:
            redirect(start_server(self._names, cache=self._cache), self._listener.fileno())
            self._running += 1

    def _memory(self, device: Device, free: float, total: float) -> tuple[float, float]:
        """What a device has free and in all, in MiB, of what ggml says that it has."""
        used = total - free
        if device.kind == "cpu":
            free, total, used = available_mib(), psutil.virtual_memory().total / _MIB, data_mib()
        if not self._limit or self._limit > total:
            return free, total
        own = max(0.0, used - self._base[device.name])
        return min(free, max(0.0, self._limit - own)), self._limit


def _drop_halves(cache: Path) -> None:
    """Remove what may be half a tensor: what was written when the last process ended.

    llama.cpp would take it for the whole.
    """
    times = {path: path.stat().st_mtime for path in cache.iterdir()}
    for path, when in times.items():
        if when > max(times.values()) - 1:
            path.unlink()


def _has_sent(copy: socket.socket) -> bool:
    """Whether anything has come through a connection (`tcpi_bytes_received`, since Linux 4.1)."""
    info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    return len(info) < 136 or struct.unpack_from("Q", info, 128)[0] > 0


_SIGNATURE = ctypes.CFUNCTYPE(
    None, _POINTER, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
_kept: list[Any] = []


def _report(name: str, memory: Callable[[float, float], tuple[float, float]]) -> None:
    """Let a device tell its clients what `memory` makes of the MiB that ggml says: free, in all.

    ggml says of a processor that all of the machine's memory is free, and knows no limit. The third
    function of a device (`ggml_backend_device_i`) is the one that says it.
    """
    slot = ctypes.c_void_p.from_address((device_pointer(name) or 0) + 2 * ctypes.sizeof(_POINTER))
    asked = _SIGNATURE(slot.value or 0)

    def tell(device: int, free: Any, total: Any) -> None:
        asked(device, free, total)
        said = memory(free[0] / _MIB, total[0] / _MIB)
        free[0], total[0] = (int(mib * _MIB) for mib in said)

    _kept.append(_SIGNATURE(tell))
    slot.value = ctypes.cast(_kept[-1], _POINTER).value


if __name__ == "__main__":
    main()
