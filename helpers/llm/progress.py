"""A progress bar for long work, which short work does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DELAY = 2.0
"""Seconds after which a bar appears by itself."""

Listener = Callable[[str, int, int], object]
"""Is told what is done, how many steps of it were, and of how many."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener about the progress of what this block does, instead of showing bars.

    Args:
        listener: Called in the block's thread. What it raises ends the work.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress(total: int, what: str, shown: bool | None = None) -> Iterator[Callable[[int], object]]:
    """Show how much of some work is done, in one bar also where it is made of smaller works.

    Args:
        total: Steps of the work.
        what: What is done, in a word.
        shown: True, False, or None for a bar that appears after `DELAY` seconds.

    Yields:
        A function to call with the number of steps that were done.
    """
    if (listener := _listener.get()) is not None:
        done = 0

        def tell(steps: int) -> None:
            nonlocal done
            done += steps
            listener(what, done, total)

        tell(0)
        yield tell
        return
    from tqdm.auto import tqdm  # takes 50 ms, and long work alone needs it

    bar = tqdm(
        total=total, desc=what, disable=shown is False, delay=0 if shown else DELAY, leave=False
    )
    # Work within this work shows no bar of its own.
    with bar, listening(lambda *_: None):
        yield bar.update
