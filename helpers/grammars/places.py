"""Faults in a text, shown at their place."""

from __future__ import annotations

import re

from ..errors import GrammarError
from .syntax import Rules


def fault(source: str, offset: int, message: str, *, end: int | None = None) -> GrammarError:
    """Make an error that shows the line and a caret under the place.

    Args:
        source: The whole text.
        offset: Index of the faulty character.
        message: What is wrong and what to do.
        end: Index after the last faulty character, for a caret as wide as the fault.

    Returns:
        The error, to be raised by the caller.
    """
    offset = min(offset, len(source))
    before = re.split(r"\r\n|\r|\n", source[:offset])
    line, column = len(before), len(before[-1]) + 1
    rest = re.split(r"[\r\n]", source[offset : offset + 200], maxsplit=1)[0]
    shown = before[-1][-100:] + rest[:60]
    # A tab stays a tab under a tab, so that the caret keeps its place in any viewer.
    indent = "".join("\t" if char == "\t" else " " for char in before[-1][-100:])
    width = max(1, min((end or offset + 1) - offset, len(rest) or 1, 60))
    return GrammarError(
        f"line {line}, column {column}: {message}\n    {shown}\n    {indent}{'^' * width}",
        line=line,
        column=column,
    )


def line_of(source: str, offset: int) -> int:
    """The line of an index, from 1."""
    return len(re.findall(r"\r\n|\r|\n", source[:offset])) + 1


class Parsed:
    """A grammar that has been read, with the place of each rule for later messages."""

    def __init__(self, source: str, rules: Rules, places: dict[str, int]) -> None:
        self.source = source
        self.rules = rules
        self.places = places
