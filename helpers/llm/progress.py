"""A progress bar for long work, which short work does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY = 2.0
"""Seconds after which a bar appears by itself."""


@contextmanager
def progress(total: int, what: str, shown: bool | None = None) -> Iterator[Callable[[int], object]]:
    """Show how much of some work is done.

    Args:
        total: Steps of the work.
        what: What is done, in a word.
        shown: True, False, or None for a bar that appears after `DELAY` seconds.

    Yields:
        A function to call with the number of steps that were done.
    """
    from tqdm.auto import tqdm  # takes 50 ms, and long work alone needs it

    with tqdm(
        total=total, desc=what, disable=shown is False, delay=0 if shown else DELAY, leave=False
    ) as bar:
        yield bar.update
