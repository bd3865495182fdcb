"""The practice accelerator: a device for machines without a GPU, so that layers really move.

It is llama.cpp's own RPC backend: a server process on this machine computes what is placed on it,
with the same processor. It teaches placement and memory, not speed.
"""

from __future__ import annotations

import ctypes
import json
import math
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from helpers.children import Child
from helpers.errors import DeviceError, EngineCrashed
from helpers.native.library import ggml
from helpers.native.registry import Device
from helpers.native.remote import guard, remote_memory, server_of
from helpers.native.rpc_servers import rpc_library

SCHEME = "practice:"
"""Begins the endpoint of a practice accelerator; what follows is `token@host:port`."""

_START_SECONDS = 120.0
_ANSWER_SECONDS = 5.0
GIVES_MEMORY_BACK = {
    # What a client leaves must go back to the system, or its successor finds less room.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Environment of a process that serves."""

_ENVIRONMENT = GIVES_MEMORY_BACK | {
    # Server and client take turns on the same cores: whichever waits must not spin.
    "OMP_WAIT_POLICY": "passive",
    "OMP_STACKSIZE": "512K",
}


class PracticeAccelerator:
    """A running (or not yet running) practice accelerator; see `practice_accelerator`.

    Attributes:
        device: The device to pass on, once it was started.
        pid: Process id of the server, once it was started.
    """

    def __init__(self, memory_mib: float | None = None) -> None:
        if memory_mib is not None and not (
            isinstance(memory_mib, int | float)
            and math.isfinite(memory_mib)
            and 1 <= memory_mib <= 1 << 30
        ):
            raise ValueError(
                f"memory_mib={memory_mib!r} must be a number of MiB from 1 on, or None for all of "
                "this machine's memory."
            )
        self._broker = Child(
            Path(__file__).with_name("practice_broker_child.py"),
            str(memory_mib or 0),
            role="served the practice accelerator",
            remedy="Run: python3 -m helpers doctor",
            env=_ENVIRONMENT,
        )
        self.device: Device | None = None

    @property
    def available(self) -> bool:
        """Whether this llama-cpp-python has the RPC backend; prebuilt wheels have not."""
        return ggml("ggml-rpc") is not None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None before it was started."""
        return self._broker.pid

    def start(self) -> Device:
        """Start the server, and wait until it answers.

        Returns:
            The device; the same one as long as it runs, another one after that.

        Raises:
            DeviceError: This llama-cpp-python has no RPC backend, or the server does not start.
        """
        rpc_library("the practice accelerator")
        try:
            address = self._broker.ask("address", _START_SECONDS)
        except (EngineCrashed, TimeoutError) as error:
            raise DeviceError(f"The practice accelerator did not start. {error}") from error
        endpoint = f"{SCHEME}{address}"
        if self.device is not None and self.device.endpoint == endpoint:
            return self.device
        memory = ask(endpoint, "memory")
        self.device = Device(
            name=f"RPC0[{_shown(endpoint)}]",
            description="practice accelerator (this machine's processor: not faster)",
            kind="gpu",
            backend="RPC",
            total_mib=round(memory["total_mib"], 1),
            free_mib=round(memory["free_mib"], 1),
            endpoint=endpoint,
        )
        return self.device

    def close(self) -> None:
        """End the server; a model that still uses it ends with `EngineCrashed` at its next call."""
        self._broker.close()
        self.device = None

    def __enter__(self) -> Device:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def practice_accelerator(memory_mib: float | None = None) -> PracticeAccelerator:
    """A device for a machine without a GPU: layers really move there, and nothing gets faster.

    A server process on 127.0.0.1 holds and computes the layers placed on it, with this machine's
    processor. Only models in a process of their own use it (`isolate`), and only when it is named
    in `devices=[…]`. It ends with the `with` block, and with the interpreter in any case.

    Args:
        memory_mib: Give the device so much memory and no more, in MiB, to see what happens when a
            model does not fit; None for what the machine has. On Linux the system refuses more,
            with some 40 MiB of slack for what is on its way to the device.

    Returns:
        A context manager that gives the `Device`; `start()` and `close()` do the same by hand.

    Raises:
        DeviceError: On entering: this llama-cpp-python was built without RPC.
        ValueError: `memory_mib` is not a positive number.

    >>> with practice_accelerator() as device:  # doctest: +SKIP
    ...     llm = LlamaCpp(model_path=default_model(), devices=[device], n_gpu_layers=15)
    """
    return PracticeAccelerator(memory_mib)


def ask(endpoint: str, verb: str) -> dict[str, float]:
    """Ask a practice accelerator, or a plain RPC server, for its `memory`: MiB free and in all.

    Raises:
        DeviceError: Nothing answers there.
    """
    if not is_practice(endpoint):
        return remote_memory(endpoint)
    with _connect(endpoint) as connection:
        return _exchange(connection, endpoint, verb)


def register(endpoint: str, *, keep: bool = True) -> tuple[str, str]:
    """Make an RPC device known to the native library of this process, which it may end.

    Only for child processes: llama.cpp aborts its process when it loses an RPC server.

    Args:
        endpoint: That of a `remote_device`, or of a practice accelerator.
        keep: Hold the connection to a plain server, and end this process when it is lost.

    Returns:
        The device's name in ggml's registry, and the name of its buffers in the log.

    Raises:
        DeviceError: Nothing answers there, or the library has no RPC.
    """
    if endpoint in _registered:
        return _registered[endpoint]
    library = rpc_library(f"the device at {_shown(endpoint)}")
    main, base = ggml("ggml"), ggml("ggml-base")
    assert main is not None and base is not None
    address, index = server_of(endpoint)
    if is_practice(endpoint):
        connection = _connect(endpoint)
        _open.append(connection)  # the server is ours as long as this stays open
        address = f"127.0.0.1:{int(_exchange(connection, endpoint, 'serve')['port'])}"
    elif address not in [server_of(known)[0] for known in _registered]:
        remote_memory(endpoint)  # llama.cpp would abort where nobody answers, or wait for ever
    library.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    library.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    base.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    base.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_name.restype = ctypes.c_char_p
    base.ggml_backend_dev_buffer_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
    base.ggml_backend_buft_alloc_buffer.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    base.ggml_backend_buft_alloc_buffer.restype = ctypes.c_void_p
    main.ggml_backend_register.argtypes = [ctypes.c_void_p]
    main.ggml_backend_register.restype = None
    server = library.ggml_backend_rpc_add_server(address.encode())
    if not server:
        raise DeviceError(f"The RPC server at {endpoint} offers no device.")
    if address not in [server_of(known)[0] for known in _registered]:
        main.ggml_backend_register(server)
    device = base.ggml_backend_reg_dev_get(server, index)
    name = base.ggml_backend_dev_name(device).decode()
    if keep or is_practice(endpoint):
        # As long as anything is there, llama.cpp keeps its connection, and needs no other.
        base.ggml_backend_buft_alloc_buffer(base.ggml_backend_dev_buffer_type(device), 1)
    if is_practice(endpoint):
        _open[-1].sendall(b"\n")
    elif keep:
        guard(endpoint)
    _registered[endpoint] = (name, f"RPC{index}[{address}]")
    return _registered[endpoint]


def reach(
    devices: Sequence[tuple[str, str | None]], *, keep: bool = True
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Register the RPC devices among some devices, and say what they are called here.

    Only for child processes, as `register`.

    Args:
        devices: `(name, endpoint or None)` pairs.
        keep: As in `register`; not for what only looks at a device now and then.

    Returns:
        The devices' names in ggml's registry, and, for `renamed`, what the log calls their
        buffers, with the name that was asked for.
    """
    names, aliases = [], {}
    for name, endpoint in devices:
        registered, buffer = (name, name) if endpoint is None else register(endpoint, keep=keep)
        names.append(registered)
        if buffer != name:
            aliases[buffer] = name
    return tuple(names), aliases


def is_practice(endpoint: str | None) -> bool:
    """Whether an endpoint is a practice accelerator's.

    Any other is a plain RPC server's: it has no broker that could be asked, and llama.cpp places
    layers on it as on a GPU.
    """
    return endpoint is not None and endpoint.startswith(SCHEME)


def servers_of(devices: Sequence[tuple[str, str | None]] | None) -> tuple[str, ...]:
    """`host:port` of the plain RPC servers behind some devices."""
    endpoints = [
        endpoint for _, endpoint in devices or () if endpoint and not is_practice(endpoint)
    ]
    return tuple(dict.fromkeys(server_of(endpoint)[0] for endpoint in endpoints))


def practice_split(
    devices: Sequence[tuple[str, str | None]], totals: Sequence[float] | None = None
) -> tuple[float, ...] | None:
    """Shares of several practice accelerators, by the memory that each was given.

    llama.cpp splits layers by free memory, and would see the whole machine's behind each of them.

    Args:
        devices: `(name, endpoint or None)` pairs.
        totals: MiB of memory of each; None asks them.

    Returns:
        A `tensor_split`; None where one of them is another kind of device, or is alone.
    """
    endpoints = [endpoint for _, endpoint in devices if endpoint and is_practice(endpoint)]
    if len(endpoints) < max(2, len(devices)):
        return None
    return tuple(totals or (ask(endpoint, "memory")["total_mib"] for endpoint in endpoints))


def renamed(log: Sequence[tuple[int, str]], aliases: Mapping[str, str]) -> list[tuple[int, str]]:
    """A log in which the devices have the names that were asked for."""
    lines = list(log)
    for buffer, name in aliases.items():
        lines = [(level, line.replace(buffer, name)) for level, line in lines]
    return lines


_registered: dict[str, tuple[str, str]] = {}
_open: list[socket.socket] = []


def _connect(endpoint: str) -> socket.socket:
    host, _, port = _shown(endpoint).rpartition(":")
    try:
        return socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS)
    except (OSError, ValueError, OverflowError) as error:
        raise _gone(endpoint, error) from error


def _shown(endpoint: str) -> str:
    """The endpoint's `host:port`, for everybody to see."""
    return endpoint.removeprefix(SCHEME).rpartition("@")[2]


def _exchange(connection: socket.socket, endpoint: str, verb: str) -> dict[str, float]:
    try:
        token, _, _ = endpoint.removeprefix(SCHEME).rpartition("@")
        connection.sendall(f"{token} {verb}\n".encode())
        answer: dict[str, float] = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:  # an empty answer is a device that cannot start
        raise _gone(endpoint, error) from error
    return answer


def _gone(endpoint: str, error: Exception) -> DeviceError:
    return DeviceError(
        f"No practice accelerator answers at {_shown(endpoint)} ({error}). Start it again, and use "
        "the device that it gives; one is gone when its `with` block has ended."
    )
