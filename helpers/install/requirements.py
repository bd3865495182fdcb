"""What a source build needs on this machine: asked before the minutes of building begin."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS, Requirement
from helpers.install.commands import get_backend, need_system
from helpers.install.paths import current_system
from helpers.install.steps import ask

_MANAGERS = {
    "apt": ("apt-get", "sudo apt-get install {}"),
    "dnf": ("dnf", "sudo dnf install {}"),
    "brew": ("brew", "brew install {}"),
    "winget": ("winget", "winget install {}"),
    "pacman": ("pacman", "sudo pacman -S {}"),
    "zypper": ("zypper", "sudo zypper install {}"),
    "apk": ("apk", "sudo apk add {}"),
    "xcode-select": ("xcode-select", "xcode-select {}"),
    "conda": ("conda", "conda install -c conda-forge {}"),
}
# Variables that name a program which need not be on PATH.
_NAMED_BY = {"nvcc": "CUDACXX", "c++": "CXX"}


@dataclass(frozen=True)
class Finding:
    """One requirement, whether it is met here, and the command that installs it.

    Attributes:
        requirement: What is needed.
        met: True if its check succeeded.
        fix: Command that installs it on this machine, or its package by manager.
        page: The maker's page on adding the repository that `fix` needs, or an empty text.
    """

    requirement: Requirement
    met: bool
    fix: str
    page: str = ""

    def __str__(self) -> str:
        """Return one line."""
        mark = "there" if self.met else f"missing: {self.advice}"
        return f"{self.requirement.name} ({self.requirement.check}): {mark}"

    @property
    def advice(self) -> str:
        """The fix, and the repository that has to be added first, if there is one."""
        first = f" (add the maker's repository first: {self.page})" if self.page else ""
        return self.fix + first


def _succeeds(check: str) -> bool:
    words = shlex.split(check)
    named = os.environ.get(_NAMED_BY.get(words[0], ""), "")
    return ask(*(named.split()[:1] or words[:1]), *words[1:]) is not None


def _fix(requirement: Requirement) -> tuple[str, str]:
    """Return the command that installs a requirement, and the page on its repository."""
    for manager, (program, line) in _MANAGERS.items():
        if manager in requirement.packages and shutil.which(program):
            page = requirement.page if manager in requirement.from_maker else ""
            return line.format(requirement.packages[manager]), page
    packages = requirement.packages.items()
    return ", ".join(f"{name}: {package}" for name, package in packages), requirement.page


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
        Finding(requirement, _succeeds(requirement.check), *_fix(requirement))
        for requirement in get_backend(backend).requirements
        if where in requirement.systems
    )


def need_tools(backend: str) -> None:
    """Check for the programs without which a build of a backend cannot even begin.

    Raises:
        InstallError: If the backend does not exist on this system, or one is missing.
    """
    chosen, system = get_backend(backend), current_system()
    need_system(chosen, system)
    for finding in check_requirements(backend, system):
        if finding.requirement.essential and not finding.met:
            raise InstallError(
                f"{chosen.title} cannot be built here: {finding.requirement.name} is missing "
                f"({finding.requirement.check} fails). {finding.advice}"
            )


def find_compiler() -> str | None:
    """Return the C++ compiler that CMake would find, or None."""
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named.split()[0])
    system = current_system()
    if system == "macos" and ask("xcode-select", "-p") is None:
        return None  # /usr/bin/clang++ is there without the tools, and only offers to install them
    names = ("cl", "g++", "clang++") if system == "windows" else ("c++", "g++", "clang++")
    found = next(filter(None, map(shutil.which, names)), None)
    if found or system != "windows":
        return found
    base = os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)")
    where = Path(base) / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
    query = ["-latest", "-products", "*", "-property", "installationPath"]
    query += ["-requires", "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"]
    return (ask(str(where), *query) or "").strip() or None


def compiler_fix(system: str | None = None) -> str:
    """Return the command that installs a C++ compiler on a system (default: this one)."""
    where = system or current_system()
    needed = next(it for it in BACKENDS["cpu"].requirements if where in it.systems)
    if where == "windows":  # winget is part of it, even where this is asked on another system
        return _MANAGERS["winget"][1].format(needed.packages["winget"])
    return _fix(needed)[0]


def need_compiler() -> None:
    """Check for a C++ compiler.

    Raises:
        InstallError: If there is none, with the command that installs one.
    """
    if find_compiler() is None:
        raise InstallError(
            "llama-cpp-python must be built from source here, and there is no C++ compiler: "
            + compiler_fix()
        )
