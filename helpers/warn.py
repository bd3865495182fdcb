"""Warnings that point at the caller's line, not at the machinery between it and us."""

from __future__ import annotations

import sys
import warnings

_MACHINERY = ("helpers", "pydantic", "langchain_core")


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as if from the first frame outside of this package, pydantic and LangChain."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in _MACHINERY:
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)
