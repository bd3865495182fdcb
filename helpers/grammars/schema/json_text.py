r"""JSON texts in one canonical form, so that spelling does not matter when they are judged.

`1.0` and `1`, `"\u0041"` and `"A"`, any whitespace: the same values, written differently. A text
is read without rounding its numbers or dropping repeated names, and written in the one form that
grammars made from schemas know.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE]([-+]?\d{1,5}))?")
_MAX_EXPONENT = 400


class Pairs(list[tuple[str, Any]]):
    """An object as it is written: names in order, repeated ones too."""


class Numeral(str):
    """A number as it is written."""

    __slots__ = ()


def read(text: str) -> Any:
    """Parse a JSON text (RFC 8259), keeping the order of names and the digits of numbers.

    Args:
        text: The text.

    Returns:
        Values as `json.loads` gives them, with `Pairs` for objects and `Numeral` for numbers.

    Raises:
        ValueError: If it is not a JSON text; `json.JSONDecodeError` has the place.
        RecursionError: If it nests too deep.
    """
    return json.loads(
        text,
        object_pairs_hook=Pairs,
        parse_float=Numeral,
        parse_int=Numeral,
        parse_constant=_refuse,
    )


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def plain(value: Any) -> Any:
    """The value as Python's own types: dict, list, int, Decimal."""
    if isinstance(value, Pairs):
        return {name: plain(item) for name, item in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Numeral):
        return number(value)
    return value


def number(numeral: str) -> int | Decimal:
    """The value of a number without rounding; whole numbers as int."""
    exact = Decimal(numeral)
    if exact.adjusted() <= _MAX_EXPONENT and exact == exact.to_integral_value():
        return int(exact)
    return exact


def write(value: Any) -> str:
    r"""Write a value in canonical form.

    Args:
        value: What `read` gives.

    Returns:
        Compact JSON: only the escapes that JSON needs, numbers without exponent or needless zeros.

    >>> write(read('{ "a" : [1.50, 1e2, "\\u0041/"] }'))
    '{"a":[1.5,100,"A/"]}'
    """
    if isinstance(value, Pairs | dict):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{write(name)}:{write(item)}" for name, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item) for item in value) + "]"
    if isinstance(value, Numeral):
        return numeral(value)
    if isinstance(value, str):
        return _ESCAPED.sub(_escape, json.dumps(value, ensure_ascii=False))
    if isinstance(value, Decimal):
        return numeral(str(value))
    return json.dumps(value)


# llguidance writes U+007F as an escape; a lone surrogate has no other form.
_ESCAPED = re.compile("[\x7f\ud800-\udfff]")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def numeral(text: str) -> str:
    """A number's digits in plain decimal form.

    Args:
        text: The number as it is written.

    Returns:
        The same value without exponent and needless zeros; unchanged if that would be very long.
    """
    found = _NUMBER.fullmatch(text)
    if found is None or abs(int(found[1] or 0)) > _MAX_EXPONENT:
        return text
    digits = format(Decimal(text), "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits
