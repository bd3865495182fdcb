"""What the native library says, kept instead of printed.

llama.cpp has one log callback for the whole process. Ours keeps the lines in memory; what other
code in this process makes llama.cpp say (a raw `llama_cpp.Llama`) goes on to where it went before.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers.native.library import llama, system_function

_DEBUG, _INFO, _WARN, _ERROR, _CONTINUE = 1, 2, 3, 4, 5

_owner = threading.local()
_recent: deque[str] = deque(maxlen=40)


@dataclass
class LogCapture:
    """Lines that the native library logged while `capture_log` was open.

    Attributes:
        lines: `(level, text)` pairs, oldest first; level 1 debug, 2 info, 3 warning, 4 error.
    """

    lines: list[tuple[int, str]]

    def text(self, level: int = _INFO) -> str:
        """The lines of at least this level, as one text."""
        return "\n".join(line for importance, line in self.lines if importance >= level)

    @property
    def errors(self) -> list[str]:
        """The warnings and errors, oldest first."""
        return [line for importance, line in self.lines if importance >= _WARN]


class _Receiver:
    """Joins continued pieces to whole lines and hands them to the captures of this thread."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.partial: dict[int, tuple[int, str]] = {}
        self.last_level: dict[int, int] = {}

    def receive(self, level: int, raw: bytes, _user_data: object) -> None:
        capture = getattr(_owner, "capture", None)
        if capture is None and not getattr(_owner, "silent", False) and not _called_from_here():
            self.previous(level, raw, None)
            return
        thread = threading.get_ident()
        if level == _CONTINUE:
            level = self.last_level.get(thread, _INFO)
        self.last_level[thread] = level
        kept_level, kept = self.partial.pop(thread, (level, ""))
        kept += (raw or b"").decode("utf-8", "replace")
        *whole, rest = kept.split("\n")
        for line in whole:
            if kept_level >= _WARN:
                _recent.append(line)
            if capture is not None:
                capture.lines.append((kept_level, line))
        if rest:
            self.partial[thread] = (kept_level, rest)


def _called_from_here() -> bool:
    """Whether the native function that logs was called by this package, not by other code."""
    frame = sys._getframe(1).f_back  # behind `receive`; in a native thread there is nobody
    return frame is not None and frame.f_globals.get("__name__", "").startswith("helpers.")


@functools.cache
def install_log() -> object:
    """Install the callback, once for the process; returns what must be kept alive."""
    module = llama()
    import llama_cpp._logger as previous

    receiver = _Receiver(previous.llama_log_callback)
    callback = module.llama_log_callback(receiver.receive)
    module.llama_log_set(callback, ctypes.c_void_p(0))
    # A Python callback must not be called while the interpreter shuts down: hand the library a C
    # function that ignores what it gets (abs takes the level and touches nothing).
    ignore = ctypes.cast(system_function("abs"), module.llama_log_callback)
    atexit.register(module.llama_log_set, ignore, ctypes.c_void_p(0))
    return callback, ignore


@contextmanager
def capture_log() -> Iterator[LogCapture]:
    """Keep what the native library logs on this thread instead of printing it.

    Yields:
        A `LogCapture` whose `lines` grow while the block runs.

    >>> with capture_log() as log:
    ...     pass  # load a model here
    >>> log.text()
    ''
    """
    install_log()
    outer = getattr(_owner, "capture", None)
    _owner.capture = capture = LogCapture([])
    try:
        yield capture
    finally:
        _owner.capture = outer


def keep_quiet() -> None:
    """Keep this thread's native log to the ring of recent warnings (for engine threads)."""
    install_log()
    _owner.silent = True


def recent_warnings() -> tuple[str, ...]:
    """The last warnings and errors of the native library in this process, oldest first."""
    return tuple(_recent)
