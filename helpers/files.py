"""Files that appear whole or not at all, and never through a name that others could foresee."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that no reader sees half of it.

    A link at that place is replaced, not followed.

    Raises:
        OSError: It cannot be written there.
    """
    # Not tempfile: its files are for their maker alone, and this one is to be shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def room_beside(target: Path) -> Iterator[Path]:
    """Give a name to write `target` under until it is whole, in a folder that others cannot enter.

    There nobody can put a link under the name, and nobody else writes under the same one. Move it
    away when it is whole; what is left in the end is removed.

    Raises:
        OSError: The folder of `target` cannot be written to.
    """
    with tempfile.TemporaryDirectory(
        prefix=".part-", dir=target.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder, target.name)


def move_to_free(made: Path, target: Path) -> None:
    """Move a file to a name that is free, which stays as it is if somebody has taken it meanwhile.

    Raises:
        FileExistsError: Somebody has.
    """
    if os.name != "nt":
        try:
            os.link(made, target)  # a rename would replace
        except FileExistsError:
            raise
        except OSError as error:  # no hard links on this disk
            if os.path.lexists(target):
                raise FileExistsError(target) from error
            made.rename(target)
    else:
        made.rename(target)
