"""What a measurement was made with: the first cell of every notebook shows it.

Nothing identifies the user or the machine: no host name, no user, no path.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

from helpers.errors import HelpersError
from helpers.tables import FactSheet

__all__ = ["EnvironmentSummary", "environment_summary"]

_ABSENT = "not installed (python -m helpers doctor says what to do)"


@dataclass(frozen=True)
class EnvironmentSummary(FactSheet):
    """Versions, devices and model of this environment; prints as a table.

    Attributes:
        helpers: Version of `helpers`.
        python: Version of Python.
        system: Operating system and processor architecture.
        llama_cpp_python: Version of llama-cpp-python.
        langchain_core: Version of langchain-core.
        backends: Backends of the devices, for example `("CUDA", "CPU")`.
        devices: One line for each device, with its memory in GiB; or why there is none.
        cores_physical: Physical cores of the machine.
        cores_usable: Physical cores that this process may use, or None if that is unknown.
        memory_gib: Memory of the machine in GiB.
        model: Name of the model file that `default_model` gives; or why there is none.
        expect: What a model of this size and kind can be expected to do; empty without one.
    """

    helpers: str
    python: str
    system: str
    llama_cpp_python: str
    langchain_core: str
    backends: tuple[str, ...]
    devices: tuple[str, ...]
    cores_physical: int
    cores_usable: int | None
    memory_gib: float
    model: str
    expect: str

    def rows(self) -> list[tuple[str, str]]:
        """Return what `str()` and the notebook show, as (label, text)."""
        usable = f", {self.cores_usable} usable here" if self.cores_usable else ""
        return [
            ("helpers", self.helpers),
            ("Python", self.python),
            ("system", self.system),
            ("llama-cpp-python", self.llama_cpp_python),
            ("langchain-core", self.langchain_core),
            ("backend", ", ".join(self.backends) or "unknown"),
            *(("device", device) for device in self.devices),
            ("cores", f"{self.cores_physical} physical{usable}"),
            ("memory", f"{self.memory_gib:.1f} GiB"),
            ("model", self.model),
            *([("expect", self.expect)] if self.expect else []),
        ]

    def __repr__(self) -> str:
        """Return the table too: a notebook shows it where it cannot show HTML."""
        return str(self)


def environment_summary() -> EnvironmentSummary:
    """Look at versions, backend, devices and model of this environment.

    It never raises for something that is missing: the summary then says so in its place.

    Returns:
        The summary; as the last line of a cell it shows as a table.

    >>> environment_summary().python == platform.python_version()
    True
    """
    import psutil  # not at the top: without it the module can still be imported and documented

    backends, devices, usable = _devices()
    model, expect = _model()
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or os.cpu_count() or 1
    return EnvironmentSummary(
        helpers=_version("llama-notebooks"),
        python=platform.python_version(),
        system=f"{system_name()} {platform.machine()}",
        llama_cpp_python=_version("llama-cpp-python"),
        langchain_core=_version("langchain-core"),
        backends=backends,
        devices=devices,
        cores_physical=physical,
        cores_usable=usable,
        memory_gib=psutil.virtual_memory().total / 2**30,
        model=model,
        expect=expect,
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


def system_name() -> str:
    """The operating system, and its version where that is short."""
    name = platform.system()
    if name == "Darwin":
        name = f"macOS {platform.mac_ver()[0]}"
    elif name == "Windows":
        name = f"Windows {platform.release()}"
    return name


def _devices() -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    try:
        from helpers.native import devices, usable_cores

        found = devices()
    except (HelpersError, ImportError, OSError) as error:
        return (), (f"unknown: {_first_line(error)}",), None
    backends = tuple(dict.fromkeys(device.backend for device in found))
    lines = tuple(
        f"{device.name} ({device.kind}): {device.description}, {device.total_mib / 1024:.1f} GiB"
        for device in found
    )
    return backends, lines, usable_cores()


# What to expect, by billions of weights: rough, and said so that nobody blames the code for a
# fact that so small a model has never kept. Notebook 20 shows it with a question, 51 with tools.
_EXPECTED = (
    (0.5, "fluent short texts; facts, sums and decisions are often wrong"),
    (2, "short answers, simple extraction; facts and sums need checking"),
    (6, "everyday instructions, tools with clear names; facts need checking"),
    (20, "good instructions, tools and summaries; rare facts need checking"),
    (float("inf"), "most tasks of an assistant; rare facts still need checking"),
)


def _model() -> tuple[str, str]:
    try:
        from helpers.models import default_model, inspect_model

        info = inspect_model(default_model())
    except (HelpersError, ImportError, OSError) as error:
        return f"none: {_first_line(error)}", ""
    billions = info.n_params / 1e9
    able = next(text for limit, text in _EXPECTED if billions < limit)
    if not info.chat_template:
        able = f"a base model: it continues texts; chats are written in a plain form ({able})"
    weights = f"{billions:.1f} billion" if billions >= 1 else f"{billions * 1000:.3g} million"
    return info.path.name, f"{weights} weights: {able}"


def _first_line(error: BaseException) -> str:
    # An error may name the folder where it looked, which must not get into a notebook.
    lines = str(error).splitlines() or [type(error).__name__]
    words = [
        "…" + word.rpartition(os.sep)[2] if os.sep in word[:-1] else word
        for word in lines[0].split(" ")
    ]
    return " ".join(words)
