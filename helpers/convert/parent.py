"""One task in a child process: `python -m helpers.convert.child`, a JSON line each way.

A failed assertion in llama.cpp, or a lack of memory, ends that process and not the kernel. It ends
by itself when its input closes, so that a dead kernel leaves no orphan at work.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from helpers.children import apart, child_command, child_environment
from helpers.errors import EngineCrashed, HelpersError, ModelFileError

MARK = "\x1e"
"""Begins a line that is meant for the parent; every other line is log."""

Progress = Callable[[int, int], object]


def run_task(task: str, arguments: Mapping[str, Any], progress: Progress | None = None) -> Any:
    """Let a child do one of `helpers.convert.child`'s tasks and return its result.

    Args:
        task: Name of the task.
        arguments: What JSON can carry.
        progress: Is called with (done, of how many) from time to time.

    Raises:
        ModelFileError: The native library refuses the file, with its own words.
        EngineCrashed: The child ended without a result.
    """
    return run_child(
        child_command("helpers.convert.child"), json.dumps({"task": task, **arguments}), progress
    )


def run_child(command: Sequence[str], request: str, progress: Progress | None) -> Any:
    """Start a child, send it one line, and read until it ends."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(),
        text=True,
        encoding="utf-8",
        errors="replace",
        **apart(),
    )
    assert process.stdin is not None and process.stdout is not None
    words: deque[str] = deque(maxlen=40)
    result: dict[str, Any] | None = None
    try:
        with suppress(OSError):  # it died at once: its status tells
            process.stdin.write(request + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if not line.startswith(MARK):
                words.extend(filter(None, [line.rstrip()]))
                continue
            message = json.loads(line[1:])
            if "progress" in message:
                if progress is not None:
                    progress(*message["progress"])
            else:
                result = message
        status = process.wait()
    finally:
        # Also when `progress` raised, or the user pressed Ctrl-C.
        if process.poll() is None:
            process.kill()
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
    if result is None:
        raise _crashed(status, tuple(words))
    if "error" in result:
        kind = ModelFileError if result["kind"] == "ModelFileError" else HelpersError
        raise kind(result["error"])
    return result["result"]


def _crashed(status: int, words: tuple[str, ...]) -> EngineCrashed:
    name = f"exit status {status}"
    if status < 0:
        with suppress(ValueError):
            name = signal.Signals(-status).name
    cause = (
        "it was killed from outside, most often by the system for lack of memory"
        if status == -getattr(signal, "SIGKILL", 9)
        else "llama.cpp gave up"
    )
    said = "\n".join(f"  {word}" for word in words[-8:])
    return EngineCrashed(
        f"The process that did the work ended ({name}): {cause}. The kernel is unharmed and no "
        "file was left. Check the model with helpers.inspect_model, free some memory, try again."
        + (f"\nIts last words:\n{said}" if said else ""),
        native_log=words,
        exit_status=status,
    )
