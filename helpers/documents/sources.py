"""Read the files of a folder: texts, and notebooks cell by cell."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from langchain_core.documents import Document

LARGEST = 64 << 20
"""Bytes of the largest file that is read."""


class UnreadableError(Exception):
    """A file that is left out; the message says why."""


def list_files(folder: Path, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The files of a folder and its subfolders, in a stable order.

    What begins with a dot is left out. A link to a folder is followed, but none is entered twice.

    Args:
        folder: The folder.
        patterns: Which names, as in a shell; upper and lower case are the same.

    Yields:
        The path relative to the folder, with `/`, and the path.

    Raises:
        OSError: The folder cannot be read. A subfolder that cannot is yielded like a file, with a
            `/` at the end of its name.
    """
    yield from _list(folder, "", [pattern.lower() for pattern in patterns], set())


def _list(
    folder: Path, prefix: str, patterns: Sequence[str], seen: set[str]
) -> Iterator[tuple[str, Path]]:
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.name.startswith("."):
            continue
        if path.is_dir():
            try:
                yield from _list(path, f"{name}/", patterns, seen)
            except OSError:
                yield f"{name}/", path
        elif any(fnmatchcase(path.name.lower(), pattern) for pattern in patterns):
            yield name, path


def read_file(path: str | os.PathLike[str]) -> list[Document]:
    """Read a file: a text as one document, a notebook as one for each of its cells.

    Args:
        path: A text in UTF-8, or a notebook (`.ipynb`).

    Returns:
        Documents; those of a notebook have the id of their cell in `metadata["cell"]`, or its
        number where it has none, and its `cell_type`. Outputs are not read. Lines end as
        `Path.read_text` lets them end.

    Raises:
        UnreadableError: It is no such file, cannot be read, or is larger than 64 MiB.

    Example:
        >>> _ = Path("notes.md").write_text("The river is long.")
        >>> read_file("notes.md")
        [Document(metadata={}, page_content='The river is long.')]
    """
    text = _text(Path(path))
    if Path(path).suffix.lower() == ".ipynb":
        return _cells(text)
    return [Document(text)]


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UnreadableError("a folder that cannot be entered")
        if not path.is_file():
            raise UnreadableError("no regular file" if path.exists() else "no file")
        if path.stat().st_size > LARGEST:
            raise UnreadableError(f"larger than {LARGEST >> 20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"no text in UTF-8 (byte {error.start:,} is {error.object[error.start]:#04x})"
        ) from error
    if "\0" in text:
        raise UnreadableError("no text, it has null bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _cells(text: str) -> list[Document]:
    try:
        cells = json.loads(text)["cells"]
        return [
            Document(
                cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"]),
                metadata={"cell": str(cell.get("id", number)), "cell_type": cell["cell_type"]},
            )
            for number, cell in enumerate(cells)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(
            f"no notebook of format 4 ({type(error).__name__}: {error})"
        ) from error
