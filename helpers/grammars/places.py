"""Places in a text: their line and column, and messages that show them with a caret."""

from __future__ import annotations

import re

from helpers.errors import GrammarError

_LINE_END = re.compile(r"\r\n|\r|\n")


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an index, both from 1."""
    start = line = 0
    for found in _LINE_END.finditer(text, 0, offset):
        start, line = found.end(), line + 1
    return line + 1, offset - start + 1


def show_place(text: str, offset: int, message: str, *, end: int | None = None) -> str:
    """A message with its line and column, and a caret under the place.

    Args:
        text: The whole text.
        offset: Index of the first character that the message is about.
        message: What is wrong and what to do.
        end: Index after the last such character, for a caret as wide as the error.

    Returns:
        Three lines.
    """
    line, column = line_and_column(text, offset)
    before = text[offset - min(column - 1, 60) : offset]
    after = re.split(r"[\r\n]", text[offset : offset + 200], maxsplit=1)[0]
    # A tab stays a tab under a tab, so that the caret keeps its place in any viewer.
    indent = "".join("\t" if char == "\t" else " " for char in before)
    width = max(1, min((end or offset + 1) - offset, len(after) or 1, 40))
    return (
        f"line {line}, column {column}: {message}\n"
        f"    {before}{after[:40]}\n    {indent}{'^' * width}"
    )


def error_at(text: str, offset: int, message: str, *, end: int | None = None) -> GrammarError:
    """An error that shows its place in the text, as `show_place` does; to be raised."""
    offset = min(offset, len(text))
    line, column = line_and_column(text, offset)
    return GrammarError(show_place(text, offset, message, end=end), line=line, column=column)
