"""What the suite has put on the disk, and taking it away again: that, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.paths import (
    cache_dir,
    folder_mib,
    in_cache,
    in_packages,
    inside,
    made_by_suite,
    venv_dir,
)

_IN_CLONE = (
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    "llama_notebooks.egg-info",
    "build",
    "docs/_build",
)


def leftovers(root: Path) -> list[tuple[Path, str, float]]:
    """Return what is there as (place, what it is, MiB), the environment first.

    Of the cache, that is what has the suite's names, in a folder that the suite made. A link is
    nobody's but the user's.
    """
    places = [
        (venv_dir(root), "the environment"),
        *((root / name, "made by the tools") for name in _IN_CLONE),
    ]
    if in_packages(root):  # these names are other packages' there
        places = []
    found = [(p, what, folder_mib(p)) for p, what in places if p.exists() and not p.is_symlink()]
    if made_by_suite(cache_dir()):
        size = sum(folder_mib(path) for path in in_cache(cache_dir())[0])
        found.insert(1, (cache_dir(), "sources, built wheels, settings, logs, kept prompts", size))
    return found


def clean(root: Path, *, yes: bool) -> int:
    """Show what the suite has put on the disk; remove it if the user agrees.

    Raises:
        InstallError: If this Python is the one to be removed, or something cannot be removed.
    """
    found, cache = leftovers(root), cache_dir()
    if cache.exists() and not made_by_suite(cache):
        print(f"{cache} is left as it is: the suite did not make it.")
    if not found:
        print("Nothing to remove.")
        return 0
    for path, what, mib in found:
        print(f"{mib:8.0f} MiB  {path}  ({what})")
    if not yes:
        if not sys.stdin.isatty():
            print("Nothing was removed: add --yes to remove all of it.")
            return 0
        if input("Remove all of it? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("Nothing was removed.")
            return 0
    if inside(venv_dir(root)):
        raise InstallError(
            "this Python is in the environment that would be removed: run deactivate first, then "
            "clean with the system's Python"
        )
    for path, _, _ in found:
        try:
            if path == cache:
                _empty(cache)
            else:
                shutil.rmtree(path)
        except OSError as error:
            raise InstallError(
                f"{path} cannot be removed ({error.strerror or error}): close what uses it"
            ) from None
    print(f"Removed {sum(mib for _, _, mib in found):.0f} MiB.")
    return 0


def _empty(cache: Path) -> None:
    """Remove the suite's part of the cache, and its folder if nothing else is there."""
    own, others = in_cache(cache)
    for path in own:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not others:
        if not cache.is_symlink():
            cache.rmdir()
        return
    names = ", ".join(path.name for path in others[:5]) + (", …" if len(others) > 5 else "")
    print(f"{cache} has more, which is not the suite's and is left: {names}")
