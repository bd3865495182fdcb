"""What CMake says to a line of flags: the real source is configured, nothing is compiled.

It takes seconds and needs CMake and the unpacked source, which a source build leaves in the
suite's cache. Where one of the two is absent, the answer says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.install.build import source_folder
from helpers.install.commands import DISTRIBUTION
from helpers.install.environment import read_project
from helpers.install.paths import REPOSITORY, cache_dir, current_system, pip_environment

_SECONDS = 120
_LONGEST = 160
_PATHS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?(?:[\\/][\w.+-]+)+[\\/]")
_TELLING = re.compile(
    r"is deprecated|[Nn]ot found|[Cc]ould (?:not|NOT) find|Failed to find|no GPU was detected"
)


@dataclass(frozen=True)
class Configured:
    """What CMake said to some flags.

    Attributes:
        flags: The flags.
        status: `configured`, `failed`, `ignored` (CMake configured, and did not use the flags),
            or `not tried`.
        message: Why, without paths; empty if it configured.
    """

    flags: tuple[str, ...]
    status: str
    message: str

    def __str__(self) -> str:
        """Return one line."""
        end = f": {self.message}" if self.message else ""
        return f"{' '.join(self.flags) or '(no flags)'} -> {self.status}{end}"


def pinned_source() -> Path | None:
    """Return the unpacked source of the pinned version if it is on this machine, or None."""
    where, version = cache_dir(), read_project(REPOSITORY).version
    kept = (f"src/llama_cpp_python-{version}", f"sdist/llama_cpp_python-{version}.tar.gz")
    return source_folder(version, where) if any((where / k).exists() for k in kept) else None


def configure(flags: Sequence[str], source: Path | None = None) -> Configured:
    """Configure the pinned source with some flags, as the first step of a build does.

    Args:
        flags: `-D…` strings.
        source: The unpacked source; None finds it in the suite's cache.

    >>> configure(["-DLLAMA_CUBLAS=on"]).message  # doctest: +SKIP
    'LLAMA_CUBLAS is deprecated, use GGML_CUDA instead'
    """
    chosen, folder = tuple(flags), source or pinned_source()
    cmake = shutil.which("cmake")
    if folder is None or cmake is None:
        absent = "cmake" if folder else f"the source of {DISTRIBUTION}"
        why = f"{absent} is not on this machine (a source build fetches it)"
        return Configured(chosen, "not tried", why)
    env = {**pip_environment(), "LC_ALL": "C"}
    for name in ("CMAKE_GENERATOR", "CLICOLOR_FORCE", "FORCE_COLOR"):  # a kernel sets colours
        env.pop(name, None)
    with tempfile.TemporaryDirectory() as build:
        command = [cmake, "-S", str(folder), "-B", build, "-DLLAVA_BUILD=off", *chosen]
        # On Windows, ninja needs a shell in which the compiler is on PATH; Visual Studio does not.
        if shutil.which("ninja") and (current_system() != "windows" or shutil.which("cl")):
            command += ["-G", "Ninja"]
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    return _judge(chosen, done.returncode, done.stdout)


def _judge(flags: tuple[str, ...], code: int, output: str) -> Configured:
    if code:
        found = _errors(output)
        return Configured(flags, "failed", found[0] if found else f"status {code}, and no reason")
    missing = re.search(r"^.*BLAS not found.*$", output, re.MULTILINE)
    if missing:  # only a warning: the build would continue without it
        return Configured(flags, "failed", _clean(missing[0]))
    # llama.cpp alone does not know the flag that is always set here: only the caller's count.
    asked = {re.sub(r"^-D\s*(\w+).*", r"\1", flag, flags=re.DOTALL) for flag in flags}
    names = [name for name in _unused(output) if name in asked]
    if names:
        return Configured(flags, "ignored", f"{', '.join(names)}: not used by the project")
    remark = re.search(r"^.*is deprecated.*$", output, re.MULTILINE)
    return Configured(flags, "configured", _clean(remark[0]) if remark else "")


def _unused(output: str) -> list[str]:
    """Return the names of flags that mean nothing to the project."""
    listed = re.search(r"variables were not used[^\n]*\n\s*\n((?:[ \t]+\w+\n)+)", output)
    return listed[1].split() if listed else []


def _errors(output: str) -> list[str]:
    """Return the messages of CMake's errors, each on one line, the telling ones first."""
    blocks = re.split(r"^(?=CMake (?:Error|Warning)|-- )", output, flags=re.MULTILINE)
    found = []
    for block in blocks:
        head, _, body = block.partition("\n")
        if head.startswith("CMake Error"):
            text = _clean(body.partition("Call Stack")[0] or head.partition(": ")[2])
            found += [text] if text else []
    return sorted(found, key=lambda text: not _TELLING.search(text))


def _clean(text: str) -> str:
    """Return a message on one line, without folders, and not too long."""
    line = " ".join(_PATHS.sub("", text).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"
