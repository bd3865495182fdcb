"""Intersection and complement of numbers and strings."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Any

from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema import regex
from helpers.grammars.schema.domains import (
    Num,
    Simple,
    Str,
    exact,
    is_number,
    number_in,
    string_in,
)


class Inexpressible(Exception):
    """A combination that no grammar expresses, with the JSON Schema keyword that asks for it."""

    def __init__(self, keyword: str, reason: str) -> None:
        super().__init__(reason)
        self.keyword = keyword
        self.reason = reason


def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two bounds; None is no bound."""
    return min((x for x in (one, other) if x is not None), default=None)


def intersect_numbers(one: Num, other: Num) -> Num | None:
    """Numbers in both ranges, or None if there are none."""
    low, low_open = one.low, one.low_open
    if other.low is not None and (low is None or other.low > low):
        low, low_open = other.low, other.low_open
    elif other.low == low:
        low_open = low_open or other.low_open
    high, high_open = one.high, one.high_open
    if other.high is not None and (high is None or other.high < high):
        high, high_open = other.high, other.high_open
    elif other.high == high:
        high_open = high_open or other.high_open
    multiple = one.multiple or other.multiple
    if one.multiple and other.multiple:
        a, b = one.multiple, other.multiple
        scale = lcm(a.denominator, b.denominator)
        multiple = Fraction(lcm(int(a * scale), int(b * scale)), scale)
    where = other.where if other.multiple or other.low is not None else one.where
    integer = one.integer or other.integer
    met = Num(integer, low, low_open, high, high_open, multiple, where)
    return None if is_empty_range(met) else met


def is_empty_range(option: Num) -> bool:
    """Whether a range contains no number."""
    low, high = option.low, option.high
    if low is None or high is None:
        return False
    if low > high or (low == high and not number_in(option, low)):
        return True
    if (option.integer or option.multiple) and low < high:
        step = option.multiple or Fraction(1)
        if option.integer:
            step = Fraction(step.numerator)  # the integers among the multiples of p/q
        first = -((-Fraction(low)) // step) * step
        if option.low_open and first == low:
            first += step
        return first > high or (option.high_open and first == high)
    return False


def complement_numbers(option: Num) -> list[Simple]:
    """All other numbers."""
    if option.multiple is not None:
        raise Inexpressible("not", "the negation of multipleOf")
    if option.integer and not (option.low is not None and option.low == option.high):
        raise Inexpressible("not", "numbers that are not integers")
    found: list[Simple] = []
    if option.low is not None:
        found.append(Num(high=option.low, high_open=not option.low_open))
    if option.high is not None:
        found.append(Num(low=option.high, low_open=not option.high_open))
    return found


def complement_strings(option: Str) -> list[Simple]:
    """All other strings."""
    if option.texts is not None:
        return [Str(excluded=option.texts)]
    if option.patterns:
        raise Inexpressible("not", "the negation of a pattern or format")
    found: list[Simple] = []
    if option.low:
        found.append(Str(high=option.low - 1))
    if option.high is not None:
        found.append(Str(low=option.high + 1))
    if option.excluded:
        order = tuple(sorted(option.excluded))
        found.append(Str(texts=option.excluded, order=order))
    return found


def intersect_strings(one: Str, other: Str) -> Str | None:
    """Strings in both, or None if there are certainly none."""
    if one.texts is not None or other.texts is not None:
        listed, rest = (one, other) if one.texts is not None else (other, one)
        order = listed.order or tuple(sorted(listed.texts or ()))
        kept = tuple(text for text in order if string_in(rest, text))
        return Str(texts=frozenset(kept), order=kept) if kept else None
    low, high = max(one.low, other.low), least(one.high, other.high)
    if high is not None and high < low:
        return None
    patterns = tuple(dict.fromkeys(one.patterns + other.patterns))
    where = one.where if one.patterns else other.where
    excluded = one.excluded | other.excluded
    return replace(one, low=low, high=high, patterns=patterns, excluded=excluded, where=where)


def as_pattern(option: Str) -> Node | None:
    """One pattern for all conditions on a string, if there is one."""
    patterns = list(option.patterns)
    if option.low or option.high is not None:
        patterns.append(regex.of_length(option.low, option.high))
    if option.excluded:
        patterns.append(regex.all_but(option.excluded))
    return patterns[0] if len(patterns) == 1 else None


def is_inexpressible(value: Any) -> bool:
    """Whether llguidance would round a number, or a string cannot be written in UTF-8."""
    if isinstance(value, list):
        return any(is_inexpressible(item) for item in value)
    if isinstance(value, dict):
        return any(is_inexpressible(item) for pair in value.items() for item in pair)
    if isinstance(value, str):
        return any(0xD800 <= ord(char) <= 0xDFFF for char in value)
    return is_number(value) and not -(2**53) <= exact(value) <= 2**53


def values_in(value: Any) -> int:
    """How many lists, objects and numbers a value is made of."""
    if isinstance(value, dict | list):
        return 1 + sum(map(values_in, value.values() if isinstance(value, dict) else value))
    return int(not isinstance(value, str))
