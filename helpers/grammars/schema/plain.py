"""Plain JSON values of what Python programs put into a schema.

A schema made in Python may hold members of an `Enum`, NumPy's numbers, tuples, or subclasses of
`str` and `dict` whose pickle needs the program's own modules. A grammar keeps a copy that has none
of them: it can be sent to another process, and does not change with the caller's objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np


def plain_json(value: Any) -> Any:
    """A copy that consists of Python's own dicts, lists, texts, numbers, booleans and None.

    Args:
        value: The value; it may nest at any depth, and contain itself.

    Returns:
        The copy. What has no plain form is left as it is, for `load_schema` to refuse.
    """
    copies: dict[int, Any] = {}
    todo: list[tuple[Any, Any]] = []

    def copy(node: Any) -> Any:
        node = _scalar(node)
        if not isinstance(node, Mapping | list | tuple):
            return node
        if id(node) not in copies:
            copies[id(node)] = {} if isinstance(node, Mapping) else []
            todo.append((node, copies[id(node)]))  # keeps the node, and so its id, until the end
        return copies[id(node)]

    made = copy(value)
    for node, target in todo:  # grows meanwhile
        if isinstance(target, dict):
            target.update((_scalar(key), copy(item)) for key, item in node.items())
        else:
            target.extend(copy(item) for item in node)
    return made


def _scalar(node: Any) -> Any:
    while isinstance(node, Enum):
        node = node.value
    if isinstance(node, np.generic):
        node = node.item()
    if isinstance(node, str):
        return str.__str__(node)
    if isinstance(node, int) and not isinstance(node, bool):
        return int.__int__(node)
    if isinstance(node, float):
        return float.__float__(node)
    if isinstance(node, Decimal) and node.is_finite() and abs(node.adjusted()) < 300:
        # As `json.loads` would have read it; what a float cannot hold is left, and refused.
        number = int(node) if node == node.to_integral_value() else float(node)
        return number if number == node or Decimal(repr(number)) == node else node
    return node
