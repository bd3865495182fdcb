"""Sets of JSON values (domains): what is left of a JSON Schema once its logic is resolved.

A `Domain` is the set of values that a schema allows: a choice between alternatives, each for one
JSON type, without `allOf`, `oneOf`, `not` or conditions. A `Link` stands for a domain that is
computed later (a `$ref`, or the intersection of two), which is what lets recursive schemas end.
`algebra` computes with domains, `emit` writes them for llguidance, and `contains` judges values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from typing import Any

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema.regex import fits

Number = int | Decimal

MAX_STEPS = 1_000_000
"""Steps that one schema may cost, of a few microseconds each. What grows is rarely the schema's
size: conditions multiply with each other, so their work is bounded, not their number."""


class Hashed:
    """Values that keep their hash: they hold many others, and are looked up often."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            compared = (part.name for part in fields(self) if part.compare)  # type: ignore[arg-type]
            object.__setattr__(self, "_hash", hash(tuple(getattr(self, name) for name in compared)))
            return self._hash


@dataclass(frozen=True, slots=True)
class Null:
    """The value null."""


@dataclass(frozen=True, slots=True)
class Bool:
    """Some of true and false."""

    values: frozenset[bool] = frozenset({True, False})


@dataclass(frozen=True, slots=True)
class Num:
    """Numbers in a range; multiples of `multiple`, whole ones if `integer`."""

    integer: bool = False
    low: Number | None = None
    low_open: bool = False
    high: Number | None = None
    high_open: bool = False
    multiple: Fraction | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Str(Hashed):
    """Strings: the listed ones, or those of a length that all patterns describe as a whole."""

    __hash__ = Hashed.__hash__

    texts: frozenset[str] | None = None
    order: tuple[str, ...] = field(default=(), compare=False)
    low: int = 0
    high: int | None = None
    patterns: tuple[Node, ...] = ()
    excluded: frozenset[str] = frozenset()
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Arr(Hashed):
    """Arrays: domains of the first elements, of the others, and how many."""

    __hash__ = Hashed.__hash__

    first: tuple[Domain, ...] = ()
    rest: Domain | None = None  # None: anything
    low: int = 0
    high: int | None = None
    unique: bool = False
    contains: tuple[tuple[Domain, int, int | None], ...] = ()
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Obj(Hashed):
    """Objects: domains of named members, of those whose name fits a pattern, and of the others."""

    __hash__ = Hashed.__hash__

    members: tuple[tuple[str, Domain], ...] = ()
    by_pattern: tuple[tuple[Node, Domain], ...] = ()
    rest: Domain | None = None  # None: anything
    required: tuple[str, ...] = ()
    low: int = 0
    high: int | None = None
    where: str = field(default="", compare=False)
    _of_name: dict[str, Domain] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of_name", dict(self.members))

    def member(self, name: str) -> Domain | None:
        """The domain of a member; None means anything."""
        if name in self._of_name:
            return self._of_name[name]
        for pattern, domain in self.by_pattern:
            if fits(pattern, name):
                return domain
        return self.rest


@dataclass(frozen=True, slots=True)
class Link:
    """A domain by its number in a `Links` table."""

    number: int


@dataclass(frozen=True, slots=True)
class Inexact:
    """Marks a domain that is not quite its schema's: what it says of one JSON type is approximate.

    It is no value: nothing is written for it. But it goes wherever the domain goes, so that the
    complement of an approximation, which would err in the other direction, is never taken.
    """

    of: type[Any]
    keyword: str
    reason: str
    where: str = field(default="", compare=False)
    narrower: bool = True


Simple = Null | Bool | Num | Str | Arr | Obj | Inexact


@dataclass(frozen=True, slots=True)
class Union(Hashed):
    """A choice between alternatives; without any it is empty."""

    __hash__ = Hashed.__hash__

    options: tuple[Simple | Link, ...]


Domain = Union | Link

NEVER = Union(())
ANYTHING = Union((Null(), Bool(), Num(), Str(), Arr(), Obj()))


def either(domains: list[Domain], *, keep: bool = False) -> Domain:
    """The values in at least one of some domains; `keep` keeps marks beside anything."""
    options: list[Simple | Link] = []
    for domain in domains:
        if domain == ANYTHING and not keep:
            return ANYTHING
        options += [domain] if isinstance(domain, Link) else domain.options
    return Union(tuple(dict.fromkeys(options)))


class Links:
    """Domains that are computed when they are first needed, and the count of what that costs."""

    def __init__(self) -> None:
        self.steps = 0
        self._makers: list[Callable[[], Domain]] = []
        self._found: dict[int, Union] = {}
        self._running: set[int] = set()
        self._of_key: dict[Any, Link] = {}

    def spend(self, steps: int, what: str) -> None:
        """Count steps of work.

        Args:
            steps: How many.
            what: What they are spent on: the keywords, in words.

        Raises:
            GrammarError: When the schema has cost more than `MAX_STEPS`.
        """
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise GrammarError(
                f"The schema costs more than {MAX_STEPS:,} steps to resolve, the last ones for "
                f"{what}. Combine fewer of these conditions, or divide the schema.",
                keyword="schema",
                pointer="",
            )

    def link(self, key: Any, maker: Callable[[], Domain]) -> Link:
        """A link for a key; `maker` computes its domain, once."""
        if key not in self._of_key:
            self._makers.append(maker)
            self._of_key[key] = Link(len(self._makers) - 1)
        return self._of_key[key]

    def resolve(self, domain: Domain) -> Union:
        """The domain itself, links at its top replaced by what they stand for.

        Raises:
            RecursionError: If a link stands for itself.
        """
        if isinstance(domain, Union):
            if not any(isinstance(option, Link) for option in domain.options):
                return domain
            options: list[Simple] = []
            for option in domain.options:
                found = self.resolve(Union((option,)) if not isinstance(option, Link) else option)
                options += [item for item in found.options if not isinstance(item, Link)]
            return Union(tuple(dict.fromkeys(options)))
        number = domain.number
        if number not in self._found:
            if number in self._running:
                raise RecursionError("a $ref that refers to itself")
            self._running.add(number)
            try:
                self._found[number] = self.resolve(self._makers[number]())
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


Judged = dict[tuple[int, int], bool]
"""Whether an alternative contains a value, by the identities of both."""


def contains(domain: Domain | None, value: Any, links: Links, judged: Judged | None = None) -> bool:
    """Whether a JSON value is in a domain, its members in any order.

    Args:
        domain: The domain; None contains for everything.
        value: A value as `json.loads` gives it.
        links: Where links lead.
        judged: What is known about parts of the value: alternatives that share a domain for one
            member would judge it as often as there are ways to combine them.

    Returns:
        True if it does.
    """
    if domain is None or domain is ANYTHING:
        return True
    judged = {} if judged is None else judged
    for option in links.resolve(domain).options:
        if isinstance(option, Link):
            continue
        key = id(option), id(value)
        if key not in judged:
            judged[key] = _option_contains(option, value, links, judged)
        if judged[key]:
            return True
    return False


def _option_contains(option: Simple, value: Any, links: Links, judged: Judged) -> bool:
    if isinstance(option, Null):
        return value is None
    if isinstance(option, Bool):
        return isinstance(value, bool) and value in option.values
    if isinstance(option, Num):
        return is_number(value) and number_in(option, exact(value))
    if isinstance(option, Str):
        return isinstance(value, str) and string_in(option, value)
    if isinstance(option, Arr):
        return isinstance(value, list) and _array_in(option, value, links, judged)
    if isinstance(option, Inexact):
        return False
    return isinstance(value, dict) and _object_in(option, value, links, judged)


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


def in_bounds(count: int, low: int, high: int | None) -> bool:
    """Whether a number is within bounds; None is no bound."""
    return low <= count and (high is None or count <= high)


def string_in(option: Str, value: str) -> bool:
    """Whether a string is in a domain."""
    if option.texts is not None:
        return value in option.texts
    if not in_bounds(len(value), option.low, option.high):
        return False
    return value not in option.excluded and all(fits(pattern, value) for pattern in option.patterns)


def _array_in(option: Arr, value: list[Any], links: Links, judged: Judged) -> bool:
    if not in_bounds(len(value), option.low, option.high):
        return False
    for at, item in enumerate(value):
        domain = option.first[at] if at < len(option.first) else option.rest
        if not contains(domain, item, links, judged):
            return False
    for domain, low, high in option.contains:
        count = sum(contains(domain, item, links, judged) for item in value)
        if not in_bounds(count, low, high):
            return False
    return not option.unique or all_different(value)


def _object_in(option: Obj, value: dict[str, Any], links: Links, judged: Judged) -> bool:
    if not in_bounds(len(value), option.low, option.high):
        return False
    return all(name in value for name in option.required) and all(
        contains(option.member(name), item, links, judged) for name, item in value.items()
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


def constant(value: Any) -> Union:
    """The domain of one value.

    Args:
        value: A JSON value.

    Returns:
        The domain; members keep their order.
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


def constants(values: list[Any]) -> Domain:
    """The domain of some values; strings and booleans together, the rest one by one."""
    options: dict[Simple | Link, None] = {}  # an ordered set
    order = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    texts = Str(texts=frozenset(order), order=order)
    flags = Bool(frozenset(value for value in values if isinstance(value, bool)))
    for value in values:
        if isinstance(value, str):
            options[texts] = None
        elif isinstance(value, bool):
            options[flags] = None
        else:
            options |= dict.fromkeys(constant(value).options)
    return Union(tuple(options))


def enumerated(domain: Domain, links: Links, limit: int) -> list[Any] | None:
    """All values of a domain, if they are few.

    Args:
        domain: The domain.
        links: Where links lead.
        limit: Most values that are listed.

    Returns:
        The values, or None if there are more, or too many to tell.
    """
    found: list[Any] = []
    for option in links.resolve(domain).options:
        if isinstance(option, Null):
            found.append(None)
        elif isinstance(option, Bool):
            found += sorted(option.values)
        elif isinstance(option, Str) and option.texts is not None:
            found += option.order or sorted(option.texts)
        elif isinstance(option, Num) and option.low is not None and option.high is not None:
            if option.low == option.high:
                found += [option.low] if number_in(option, option.low) else []
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


def reordered(
    domain: Domain | None,
    value: Any,
    links: Links,
    parts: dict[Simple, list[Simple]],
    judged: Judged | None = None,
) -> Any:
    """A value with the members of its objects in the order in which a domain names them.

    Args:
        domain: The domain; of several alternatives, the first that contains decides.
        value: A value in Python's own types.
        links: Where links lead.
        parts: What was written in place of an alternative, where that is not itself.
        judged: As for `contains`.

    Returns:
        The same value, its dicts reordered.
    """
    if domain is None or not isinstance(value, dict | list):
        return value
    judged = {} if judged is None else judged
    options = links.resolve(domain).options
    for option in (part for whole in options for part in _parts(whole, parts)):
        if (
            isinstance(option, Arr)
            and isinstance(value, list)
            and contains(Union((option,)), value, links, judged)
        ):
            heads = len(option.first)
            return [
                reordered(
                    option.first[at] if at < heads else option.rest, item, links, parts, judged
                )
                for at, item in enumerate(value)
            ]
        if (
            isinstance(option, Obj)
            and isinstance(value, dict)
            and contains(Union((option,)), value, links, judged)
        ):
            known = dict.fromkeys([*(name for name, _ in option.members), *option.required, *value])
            return {
                name: reordered(option.member(name), value[name], links, parts, judged)
                for name in known
                if name in value
            }
    return value


def _parts(option: Simple | Link, parts: dict[Simple, list[Simple]]) -> list[Simple]:
    return [] if isinstance(option, Link) else parts.get(option, [option])
