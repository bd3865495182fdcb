"""The line that installs llama-cpp-python for one backend, quoted for one shell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS, Backend
from helpers.install.paths import current_system

DISTRIBUTION = "llama-cpp-python"
SHELLS = {
    "linux": ("bash", "zsh", "powershell"),
    "macos": ("zsh", "bash", "powershell"),
    "windows": ("powershell", "cmd", "bash"),
}
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def nearest(name: str, known: list[str], what: str) -> str:
    """Return the message for an unknown name, with the nearest one and the whole list."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no {what} {name!r}.{guess} There are: {', '.join(known)}."


def get_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        InstallError: If there is none, with the nearest name.
    """
    if name not in BACKENDS:
        raise InstallError(nearest(name, list(BACKENDS), "backend"))
    return BACKENDS[name]


def need_system(backend: Backend, system: str) -> None:
    """Check that a backend exists on a system.

    Raises:
        InstallError: If it does not.
    """
    if system not in backend.systems:
        raise InstallError(
            f"{backend.title} does not exist on {system} (only on {', '.join(backend.systems)}): "
            "run lab --backend auto to see what suits this machine"
        )


def _quote(word: str, shell: str) -> str:
    """Quote one word for `shell`."""
    if _PLAIN.fullmatch(word) and not (shell == "powershell" and re.search(r"[@,%]", word)):
        return word
    if shell == "powershell":
        return "'" + word.replace("'", "''") + "'"
    if shell == "cmd":
        return '"' + word.replace('"', '""').replace("%", "%%") + '"'
    return "'" + word.replace("'", "'\\''") + "'"


def set_variable(name: str, value: str, shell: str) -> str:
    """Return the words that set an environment variable for the command that follows them."""
    if shell == "powershell":
        return f"$env:{name} = '" + value.replace("'", "''") + "'; "
    if shell == "cmd":
        # Quotes around the pair keep the blank before && out of the value.
        return f'set "{name}={value}" && '
    return f"{name}=" + (value if _PLAIN.fullmatch(value) else _quote(value, shell)) + " "


def join(words: tuple[str, ...], shell: str) -> str:
    """Return `words` as one line that `shell` splits into exactly those words."""
    line = " ".join(_quote(word, shell) for word in words)
    # PowerShell runs a quoted program only behind the call operator.
    return f"& {line}" if shell == "powershell" and line.startswith("'") else line


def _check(backend: Backend, system: str, shell: str, prebuilt: bool) -> None:
    if shell not in SHELLS[system]:
        raise InstallError(
            f"There is no {shell} on {system}: choose one of {', '.join(SHELLS[system])}."
        )
    need_system(backend, system)
    served = {name for name, _ in backend.wheels.systems} if backend.wheels else set()
    if prebuilt and system not in served:
        raise InstallError(
            f"There are no prebuilt wheels of {backend.title} for {system}: leave out "
            "prebuilt=True, which gives the line for a source build."
        )


def install_command(
    backend: str,
    system: str | None = None,
    shell: str | None = None,
    *,
    prebuilt: bool = False,
    reinstall: bool = False,
    version: str | None = None,
    index: str | None = None,
    flags: Sequence[str] = (),
    python: str = "python",
) -> str:
    """Return the line that installs llama-cpp-python with one backend.

    Args:
        backend: Name in `BACKENDS`.
        system: `linux`, `macos` or `windows`; None means this one.
        shell: `bash`, `zsh`, `powershell` or `cmd`; None means the system's usual one.
        prebuilt: Take a prebuilt wheel instead of building from source.
        reinstall: Replace an installed one, past pip's cache of built wheels, which knows the
            version and not the flags.
        version: Exact version, or None for the newest.
        index: Name of the wheel index where there are several, e.g. `cu124`.
        flags: More flags for CMake, e.g. `-DCMAKE_CUDA_ARCHITECTURES=120`; for a source build.
        python: The Python to install into.

    Raises:
        InstallError: If a name is unknown or the combination cannot work.
    """
    chosen = get_backend(backend)
    system = system or current_system()
    if system not in SHELLS:
        raise InstallError(nearest(system, list(SHELLS), "system"))
    shell = shell or SHELLS[system][0]
    known = sorted({name for names in SHELLS.values() for name in names})
    if shell not in known:
        raise InstallError(nearest(shell, known, "shell"))
    _check(chosen, system, shell, prebuilt)
    if prebuilt and flags:
        raise InstallError(
            f"A prebuilt wheel takes no flags ({' '.join(flags)}): leave out prebuilt=True."
        )
    words = [python, "-m", "pip", "install"]
    if reinstall:
        words += ["--force-reinstall", "--no-cache-dir"]
    target = f"{DISTRIBUTION}=={version}" if version else DISTRIBUTION
    if prebuilt and chosen.wheels:
        if index and index not in chosen.wheels.names:
            raise InstallError(nearest(index, list(chosen.wheels.names), "wheel index"))
        address = chosen.wheels.address(index or chosen.wheels.newest(system))
        words += ["--only-binary", DISTRIBUTION, "--extra-index-url", address, target]
        return join(tuple(words), shell)
    words += ["--no-binary", DISTRIBUTION, target]
    value = " ".join((*chosen.cmake_flags, *flags))
    return (set_variable("CMAKE_ARGS", value, shell) if value else "") + join(tuple(words), shell)
