"""Reads the header of a GGUF file front to back, within bounds of memory and time."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from helpers.errors import ModelFileError

# The largest published headers have about 30 MB.
MAX_HEADER_BYTES = 256 * 2**20
WINDOW = 2**20

# Bytes of values kept in memory, for a whole header: no mixture of small values may need more.
_EAGER_BUDGET = 2**25

_SIZES = {code: struct.calcsize(f"<{code}") for code in "BbHhIif?Qqd"}


def file_error(
    path: Path, problem: str, kind: type[ModelFileError] = ModelFileError
) -> ModelFileError:
    """The error for a file; one without a full stop gets the usual remedy."""
    remedy = "" if problem.endswith(".") else ". Download or copy the file again."
    return kind(f"{path} {shorten(problem)}{remedy}")


def shorten(text: str, limit: int = 1000) -> str:
    """Leave out the middle of a text that quotes too much of a damaged file."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} […] {text[-limit // 2 :]}"


class Cursor:
    """Reads a file front to back through a window, and knows its end."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file = file
        self.size = size
        self.path = path
        self.limit = min(size, MAX_HEADER_BYTES)
        self.pos = 0
        self._window = b""
        self._base = 0
        self._budget = _EAGER_BUDGET
        self.order = "<"

    def spend(self, n_bytes: int, what: str) -> None:
        """Count what is kept in memory."""
        self._budget -= n_bytes
        if self._budget < 0:
            raise self.fail(f"{what} at byte {self.pos:,} comes after too many large values")

    def fail(self, what: str) -> ModelFileError:
        """The error that names the file and what is wrong with it."""
        return file_error(self.path, f"is damaged: {what}. The header cannot be read any further")

    def require(self, n_bytes: int, what: str) -> None:
        """Check that `n_bytes` more bytes can belong to the header."""
        if n_bytes <= self.limit - self.pos:
            return
        if n_bytes > self.size - self.pos:
            raise self.fail(
                f"{what} at byte {self.pos:,} needs {n_bytes:,} bytes, "
                f"but the file ends after {max(self.size - self.pos, 0):,} more"
            )
        raise self.fail(
            f"{what} at byte {self.pos:,} would make the header larger than "
            f"{MAX_HEADER_BYTES // 2**20} MiB"
        )

    def window(self, n_bytes: int) -> tuple[bytes, int]:
        """Return a buffer with (at least) `n_bytes` from here on, and where here is in it."""
        start = self.pos - self._base
        if start < 0 or start + n_bytes > len(self._window):
            self.file.seek(self.pos)
            self._window = self.file.read(max(n_bytes, WINDOW))
            self._base, start = self.pos, 0
            if len(self._window) < n_bytes:
                raise self.fail(f"it became shorter while it was read (byte {self.pos:,})")
        return self._window, start

    def number(self, code: str, what: str) -> Any:
        """Read one number; `code` is that of `struct`."""
        size = _SIZES[code]
        self.require(size, what)
        buffer, start = self.window(size)
        self.pos += size
        return struct.unpack_from(self.order + code, buffer, start)[0]

    def raw_string(self, what: str, limit: int = MAX_HEADER_BYTES) -> bytes:
        """Read one string as bytes, at most `limit` of them."""
        length = self.number("Q", f"the length of {what}")
        if length > limit:
            raise self.fail(f"{what} at byte {self.pos:,} claims a length of {length:,} bytes")
        self.require(length, what)
        buffer, start = self.window(length)
        self.pos += length
        return buffer[start : start + length]

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        """Read one string, at most `limit` bytes of it."""
        # The specification says UTF-8; vocabularies hold pieces of characters all the same.
        return self.raw_string(what, limit).decode("utf-8", "surrogateescape")

    def skip(self, n_bytes: int, what: str) -> None:
        """Pass over bytes that are not needed."""
        self.require(n_bytes, what)
        self.pos += n_bytes

    def raw_strings(self, count: int, what: str, keep: bool = True) -> list[bytes]:
        """Read strings without decoding them, as fast as Python allows, or walk over them."""
        unpack = struct.Struct(self.order + "Q").unpack_from
        texts: list[bytes] = []
        while count:
            self.require(8, what)
            buffer, here = self.window(8)
            first, last = here, len(buffer)
            while count and here + 8 <= last:
                end: int = here + 8 + unpack(buffer, here)[0]
                if end > last:
                    break
                if keep:
                    texts.append(buffer[here + 8 : end])
                here = end
                count -= 1
            self.pos = self._base + here
            if here == first:  # one string that is longer than the window
                if keep:
                    texts.append(self.raw_string(what))
                else:
                    self.skip(self.number("Q", what), f"a string of {what}")
                count -= 1
        return texts
