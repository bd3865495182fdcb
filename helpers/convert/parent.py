"""One task of `helpers.convert.child`, in a process of its own that ends with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from helpers.children import Child

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
    child = Child(
        "helpers.convert.child",
        role="did the work",
        remedy="The kernel is unharmed and no file was left. Check the model with "
        "helpers.inspect_model, free some memory, try again.",
    )
    with closing(child):
        return child.ask({"task": task, **arguments}, progress=progress)
