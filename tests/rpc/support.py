"""What the tests of RPC need: a server as a user starts it, and a second machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from helpers import Device, LlamaCpp, default_model
from tests.support import ROOT, wait_for

PROMPT = "The capital of France is"
FAR, NEAR = "10.77.16.2", "10.77.16.1"

_COMMAND = (
    "import sys, helpers.cli as c; c._enter = print; sys.exit(c.main(['rpc', *sys.argv[1:]]))"
)
"""The command without its first step, which makes the environment that this test runs in."""


class Lent:
    """`python -m helpers rpc` in a process of its own, until the `with` block ends.

    Attributes:
        address: What to give to `remote_device`.
        words: What it has said.
    """

    def __init__(self, *arguments: str, host: str = "127.0.0.1", before: tuple[str, ...] = ()):
        port = free_port() if host == "127.0.0.1" else 50052
        self.address = f"{host}:{port}"
        self._command = [*before, sys.executable, "-c", _COMMAND, "--host", host]
        self._command += ["--port", str(port), *arguments]
        self.words = ""

    def __enter__(self) -> Lent:
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.read_until("End it with Ctrl-C")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        rest, _error = self.process.communicate(timeout=60)
        self.words += rest

    def read_until(self, text: str) -> None:
        """Wait until it says something."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.words += line
            if text in line:
                return
        raise AssertionError(f"{text!r} was not said: {self.words}")

    @property
    def server(self) -> psutil.Process:
        """The process that holds the memory."""
        found: list[psutil.Process] = []
        assert wait_for(lambda: found.extend(psutil.Process(self.process.pid).children()) or found)
        return found[0]


def model(*devices: Device, **settings: Any) -> LlamaCpp:
    """The embedded model, greedy; without devices on the processor alone."""
    settings = {"n_ctx": 1024, "temperature": 0, "max_tokens": 8, **settings}
    if devices:
        settings["devices"] = list(devices)
    return LlamaCpp(model_path=default_model(), **settings)


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run(line: str) -> None:
    """Run a command of iproute2."""
    subprocess.run(line.split(), check=True, capture_output=True, text=True)


@contextlib.contextmanager
def far_machine(name: str) -> Iterator[tuple[str, ...]]:
    """A network namespace at the other end of a cable; gives what to write before a command there.

    Args:
        name: Of the namespace, and of this end of the cable.
    """
    run(f"ip netns add {name}")
    try:
        run(f"ip link add {name} type veth peer name cable netns {name}")
        run(f"ip addr add {NEAR}/24 dev {name}")
        run(f"ip link set {name} up")
        there = f"ip netns exec {name} ip"
        run(f"{there} addr add {FAR}/24 dev cable")
        run(f"{there} link set cable up")
        run(f"{there} link set lo up")
        yield "ip", "netns", "exec", name
    finally:
        run(f"ip netns del {name}")  # with both ends of the cable
        assert wait_for(lambda: not Path("/sys/class/net", name).exists())


def why_no_namespaces() -> str:
    """Why there cannot be a second machine here; empty if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 is not installed (ip, tc)"
    try:
        with far_machine(f"llnt-{os.getpid()}"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not allowed here: {getattr(error, 'stderr', error)}"
