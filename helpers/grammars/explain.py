"""Says where a text leaves its grammar, in words that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.grammars.gbnf.syntax import quote
from helpers.grammars.places import line_and_column, show_place


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


def matching(text: str) -> Explanation:
    """The explanation of a text that matches."""
    return Explanation(True, len(text), *line_and_column(text, len(text)), (), "The text matches.")


def mismatch(text: str, position: int, expected: tuple[str, ...]) -> Explanation:
    """The explanation of a text that does not match.

    Args:
        text: The text.
        position: Where it goes wrong.
        expected: What could have stood there.

    Returns:
        The explanation, with a message.
    """
    shown = list(expected[:12]) + (["…"] if len(expected) > 12 else [])
    wanted = " or ".join(shown) if len(shown) < 3 else ", ".join(shown[:-1]) + " or " + shown[-1]
    found = quote(text[position]) if position < len(text) else "the end of the text"
    message = show_place(text, position, f"expected {wanted or 'nothing'} but found {found}.")
    return Explanation(False, position, *line_and_column(text, position), expected, message)
