"""What the suite has put on the disk, and taking it away again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.paths import cache_dir, folder_mib, inside, venv_dir

_IN_CLONE = (".pytest_cache", ".mypy_cache", ".ruff_cache", "llama_notebooks.egg-info", "build")


def leftovers(root: Path) -> list[tuple[Path, str, float]]:
    """Return what is there as (place, what it is, MiB), the environment first."""
    places = [
        (venv_dir(root), "the environment"),
        (cache_dir(), "sources, built wheels, downloaded models and logs"),
        *((root / name, "made by the tools") for name in _IN_CLONE),
    ]
    return [(path, what, folder_mib(path)) for path, what in places if path.exists()]


def clean(root: Path, *, yes: bool) -> int:
    """Show what the suite has put on the disk; remove it if the user agrees.

    Raises:
        InstallError: If this Python is the one to be removed, or something cannot be removed.
    """
    found = leftovers(root)
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
            shutil.rmtree(path)
        except OSError as error:
            raise InstallError(
                f"{path} cannot be removed ({error.strerror}): close what uses it"
            ) from None
    print(f"Removed {sum(mib for _, _, mib in found):.0f} MiB.")
    return 0
