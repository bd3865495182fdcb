"""The ways to llama-cpp-python on Windows, step by step, for PowerShell and for cmd.

The lines are made here and not typed into a notebook, so that both shells say the same and tests
can read them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.commands import install_command, nearest, set_variable
from helpers.install.environment import read_project
from helpers.install.paths import REPOSITORY, cache_dir
from helpers.install.requirements import compiler_fix
from helpers.tables import Code, html_table

LONGEST_PATH = 260
"""Characters that a path may have on Windows as it is installed, including the terminating NUL."""

_SHELLS = ("powershell", "cmd")
_REPOSITORY = "https://github.com/abetlen/llama-cpp-python.git"
_TOOLS = "C:\\w64devkit"
_SHORT = "C:\\t"
# What pip puts between the folder for temporary files and the source: two generated names.
_PIP_FOLDERS = len("\\pip-install-12345678\\llama-cpp-python_") + 32 + len("\\")


@dataclass(frozen=True)
class Step:
    """One thing to do: what for, and the line to type (empty where there is none)."""

    what: str
    line: str


class Steps(tuple[Step, ...]):
    """Steps in order, shown as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return numbered lines."""
        return "\n".join(
            f"{n}. {step.what}" + (f"\n   {step.line}" if step.line else "")
            for n, step in enumerate(self, 1)
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for Jupyter."""
        rows = [(str(n), step.what, Code(step.line)) for n, step in enumerate(self, 1)]
        return html_table({"": "<", " ": "<", "  ": "<"}, rows)


def windows_steps(
    way: str, shell: str = "powershell", *, backend: str = "cpu", version: str | None = None
) -> Steps:
    """Return what to do on Windows, in order.

    Args:
        way: `prebuilt` (a ready wheel), `visual-studio` (built with Microsoft's compiler),
            `w64devkit` (built with a compiler that needs no installation), `clone` (from the git
            repository, to change its code), or `long-paths` (what to do when paths get too long).
        shell: `powershell` or `cmd`.
        backend: Name in `BACKENDS`; w64devkit is for `cpu` alone.
        version: Exact version, or None for the newest.

    Raises:
        InstallError: If a name is unknown, or the backend cannot be had in that way.

    >>> windows_steps("clone", "cmd")[-1].line
    'python -m pip install -e .'
    """
    if way not in _WAYS:
        raise InstallError(nearest(way, list(_WAYS), "way"))
    if shell not in _SHELLS:
        raise InstallError(nearest(shell, list(_SHELLS), "shell of Windows"))
    return Steps(_WAYS[way](shell, backend, version))


def _prebuilt(shell: str, backend: str, version: str | None) -> list[Step]:
    line = install_command(backend, "windows", shell, prebuilt=True, version=version)
    return [Step("Install the ready wheel", line)]


def _visual_studio(shell: str, backend: str, version: str | None) -> list[Step]:
    return [
        Step("Install the compiler, once", compiler_fix("windows")),
        Step("Open a new window, so that it sees what was installed", ""),
        Step(
            "Build and install",
            install_command(backend, "windows", shell, version=version),
        ),
    ]


def _w64devkit(shell: str, backend: str, version: str | None) -> list[Step]:
    if backend != "cpu":
        raise InstallError(
            f"w64devkit builds for the processor; {backend!r} needs Visual Studio: choose "
            "'visual-studio'."
        )
    tools = _TOOLS.replace("\\", "/")  # CMake reads a backslash as an escape
    flags = f"-DCMAKE_C_COMPILER={tools}/bin/gcc.exe -DCMAKE_CXX_COMPILER={tools}/bin/g++.exe"
    return [
        Step(f"Unpack w64devkit from github.com/skeeto/w64devkit/releases to {_TOOLS}", ""),
        Step("Let this window find its programs", _path(shell)),
        Step(
            "Name the kind of build",
            _alone(set_variable("CMAKE_GENERATOR", "MinGW Makefiles", shell)),
        ),
        Step("Name the compilers", _alone(set_variable("CMAKE_ARGS", flags, shell))),
        Step("Build and install", install_command("cpu", "windows", shell, version=version)),
    ]


def _clone(shell: str, backend: str, version: str | None) -> list[Step]:
    at = f"--branch v{version} " if version else ""
    # The installation line's own variable, without its pip.
    flags = install_command(backend, "windows", shell).partition("python -m pip")[0]
    return [
        Step("Let git write long paths, once", "git config --global core.longpaths true"),
        Step(
            "Fetch the source with llama.cpp inside it",
            f"git clone --recursive -j8 {at}{_REPOSITORY}",
        ),
        Step("Go there", "cd llama-cpp-python"),
        Step("Build, and install where it is", f"{flags}python -m pip install -e ."),
    ]


def _long_paths(shell: str, _backend: str, _version: str | None) -> list[Step]:
    key = "SYSTEM\\CurrentControlSet\\Control\\FileSystem"
    if shell == "powershell":
        allow = f"Set-ItemProperty 'HKLM:\\{key}' LongPathsEnabled 1"
        make = f"New-Item -ItemType Directory -Force {_SHORT}"
    else:
        allow = f"reg add HKLM\\{key} /v LongPathsEnabled /t REG_DWORD /d 1 /f"
        make = f"mkdir {_SHORT}"
    return [
        Step("Allow long paths, once, in a window opened as administrator; then restart", allow),
        Step("Where that is not allowed: make a folder with a short name", make),
        Step("Let pip unpack and build there (1)", _alone(set_variable("TEMP", _SHORT, shell))),
        Step("Let pip unpack and build there (2)", _alone(set_variable("TMP", _SHORT, shell))),
    ]


_WAYS: dict[str, Callable[[str, str, str | None], list[Step]]] = {
    "prebuilt": _prebuilt,
    "visual-studio": _visual_studio,
    "w64devkit": _w64devkit,
    "clone": _clone,
    "long-paths": _long_paths,
}


def _alone(words: str) -> str:
    """Set a variable for the whole window, not for one command."""
    return words.removesuffix(" && ").removesuffix("; ")


def _path(shell: str) -> str:
    if shell == "powershell":
        return f"$env:PATH = '{_TOOLS}\\bin;' + $env:PATH"
    return f'set "PATH={_TOOLS}\\bin;%PATH%"'


def longest_in_source(archive: Path | None = None) -> int | None:
    """Characters of the longest path inside llama-cpp-python's source, as pip unpacks it.

    Args:
        archive: The source as it is published (`.tar.gz`); None takes the pinned one from the
            suite's cache.

    Returns:
        The number, without the folder that holds the source; None if there is no archive here.
    """
    if archive is None:
        version = read_project(REPOSITORY).version
        archive = cache_dir() / "sdist" / f"llama_cpp_python-{version}.tar.gz"
    if not archive.exists():
        return None
    with tarfile.open(archive) as source:
        # pip drops the one top folder of the archive.
        return max((len(name.partition("/")[2]) for name in source.getnames()), default=0)


def unpacked_length(temporary: str, inside: int) -> int:
    """Characters of a path when pip unpacks a source, including the terminating NUL.

    Args:
        temporary: The folder for temporary files (`%TEMP%`), written out.
        inside: Characters of the path inside the source.

    >>> unpacked_length("C:" + "/t", 100)
    177
    """
    return len(temporary) + _PIP_FOLDERS + inside + 1
