"""Run one hostile use and print its outcome: `python -m tests.hostile GROUP NAME`."""

from __future__ import annotations

import importlib
import sys
from types import FrameType

from tests.hostile.base import MARK, Use

_kept: list[FrameType] = []


def _keep(frame: FrameType, _event: str, _argument: object) -> None:
    """Keep a use's frame: as in a notebook, what it has named is there until the interpreter ends.

    A trace function is called when the next function is entered, and that is the use.
    """
    sys.settrace(None)
    _kept.append(frame)


def _run(group: str, name: str) -> None:
    uses: list[Use] = importlib.import_module(f"tests.hostile.{group}").use.table
    (use,) = (use for use in uses if use.name == name)
    outcome: tuple[object, ...]
    try:
        sys.settrace(_keep)
        outcome = ("gave", use.action())
    except SystemExit:
        raise
    except BaseException as caught:
        outcome = ("raised", [kind.__name__ for kind in type(caught).__mro__], str(caught))
    print("\n" + MARK + ascii(outcome), flush=True)


if __name__ == "__main__":
    _run(*sys.argv[1:])
