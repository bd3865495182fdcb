"""`python -m helpers rpc`: this machine's devices for models on another one.

It runs llama.cpp's own RPC server, which has no lock of any kind. So it listens where only this
machine, or a private network, can reach it, and says so.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence

from helpers.checks import check_range
from helpers.children import Child
from helpers.errors import DeviceError, EngineCrashed, InstallError
from helpers.install.paths import claim_cache
from helpers.native.practice import GIVES_MEMORY_BACK
from helpers.native.rpc_servers import rpc_library
from helpers.serve.private import private_host

PORT = 50052
"""The port of llama.cpp's own server."""

_START_SECONDS = 120.0
_ATTEMPTS = 5

_NO_LOCK = """\
There is no lock: llama.cpp's RPC knows no key and no encryption. Whoever reaches this port uses
this machine's memory and processors, reads what others compute here, and can crash the server."""

_HOW_TO = """\
On the other machine, through SSH, which needs nothing but an account here:
  ssh -N -L {port}:{host}:{port} USER@{name}
  remote_device("127.0.0.1:{port}")
Through WireGuard (such a file on each machine; keys: wg genkey | tee private | wg pubkey):
  [Interface] Address = 10.77.0.1/24, PrivateKey = …, ListenPort = 51820
  [Peer]      PublicKey = …, AllowedIPs = 10.77.0.2/32, Endpoint = THE-OTHER:51820
  wg-quick up wg0, and here: python3 -m helpers rpc --host 10.77.0.1
  remote_device("10.77.0.1:{port}")"""


def main(arguments: Sequence[str]) -> int:
    """Serve this machine's devices until it is interrupted."""
    options = _parse(arguments)
    host = checked_host(options.host)
    cache = None
    if options.cache:
        folder = claim_cache() / "rpc-tensors"
        folder.mkdir(exist_ok=True)
        cache = str(folder)
    server = _server(
        host, options.port, memory_mib=options.memory, cache=cache, names=options.device
    )
    try:
        _announce(server, host, options.port, cache)
        while True:
            try:
                server.ask("watch", progress=_tell)
            except EngineCrashed as death:
                _say(
                    f"{death}\nIt is started again. Its clients end with EngineCrashed; "
                    "their next call connects again."
                )
            _start_again(server)
    except KeyboardInterrupt:
        _say("The RPC server has ended.")
        return 0
    except (DeviceError, EngineCrashed, TimeoutError) as error:
        raise InstallError(str(error)) from error
    finally:
        server.close()


class LentDevices:
    """This machine's devices, lent by a process beside this one; see `lend`.

    Attributes:
        address: What to give to `remote_device`.
    """

    def __init__(self, host: str, port: int, memory_mib: float) -> None:
        # A model beside it takes turns with it on the same cores: whichever waits must not spin.
        env = GIVES_MEMORY_BACK | {"OMP_WAIT_POLICY": "passive"}
        self._server = _server(host, port, memory_mib=memory_mib, cache=None, names=[], env=env)
        self._server.ask("start", _START_SECONDS)
        self._closed = False
        self.address = f"{host}:{port}"

    @property
    def pid(self) -> int | None:
        """Process id of the RPC server; None once it was closed."""
        return None if self._closed else self._server.pid

    def close(self) -> None:
        """End it. Models that use its devices end with `EngineCrashed`."""
        self._closed = True
        self._server.close()

    def __enter__(self) -> LentDevices:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.pid is None else "running"
        return f"<devices lent at {self.address}, {state}>"


def lend(port: int | None = None, *, host: str = "127.0.0.1", memory_mib: float = 0) -> LentDevices:
    """Lend this machine's devices, as `python -m helpers rpc` does, until closed or this ends.

    Unlike the command it is not started again by itself when it dies. There is no lock: see there.

    Args:
        port: Where to listen; None for one that is free.
        host: An address of this machine that only a private network reaches.
        memory_mib: Memory to lend of each device; 0 for what there is.

    Returns:
        What is running, a context manager.

    Raises:
        DeviceError: Nothing can listen there, or this llama-cpp-python was built without RPC.
        InstallError: No server without a lock may listen at this host.
        TypeError: A value is not a number.
        ValueError: There is no such port, or no such memory.

    >>> with lend() as other:  # doctest: +SKIP
    ...     llm = LlamaCpp(model_path=default_model(), devices=[remote_device(other.address)])
    """
    rpc_library("a device of another machine")
    host = checked_host(host)
    check_range("memory_mib", memory_mib, 0.0, float(1 << 30), " MiB; 0 is all")
    if port is not None:
        check_range("port", port, 1, 65535)
    else:
        with socket.create_server((host, 0)) as free:
            port = free.getsockname()[1]
    return LentDevices(host, port, memory_mib)


def _server(
    host: str,
    port: int,
    *,
    memory_mib: float,
    cache: str | None,
    names: list[str],
    env: dict[str, str] = GIVES_MEMORY_BACK,
) -> Child:
    settings = {
        "host": host, "port": port, "memory_mib": memory_mib, "cache": cache, "names": names
    }  # fmt: skip
    return Child(
        "helpers.native.remote_server_child",
        json.dumps(settings),
        role="served this machine's devices",
        remedy="Its last words may say why.",
        lasting=False,
        env=env,
    )


def checked_host(host: str) -> str:
    """The address to listen at, as numbers.

    Raises:
        InstallError: It is none that a server without a lock may listen at.
    """
    return private_host(
        host, "llama.cpp's RPC",
        ". From farther away, come through SSH or WireGuard, which python3 -m helpers rpc shows "
        "when it has started",
    )  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m helpers rpc",
        description="Lend this machine's devices to a model elsewhere.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a private address of this machine")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    parser.add_argument(
        "--device", action="extend", nargs="+", default=[], metavar="NAME",
        help="devices to lend (default: the GPUs; without one, the processor)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=float, default=0, metavar="MIB",
        help="lend so much memory of each device (on Linux the system refuses more of the "
        "processor's; a GPU says that it has no more)",
    )  # fmt: skip
    parser.add_argument(
        "--cache", action="store_true",
        help="keep large tensors on this disk: a model's second load need not send them again",
    )  # fmt: skip
    options = parser.parse_args(list(arguments))
    if not 0 < options.port < 65536:
        raise InstallError(f"there is no port {options.port}: choose one from 1 to 65535")
    if options.memory and not 1 <= options.memory <= 1 << 30:
        raise InstallError(f"--memory {options.memory:g} is not a number of MiB from 1 on")
    return options


def _announce(server: Child, host: str, port: int, cache: str | None) -> None:
    devices = server.ask("start", _START_SECONDS)
    _say(f"llama.cpp's RPC server at {host}:{port} lends:")
    for name, description, free, total in devices:
        _say(f"  {name}: {description.strip()} ({free:,.0f} of {total:,.0f} MiB free)")
    if cache:
        _say(f"  Large tensors are kept in {cache}.")
    if sys.platform != "linux":
        _say("  It serves one model after the other; on Linux it would serve several at a time.")
    how = _HOW_TO.format(host=host, port=port, name=socket.gethostname())
    if len(devices) > 1:
        how += '\nThe devices are remote_device("…", 0), remote_device("…", 1) and so on.'
    _say(f"{_NO_LOCK}\n{how}\nEnd it with Ctrl-C.")


def _start_again(server: Child) -> None:
    """Open the port again; what was wrong with it may take a while to pass."""
    for attempt in range(1, _ATTEMPTS + 1):
        time.sleep(min(attempt, 10))
        try:
            server.ask("start", _START_SECONDS)
            _say("It lends them again.")
            return
        except (EngineCrashed, TimeoutError):
            if attempt == _ATTEMPTS:
                raise


def _tell(what: str, host: str, port: int) -> None:
    _say(f"{time.strftime('%H:%M:%S')} {host}:{port} {what}")


def _say(text: str) -> None:
    print(text, flush=True)
