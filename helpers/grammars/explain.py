"""Says where a text leaves its grammar, in words that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recognizer import Program


@dataclass(frozen=True)
class Explanation:
    """Why a text does or does not match.

    Attributes:
        matches: Whether it does.
        position: Index of the first character that cannot stand there; the text's length if it
            only ends too early, or matches.
        line: Line of that character, from 1.
        column: Column of that character, from 1.
        expected: What could have stood there, as GBNF or as characters.
        message: The same in words, with the line and a caret.
    """

    matches: bool
    position: int
    line: int
    column: int
    expected: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message


def explain_rules(program: Program, text: str) -> Explanation:
    """Run the recogniser over a text and describe how far it came.

    Args:
        program: The compiled grammar.
        text: The text.

    Returns:
        The explanation.
    """
    from .recognizer import Recognizer

    reader = Recognizer(program)
    for position, char in enumerate(text):
        if not reader.step(char):
            expected = (*reader.expected(), *(["the end"] if reader.accepting else []))
            return describe(text, position, expected)
    if reader.accepting:
        return matching(text)
    return describe(text, len(text), tuple(reader.expected()))


def matching(text: str) -> Explanation:
    """The explanation of a text that matches."""
    line, column = place(text, len(text))
    return Explanation(True, len(text), line, column, (), "The text matches.")


def place(text: str, position: int) -> tuple[int, int]:
    """Line and column of an index, both from 1."""
    start = text.rfind("\n", 0, position) + 1
    return text.count("\n", 0, position) + 1, position - start + 1


def describe(text: str, position: int, expected: tuple[str, ...]) -> Explanation:
    """The explanation of a text that does not match.

    Args:
        text: The text.
        position: Where it goes wrong.
        expected: What could have stood there.

    Returns:
        The explanation, with a message.
    """
    from .syntax import quote

    line, column = place(text, position)
    shown = list(expected[:12]) + (["…"] if len(expected) > 12 else [])
    wanted = " or ".join(shown) if len(shown) < 3 else ", ".join(shown[:-1]) + " or " + shown[-1]
    wanted = wanted or "nothing"
    found = quote(text[position]) if position < len(text) else "the end of the text"
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    left = max(start, position - 60)
    shown_line = text[left : min(end if end >= 0 else len(text), position + 40)]
    message = (
        f"line {line}, column {column}: expected {wanted} but found {found}.\n"
        f"    {shown_line}\n    {' ' * (position - left)}^"
    )
    return Explanation(False, position, line, column, expected, message)
