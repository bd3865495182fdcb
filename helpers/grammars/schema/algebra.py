"""Intersection, complement and emptiness of domains: the logic behind `allOf`, `not` and `oneOf`.

Everything here is exact, or marked as `Inexact`, or raises `Inexpressible`: no grammar may accept
what its schema refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.guidance import byte_tokenizer
from helpers.grammars.schema import regex
from helpers.grammars.schema.domains import (
    ANYTHING,
    NEVER,
    Arr,
    Bool,
    Domain,
    Inexact,
    Link,
    Links,
    Null,
    Num,
    Obj,
    Simple,
    Str,
    Union,
)
from helpers.grammars.schema.scalars import (
    Inexpressible,
    complement_numbers,
    complement_strings,
    intersect_numbers,
    intersect_strings,
    is_empty_range,
    least,
)

MAX_OPTIONS = 256
"""Alternatives of one domain: products of conditions double quickly."""


class Algebra:
    """Computes with domains of one schema.

    Args:
        links: The schema's links.
        late: What makes of an intersection that is found inexpressible when it is needed, long
            after the keyword that asked for it was read, something else.
    """

    def __init__(
        self, links: Links, late: Callable[[Callable[[], Domain], Domain], Callable[[], Domain]]
    ) -> None:
        self.links = links
        self.late = late
        self._overlaps: dict[tuple[Node, ...], bool] = {}
        # A tree whose nodes name their own kind eight times has 8^8 of them eight levels down,
        # and each of these questions has one answer.
        # Known by identity, the domains kept alive: to compare large ones would cost as much.
        self._empty: dict[tuple[int, int], tuple[bool, Simple]] = {}
        self._disjoint: dict[tuple[int, int, int], tuple[bool, Domain, Domain]] = {}

    # -- intersection -----------------------------------------------------------------------

    def intersect(self, one: Domain | None, other: Domain | None) -> Domain:
        """The values in both domains; computed later if links are involved."""
        if one is None or one is ANYTHING or one == other:
            return other if other is not None else ANYTHING
        if other is None or other is ANYTHING:
            return one
        if one == NEVER or other == NEVER:
            return NEVER
        if _has_link(one) or _has_link(other):
            maker = self.late(lambda: self.intersect_now(one, other), one)
            return self.links.link(("intersect", one, other), maker)
        return self.intersect_now(one, other)

    def difference(self, domain: Domain, other: Domain) -> Union:
        """The values in the first domain but not the second; empty cases are dropped."""
        kept = self.intersect_now(domain, self.complement(other)).options
        return Union(tuple(option for option in kept if not self.is_empty(Union((option,)), 4)))

    def intersect_now(self, one: Domain, other: Domain) -> Union:
        """The same, computed at once at the top level."""
        found: dict[Simple | Link, None] = {}  # an ordered set
        others = self.links.resolve(other).options
        for left in self.links.resolve(one).options:
            self.links.spend(len(others), "allOf, or keywords beside each other")
            for right in others:
                if _type(left) is _type(right):
                    option = self._intersect(left, right)
                    if option is not None:
                        found[option] = None
            if len(found) > MAX_OPTIONS:
                reason = f"the conditions multiply to more than {MAX_OPTIONS} alternatives"
                raise Inexpressible("allOf", reason)
        return Union(tuple(found))

    def _intersect(self, one: Simple | Link, other: Simple | Link) -> Simple | None:
        if isinstance(one, Null | Inexact):
            return one
        if isinstance(other, Inexact):
            return other
        if isinstance(one, Bool) and isinstance(other, Bool):
            values = one.values & other.values
            return Bool(values) if values else None
        if isinstance(one, Num) and isinstance(other, Num):
            return intersect_numbers(one, other)
        if isinstance(one, Str) and isinstance(other, Str):
            return self._intersect_strings(one, other)
        if isinstance(one, Arr) and isinstance(other, Arr):
            return self._intersect_arrays(one, other)
        assert isinstance(one, Obj) and isinstance(other, Obj)
        return self._intersect_objects(one, other)

    def _intersect_strings(self, one: Str, other: Str) -> Str | None:
        tests = len(one.patterns + other.patterns)
        listed = len(one.texts or other.texts or ()) * (1 + 20 * tests)
        others = len(one.excluded) + len(other.excluded)
        self.links.spend(5 + 5 * tests + listed // 3 + others // 2, "strings of several schemas")
        return intersect_strings(one, other)

    def _intersect_arrays(self, one: Arr, other: Arr) -> Arr | None:
        count = max(len(one.first), len(other.first))
        first = tuple(self.intersect(_item(one, at), _item(other, at)) for at in range(count))
        rest = (
            None
            if one.rest is None and other.rest is None
            else self.intersect(one.rest, other.rest)
        )
        low, high = max(one.low, other.low), least(one.high, other.high)
        if high is not None and high < low:
            return None
        contains = tuple(dict.fromkeys(one.contains + other.contains))
        unique = one.unique or other.unique
        where = one.where if one.unique or not other.where else other.where
        return Arr(first, rest, low, high, unique, contains, where)

    def _intersect_objects(self, one: Obj, other: Obj) -> Obj | None:
        names = dict.fromkeys([name for name, _ in (*one.members, *other.members)])
        patterns = 1 + len(one.by_pattern) + len(other.by_pattern)
        self.links.spend(5 * len(names) * patterns, "the properties of several schemas at once")
        members = tuple((n, self.intersect(one.member(n), other.member(n))) for n in names)
        by_pattern: list[tuple[Node, Domain]] = []
        theirs = dict(other.by_pattern)
        for pattern, domain in one.by_pattern:
            if pattern in theirs:
                by_pattern.append((pattern, self.intersect(domain, theirs.pop(pattern))))
            else:
                self._check_disjoint(pattern, [p for p, _ in other.by_pattern])
                by_pattern.append((pattern, self.intersect(domain, other.rest)))
        for pattern, domain in theirs.items():
            self._check_disjoint(pattern, [p for p, _ in one.by_pattern])
            by_pattern.append((pattern, self.intersect(domain, one.rest)))
        rest = (
            None
            if one.rest is None and other.rest is None
            else self.intersect(one.rest, other.rest)
        )
        required = tuple(dict.fromkeys(one.required + other.required))
        low, high = max(one.low, other.low), least(one.high, other.high)
        if high is not None and max(low, len(required)) > high:
            return None
        where = other.where if other.low or other.high is not None else one.where
        return Obj(members, tuple(by_pattern), rest, required, low, high, where)

    def _check_disjoint(self, pattern: Node, others: list[Node]) -> None:
        for other in others:
            if other != pattern and self.may_overlap([pattern, other]):
                raise Inexpressible("patternProperties", "two patterns may fit the same name")

    # -- complement -------------------------------------------------------------------------

    def complement(self, domain: Domain) -> Domain:
        """All other values.

        Raises:
            Inexpressible: If no domain describes them.
        """
        result: Domain = ANYTHING
        options = self.links.resolve(domain).options
        for kind in (Null, Bool, Num, Str, Arr, Obj):
            mine = [option for option in options if _type(option) is kind]
            for option in mine:
                others = tuple(o for o in ANYTHING.options if not isinstance(o, kind))
                assert not isinstance(option, Link)
                result = self.intersect_now(
                    result, Union((*others, *self._complement_option(option)))
                )
        return result

    def _complement_option(self, option: Simple) -> Iterable[Simple]:
        """The values of the same type that are not in `option`."""
        if isinstance(option, Null):
            return ()
        if isinstance(option, Bool):
            rest = frozenset({True, False}) - option.values
            return (Bool(rest),) if rest else ()
        if isinstance(option, Num):
            return complement_numbers(option)
        if isinstance(option, Str):
            return complement_strings(option)
        if isinstance(option, Inexact):
            raise Inexpressible("not", f"the negation of an approximation: {option.reason}")
        if isinstance(option, Arr):
            return self._complement_arrays(option)
        return self._complement_objects(option)

    def _complement_arrays(self, option: Arr) -> list[Simple]:
        if option.unique:
            raise Inexpressible("not", "the negation of uniqueItems")
        found: list[Simple] = []
        if option.low:
            found.append(Arr(high=option.low - 1))
        if option.high is not None:
            found.append(Arr(low=option.high + 1))
        for at, domain in enumerate(option.first):
            if not _is_anything(domain):
                found += self._case(
                    option,
                    domain,
                    found,
                    lambda d, at=at: Arr((*(ANYTHING,) * at, d), None, at + 1),
                )
        if option.rest is not None and not _is_anything(option.rest):
            # Some element beyond the first ones is not in the rest's domain; which one is
            # not bounded, unless there can be none at all.
            if option.rest != NEVER:
                count = len(option.first)
                if count:
                    raise Inexpressible("not", "the negation of items after prefixItems")
                other = self.complement(option.rest)
                found.append(Arr(contains=((other, 1, None),), where=option.where))
            else:
                found.append(Arr(low=len(option.first) + 1))
        for domain, low, high in option.contains:
            if low == 1 and high is None:
                found.append(Arr(rest=self.complement(domain)))
            else:
                raise Inexpressible("not", "the negation of minContains or maxContains")
        return found

    def _complement_objects(self, option: Obj) -> list[Simple]:
        found: list[Simple] = []
        for name in option.required:
            found.append(Obj(members=((name, NEVER),)))
        for name, domain in option.members:
            if not _is_anything(domain):
                found += self._case(
                    option, domain, found, lambda d, n=name: Obj(((n, d),), required=(n,))
                )
        if option.low:
            found.append(Obj(high=option.low - 1, where=option.where))
        if option.high is not None:
            found.append(Obj(low=option.high + 1, where=option.where))
        if option.by_pattern or not _is_anything(option.rest):
            # Some member of an unknown name is not in its domain: no finite number of cases.
            if not found:
                raise Inexpressible("not", "the negation of additionalProperties")
            keyword = "patternProperties" if option.by_pattern else "additionalProperties"
            found.append(Inexact(Obj, keyword, "its negation is left out", option.where))
        return found

    def _case(
        self, option: Arr | Obj, domain: Domain, others: list[Simple], make: Callable[..., Simple]
    ) -> list[Simple]:
        """The case that an element or member is not in its domain.

        If that is inexpressible and other cases are there already, it is left out: that makes a
        grammar narrower than its schema, never wider, as long as nobody negates it again.
        """
        try:
            return [make(self.complement(domain))]
        except (Inexpressible, RecursionError) as error:
            if not others:
                raise
            reason = getattr(error, "reason", "a schema that refers to itself")
            return [Inexact(type(option), "not", f"a case is left out ({reason})", option.where)]

    # -- disjointness -----------------------------------------------------------------------

    def disjoint(self, one: Domain | None, other: Domain | None, depth: int = 6) -> bool:
        """Whether certainly no value is in both domains; cheaper than intersecting them."""
        if depth == 0 or one is None or other is None:
            return self.is_empty(one) or self.is_empty(other)
        try:
            lefts, rights = self.links.resolve(one).options, self.links.resolve(other).options
        except RecursionError:  # still being computed: not known
            return False
        key = min(id(one), id(other)), max(id(one), id(other)), depth
        if key not in self._disjoint:
            found = all(
                self._options_disjoint(left, right, depth)
                for left in lefts
                for right in rights
                if _type(left) is _type(right)
            )
            self._disjoint[key] = found, one, other
        return self._disjoint[key][0]

    def _options_disjoint(self, one: Simple | Link, other: Simple | Link, depth: int) -> bool:
        self.links.spend(8, "oneOf, whose schemas are compared with each other")
        if isinstance(one, Null | Bool | Num):
            return self._intersect(one, other) is None
        if isinstance(one, Str) and isinstance(other, Str):
            met = self._intersect_strings(one, other)
            return met is None or self._is_empty_option(met, depth)
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

    def is_empty(self, domain: Domain | None, depth: int = 8) -> bool:
        """Whether no value is in the domain; False if that is unknown."""
        if domain is None or depth == 0:
            return False
        try:
            options = self.links.resolve(domain).options
        except RecursionError:
            return False
        return all(
            not isinstance(option, Link) and self._is_empty_option(option, depth)
            for option in options
        )

    def _is_empty_option(self, option: Simple, depth: int) -> bool:
        key = id(option), depth
        if key not in self._empty:
            self.links.spend(8, "schemas that may have no value")
            self._empty[key] = self._has_no_value(option, depth), option
        return self._empty[key][0]

    def _has_no_value(self, option: Simple, depth: int) -> bool:
        if isinstance(option, Bool):
            return not option.values
        if isinstance(option, Num):
            return is_empty_range(option)
        if isinstance(option, Str):
            if option.texts is not None:
                return not option.texts
            if option.high is not None and option.high < option.low:
                return True
            if not option.patterns:
                return False
            nodes = list(option.patterns)
            if option.low or option.high is not None:
                nodes.append(regex.of_length(option.low, option.high))
            return not self.may_overlap(nodes)
        if isinstance(option, Arr):
            if option.high is not None and option.high < option.low:
                return True
            needed = (_item(option, at) for at in range(min(option.low, 50)))
            return any(self.is_empty(domain, depth - 1) for domain in needed)
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
            self.links.spend(400, "patterns that may fit the same text")
            self._overlaps[key] = _may_overlap(patterns)
        return self._overlaps[key]


def _may_overlap(patterns: list[Node]) -> bool:
    try:
        matcher = regex.matcher_of(patterns)
    except GrammarError:
        return True
    # llguidance refuses a byte after which nothing could follow, however far ahead that is decided.
    refused = matcher.validate_tokens(byte_tokenizer().tokenize_bytes(b"x")) == 0
    return not refused or bool(matcher.is_error())


def _has_link(domain: Domain) -> bool:
    return isinstance(domain, Link) or any(isinstance(option, Link) for option in domain.options)


def _type(option: Simple | Link) -> type[Any]:
    """The kind of values that an alternative is about."""
    return option.of if isinstance(option, Inexact) else type(option)


def _is_anything(domain: Domain | None) -> bool:
    return domain is None or domain == ANYTHING


def _item(option: Arr, at: int) -> Domain | None:
    return option.first[at] if at < len(option.first) else option.rest
