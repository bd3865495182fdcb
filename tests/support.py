"""What several test files need: the repository, a small engine's options, its children."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from helpers.engine import Engine, LoadOptions
from helpers.models import default_model

ROOT = Path(__file__).resolve().parents[1]


def options(**changes: Any) -> LoadOptions:
    """Options for a test's engine: the embedded model with a small context."""
    return LoadOptions(**{"model_path": str(default_model()), "n_ctx": 1024, **changes})


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait until something is so; False if it is not in a generous time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def calls_in(action: Callable[..., object], *arguments: object) -> int:
    """How many Python functions an action calls: its work, the same on a fast and a slow machine.

    What the action raises is raised.
    """
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        action(*arguments)
    finally:
        sys.setprofile(None)
    return count


def child_of(engine: Engine) -> int:
    """Process id of an isolated engine's child."""
    return engine._core.child_pid  # type: ignore[attr-defined]


def alive(process: psutil.Process) -> bool:
    """Say whether a process has not ended (a zombie has)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """Wait until a process has ended; False if it does not end."""
    return wait_for(lambda: not psutil.pid_exists(pid) or not alive(psutil.Process(pid)))


def model_children(recursive: bool = False) -> list[psutil.Process]:
    """The living children of this process that hold a model.

    Args:
        recursive: Count the children's children too.
    """
    found = []
    for child in psutil.Process().children(recursive=recursive):
        try:
            if "helpers.isolation.child" in child.cmdline() and alive(child):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
