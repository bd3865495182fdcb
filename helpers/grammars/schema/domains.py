"""JSON values by shape: what is left of a JSON Schema after its logic has been worked out.

A `Shape` is a choice between alternatives, each for one JSON type, without `allOf`, `oneOf`, `not`
or conditions; a `Link` stands for a shape that is worked out later (a `$ref`, or the intersection
of two), which is what lets recursive schemas end. `algebra` computes with shapes, `emit` writes
them for llguidance, and `holds` judges values by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema.regex import fits

Number = int | Decimal


@dataclass(frozen=True, slots=True)
class Null:
    """The value null."""


@dataclass(frozen=True, slots=True)
class Bool:
    """Some of true and false."""

    values: frozenset[bool] = frozenset({True, False})


@dataclass(frozen=True, slots=True)
class Num:
    """Numbers in a range; `multiple` of a number, `integer` of one."""

    integer: bool = False
    low: Number | None = None
    low_open: bool = False
    high: Number | None = None
    high_open: bool = False
    multiple: Fraction | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Str:
    """Texts: the listed ones, or those of a length that all patterns describe as a whole."""

    texts: frozenset[str] | None = None
    order: tuple[str, ...] = field(default=(), compare=False)
    low: int = 0
    high: int | None = None
    patterns: tuple[Node, ...] = ()
    excluded: frozenset[str] = frozenset()
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Arr:
    """Arrays: shapes of the first elements, of the others, and how many."""

    first: tuple[Shape, ...] = ()
    rest: Shape | None = None  # None: anything
    low: int = 0
    high: int | None = None
    unique: bool = False
    contains: tuple[tuple[Shape, int, int | None], ...] = ()
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Obj:
    """Objects: shapes of named members, of those whose name fits a pattern, and of the others."""

    members: tuple[tuple[str, Shape], ...] = ()
    by_pattern: tuple[tuple[Node, Shape], ...] = ()
    rest: Shape | None = None  # None: anything
    required: tuple[str, ...] = ()
    low: int = 0
    high: int | None = None
    where: str = field(default="", compare=False)

    def member(self, name: str) -> Shape | None:
        """The shape of a member; None means anything."""
        for known, shape in self.members:
            if known == name:
                return shape
        for pattern, shape in self.by_pattern:
            if fits(pattern, name):
                return shape
        return self.rest


@dataclass(frozen=True, slots=True)
class Link:
    """A shape by its number in a `Links` table."""

    number: int


Simple = Null | Bool | Num | Str | Arr | Obj


@dataclass(frozen=True, slots=True)
class Union:
    """A choice between alternatives; none at all is what no value has."""

    options: tuple[Simple | Link, ...]


Shape = Union | Link

NEVER = Union(())
ANYTHING = Union((Null(), Bool(), Num(), Str(), Arr(), Obj()))


class Links:
    """Shapes that are worked out when they are first asked for."""

    def __init__(self) -> None:
        self._makers: list[Callable[[], Shape]] = []
        self._found: dict[int, Union] = {}
        self._running: set[int] = set()
        self._of_key: dict[Any, Link] = {}

    def link(self, key: Any, maker: Callable[[], Shape]) -> Link:
        """A link for a key; `maker` makes its shape, once."""
        if key not in self._of_key:
            self._makers.append(maker)
            self._of_key[key] = Link(len(self._makers) - 1)
        return self._of_key[key]

    def open(self, shape: Shape) -> Union:
        """The shape itself, links at its top replaced by what they stand for.

        Raises:
            RecursionError: If a link stands for itself.
        """
        if isinstance(shape, Union):
            if not any(isinstance(option, Link) for option in shape.options):
                return shape
            options: list[Simple] = []
            for option in shape.options:
                found = self.open(Union((option,)) if not isinstance(option, Link) else option)
                options += [item for item in found.options if not isinstance(item, Link)]
            return Union(tuple(dict.fromkeys(options)))
        number = shape.number
        if number not in self._found:
            if number in self._running:
                raise RecursionError("a $ref that leads to itself")
            self._running.add(number)
            try:
                self._found[number] = self.open(self._makers[number]())
            finally:
                self._running.discard(number)
        return self._found[number]


def is_number(value: Any) -> bool:
    """Whether a parsed JSON value is a number."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def exact(value: Any) -> Number:
    """A parsed JSON number without rounding; whole numbers as int."""
    if isinstance(value, int):
        return value
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    return int(number) if number == number.to_integral_value() else number


def holds(shape: Shape | None, value: Any, links: Links) -> bool:
    """Whether a JSON value has a shape, its members in any order.

    Args:
        shape: The shape; None holds for everything.
        value: A value as `json.loads` gives it.
        links: Where links lead.

    Returns:
        True if it does.
    """
    if shape is None or shape is ANYTHING:
        return True
    return any(
        not isinstance(option, Link) and _holds(option, value, links)
        for option in links.open(shape).options
    )


def _holds(option: Simple, value: Any, links: Links) -> bool:
    if isinstance(option, Null):
        return value is None
    if isinstance(option, Bool):
        return isinstance(value, bool) and value in option.values
    if isinstance(option, Num):
        return is_number(value) and number_in(option, exact(value))
    if isinstance(option, Str):
        return isinstance(value, str) and text_in(option, value)
    if isinstance(option, Arr):
        return isinstance(value, list) and _array_in(option, value, links)
    return isinstance(value, dict) and _object_in(option, value, links)


def number_in(option: Num, value: Number) -> bool:
    """Whether a number is in a range."""
    if option.integer and not isinstance(value, int):
        return False
    if option.low is not None and (value < option.low or (option.low_open and value == option.low)):
        return False
    if option.high is not None and (
        value > option.high or (option.high_open and value == option.high)
    ):
        return False
    return option.multiple is None or (Fraction(value) / option.multiple).denominator == 1


def text_in(option: Str, value: str) -> bool:
    """Whether a text is among some."""
    if option.texts is not None:
        return value in option.texts
    if len(value) < option.low or (option.high is not None and len(value) > option.high):
        return False
    return value not in option.excluded and all(fits(pattern, value) for pattern in option.patterns)


def _array_in(option: Arr, value: list[Any], links: Links) -> bool:
    if len(value) < option.low or (option.high is not None and len(value) > option.high):
        return False
    for at, item in enumerate(value):
        shape = option.first[at] if at < len(option.first) else option.rest
        if not holds(shape, item, links):
            return False
    for shape, low, high in option.contains:
        count = sum(holds(shape, item, links) for item in value)
        if count < low or (high is not None and count > high):
            return False
    return not option.unique or all_different(value)


def _object_in(option: Obj, value: dict[str, Any], links: Links) -> bool:
    if len(value) < option.low or (option.high is not None and len(value) > option.high):
        return False
    return all(name in value for name in option.required) and all(
        holds(option.member(name), item, links) for name, item in value.items()
    )


def all_different(values: list[Any]) -> bool:
    """Whether no two JSON values are equal (1 and 1.0 are, 1 and true are not)."""
    seen: set[Any] = set()
    for value in values:
        key = identity(value)
        if key in seen:
            return False
        seen.add(key)
    return True


def identity(value: Any) -> Any:
    """A hashable value, equal for equal JSON values."""
    if isinstance(value, list):
        return ("array", tuple(identity(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((name, identity(item)) for name, item in value.items()))
    if is_number(value):
        return ("number", exact(value))
    return (type(value).__name__, value)


def constant(value: Any) -> Shape:
    """The shape that one value has.

    Args:
        value: A JSON value.

    Returns:
        The shape; members keep their order.
    """
    if value is None:
        return Union((Null(),))
    if isinstance(value, bool):
        return Union((Bool(frozenset({value})),))
    if isinstance(value, str):
        return Union((Str(texts=frozenset({value}), order=(value,)),))
    if isinstance(value, list):
        items = tuple(constant(item) for item in value)
        return Union((Arr(items, NEVER, len(items), len(items)),))
    if isinstance(value, dict):
        members = tuple((name, constant(item)) for name, item in value.items())
        return Union((Obj(members, (), NEVER, tuple(value)),))
    number = exact(value)
    return Union((Num(isinstance(number, int), number, False, number, False),))


def constants(values: list[Any]) -> Shape:
    """The shape that any of some values has; texts and booleans together, the rest one by one."""
    options: list[Simple | Link] = []
    texts = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    flags = frozenset(value for value in values if isinstance(value, bool))
    for value in values:
        if isinstance(value, str):
            option: Simple | Link = Str(texts=frozenset(texts), order=texts)
        elif isinstance(value, bool):
            option = Bool(flags)
        else:
            (option,) = constant(value).options  # type: ignore[union-attr]
        if option not in options:
            options.append(option)
    return Union(tuple(options))


def listed(shape: Shape, links: Links, limit: int) -> list[Any] | None:
    """All values of a shape, if they are few.

    Args:
        shape: The shape.
        links: Where links lead.
        limit: Most values that are listed.

    Returns:
        The values, or None if there are more, or too many to tell.
    """
    found: list[Any] = []
    for option in links.open(shape).options:
        if isinstance(option, Null):
            found.append(None)
        elif isinstance(option, Bool):
            found += sorted(option.values)
        elif isinstance(option, Str) and option.texts is not None:
            found += option.order or sorted(option.texts)
        elif isinstance(option, Num) and option.low is not None and option.high is not None:
            if option.low == option.high:
                found.append(option.low)
            elif option.integer and option.high - option.low <= limit:
                numbers = range(int(option.low) - 1, int(option.high) + 2)
                found += [number for number in numbers if number_in(option, number)]
            else:
                return None
        else:
            return None
        if len(found) > limit:
            return None
    return list({identity(value): value for value in found}.values())


def ordered(shape: Shape | None, value: Any, links: Links) -> Any:
    """A value with the members of its objects in the order in which a shape names them.

    Args:
        shape: The shape; of several alternatives, the first that holds decides.
        value: A value in Python's own types.
        links: Where links lead.

    Returns:
        The same value, its dicts reordered.
    """
    if shape is None or not isinstance(value, dict | list):
        return value
    for option in links.open(shape).options:
        if isinstance(option, Arr) and isinstance(value, list) and _holds(option, value, links):
            heads = len(option.first)
            return [
                ordered(option.first[at] if at < heads else option.rest, item, links)
                for at, item in enumerate(value)
            ]
        if isinstance(option, Obj) and isinstance(value, dict) and _holds(option, value, links):
            known = dict.fromkeys([*(name for name, _ in option.members), *option.required, *value])
            return {
                name: ordered(option.member(name), value[name], links)
                for name in known
                if name in value
            }
    return value
