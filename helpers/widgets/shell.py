"""What every widget of ours needs: figures as pictures, and one piece of work at a time."""

from __future__ import annotations

import base64
import contextlib
import html
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from helpers.checks import check_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTLE_S = 0.3
"""The browser holds back what was typed or moved last, and lets the click overtake it."""


def picture(figure: Figure) -> str:
    """A figure as a picture that says in words what it shows."""
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    data = base64.b64encode(png).decode()
    words = html.escape(getattr(figure, "description", ""), quote=True)
    return (
        f'<img alt="{words}" width="{size["width"]}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}">'
    )


class Work:
    """One piece of work at a time, in the caller's thread or, after a click, in one of its own.

    Args:
        name: Name of the thread.
        starts: The buttons that start it, and what it goes by; they are disabled meanwhile.
        end: The button that ends it; it is enabled only then.

    Attributes:
        stop: Set to ask the work to end early.
    """

    def __init__(self, name: str, starts: Sequence[Any], end: Any) -> None:
        self.stop = threading.Event()
        self._name, self._starts, self._end = name, starts, end
        self._waiting: list[Any] = []
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def in_progress(self) -> bool:
        """Whether it has begun and not yet ended."""
        return self._busy.locked()

    def begin(self) -> bool:
        """Get ready; False if it is in progress already."""
        if not self._busy.acquire(blocking=False):
            return False
        self.stop.clear()
        self._waiting = [button for button in self._starts if not button.disabled]
        self._switch(busy=True)
        return True

    @contextlib.contextmanager
    def showing(self, fail: Callable[[BaseException], None]) -> Iterator[None]:
        """Do the work in this block; whatever ends it is shown, and the next can begin.

        Nobody would see an exception in a widget's callback or a thread: `fail` shows it where
        the result would be. Ctrl-C goes on to the caller, too.
        """
        try:
            yield
        except BaseException as error:
            fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._switch(busy=False)
            self._busy.release()

    def after_click(self, action: Callable[[], object]) -> None:
        """Act in a thread, so that the kernel can answer, once the last changes have arrived.

        Args:
            action: What to do; it shows its own failures.
        """

        def run() -> None:
            time.sleep(_SETTLE_S)
            action()

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for what a click has begun, at most some seconds."""
        if timeout_s is not None:
            timeout_s = check_seconds("timeout_s", timeout_s)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _switch(self, *, busy: bool) -> None:
        for button in self._waiting:
            button.disabled = busy
        self._end.disabled = not busy
