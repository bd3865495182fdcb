"""Checkpoints of exercises."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from helpers.lessons.progress import note


def checkpoint(wanted: Mapping[str, Callable[[], object]]) -> bool:
    """Say which aims of an exercise are reached, one line each; nothing is raised.

    With the environment variable `LLAMA_NOTEBOOKS_PROGRESS` it also writes a line to a file of the
    learner's: see `helpers.lessons.progress`.

    Args:
        wanted: What is wanted, in words, and a function without arguments that looks whether it is
            so. An exception in it (a name that does not exist yet, a wrong type) counts as
            "not yet", and its message is shown.

    Returns:
        True if everything is reached.

    Example:
        >>> line = "The sea"
        >>> checkpoint({"a line": lambda: line, "a rhyme": lambda: line[99]})
        ✓ a line
        still to do: a rhyme (IndexError: string index out of range)
        False
    """
    reached = 0
    for what, look in wanted.items():
        reason = ""
        try:
            there = bool(look())
        except Exception as error:
            there, reason = False, f" ({type(error).__name__}: {error})"
        print(f"✓ {what}" if there else f"still to do: {what}{reason}")
        reached += there
    note(list(wanted), reached)
    return reached == len(wanted)
