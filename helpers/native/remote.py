"""A device on another machine, behind llama.cpp's own RPC server (`python -m helpers rpc`).

llama.cpp ends its process where nobody listens, where the versions differ and where the server is
lost, and waits for ever where the server has another client or the cable is cut. So whatever can be
asked first is asked here, in a few messages of its protocol and with a time limit; and a connection
that a model lives on is watched by the system.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata

from helpers.errors import DeviceError
from helpers.native.registry import Device
from helpers.native.rpc_servers import own_sockets, rpc_library

PROTOCOLS = {"0.3.36": (7, 0)}
"""Major and minor version of the RPC protocol (`ggml-rpc.h`), by llama-cpp-python's version.

Of one that is not here nothing is compared beforehand, and llama.cpp's own check ends the model's
process."""

LOST_SECONDS = 10
"""Without a sign of life for so long, a host is lost."""

_ANSWER_SECONDS = 10.0
_MIB = 1024 * 1024
_MEMORY, _HELLO, _COUNT = 11, 14, 15  # enum rpc_cmd
_CAPS = bytes(24)  # no transport but TCP


def remote_device(address: str, index: int = 0) -> Device:
    """A device of another machine, on which `python -m helpers rpc` runs.

    Pass it on in `devices=[…]`, alone or beside others: its layers are computed there. Models use
    it in a process of their own, and end with `EngineCrashed` when its host is lost. What is sent
    is not encrypted: take a private network or a tunnel.

    Args:
        address: `host:port` of the RPC server.
        index: Which of the server's devices.

    Returns:
        The device, with the memory that its server says it has.

    Raises:
        DeviceError: Nobody answers there, or not an RPC server of the same version; there is no
            such device; or this llama-cpp-python was built without RPC.
        ValueError: This is no address.

    >>> remote_device("192.168.1.20:50052")  # doctest: +SKIP
    """
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or ":" in host:
        raise ValueError(
            f"{address!r} is no address of an RPC server. Give host:port, for example "
            '"192.168.1.20:50052"; llama.cpp\'s RPC knows IPv4 addresses and names, not IPv6.'
        )
    rpc_library("a device of another machine")
    endpoint = f"{host}:{int(port)}" + (f"/{index}" if index else "")
    memory = remote_memory(endpoint)
    return Device(
        name=f"RPC{index}[{host}:{int(port)}]",
        description=f"a device of {host}",
        kind="gpu",
        backend="RPC",
        total_mib=round(memory["total_mib"], 1),
        free_mib=round(memory["free_mib"], 1),
        endpoint=endpoint,
    )


def remote_memory(endpoint: str) -> dict[str, float]:
    """MiB free and in all of a device behind an RPC server, which is a proof that it answers.

    Raises:
        DeviceError: It does not, or is none that this llama-cpp-python could use.
    """
    address, index = server_of(endpoint)
    with _connected(address) as ask:
        raw = ask(_HELLO, _CAPS)
        ours = PROTOCOLS.get(metadata.version("llama-cpp-python"))
        if len(raw) != 4 + len(_CAPS):
            raise _stranger(address)
        # Like llama.cpp: another major version is another protocol, an older minor one is not.
        if ours is not None and (raw[0] != ours[0] or raw[1] > ours[1]):
            raise DeviceError(
                f"The RPC server at {address} speaks version {raw[0]}.{raw[1]} of llama.cpp's "
                f"protocol, and this llama-cpp-python {ours[0]}.{ours[1]}. Install the same "
                "version of llama-cpp-python on both machines."
            )
        count = int.from_bytes(ask(_COUNT, b""), "little")
        if index not in range(count):
            raise DeviceError(
                f"The RPC server at {address} has no device {index}: it has {count}, counted "
                "from 0."
            )
        answer = ask(_MEMORY, struct.pack("<I", index))
        if len(answer) != 16:
            raise _stranger(address)
        free, total = struct.unpack("<QQ", answer)
    return {"free_mib": free / _MIB, "total_mib": total / _MIB}


def server_of(endpoint: str) -> tuple[str, int]:
    """The `host:port` of a plain endpoint, and which of the server's devices it is."""
    address, _, index = endpoint.partition("/")
    return address, int(index or 0)


def guard(endpoint: str) -> None:
    """End this process soon after the server of its model is lost, also where nothing is sent.

    TCP alone would wait for ever for a host that is switched off, and for a quarter of an hour to
    be rid of what it sends. Where the system does not show a process its sockets (Windows), it is
    left at that.
    """
    address, _ = server_of(endpoint)
    host, _, port = address.rpartition(":")
    peer = (socket.gethostbyname(host), int(port))
    for _, copy in own_sockets():
        with contextlib.suppress(OSError):  # it is connected to nobody
            if copy.getpeername() == peer:
                keep_alive(copy, LOST_SECONDS)
                watched = copy.dup()
                threading.Thread(target=_end_with, args=(watched, address), daemon=True).start()


def keep_alive(connection: socket.socket, seconds: int) -> None:
    """Let the system give a connection up that is without a sign of life for so long.

    What is accepted by a listening socket inherits it (Linux).
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # macOS
    times = {idle: seconds // 2, "TCP_KEEPINTVL": max(1, seconds // 10), "TCP_KEEPCNT": 5}
    for name, value in {**times, "TCP_USER_TIMEOUT": seconds * 1000}.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _end_with(connection: socket.socket, address: str) -> None:
    """End this process when its server has gone; between calls the next one then finds no model."""
    if not hasattr(select, "POLLRDHUP"):
        return
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    while not any(events & ~select.POLLNVAL for _, events in poll.poll()):
        time.sleep(1)
    os.write(2, f"\nThe RPC server at {address} was lost.\n".encode())
    os.abort()


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Callable[[int, bytes], bytes]]:
    """A connection to an RPC server, as the function that sends a command and gives the answer."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _ANSWER_SECONDS
    try:
        # By IPv4, as llama.cpp will.
        connection = socket.create_connection(
            (socket.gethostbyname(host), int(port)), timeout=_ANSWER_SECONDS
        )
    except OSError as error:
        raise DeviceError(
            f"No RPC server answers at {address} ({error}). Start it there with: "
            "python3 -m helpers rpc; and see that address, port, tunnel and firewall are right."
        ) from error

    def receive(size: int) -> bytes:
        raw = b""
        while len(raw) < size:
            connection.settimeout(max(0.001, end - time.monotonic()))
            part = connection.recv(size - len(raw))
            if not part:
                raise _stranger(address)
            raw += part
        return raw

    def ask(command: int, body: bytes) -> bytes:
        try:
            connection.sendall(struct.pack("<BQ", command, len(body)) + body)
            (size,) = struct.unpack("<Q", receive(8))
            if size > 64:
                raise _stranger(address)
            return receive(size)
        except TimeoutError:
            raise DeviceError(
                f"The RPC server at {address} takes connections, but did not answer in "
                f"{_ANSWER_SECONDS:g} s: another client may have it (llama.cpp's own server "
                "serves one after the other), or it hangs. Close that one, or start it again there."
            ) from None
        except OSError as error:
            raise _stranger(address) from error

    with connection:
        yield ask


def _stranger(address: str) -> DeviceError:
    return DeviceError(
        f"What answers at {address} is no RPC server of llama.cpp, or one of another version. "
        "Start python3 -m helpers rpc there, with the same version of llama-cpp-python."
    )
