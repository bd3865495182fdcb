"""From bytes to text: whole characters only, and never a piece of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of one token after another into text that may be shown at once.

    A character whose bytes are spread over tokens waits until it is whole; text that could be the
    beginning of a stop string waits until it is clear that it is not.

    Args:
        stop: Strings that end the text; they are not part of it. None of them is empty.

    >>> stream = TextStream(["END"])
    >>> stream.feed(b"the E"), stream.feed(b"ND of"), stream.stopped
    ('the ', '', True)
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, raw: bytes) -> str:
        """Take the bytes of a token; return the text that is certain now."""
        return self._release(self._decoder.decode(raw))

    def finish(self) -> str:
        """Return what was still held back, once no more tokens come."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", True)) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        if not self.stop:
            return new
        text = self._held + new
        found = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self.stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
