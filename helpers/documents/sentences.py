"""The sentences of a passage: what of it can be quoted, and how a model writes that in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 300
"""Characters of one quote: a table or a program may have no sentence that ends sooner."""
_SHORTEST = 15
"""Characters below which it is more likely an abbreviation, and what follows belongs to it."""
_FENCE = r"[ \t]*(?:```|~~~)"
_ITEM = r"[ \t]*(?:[-*+>|#]|\d+[.)]\s)"
_CUTS = re.compile(
    # Where a sentence ends, quotation marks and brackets included.
    r"""[.!?…؟۔।]["'”’»)\]*_`]*(?=\s+[^\sa-z])|[。！？｡]["'”’」』）]*"""  # noqa: RUF001
    # Before a blank line, and a line that begins as Markdown's items, rows and headings do; after
    # the latter two, whatever follows.
    rf"|(?=\n[ \t\r]*\n)|(?=\n(?:{_FENCE}|{_ITEM}))|(?m:^(?:{_FENCE}|[ \t]*[#|]).*$)"
)
_HEAD = re.compile(rf"{_FENCE}|#+\s")
_UNWRITTEN = re.compile(r"[\s\x00\ud800-\udfff]+")


def sentences(text: str) -> list[tuple[int, int]]:
    r"""Find a text's sentences, list items and rows of tables.

    Args:
        text: The text, in Markdown or without.

    Returns:
        Start and end of each, in their order; none is blank or longer than `LONGEST` characters.
        Headings, and what has no letter or digit, are left out, unless there is nothing else.

    >>> text = "# Rivers\nThe Loire is long.\nDr. Lee swam it. Why?"
    >>> [text[start:end] for start, end in sentences(text)]
    ['The Loire is long.', 'Dr. Lee swam it.', 'Why?']
    """
    found: list[tuple[int, int]] = []
    for start, end in _parts(text):
        before, last = found[-1] if found else (start, start)
        abbreviation = 0 < last - before < _SHORTEST and "\n" not in text[before:start]
        if abbreviation and end - before <= LONGEST:
            start = found.pop()[0]
        found += _cut(text, start, end)
    said = [(a, b) for a, b in found if re.search(r"[^\W_]", text[a:b])]
    return [(a, b) for a, b in said if not _HEAD.match(text[a:b])] or said or found


def in_one_line(text: str) -> str:
    r"""A text as a model copies it: blanks, line ends and what no model can write are one space.

    >>> in_one_line("two\n  lines\0")
    'two lines'
    """
    return _UNWRITTEN.sub(" ", text).strip()


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """What lies between two cuts, without the blanks around it."""
    start = 0
    for end in [*(cut.end() for cut in _CUTS.finditer(text)), len(text)]:
        part = text[start:end]
        if in_one_line(part):
            yield end - len(part.lstrip()), start + len(part.rstrip())
        start = end


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A part, or where it is too long several, cut between words if there are any."""
    while end - start > LONGEST:
        words = list(re.finditer(r"\s+", text[start : start + LONGEST + 1]))
        at, after = words[-1].span() if words else (LONGEST, LONGEST)
        yield start, start + at
        start += after
    yield start, end
