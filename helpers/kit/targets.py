"""The systems and Pythons that a kit can be for; standard library alone, to check words early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helpers.errors import InstallError
from helpers.install.commands import nearest
from helpers.install.kit import this_machine

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True)
class System:
    """One kind of machine.

    Attributes:
        name: As the wheel indexes of llama-cpp-python know it: `linux`, `macos` or `windows`.
        machine: Its processor, likewise.
        platforms: Tags of the wheels that run on it, the preferred first.
        markers: What `sys_platform`, `platform_system`, `os_name` and `platform_machine` are there.
        backend: What its llama-cpp-python runs on.
    """

    name: str
    machine: str
    platforms: tuple[str, ...]
    markers: tuple[str, str, str, str]
    backend: str = "cpu"


def _linux(machine: str) -> System:
    # By glibc, the oldest first: such a wheel runs on more systems. 2.35 is that of 2022.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(5, 36)]
    tags += [f"manylinux{old}_{machine}" for old in ("1", "2010", "2014")] + [f"linux_{machine}"]
    return System("linux", machine, tuple(tags), ("linux", "Linux", "posix", machine))


def _mac(machine: str, backend: str) -> System:
    # pip asks for the newest that is named, and takes older ones and `universal2` too.
    tags = (f"macosx_14_0_{machine}",)
    return System("macos", machine, tags, ("darwin", "Darwin", "posix", machine), backend)


SYSTEMS: Mapping[str, System] = {
    "linux-x86_64": _linux("x86_64"),
    "linux-aarch64": _linux("aarch64"),
    "windows-x86_64": System(
        "windows", "amd64", ("win_amd64",), ("win32", "Windows", "nt", "AMD64")
    ),
    "macos-arm64": _mac("arm64", "metal"),
    "macos-x86_64": _mac("x86_64", "cpu"),
}


@dataclass(frozen=True)
class Target:
    """One Python on one system, by the names that the command line has for them."""

    system: str
    python: str

    @property
    def is_here(self) -> bool:
        """True for the Python that runs this."""
        return (self.system, self.python) == this_machine()

    def __str__(self) -> str:
        return f"Python {self.python} on {self.system}"


def make_targets(systems: Sequence[str], pythons: Sequence[str]) -> list[Target]:
    """Return each of some Pythons on each of some systems; without names, what this machine has.

    Raises:
        InstallError: If a name is unknown, with the nearest one.
    """
    here = this_machine()
    for name in systems or here[:1]:
        if name not in SYSTEMS:
            raise InstallError(nearest(name, list(SYSTEMS), "system for a kit"))
    for name in pythons or here[1:]:
        if name not in PYTHONS:
            raise InstallError(nearest(name, list(PYTHONS), "Python for a kit"))
    pairs = [(s, p) for s in systems or here[:1] for p in pythons or here[1:]]
    # This machine first: what it has to build itself may serve the others, too.
    return [Target(*pair) for pair in sorted(dict.fromkeys(pairs), key=lambda pair: pair != here)]
