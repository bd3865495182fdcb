"""The file to make: where it goes, whether there is room, and never half of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import ModelFileError
from helpers.files import move_to_free, room_beside
from helpers.models import ModelInfo, inspect_model

_MIB = 2**20


def choose_output(
    source: Path, output: str | os.PathLike[str] | None, suggestion: str, overwrite: bool
) -> Path:
    """Return where the result goes: what was asked for, else `suggestion` beside the source.

    Raises:
        ValueError: It would replace the source.
        ModelFileError: It exists, or cannot be written there.
    """
    target = (
        source.with_name(suggestion) if output is None else Path(output).expanduser().absolute()
    )
    if target.is_dir():
        target = target / suggestion
    if _same(source, target):
        raise ValueError(
            f"The output is the file that is read, {target.name}. Give another name with output=…"
        )
    if output is None and Path(sys.prefix) in source.parents:
        raise ModelFileError(
            f"{source.name} belongs to an installed package, and a new file beside it would be "
            f'lost with the environment. Say where it goes: output="{suggestion}".'
        )
    if target.exists() and not overwrite:
        raise _taken(target)
    if not target.parent.is_dir():
        raise ModelFileError(f"There is no folder {target.parent}. Create it, or choose another.")
    return target


def _taken(target: Path) -> ModelFileError:
    return ModelFileError(
        f"{target} exists already. Pass overwrite=True to replace it, or another output."
    )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def check_room(folder: Path, n_bytes: int) -> None:
    """Check that a file of this size fits on the disk.

    Raises:
        ModelFileError: It does not, with both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ModelFileError(
            f"The result needs about {n_bytes / _MIB:,.0f} MiB, but {folder} has "
            f"{free / _MIB:,.0f} MiB free. Make room, or choose another folder with output=…"
        )


@dataclass
class Writing:
    """A model file that is being written.

    Attributes:
        place: The name to write to, until it is whole.
        info: What it is; set when it was checked and has its own name.
    """

    place: Path
    info: ModelInfo | None = None


@contextmanager
def written_whole(target: Path, source: Path, *, overwrite: bool) -> Iterator[Writing]:
    """Give a temporary name to write to; the target appears only as a whole, checked model.

    Whatever goes wrong inside, an existing target stays as it was and nothing is left over.

    Raises:
        ModelFileError: What was written does not pass `check_model_file`, or cannot be written, or
            the target appeared meanwhile and `overwrite` is False.
    """
    with ExitStack() as stack:
        try:
            writing = Writing(stack.enter_context(room_beside(target)))
        except OSError as error:
            raise ModelFileError(
                f"{target.parent} cannot be written to ({error.strerror}). Choose another folder "
                "with output=…"
            ) from None
        yield writing
        try:
            # Now, not later by its name: somebody else may replace the file at once.
            writing.info = inspect_model(writing.place)
        except ModelFileError as error:
            reason = str(error).replace(str(writing.place), "the result")
            raise ModelFileError(
                f"What was made of {source} is not a model, so {source.name} is probably damaged "
                f"itself: {reason}"
            ) from None
        if overwrite:
            writing.place.replace(target)
            return
        try:
            move_to_free(writing.place, target)
        except FileExistsError:
            raise _taken(target) from None
