"""The shapes of the table of backends, and what all backends share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The one address from which upstream publishes wheels; LLAMA_NOTEBOOKS_WHEEL_INDEX replaces it.
WHEEL_INDEX = "https://abetlen.github.io/llama-cpp-python/whl"

# CUDA wheel indexes, as (name, CUDA version that the driver must support at least).
CUDA_INDEXES = (
    ("cu118", (11, 8)),
    ("cu121", (12, 1)),
    ("cu122", (12, 2)),
    ("cu123", (12, 3)),
    ("cu124", (12, 4)),
    ("cu125", (12, 5)),
    ("cu130", (13, 0)),
    ("cu132", (13, 2)),
)

# What every source build of the suite adds: RPC for the practice accelerator; no image models.
COMMON_FLAGS = ("-DGGML_RPC=on", "-DLLAVA_BUILD=off")


@dataclass(frozen=True)
class Requirement:
    """One thing that a source build needs, how to see it, and what brings it.

    Attributes:
        name: What it is, in words.
        check: Command line that succeeds when it is there.
        packages: Package by manager: `apt`, `dnf`, `brew`, `winget`, `conda`.
        systems: Systems on which it is needed: `linux`, `macos`, `windows`.
        essential: True if a build without it cannot begin, whatever flags are given.
    """

    name: str
    check: str
    packages: Mapping[str, str] = field(default_factory=dict)
    systems: tuple[str, ...] = ("linux", "macos", "windows")
    essential: bool = False


@dataclass(frozen=True)
class WheelIndex:
    """Prebuilt wheels for one backend, and where they stop.

    Attributes:
        names: Last parts of the index address, e.g. `("cpu",)`; the newest last.
        systems: Pairs of system and machine for which there are wheels.
        limits: What a reader must know before choosing them.
    """

    names: tuple[str, ...]
    systems: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]

    def address(self, name: str | None = None) -> str:
        """Return the address of the index called `name` (default: the newest)."""
        return f"{WHEEL_INDEX}/{name or self.names[-1]}"


@dataclass(frozen=True)
class Failure:
    """A typical failure: the words to look for, their cause, and the mend."""

    symptom: str
    cause: str
    mend: str


@dataclass(frozen=True)
class Backend:
    """One way to run the arithmetic of a model.

    Attributes:
        name: Name for `--backend`.
        title: Name for people.
        summary: When to choose it.
        cmake_flags: What CMake is told, as `-D…` strings.
        systems: Systems on which it can be built.
        wheels: Prebuilt wheels, or None.
        requirements: What a source build needs beyond Python.
        environment: Environment variables that matter, with their meaning.
        libraries: Stems of the shared libraries that a build of this backend must contain.
        proof: What shows that this backend does the work.
        failures: Typical failures with their mend.
    """

    name: str
    title: str
    summary: str
    cmake_flags: tuple[str, ...]
    systems: tuple[str, ...]
    wheels: WheelIndex | None
    requirements: tuple[Requirement, ...]
    environment: Mapping[str, str]
    libraries: tuple[str, ...]
    proof: str
    failures: tuple[Failure, ...]
