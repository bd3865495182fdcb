"""Where things are: the repository, its environment, the user's cache; and who may use them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from helpers.errors import InstallError

OLDEST_PYTHON = (3, 11)
REPOSITORY = Path(__file__).resolve().parents[2]
_MIB = 1024 * 1024
_MARK = ".llama-notebooks"
_NAMES = (
    *(_MARK, "lock", ".write-*", "model-sha256.json", ".model-sha256.json.*"),
    *("tuned.json", ".tuned.json.*", "logs", "sdist", "src", "build", "wheels", "prebuilt"),
    *("tools-3.*", "accepted-models", "prefixes", "headers", "hub-proxy", "rpc-tensors", "learner"),
    *("kit", "kit-wheels"),
)
"""What the suite writes into its cache."""


def current_system() -> str:
    """Return `linux`, `macos` or `windows`; any other Unix counts as `linux`."""
    if sys.platform == "win32":
        return "windows"
    return "macos" if sys.platform == "darwin" else "linux"


def cache_dir() -> Path:
    """Return the folder of sources, wheels and logs; `LLAMA_NOTEBOOKS_CACHE` replaces it."""
    own = os.environ.get("LLAMA_NOTEBOOKS_CACHE")
    return Path(own).expanduser().resolve() if own else _usual_cache()


def prefix_folder() -> Path:
    """Return where the computed states of prompts are kept, unless another folder is named."""
    return cache_dir() / "prefixes"


def header_folder() -> Path:
    """Return where the headers of models are kept that servers have loaded."""
    return cache_dir() / "headers"


def _usual_cache() -> Path:
    system = current_system()
    if system == "windows":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif system == "macos":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "llama-notebooks"


def in_cache(cache: Path) -> tuple[list[Path], list[Path]]:
    """What is in a cache folder: what has the suite's names, and what must be somebody else's."""
    own: list[Path] = []
    others: list[Path] = []
    for path in sorted(cache.iterdir()):
        named = any(fnmatch(path.name, pattern) for pattern in _NAMES)
        (own if named and not path.is_symlink() else others).append(path)
    return own, others


def made_by_suite(cache: Path) -> bool:
    """Whether a folder is the suite's cache, so that what has the suite's names in it may go."""
    if not cache.is_dir() or _is_for_more(cache):
        return False
    own, others = in_cache(cache)
    # The last one: from before there was a mark.
    return cache / _MARK in own or cache == _usual_cache() or (not others and cache / "lock" in own)


def _is_for_more(folder: Path) -> bool:
    """Whether a folder is, or holds, the repository or the user's home, be that empty or not."""
    places = [REPOSITORY]
    with suppress(RuntimeError):  # a user without one
        places.append(Path.home().resolve())
    return any(folder in (place, *place.parents) for place in places)


def claim_cache() -> Path:
    """Return `cache_dir()`, made, or known to be the suite's: only there it writes.

    Raises:
        InstallError: It has files that the suite did not write, or cannot be written to.
    """
    cache = cache_dir()
    try:
        free = not _is_for_more(cache) and (not cache.exists() or not any(cache.iterdir()))
        ours = free or made_by_suite(cache)
    except OSError as error:
        raise InstallError(
            f"{cache} cannot be the suite's cache ({error.strerror}): set LLAMA_NOTEBOOKS_CACHE to "
            "a folder that you own"
        ) from None
    if not ours:
        raise InstallError(
            f"LLAMA_NOTEBOOKS_CACHE names {cache}, which has files that the suite did not write: "
            "name a folder that is empty, or not there yet"
        )
    make_folder(cache, "the suite's cache")
    with suppress(FileExistsError), (cache / _MARK).open("x", encoding="utf-8") as mark:
        mark.write("The cache of llama-notebooks: `python -m helpers clean` empties it.\n")
    return cache


def in_packages(root: Path = REPOSITORY) -> bool:
    """Say whether `helpers` lies among installed packages, without the rest of the suite."""
    return any(root.glob("llama_notebooks-*.dist-info"))


def need_suite(what: str, root: Path = REPOSITORY) -> None:
    """Check that `helpers` lies in the suite, beside its notebooks and their data.

    Raises:
        InstallError: It is an installed package, alone.
    """
    if in_packages(root):
        raise InstallError(
            f"{what} needs the whole suite, and {root} has helpers alone, as an installed package: "
            "get a clone or an archive of the repository, and run python3 -m helpers in its folder"
        )


def venv_dir(root: Path = REPOSITORY) -> Path:
    """Return the folder of the suite's environment."""
    return root / ".venv"


def venv_python(venv: Path) -> Path:
    """Return the Python of an environment (which need not exist)."""
    if current_system() == "windows":
        return venv / "Scripts" / "python.exe"
    return venv / "bin" / "python"


def site_packages(venv: Path) -> Path:
    """Return where an environment keeps its packages, without starting its Python."""
    if current_system() == "windows":
        return venv / "Lib" / "site-packages"
    found = sorted((venv / "lib").glob("python3.*/site-packages"))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return found[-1] if found else venv / "lib" / version / "site-packages"


def pip_environment() -> dict[str, str]:
    """Return the environment for pip: the user's, less what would leak packages in."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    env["PYTHONNOUSERSITE"] = "1"
    env.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return env


def inside(venv: Path) -> bool:
    """Say whether this process runs in the environment `venv`."""
    try:
        return Path(sys.prefix).samefile(venv)
    except OSError:
        return False


def in_conda() -> bool:
    """Say whether this process runs in a conda environment that was activated."""
    active = os.environ.get("CONDA_PREFIX")
    return bool(active) and inside(Path(str(active)))


def make_folder(path: Path, why: str) -> Path:
    """Create a folder and prove that it can be written.

    Raises:
        InstallError: If it cannot, with what the folder is for.
    """
    probe = path / f".write-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InstallError(
            f"{path} cannot be written ({error.strerror}), and {why} goes there: "
            "use a folder that you own"
        ) from None
    return path


def need_space(path: Path, mib: int, why: str) -> None:
    """Check that `mib` MiB are free where `path` is.

    Raises:
        InstallError: If there is less, with both figures.
    """
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // _MIB
    if free < mib:
        raise InstallError(
            f"{why} needs about {mib} MiB in {path}, but only {free} MiB are free: make room "
            "(python -m helpers clean shows what the suite keeps) and run the command again"
        )


def folder_mib(path: Path) -> float:
    """Return the size of a file or folder in MiB, links not followed."""
    if path.is_file() or path.is_symlink():
        return path.lstat().st_size / _MIB
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue  # gone while we looked
    return total / _MIB


def _try_lock(handle: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def lock(say: Callable[[str], None]) -> Iterator[int]:
    """Let one process at a time prepare environments; others wait and say so.

    The lock is the operating system's: it goes away with the last process that holds the file, so
    that a killed run blocks nobody, and a build that outlives its parent still does.

    Yields:
        The file descriptor, for children that are to hold the lock as well.
    """
    with (claim_cache() / "lock").open("a", encoding="utf-8") as handle:
        if not _try_lock(handle):
            say("Another run is preparing an environment: waiting for it to finish.")
            while not _try_lock(handle):
                time.sleep(0.5)
        yield handle.fileno()
