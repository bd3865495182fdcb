"""Intersection, complement and emptiness of shapes: the logic behind `allOf`, `not` and `oneOf`.

Everything here is exact or raises `CannotSay`: a grammar must not accept what its schema refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.guidance import byte_tokenizer
from helpers.grammars.schema import regex
from helpers.grammars.schema.domains import (
    ANYTHING,
    NEVER,
    Arr,
    Bool,
    Link,
    Links,
    Null,
    Num,
    Obj,
    Shape,
    Simple,
    Str,
    Union,
)
from helpers.grammars.schema.scalars import (
    CannotSay,
    least,
    meet_numbers,
    meet_texts,
    no_number,
    other_numbers,
    other_texts,
)

MAX_OPTIONS = 256
"""Alternatives of one shape: products of conditions double quickly."""


class Algebra:
    """Computes with shapes of one schema.

    Args:
        links: The schema's links.

    Attributes:
        narrowed: Whether a complement has left out values that it could not describe.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self.narrowed = False
        self._overlaps: dict[tuple[Node, ...], bool] = {}

    # -- intersection -----------------------------------------------------------------------

    def both(self, one: Shape | None, other: Shape | None) -> Shape:
        """The shape of values that have both shapes; now, or later if links are involved."""
        if one is None or one is ANYTHING or one == other:
            return other if other is not None else ANYTHING
        if other is None or other is ANYTHING:
            return one
        if one == NEVER or other == NEVER:
            return NEVER
        if _has_link(one) or _has_link(other):
            return self.links.link(("both", one, other), lambda: self.both_now(one, other))
        return self.both_now(one, other)

    def without(self, shape: Shape, other: Shape) -> Union:
        """The shape of values that have the first and not the second; empty cases are dropped."""
        kept = self.both_now(shape, self.complement(other)).options
        return Union(tuple(option for option in kept if not self.is_empty(Union((option,)), 4)))

    def both_now(self, one: Shape, other: Shape) -> Union:
        """The same, worked out at the top at once."""
        found: dict[Simple | Link, None] = {}  # as a list without doubles
        others = self.links.open(other).options
        for left in self.links.open(one).options:
            for right in others:
                if type(left) is type(right):
                    option = self._meet(left, right)
                    if option is not None:
                        found[option] = None
            if len(found) > MAX_OPTIONS:
                reason = f"the conditions multiply to more than {MAX_OPTIONS} alternatives"
                raise CannotSay("allOf", reason)
        return Union(tuple(found))

    def _meet(self, one: Simple | Link, other: Simple | Link) -> Simple | None:
        if isinstance(one, Null):
            return one
        if isinstance(one, Bool) and isinstance(other, Bool):
            values = one.values & other.values
            return Bool(values) if values else None
        if isinstance(one, Num) and isinstance(other, Num):
            return meet_numbers(one, other)
        if isinstance(one, Str) and isinstance(other, Str):
            return meet_texts(one, other)
        if isinstance(one, Arr) and isinstance(other, Arr):
            return self._meet_arrays(one, other)
        assert isinstance(one, Obj) and isinstance(other, Obj)
        return self._meet_objects(one, other)

    def _meet_arrays(self, one: Arr, other: Arr) -> Arr | None:
        count = max(len(one.first), len(other.first))
        first = tuple(self.both(_item(one, at), _item(other, at)) for at in range(count))
        rest = None if one.rest is None and other.rest is None else self.both(one.rest, other.rest)
        low, high = max(one.low, other.low), least(one.high, other.high)
        if high is not None and high < low:
            return None
        contains = tuple(dict.fromkeys(one.contains + other.contains))
        unique = one.unique or other.unique
        return Arr(first, rest, low, high, unique, contains, _place(one, other, "unique"))

    def _meet_objects(self, one: Obj, other: Obj) -> Obj | None:
        names = dict.fromkeys([name for name, _ in (*one.members, *other.members)])
        members = tuple((n, self.both(one.member(n), other.member(n))) for n in names)
        by_pattern: list[tuple[Node, Shape]] = []
        theirs = dict(other.by_pattern)
        for pattern, shape in one.by_pattern:
            if pattern in theirs:
                by_pattern.append((pattern, self.both(shape, theirs.pop(pattern))))
            else:
                self._apart(pattern, [p for p, _ in other.by_pattern])
                by_pattern.append((pattern, self.both(shape, other.rest)))
        for pattern, shape in theirs.items():
            self._apart(pattern, [p for p, _ in one.by_pattern])
            by_pattern.append((pattern, self.both(shape, one.rest)))
        rest = None if one.rest is None and other.rest is None else self.both(one.rest, other.rest)
        required = tuple(dict.fromkeys(one.required + other.required))
        low, high = max(one.low, other.low), least(one.high, other.high)
        if high is not None and max(low, len(required)) > high:
            return None
        where = other.where if other.low or other.high is not None else one.where
        return Obj(members, tuple(by_pattern), rest, required, low, high, where)

    def _apart(self, pattern: Node, others: list[Node]) -> None:
        for other in others:
            if other != pattern and self.may_overlap([pattern, other]):
                raise CannotSay("patternProperties", "two patterns may fit the same name")

    # -- complement -------------------------------------------------------------------------

    def complement(self, shape: Shape) -> Shape:
        """The shape of all other values.

        Raises:
            CannotSay: If they have none.
        """
        result: Shape = ANYTHING
        options = self.links.open(shape).options
        for kind in (Null, Bool, Num, Str, Arr, Obj):
            mine = [option for option in options if isinstance(option, kind)]
            for option in mine:
                others = tuple(o for o in ANYTHING.options if not isinstance(o, kind))
                assert not isinstance(option, Link)
                result = self.both_now(result, Union((*others, *self._rest_of(option))))
        return result

    def _rest_of(self, option: Simple) -> Iterable[Simple]:
        """The values of the same type that are not in `option`."""
        if isinstance(option, Null):
            return ()
        if isinstance(option, Bool):
            rest = frozenset({True, False}) - option.values
            return (Bool(rest),) if rest else ()
        if isinstance(option, Num):
            return other_numbers(option)
        if isinstance(option, Str):
            return other_texts(option)
        if isinstance(option, Arr):
            return self._other_arrays(option)
        return self._other_objects(option)

    def _other_arrays(self, option: Arr) -> list[Simple]:
        if option.unique:
            raise CannotSay("not", "the opposite of uniqueItems")
        found: list[Simple] = []
        if option.low:
            found.append(Arr(high=option.low - 1))
        if option.high is not None:
            found.append(Arr(low=option.high + 1))
        for at, shape in enumerate(option.first):
            if not _is_anything(shape):
                other = self._complement_or_none(shape, bool(found))
                if other is not None:
                    found.append(Arr((*(ANYTHING,) * at, other), None, at + 1))
        if option.rest is not None and not _is_anything(option.rest):
            # Some element beyond the first ones is of another shape; which one, is not bounded
            # unless there can be none at all.
            if option.rest != NEVER:
                count = len(option.first)
                if count:
                    raise CannotSay("not", "the opposite of items after prefixItems")
                other = self.complement(option.rest)
                found.append(Arr(contains=((other, 1, None),), where=option.where))
            else:
                found.append(Arr(low=len(option.first) + 1))
        for shape, low, high in option.contains:
            if low == 1 and high is None:
                found.append(Arr(rest=self.complement(shape)))
            else:
                raise CannotSay("not", "the opposite of minContains or maxContains")
        return found

    def _other_objects(self, option: Obj) -> list[Simple]:
        found: list[Simple] = []
        for name in option.required:
            found.append(Obj(members=((name, NEVER),)))
        for name, shape in option.members:
            if not _is_anything(shape):
                other = self._complement_or_none(shape, bool(found))
                if other is not None:
                    found.append(Obj(members=((name, other),), required=(name,)))
        if option.low:
            found.append(Obj(high=option.low - 1, where=option.where))
        if option.high is not None:
            found.append(Obj(low=option.high + 1, where=option.where))
        if option.by_pattern or not _is_anything(option.rest):
            # Some member of an unknown name is of another shape: no finite number of cases.
            if not found:
                raise CannotSay("not", "the opposite of additionalProperties")
            self.narrowed = True
        return found

    def _complement_or_none(self, shape: Shape, needless: bool) -> Shape | None:
        """The complement; None if it cannot be said and other cases are there already.

        Leaving a case out makes a grammar narrower than its schema, never wider.
        """
        try:
            return self.complement(shape)
        except (CannotSay, RecursionError):
            if not needless:
                raise
            self.narrowed = True
            return None

    # -- disjointness -----------------------------------------------------------------------

    def disjoint(self, one: Shape | None, other: Shape | None, depth: int = 6) -> bool:
        """Whether surely no value has both shapes; cheaper than to intersect them."""
        if depth == 0 or one is None or other is None:
            return self.is_empty(one) or self.is_empty(other)
        try:
            lefts, rights = self.links.open(one).options, self.links.open(other).options
        except RecursionError:  # still being worked out: not known
            return False
        return all(
            self._apart_options(left, right, depth)
            for left in lefts
            for right in rights
            if type(left) is type(right)
        )

    def _apart_options(self, one: Simple | Link, other: Simple | Link, depth: int) -> bool:
        if isinstance(one, Bool) and isinstance(other, Bool):
            return not one.values & other.values
        if isinstance(one, Num) and isinstance(other, Num):
            return meet_numbers(one, other) is None
        if isinstance(one, Str) and isinstance(other, Str):
            met = meet_texts(one, other)
            return met is None or self._nothing_in(met, depth)
        if isinstance(one, Arr) and isinstance(other, Arr):
            low, high = max(one.low, other.low), least(one.high, other.high)
            return (high is not None and high < low) or any(
                self.disjoint(_item(one, at), _item(other, at), depth - 1)
                for at in range(min(low, 50))
            )
        if isinstance(one, Obj) and isinstance(other, Obj):
            names = dict.fromkeys(one.required + other.required)
            low, high = max(one.low, other.low, len(names)), least(one.high, other.high)
            return (high is not None and high < low) or any(
                self.disjoint(one.member(name), other.member(name), depth - 1) for name in names
            )
        return False

    # -- emptiness --------------------------------------------------------------------------

    def is_empty(self, shape: Shape | None, depth: int = 8) -> bool:
        """Whether no value has the shape; False if that cannot be told."""
        if shape is None or depth == 0:
            return False
        try:
            options = self.links.open(shape).options
        except RecursionError:
            return False
        return all(
            not isinstance(option, Link) and self._nothing_in(option, depth) for option in options
        )

    def _nothing_in(self, option: Simple, depth: int) -> bool:
        if isinstance(option, Bool):
            return not option.values
        if isinstance(option, Num):
            return no_number(option)
        if isinstance(option, Str):
            if option.texts is not None:
                return not option.texts
            if option.high is not None and option.high < option.low:
                return True
            if not option.patterns:
                return False
            return not self.may_overlap([*option.patterns, *_lengths(option)])
        if isinstance(option, Arr):
            if option.high is not None and option.high < option.low:
                return True
            needed = (_item(option, at) for at in range(min(option.low, 50)))
            return any(self.is_empty(shape, depth - 1) for shape in needed)
        if isinstance(option, Obj):
            if option.high is not None and max(option.low, len(option.required)) > option.high:
                return True
            if option.low and not option.by_pattern and self.is_empty(option.rest, depth - 1):
                possible = [s for _, s in option.members if not self.is_empty(s, depth - 1)]
                if len(possible) < option.low:
                    return True
            return any(self.is_empty(option.member(name), depth - 1) for name in option.required)
        return False

    def may_overlap(self, patterns: list[Node]) -> bool:
        """Whether a text may fit all patterns; True if llguidance cannot tell."""
        key = tuple(patterns)
        if key not in self._overlaps:
            self._overlaps[key] = _may_overlap(patterns)
        return self._overlaps[key]


def _may_overlap(patterns: list[Node]) -> bool:
    try:
        matcher = regex.matcher_of(patterns)
    except GrammarError:
        return True
    # llguidance refuses a byte after which nothing could follow, however far it has to look.
    refused = matcher.validate_tokens(byte_tokenizer().tokenize_bytes(b"x")) == 0
    return not refused or bool(matcher.is_error())


def _has_link(shape: Shape) -> bool:
    return isinstance(shape, Link) or any(isinstance(option, Link) for option in shape.options)


def _is_anything(shape: Shape | None) -> bool:
    return shape is None or shape == ANYTHING


def _item(option: Arr, at: int) -> Shape | None:
    return option.first[at] if at < len(option.first) else option.rest


def _place(one: Arr, other: Arr, name: str) -> str:
    return one.where if getattr(one, name) or not other.where else other.where


def _lengths(option: Str) -> list[Node]:
    if option.low or option.high is not None:
        return [regex.of_length(option.low, option.high)]
    return []
