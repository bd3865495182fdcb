"""Where a text may be cut: sections, paragraphs, sentences, lines, words, characters."""

# ruff: noqa: RUF001, RUF002 (the marks that end sentences, and the one between headings)
from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

HEADING_SEPARATOR = " › "

_LINE = re.compile(
    r"^ {0,3}(?:"
    r"(?P<fence>`{3,}|~{3,})(?P<language>.*)"
    r"|(?P<hashes>#{1,6})(?:[ \t]+(?P<title>.*))?"
    r")$"
    # One line after a blank one, underlined.
    r"|(?:\A|(?<=\n\n)|(?<=\n\r\n)) {0,3}(?P<underlined>[^\s#>|*+`~=-].*)\n"
    r" {0,3}(?P<under>=|-)(?P=under){2,}[ \t\r]*$",
    re.MULTILINE,
)
_CLOSING = re.compile(r"(?:^|\s)#+\s*$")

PARAGRAPHS = re.compile(r"\n[^\S\n]*+\n\s*+|\f\s*+")
SENTENCES = re.compile(
    # The end of a sentence, but for initials, some titles, and the number of a list's item.
    r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bSt)(?<!\bvs)(?<!\bNo)(?<!\bFig)"
    r"(?<!^\d)(?<!\n\d)"
    r"""[.!?…]["'”’»)\]*_`]*+\s++(?=[^\sa-z])"""
    # Chinese and Japanese put no blank there.
    r"|[。！？]['\"”’」』）]*+\s*+"
    # Items of lists, rows of tables, quoted lines.
    r"|\n[^\S\n]*+(?=(?:[-*+>]|\d{1,3}[.)])\s|\|)"
    rf"|{PARAGRAPHS.pattern}"
)
LINES = re.compile(r"\n\s*+")
WORDS = re.compile(r"\s++")


@dataclass(frozen=True)
class Section:
    """A part of a text under one heading, or before the first.

    Attributes:
        start: Where it begins: its heading, after those that have no text of their own.
        stop: Where the next one begins.
        heading: The headings above it and its own, joined by " › "; empty where there is none.
    """

    start: int
    stop: int
    heading: str


def sections(text: str) -> list[Section]:
    r"""The sections of a text in Markdown; what stands in a fenced block is no heading.

    >>> [part.heading for part in sections("# Rivers\n\n## Han\nLong.\n## Amur\nLonger.")]
    ['Rivers › Han', 'Rivers › Amur']
    """
    found: list[tuple[int, str]] = [(0, "")]
    path: dict[int, str] = {}
    body = 0  # where the text behind the last heading begins
    for start, stop, level, title in _headings(text):
        path = {depth: name for depth, name in path.items() if depth < level}
        path[level] = title
        heading = HEADING_SEPARATOR.join(filter(None, path.values()))
        if text[body:start].isspace() or body == start:
            found[-1] = (found[-1][0], heading)
        else:
            found.append((start, heading))
        body = stop
    stops = [start for start, _ in found[1:]] + [len(text)]
    return [
        Section(start, stop, heading) for (start, heading), stop in zip(found, stops, strict=True)
    ]


def _headings(text: str) -> list[tuple[int, int, int, str]]:
    """Start, stop, level and title of each heading."""
    found, fence = [], ""
    for line in _LINE.finditer(text):
        if mark := line["fence"]:
            if not fence and not (mark[0] == "`" and "`" in line["language"]):
                fence = mark
            elif fence and mark.startswith(fence) and not line["language"].strip():
                fence = ""
        elif not fence:
            level = len(line["hashes"] or "") or (1 if line["under"] == "=" else 2)
            title = line["underlined"] or _CLOSING.sub("", line["title"] or "")
            found.append((line.start(), line.end(), level, title.strip()))
    return found


def places(text: str, pattern: re.Pattern[str]) -> list[int]:
    """Where the parts between matches of a pattern begin; no character is cut in two.

    >>> places("It is long. It is cold.", SENTENCES)
    [12]
    """
    ends = [match.end() for match in pattern.finditer(text)]
    return [at for at in ends if 0 < at < len(text) and not _continues(text, at)]


def characters(text: str, start: int, stop: int, *, whole: bool = True) -> list[int]:
    """The places after `start`, and up to `stop`, between two characters.

    Args:
        text: The text.
        start: Where a character begins.
        stop: Last place.
        whole: What readers see as one character stays together: letters with their marks,
            flags, families of emoji. Else the places between code points.

    >>> characters("e\u0301a", 0, 3)
    [2, 3]
    """
    found, letters = [], 0  # of flags, one behind the other: each pair is one
    for at in range(start + 1, stop + 1):
        one = text[at : at + 1]
        letters = letters + 1 if "\U0001f1e6" <= text[at - 1] <= "\U0001f1ff" else 0
        paired = letters % 2 == 1 and "\U0001f1e6" <= one <= "\U0001f1ff"
        if not (whole and (paired or _continues(text, at))):
            found.append(at)
    return found


def _continues(text: str, at: int) -> bool:
    """Whether the character at a place belongs to the one before (most of Unicode's annex 29)."""
    if not 0 < at < len(text):
        return False
    one, before = text[at], text[at - 1]
    if one < "\u0300":
        return one == "\n" and before == "\r"
    if (
        one in "\u200c\u200d"
        or before == "\u200d"
        or unicodedata.category(one) in ("Mn", "Mc", "Me")
    ):
        return True
    if "\U0001f3fb" <= one <= "\U0001f3ff" or "\U000e0020" <= one <= "\U000e007f":
        return True  # tones of skin, and the letters of flags of regions
    # Korean syllables written in letters: initials, then vowels and finals.
    if "\u1160" <= one <= "\u11ff":
        return "\u1100" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3"
    return "\u1100" <= one < "\u1160" and "\u1100" <= before < "\u1160"
