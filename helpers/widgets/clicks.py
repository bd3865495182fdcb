"""What a click starts: work in a thread, so that the kernel can answer meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SETTLE_S = 0.3
"""The browser holds back what was typed or moved last, and lets the click overtake it."""


def start_after_click(action: Callable[[], object], name: str) -> threading.Thread:
    """Run an action in a thread once the last changes have arrived, and return the thread.

    Args:
        action: What to do; it shows its own failures.
        name: Name of the thread.
    """

    def run() -> None:
        time.sleep(_SETTLE_S)
        action()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
