"""Chat templates, rendered in a child process that is kept for the next call."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from helpers.errors import ModelFileError

_WORKER = Path(__file__).with_name("render_child.py")
# A template takes about a millisecond; the longest published ones, with many tools, a few.
_SECONDS = 5.0
_START_SECONDS = 30.0


class _Renderer:
    """Owns the child process: one request at a time, a new child after each misfortune."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: dict[str, Any]) -> dict[str, str] | None:
        """Return the child's answer, or None if it took too long (and is gone)."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                answer = self._exchange(line, request["seconds"])
            except BrokenPipeError:
                # The child had ended since the last call (killed by hand, say): take another.
                self._close(kill=True)
                answer = self._exchange(line, request["seconds"])
            except BaseException:
                # An interrupt between question and answer: the next call must not read this one's.
                self._close(kill=True)
                raise
            if not answer.endswith(b"\n"):
                self._close(kill=True)
                return None
            result: dict[str, str] = json.loads(answer)
            return result

    def _exchange(self, line: bytes, seconds: float) -> bytes:
        process = self._child()
        assert process.stdin is not None and process.stdout is not None
        # The child ends itself in time; this is for one that cannot (a stopped process).
        guard = threading.Timer(2 * seconds + _START_SECONDS, process.kill)
        guard.daemon = True
        guard.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline()
        finally:
            guard.cancel()

    def _child(self) -> subprocess.Popen[bytes]:
        process = self._process
        # After a fork the pipes are shared with the parent: use others.
        if process is not None and process.poll() is None and self._owner == os.getpid():
            return process
        if self._owner == os.getpid():
            self._close(kill=True)
        self._process = subprocess.Popen(
            # -P: the folder of the script is no place to import from.
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal goes to the whole group, and is not meant for the child.
            start_new_session=True,
        )
        self._owner = os.getpid()
        return self._process

    def _close(self, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        with contextlib.suppress(OSError), process:  # closes the pipes and waits
            pass

    def close(self) -> None:
        """End the child; the next call starts another."""
        with self._lock:
            if self._owner == os.getpid():
                self._close(kill=False)


_renderer = _Renderer()
atexit.register(_renderer.close)


def render(template: str, values: dict[str, Any], whose: str, seconds: float | None = None) -> str:
    """Render a chat template.

    Args:
        template: Jinja source.
        values: Its variables; they must be such that JSON can carry them.
        whose: Which model it belongs to, for messages.
        seconds: Longest time to wait; None takes 5 s.

    Raises:
        ModelFileError: The template is invalid, refuses the messages, or does not end.
    """
    limit = _SECONDS if seconds is None else seconds
    answer = _renderer.ask({"template": template, "values": values, "seconds": limit})
    other = "Pass a working one with chat_template=…, or write the prompt by hand."
    if answer is None:
        raise ModelFileError(
            f"The chat template of {whose} did not end within {limit:g} s. {other}"
        )
    if "refused" in answer:
        raise ModelFileError(
            f"The chat template of {whose} refuses these messages: {answer['refused']}. Change the "
            "messages (their roles and order), or pass another template with chat_template=…"
        )
    if "invalid" in answer:
        raise ModelFileError(
            f"The chat template of {whose} is not valid Jinja: {answer['invalid']}. {other}"
        )
    if "failed" in answer:
        raise ModelFileError(f"The chat template of {whose} fails: {answer['failed']}. {other}")
    return answer["text"]
