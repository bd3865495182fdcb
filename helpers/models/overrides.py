"""`kv_overrides`: metadata that replaces the file's own, held to the same rules.

llama.cpp checks little of it: a `block_count` too large or an epsilon below zero is an assertion
that ends the process, a value of the wrong type is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helpers.models.check import checked_header, fingerprint
from helpers.models.formats import VALUE_FORMATS, VALUE_NAMES
from helpers.models.header import Header
from helpers.models.plausible import find_implausible
from helpers.models.verdict import uphold

# Smallest and largest of each integer type; llama.cpp takes them as signed numbers of 64 bits.
_BOUNDS = {
    name: (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)
    if code.islower()
    else (0, 2 ** min(8 * size, 63) - 1)
    for name, code, size in VALUE_FORMATS.values()
    if code in "bhiqBHIQ"
}
_CODES = {name: code for code, name in VALUE_NAMES.items()}


def check_overrides(path: str, pairs: Sequence[tuple[str, Any]]) -> tuple[Header, ...]:
    """Refuse overrides that llama.cpp would ignore, or with which no model could be loaded.

    Args:
        path: The model file.
        pairs: Keys and values; with none, this is the check of the file alone.

    Returns:
        The headers of the model's parts, as they are with the overrides.

    Raises:
        ModelFileError: The file itself is not one that llama.cpp could load.
        ValueError: A value of another type than the file's, out of range, or impossible.
    """
    headers = checked_header(path)
    if not pairs:
        return headers
    changed = _Overridden(headers[0])
    for key, value in pairs:
        changed.replace(key, value)
    file = changed.path
    problem = find_implausible(changed, [t for header in headers for t in header.tensors])
    problem = uphold(problem, file, fingerprint(file), pairs)
    if problem is not None:
        keys = ", ".join(key for key, _ in pairs)
        raise ValueError(f"kv_overrides ({keys}): with them, the model {problem.rstrip('.')}.")
    return (changed, *headers[1:])


class _Overridden(Header):
    """A header with some values replaced."""

    def __init__(self, original: Header) -> None:
        self.__dict__.update(original.__dict__)
        self._values = dict(original._values)
        self._types = dict(original._types)

    def replace(self, key: str, value: Any) -> None:
        kind = _kind_of(value)
        found = self.type_of(key) if key in self else None
        if found is None:
            name = {"int": "u32", "float": "f32", "bool": "bool", "str": "str"}[kind]
        elif len(found) > 1 or _family(found[0]) != kind:
            raise ValueError(
                f"kv_overrides: {key!r} is of type {' of '.join(found)} in the file; "
                f"{value!r} is not, and llama.cpp would ignore it."
            )
        else:
            name = found[0]
        low, high = _BOUNDS.get(name, (None, None))
        if low is not None and high is not None and not low <= value <= high:
            raise ValueError(f"kv_overrides: {key!r} = {value!r} is out of range: {low} to {high}.")
        self._values[key] = value
        self._types[key] = (_CODES[name],)


def _kind_of(value: Any) -> str:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind.__name__
    raise ValueError(f"kv_overrides: {value!r} must be a bool, a number or a string.")


def _family(name: str) -> str:
    if name in _BOUNDS:
        return "int"
    return "float" if name in ("f32", "f64") else name
