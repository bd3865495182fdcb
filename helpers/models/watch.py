"""Whether the files under a loaded model are still what was loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers.errors import ModelFileError
from helpers.models.formats import part_names


class Watch:
    """Knows when a mapped model file was changed in place.

    The weights of a mapped file are read when they are needed. One that was cut off ends the
    process at the first access behind its new end (SIGBUS); one that was written to computes with
    other weights. A file that was replaced or deleted is neither: what was opened lives on.

    Windows lets nobody change a mapped file, so there is nothing to know there.

    Args:
        path: The model, or the first of its parts. Begin to watch before the file is checked.
    """

    def __init__(self, path: str) -> None:
        self._files: dict[int, tuple[int, int]] = {}
        if sys.platform != "win32":
            folder, name = Path(path).parent, Path(path).name
            for part in part_names(name):
                handle = os.open(folder / part, os.O_RDONLY)
                self._files[handle] = _state(handle)

    @property
    def changed(self) -> bool:
        """Whether a file has another size or time than at first; costs a microsecond."""
        try:
            return any(_state(handle) != state for handle, state in self._files.items())
        except OSError:  # closed by another thread just now
            return True

    def check(self) -> None:
        """Raise if a file was changed.

        Raises:
            ModelFileError: The weights must not be read any more.
        """
        if self.changed:
            raise ModelFileError(
                "The model's file was written to while it was loaded, so this call was ended. The "
                "next one loads the file as it is then. Replace a model by moving another file to "
                "its path, not by writing into it; use_mmap=False keeps a copy in memory."
            )

    def close(self) -> None:
        """Let the files go."""
        files, self._files = self._files, {}
        for handle in files:
            os.close(handle)


def _state(handle: int) -> tuple[int, int]:
    state = os.fstat(handle)
    return state.st_size, state.st_mtime_ns
