r"""Reads a text that comes in pieces, as generators that yield when they need more of it.

Each character is looked at a bounded number of times, whatever the pieces are: what was read is let
go, and what may be the beginning of something is never longer than that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A generator that yields for more text, and returns a value."""
Emit = Callable[[str], object]

_SIGNS = "{}[],:"
_MAX_BLANKS = 64
"""Whitespace within a fixed text: without a limit, it would be read again and again."""
_IN_TEXT = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class Mismatch(Exception):
    """The text is not what was to be read; the argument says what was expected."""


class Ended(Exception):
    """The text has ended where there had to be more."""


class Scanner:
    """The text of a reply.

    Attributes:
        text: What has come and is not let go.
        at: Where in it reading goes on.
        ended: Whether no more comes.
        record: What is read from now on, where a list was put there.
    """

    def __init__(self) -> None:
        self.text, self.at, self.ended = "", 0, False
        self.record: list[str] | None = None

    def feed(self, text: str) -> None:
        """Add what has come."""
        self.text, self.at = self.text[self.at :] + text, 0

    def more(self) -> Steps[None]:
        """Wait for more text.

        Raises:
            Ended: There is none.
        """
        if self.ended:
            raise Ended
        yield

    def take(self, end: int) -> str:
        """Read up to a place in `text`."""
        piece, self.at = self.text[self.at : end], end
        if self.record is not None:
            self.record.append(piece)
        return piece

    def put_back(self, count: int) -> None:
        """Unread what was just taken, or its end."""
        self.at -= count
        if self.record and count:
            self.record[-1] = self.record[-1][:-count]

    def blanks(self) -> Steps[None]:
        """Read whitespace, up to something else or the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end].isspace():
                end += 1
            self.take(end)
            if end < len(self.text) or self.ended:
                return
            yield

    def peek(self, count: int) -> Steps[str]:
        """The next characters, fewer only at the end."""
        while len(self.text) - self.at < count and not self.ended:
            yield
        return self.text[self.at : self.at + count]

    def matches(self, fixed: str) -> Steps[bool]:
        """Read a fixed text in any spacing, if it comes; else whitespace at most."""
        yield from self.blanks()
        while (end := match_loosely(fixed, self.text, self.at)) is None and not self.ended:
            yield
        if end is None or end < 0:
            return False
        self.take(end)
        return True

    def fixed(self, fixed: str) -> Steps[None]:
        """Read a fixed text, in any spacing.

        Raises:
            Mismatch: Something else comes.
        """
        if not (yield from self.matches(fixed)):
            if self.ended and match_loosely(fixed, self.text, self.at) is None:
                raise Ended
            yield from self.unexpected(repr(fixed.strip()))

    def unexpected(self, expected: str) -> Steps[None]:
        """Say what comes instead of what was expected.

        Raises:
            Mismatch: Always; with the same words however the text is cut into pieces.
        """
        raise Mismatch(f"expected {expected} but found {(yield from self.peek(16))!r}")

    def upto(self, marks: tuple[str, ...], emit: Emit) -> Steps[str]:
        """Pass text on up to the first of some marks.

        Args:
            marks: What to stop at; of two that begin alike, the longer one.
            emit: Given all text before the mark, piece by piece.

        Returns:
            The mark, which is read; empty at the end of the text, all of which was passed on.
        """
        longest = sorted(marks, key=len, reverse=True)
        stops = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        while True:
            found = stops.search(self.text, self.at)
            if found is None:
                keep = 0 if self.ended else overlap(self.text[self.at :], marks)
                emit(self.take(len(self.text) - keep))
                if self.ended:
                    return ""
                yield
                continue
            emit(self.take(found.start()))
            rest = self.text[found.start() :]
            if self.ended or not any(m != rest and m.startswith(rest) for m in marks):
                self.take(found.end())
                return found[0]
            yield

    def until(self, stops: re.Pattern[str], emit: Emit) -> Steps[bool]:
        """Pass text on up to one of some characters, which is not read; whether one came."""
        while True:
            found = stops.search(self.text, self.at)
            emit(self.take(len(self.text) if found is None else found.start()))
            if found is not None or self.ended:
                return found is not None
            yield

    def json_value(self, emit: Emit) -> Steps[None]:
        """Pass a JSON object, list or string on, up to its end."""
        depth, in_text = 0, False
        while True:
            found = (_IN_TEXT if in_text else _OUTSIDE).search(self.text, self.at)
            if found is None:
                emit(self._clean(self.take(len(self.text)), in_text))
                yield from self.more()
                continue
            end, sign = found.end(), found[0]
            if sign == "\\":
                emit(self._clean(self.take(end - 1), in_text))
                emit((yield from self.escape()))
                continue
            piece = self._clean(self.take(end), in_text)
            if sign == '"':
                in_text = not in_text
            else:
                depth += 1 if sign in "{[" else -1
            emit(piece)
            if depth <= 0 and not in_text:
                return

    def escape(self) -> Steps[str]:
        """Read a backslash and the character after it."""
        while len(self.text) - self.at < 2:
            yield from self.more()
        return self.take(self.at + 2)

    @staticmethod
    def _clean(piece: str, in_text: bool) -> str:
        """Strings with control characters as JSON has them: models write them as they are."""
        return _CONTROL.sub(lambda c: f"\\u{ord(c[0]):04x}", piece) if in_text else piece


_CONTROL = re.compile(r"[\x00-\x1f]")


def match_loosely(fixed: str, text: str, at: int) -> int | None:
    """Where a fixed text ends that is written in any spacing.

    Whitespace may come, or be missing, where the fixed text has some and beside JSON's signs; at
    its ends it is not looked at.

    Args:
        fixed: The fixed text.
        text: The text that it may stand in.
        at: Where it has to begin.

    Returns:
        The place after it; -1 if something else stands there; None if the text ends too early.
    """
    before, blank = "", False
    for char in fixed.strip():
        if char.isspace():
            blank = True
            continue
        if before and (blank or char in _SIGNS or before in _SIGNS):
            limit = min(len(text), at + _MAX_BLANKS)
            while at < limit and text[at].isspace():
                at += 1
        if at >= len(text):
            return None
        if text[at] != char:
            return -1
        at, before, blank = at + 1, char, False
    return at


def overlap(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of a text that is a beginning of one of some others."""
    longest = max(map(len, marks), default=1) - 1
    for length in range(min(len(text), longest), 0, -1):
        end = text[len(text) - length :]
        if any(len(mark) > length and mark.startswith(end) for mark in marks):
            return length
    return 0
