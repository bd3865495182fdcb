"""What a source build needs on this machine: asked before the minutes of building begin."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from helpers.errors import InstallError
from helpers.install.backends import Requirement
from helpers.install.commands import get_backend
from helpers.install.paths import current_system

_SECONDS = 20
_MANAGERS = {
    "apt": ("apt-get", "sudo apt-get install {}"),
    "dnf": ("dnf", "sudo dnf install {}"),
    "brew": ("brew", "brew install {}"),
    "winget": ("winget", "winget install {}"),
    "conda": ("conda", "conda install -c conda-forge {}"),
}
# Variables that name a program which need not be on PATH.
_NAMED_BY = {"nvcc": "CUDACXX", "c++": "CXX"}


@dataclass(frozen=True)
class Finding:
    """One requirement, whether it is met here, and the command that brings it.

    Attributes:
        requirement: What is needed.
        met: True if its check succeeded.
        fix:  Command that brings it on this machine, or its package by manager.
    """

    requirement: Requirement
    met: bool
    fix: str

    def __str__(self) -> str:
        """Return one line."""
        mark = "there" if self.met else f"missing: {self.fix}"
        return f"{self.requirement.name} ({self.requirement.check}): {mark}"


def _succeeds(check: str) -> bool:
    words = shlex.split(check)
    named = os.environ.get(_NAMED_BY.get(words[0], ""), "")
    if named:
        words[0] = named.split()[0]
    program = shutil.which(words[0])
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _fix(requirement: Requirement) -> str:
    for manager, (program, line) in _MANAGERS.items():
        if manager in requirement.packages and shutil.which(program):
            return line.format(requirement.packages[manager])
    return ", ".join(f"{name}: {package}" for name, package in requirement.packages.items())


def check_requirements(backend: str, system: str | None = None) -> tuple[Finding, ...]:
    """Run the check of each thing that a source build of a backend needs.

    Args:
        backend: Name in `BACKENDS`.
        system: `linux`, `macos` or `windows`; None means this one.

    Raises:
        InstallError: If there is no such backend.

    >>> [finding.met for finding in check_requirements("cpu")]  # doctest: +SKIP
    [True]
    """
    where = system or current_system()
    return tuple(
        Finding(requirement, _succeeds(requirement.check), _fix(requirement))
        for requirement in get_backend(backend).requirements
        if where in requirement.systems
    )


def need_tools(backend: str) -> None:
    """Check for the programs without which a build of a backend cannot even begin.

    Raises:
        InstallError: If the backend does not exist on this system, or one is missing.
    """
    chosen, system = get_backend(backend), current_system()
    if system not in chosen.systems:
        raise InstallError(
            f"{chosen.title} does not exist on {system} (only on {', '.join(chosen.systems)}): "
            "run lab --backend auto to see what suits this machine"
        )
    for finding in check_requirements(backend, system):
        if finding.requirement.essential and not finding.met:
            raise InstallError(
                f"{chosen.title} cannot be built here: {finding.requirement.name} is missing "
                f"({finding.requirement.check} fails). {finding.fix}"
            )
