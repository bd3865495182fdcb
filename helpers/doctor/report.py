"""What the installed llama-cpp-python is, and what it did when it was asked to run a model.

The native library is asked in a child process: a damaged one can end the process that loads it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS
from helpers.install.installed import is_upstream
from helpers.install.paths import REPOSITORY

_CHILD_SECONDS = 120
_OFFLOADING = ("gpu", "igpu")


@dataclass(frozen=True)
class DeviceFacts:
    """One device as the native library lists it; `kind` is cpu, gpu, igpu or accel."""

    name: str
    description: str
    kind: str
    backend: str
    total_mib: float
    free_mib: float

    def __str__(self) -> str:
        """Return one line."""
        line = f"{self.name} [{self.kind}] {self.description}"
        if not self.total_mib:  # a library such as OpenBLAS has no memory of its own
            return line
        return f"{line}, {self.free_mib:,.0f} of {self.total_mib:,.0f} MiB free"


@dataclass(frozen=True)
class Run:
    """One real load of the embedded model, and what it then did.

    Attributes:
        n_gpu_layers: Layers that were asked for; -1 all.
        devices: Devices that were given to it, by name; empty for the CPU alone.
        offloaded: Layers on devices and layers in all, as llama.cpp's own line says, or None.
        splits: Pieces of a prompt's graph that each backend was given, by backend.
        log: The lines of llama.cpp that say where layers and buffers went.
        text: The likeliest continuation of a fixed prompt.
        prompt_tokens: Tokens read for `prompt_per_second`.
        prompt_per_second: Tokens per second of the prompt eval; None if not measured.
        eval_per_second: Tokens per second of the eval; None if not measured.
    """

    n_gpu_layers: int
    devices: tuple[str, ...]
    offloaded: tuple[int, int] | None
    splits: Mapping[str, int]
    log: tuple[str, ...]
    text: str
    prompt_tokens: int
    prompt_per_second: float | None = None
    eval_per_second: float | None = None

    @property
    def speed(self) -> str:
        """The two speeds in words, or an empty text."""
        if self.prompt_per_second is None or self.eval_per_second is None:
            return ""
        return f"prompt eval {self.prompt_per_second:,.1f}, eval {self.eval_per_second:,.1f}"

    def __str__(self) -> str:
        """Return one line."""
        where = ", ".join(self.devices) or "CPU alone"
        layers = "{}/{} layers".format(*self.offloaded) if self.offloaded else "no layers"
        speed = f"; {self.speed} tokens/s" if self.speed else ""
        return f"{where}: {layers} offloaded{speed}"


@dataclass(frozen=True)
class BackendReport:
    """What the installed llama-cpp-python can use.

    Attributes:
        version: Its version.
        upstream: False if it is a fork under the same name.
        libraries: Stems of its shared libraries.
        backends: Names of the backends that registered; RPC does so without a device.
        devices: The devices.
        runs: What real loads did: first on the CPU alone, then on the devices there are.
    """

    version: str
    upstream: bool
    libraries: tuple[str, ...]
    backends: tuple[str, ...]
    devices: tuple[DeviceFacts, ...]
    runs: tuple[Run, ...] = field(default=())

    @property
    def builds(self) -> tuple[str, ...]:
        """Names in `BACKENDS` of what this build contains beside the CPU, in the table's order."""
        return tuple(
            name
            for name, backend in BACKENDS.items()
            if name != "cpu" and set(backend.libraries) <= set(self.libraries)
        )

    @property
    def gpus(self) -> tuple[DeviceFacts, ...]:
        """The devices that take layers."""
        return tuple(device for device in self.devices if device.kind in _OFFLOADING)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BackendReport:
        """The report that `to_dict` wrote."""
        return cls(
            version=str(data["version"]),
            upstream=bool(data["upstream"]),
            libraries=tuple(data["libraries"]),
            backends=tuple(data["backends"]),
            devices=tuple(DeviceFacts(**device) for device in data["devices"]),
            runs=tuple(_run(run) for run in data["runs"]),
        )

    def __str__(self) -> str:
        """Return a small table."""
        origin = "" if self.upstream else " (a fork under the same name)"
        lines = [
            f"llama-cpp-python {self.version}{origin}",
            f"built for: {', '.join(('cpu', *self.builds))}",
            f"libraries: {', '.join(self.libraries)}",
            f"backends:  {', '.join(self.backends)}",
        ]
        lines += [f"device:    {device}" for device in self.devices]
        lines += [f"load:      {run}" for run in self.runs]
        return "\n".join(lines)

    __repr__ = __str__


def _run(data: Mapping[str, Any]) -> Run:
    fixed = {"devices": tuple(data["devices"]), "log": tuple(data["log"])}
    offloaded = data["offloaded"] and (int(data["offloaded"][0]), int(data["offloaded"][1]))
    return Run(**{**data, **fixed, "offloaded": offloaded or None})


def packages_folder() -> Path | None:
    """Return the folder that holds the llama-cpp-python that this Python would import."""
    try:
        found = importlib.metadata.distribution("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found.locate_file("")))


def ask_native(
    *arguments: str, python: str = sys.executable, seconds: float = _CHILD_SECONDS
) -> tuple[dict[str, Any], str]:
    """Ask the native library in a child process.

    Args:
        *arguments: Those of `helpers.doctor.proof`.
        python: The Python whose llama-cpp-python is asked.
        seconds: Time that it may take.

    Returns:
        Its answer and an empty text; or an empty answer and what went wrong.
    """
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(REPOSITORY)]))
    # Nothing that changes speed, such as OMP_WAIT_POLICY: what is measured must be what `LlamaCpp`
    # does. GGML_SCHED_DEBUG: llama.cpp then logs which backend gets which piece of a graph.
    own = {"PYTHONPATH": path, "GGML_SCHED_DEBUG": "1", "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            [python, "-m", "helpers.doctor.proof", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer in {seconds:.0f} s"
    if done.returncode:
        return {}, _last_words(done.returncode, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer, str(answer.pop("fault", ""))


def _last_words(status: int, stderr: str) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        cause = "a library is damaged"
        if name == "SIGILL":
            cause = "it was built for another processor, or this machine forbids an instruction"
        return f"the process that asked it was ended by {name}: {cause}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with status {status}"


def backend_report(*, load: bool = True) -> BackendReport:
    """Say which backends and devices the installed llama-cpp-python has, and prove it.

    Args:
        load: Also load the embedded model, on the CPU and with all layers on the devices, and
            measure (a few seconds); False only lists.

    Returns:
        The report; it prints as a table.

    Raises:
        InstallError: llama-cpp-python is not installed, or cannot be loaded.

    >>> "CPU" in backend_report(load=False).backends
    True
    """
    packages = packages_folder()
    if packages is None:
        raise InstallError("llama-cpp-python is not installed: python -m helpers lab --check")
    answer, fault = ask_native(*([] if load else ["--list"]))
    if fault:
        raise InstallError(
            f"llama-cpp-python is installed, but does not work: {fault}. "
            "Run: python3 -m helpers doctor"
        )
    return make_report(packages, answer)


def make_report(packages: Path, answer: Mapping[str, Any]) -> BackendReport:
    """Join what the distribution's folder says and what the native library answered."""
    return BackendReport.from_dict(
        {
            "version": importlib.metadata.distribution("llama-cpp-python").version,
            "upstream": bool(is_upstream(packages)),
            **answer,
        }
    )
