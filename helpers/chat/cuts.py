"""Texts cut where no tag is cut in two."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST_TAG = 200
# A third kind is made of three tokens: `<|open|>call tool="…"<|sep|>`.
_TAG = re.compile(r"<\|(?:open|close)\|>[^<>\n]*<\|sep\|>|<[^<>\n]*>|\[/?[A-Z][A-Z_ ]*\]")


def head(one: str, other: str) -> str:
    """The longest common beginning that does not end inside a tag.

    >>> head("<a><b_begin>", "<a><b_end>")
    '<a>'
    """
    size = _shared(one, other)
    while size and not (whole(one, size) and whole(other, size)):
        size -= 1
    return one[:size]


def tail(one: str, other: str) -> str:
    """The longest common end that does not begin inside a tag.

    >>> tail("</a><b>", "</c><b>")
    '<b>'
    """
    size = _shared(one[::-1], other[::-1])
    while size and not (whole(one, len(one) - size) and whole(other, len(other) - size)):
        size -= 1
    return one[len(one) - size :]


def _shared(one: str, other: str) -> int:
    # By halves: slices compare far quicker than a loop over characters.
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def whole(text: str, position: int) -> bool:
    """Whether a position is not inside a tag, such as `<call>` or `[CALLS]`."""
    # A tag is on one line, and short.
    begin = max(0, position - _LONGEST_TAG, text.rfind("\n", 0, position) + 1)
    part = text[begin : position + _LONGEST_TAG]
    return not any(tag.start() < position - begin < tag.end() for tag in _TAG.finditer(part))


def first_tag(text: str) -> str:
    """The tag with which a text begins, or nothing."""
    found = _TAG.match(text)
    return found[0] if found else ""


def last_tag(text: str) -> str:
    """The last tag of a text, or nothing."""
    found = _TAG.findall(text)
    return found[-1] if found else ""


def trim(text: str) -> str:
    r"""Drop whitespace at the beginning, but for a space before a word: it belongs to the word.

    >>> trim("\n<call>"), trim(" to=")
    ('<call>', ' to=')
    """
    bare = text.lstrip()
    return " " + bare if bare[:1].isalpha() and text[: -len(bare)].endswith(" ") else bare


def before(text: str, ends: Iterable[str]) -> str:
    """A text up to the first of some others."""
    return text[: min((text.find(end) for end in ends if end in text), default=len(text))]


def without(text: str, known: Iterable[str]) -> str:
    """A text without known texts and whitespace at its beginning."""
    text = trim(text)
    while found := next((part for part in known if part and text.startswith(part)), None):
        text = trim(text[len(found) :])
    return text
