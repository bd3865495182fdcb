"""Check that a value suits its name: numbers, texts, switches and choices, each in one way."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_LONGEST = 86_400.0


def check_range(name: str, value: Any, low: float, high: float, hint: str = "") -> Any:
    """Check a number; where `low` is an `int`, only whole numbers pass.

    Args:
        name: What the value is called, for the message.
        value: The number. NumPy's numbers pass too; `True` and `False` do not.
        low: Smallest allowed value.
        high: Largest allowed value.
        hint: What the message adds about the range.

    Returns:
        The value as a Python `int` or `float`.

    Raises:
        TypeError: It is not a number, or not a whole one.
        ValueError: It is out of range.

    >>> check_range("n_batch", 512, 1, 1024)
    512
    """
    whole = isinstance(low, int)
    number: float = value
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise TypeError(f"{name}={value!r} must be a {'whole ' if whole else ''}number.")
    if math.isnan(number) or not low <= number <= high:
        limits = f"{low} to {high}" if whole else f"{low:g} to {high:g}"
        raise ValueError(f"{name}={value!r} is out of range: {limits}{hint}.")
    return int(number) if isinstance(value, Integral) else float(number)


def check_seconds(name: str, value: Any) -> float:
    """Check a longest time to wait: what a timer of the system can hold, and somebody can mean.

    Returns:
        The seconds, 0 to 86,400.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range.

    >>> check_seconds("timeout", 5)
    5.0
    """
    return float(check_range(name, value, 0.0, _LONGEST, " seconds (a day)"))


def check_text(name: str, value: Any) -> str:
    """Check a text.

    Returns:
        The value as a plain `str`; of a subclass, such as a string enum, its content.

    Raises:
        TypeError: It is not a text.

    >>> check_text("suffix", "!")
    '!'
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text (str), not {type(value).__name__}.")
    return str.__str__(value)


def check_path(name: str, value: Any) -> str:
    """Check a path.

    Returns:
        The path as a plain `str`, a `~` at its beginning as the home that it stands for.

    Raises:
        TypeError: It is neither `str` nor `PathLike`.

    >>> check_path("model_path", Path("model.gguf"))
    'model.gguf'
    """
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise TypeError(f"{name}={value!r} must be a path: str or PathLike.")
    path = str.__str__(path)
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # the home of nobody: there will be no such file
        return path


def check_switch(name: str, value: Any) -> bool:
    """Check a switch; what equals True or False, as 1 and NumPy's booleans do, passes too.

    Returns:
        The value as a plain `bool`.

    Raises:
        TypeError: It is neither.

    >>> check_switch("echo", 1)
    True
    """
    if value not in (True, False):
        raise TypeError(f"{name}={value!r} must be True or False.")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Check that a value is one of some choices, which are told apart by type too.

    Returns:
        The value.

    Raises:
        ValueError: It is none of them.

    >>> check_choice("flash_attn", None, (True, False, None))
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        known = [repr(choice) for choice in choices]
        listed = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise ValueError(f"{name}={value!r} must be {listed}.")
    return value
