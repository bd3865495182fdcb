"""Writes domains as the plain JSON Schema that llguidance compiles exactly.

Only what it handles without approximation is used: one type at a time, `anyOf`, `$ref`, whole
patterns. Conditions over several elements (`uniqueItems`, `contains`, numbers of members) are
written out as alternatives where these are few.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from math import lcm
from typing import Any

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema import regex
from helpers.grammars.schema.algebra import Algebra
from helpers.grammars.schema.domains import (
    ANYTHING,
    NEVER,
    Arr,
    Bool,
    Domain,
    Inexact,
    Link,
    Null,
    Num,
    Obj,
    Simple,
    Str,
    Union,
    all_different,
    constant,
    enumerated,
    exact,
    number_in,
)
from helpers.grammars.schema.normalize import Normalizer
from helpers.grammars.schema.scalars import Inexpressible

MAX_ARRAYS = 400
"""Arrays that are written out one by one for `uniqueItems`."""
MAX_LITERAL = 500_000
"""Characters of a text that has to be written exactly."""
MAX_PAIRS = 12_000_000
"""Pairs of properties of one object, for all objects: about a second."""
MAX_DEPTHS = 20_000
"""Schemas inside each other, of all definitions: as each may lead to the next, llguidance's
recursion may go as deep, with some five kilobytes of stack for each."""
MAX_SUBSETS = 64
"""Sets of members that are written out for `minProperties` and `maxProperties`."""


class Emitter:
    """Writes the domains of one schema.

    Args:
        normalizer: Has resolved the schema; is told what cannot be written.

    Attributes:
        parts: The arrays and objects that were written for an alternative.
    """

    def __init__(self, normalizer: Normalizer) -> None:
        self.normalizer = normalizer
        self.links = normalizer.links
        self.algebra: Algebra = normalizer.algebra
        self.parts: dict[Simple, list[Simple]] = {}
        self.names: dict[Link, str] = {}
        self.todo: list[Link] = []

    def run(self, domain: Domain) -> dict[str, Any]:
        """The whole schema for llguidance.

        Args:
            domain: The root's domain.

        Returns:
            A JSON Schema of draft 2020-12.
        """
        root = self.write(domain)
        definitions = {}
        while self.todo:
            link = self.todo.pop()
            definitions[self.names[link]] = self.options(self.links.resolve(link))
        written = root if isinstance(root, dict) else {"anyOf": [root]}
        return {**written, "$defs": definitions} if definitions else written

    def write(self, domain: Domain | None) -> dict[str, Any] | bool:
        """One domain; false if it is empty."""
        self.links.spend(8, "writing the grammar")
        if domain is None or domain == ANYTHING:
            return True
        if isinstance(domain, Link):
            try:
                opened = self.links.resolve(domain)
            except RecursionError:
                self.normalizer.report("$ref", "", "a reference that refers to itself")
                return True
            if opened == ANYTHING:
                return True
            if self.algebra.is_empty(opened):
                return False
            if domain not in self.names:
                self.names[domain] = f"n{len(self.names)}"
                self.todo.append(domain)
            return {"$ref": f"#/$defs/{self.names[domain]}"}
        return self.options(domain)

    def options(self, domain: Union) -> dict[str, Any] | bool:
        """The alternatives of a domain."""
        parts: list[dict[str, Any] | bool] = []
        for option in domain.options:
            if isinstance(option, Inexact):
                self.normalizer.warn(option)
        domain = Union(tuple(o for o in domain.options if not isinstance(o, Inexact)))
        if domain == ANYTHING:
            return True
        for option in domain.options:
            if isinstance(option, Link):
                part = self.write(option)
                parts += [part] if part is not False else []
            elif not self.algebra.is_empty(Union((option,))):
                parts += [part for part in self.simple(option) if part is not False]
        if True in parts:
            return True
        # By their text: 1 and true are equal in Python.
        unique = list({json.dumps(part): part for part in parts}.values()) if parts[1:] else parts
        if not unique:
            return False
        return unique[0] if len(unique) == 1 else {"anyOf": unique}

    def simple(self, option: Simple) -> list[dict[str, Any] | bool]:
        """One alternative, as one or more schemas."""
        patterns = option.patterns if isinstance(option, Str) else ()
        self.links.spend(12 + 15 * len(patterns), "writing the grammar")
        if isinstance(option, Null):
            return [{"type": "null"}]
        if isinstance(option, Bool):
            if len(option.values) == 2:
                return [{"type": "boolean"}]
            return [{"const": value} for value in option.values]
        if isinstance(option, Num):
            return list(self.numbers(option))
        if isinstance(option, Str):
            return [self.text(option)]
        assert isinstance(option, Arr | Obj)
        try:
            parts: list[Any] = (
                self.arrays(option) if isinstance(option, Arr) else self.objects(option)
            )
        except Inexpressible as error:
            self.normalizer.report(error.keyword, option.where, error.reason)
            parts = [
                replace(option, unique=False, contains=())
                if isinstance(option, Arr)
                else replace(option, low=0, high=None)
            ]
        self.parts[option] = parts
        write = self.array if isinstance(option, Arr) else self.object
        return [write(part) for part in parts]

    # -- numbers and texts ------------------------------------------------------------------

    def numbers(self, option: Num) -> Iterator[dict[str, Any]]:
        """A range of numbers, with what llguidance would leave out of it.

        It reads no number that is shorter than a bound it begins like (0.2 where 0.25 is the most),
        and no multiple that has fewer digits behind the point than the step (2.5 for 0.25).
        """
        yield self.number(option)
        step = option.multiple
        if option.integer:
            return
        if step is not None:
            digits = _digits(step) or 0
            for fewer in range(min(digits, 10)):
                scale = Fraction(1, 10**fewer)
                shared = Fraction(lcm(int(step * 10**digits), 10 ** (digits - fewer)), 10**digits)
                assert (shared / scale).denominator == 1
                yield self.number(replace(option, multiple=shared))
        shorter = {
            exact(Decimal(text[:end]))
            for bound in (option.low, option.high)
            if bound is not None
            for text in (format(bound, "f"),)
            for end in range(text.find(".") + 2 if "." in text else len(text), len(text))
        }
        listed = [float(value) for value in sorted(shorter) if number_in(option, value)]
        if listed:
            yield {"enum": listed}

    def number(self, option: Num) -> dict[str, Any]:
        """A range of numbers."""
        option = self.inside(option)
        written: dict[str, Any] = {"type": "integer" if option.integer else "number"}
        for value, is_open, is_low in (
            (option.low, option.low_open, True),
            (option.high, option.high_open, False),
        ):
            if value is None:
                continue
            bound = _representable(value, is_low, option.integer)
            if bound is None:
                continue
            # A bound that moved inwards is part of the range.
            name = ("exclusive", "")[not is_open or exact(bound) != value]
            key = ("maximum", "minimum")[is_low]
            written[name + key.capitalize() if name else key] = bound
        if option.multiple is not None:
            step = Fraction(option.multiple.numerator) if option.integer else option.multiple
            number: int | float = int(step) if step.denominator == 1 else float(step)
            read = Fraction(Decimal(repr(number)))
            scale = 10 ** max(0, -int(Decimal(repr(number)).normalize().as_tuple().exponent))
            if read != step or read * scale >= 2**32 or scale > 10**9:
                self.normalizer.report("multipleOf", option.where, "too many digits")
            else:
                written["multipleOf"] = number
        return written

    def inside(self, option: Num) -> Num:
        """A range without a bound that llguidance would take for a part of it.

        It lets 1 through where numbers are above 1 and at most 1.5.
        """
        low, high = option.low, option.high
        if option.integer or low is None or high is None or high - low >= 1:
            return option
        gap = Decimal("1e-12")
        moved = option
        if option.low_open and isinstance(low, int) and low >= 0:
            moved = replace(moved, low=low + gap, low_open=False)
        if option.high_open and isinstance(high, int) and high < 0:
            moved = replace(moved, high=high - gap, high_open=False)
        if moved != option and option.multiple is None:
            key = "exclusiveMinimum" if moved.low != low else "exclusiveMaximum"
            reason = f"numbers less than {gap} from the bound are left out"
            self.normalizer.warn(Inexact(Num, key, reason, option.where))
        return moved

    def text(self, option: Str) -> dict[str, Any]:
        """Some strings."""
        if option.texts is not None:
            if max(map(len, option.texts), default=0) > MAX_LITERAL:
                reason = f"a text of more than {MAX_LITERAL:,} characters"
                self.normalizer.report("const", option.where, reason)
                return {"type": "string"}
            return {"enum": list(option.order or sorted(option.texts))}
        written: dict[str, Any] = {"type": "string"}
        written |= _counts(option, "Length")
        nodes = list(option.patterns)
        if option.excluded:
            nodes.append(regex.all_but(option.excluded))
        patterns = [f"^(?:{regex.show_regex(node)})$" for node in nodes]
        if len(patterns) == 1:
            written["pattern"] = patterns[0]
        elif patterns:
            written["allOf"] = [{"pattern": pattern} for pattern in patterns]
        return written

    # -- arrays -----------------------------------------------------------------------------

    def arrays(self, option: Arr) -> list[Arr]:
        """The same arrays, without conditions over several elements."""
        if option.contains:
            option = self.containing(option)
            if option.contains:
                return self.placed(option)
        if not option.unique or (option.high is not None and option.high <= 1):
            return [replace(option, unique=False)]
        return self.different(option)

    def containing(self, option: Arr) -> Arr:
        """Take out conditions that every element meets."""
        kept = []
        for domain, low, high in option.contains:
            plain = not option.first and high is None
            if plain and low == 0:
                continue
            if plain and self.within(option.rest, domain):
                option = replace(option, low=max(option.low, low))
                continue
            kept.append((domain, low, high))
        return replace(option, contains=tuple(kept))

    def within(self, inner: Domain | None, outer: Domain) -> bool:
        """Whether every value of one domain is certainly in the other."""
        try:
            return self.algebra.disjoint(inner or ANYTHING, self.algebra.complement(outer))
        except Inexpressible:
            return False

    def placed(self, option: Arr) -> list[Arr]:
        """An array with a certain element at each place where that may be."""
        if len(option.contains) > 1 or option.unique:
            raise Inexpressible("contains", "several conditions over all elements")
        domain, low, high = option.contains[0]
        last = option.high if option.high is not None else 10**9
        if low != 1 or high is not None:
            raise Inexpressible("contains", "minContains and maxContains")
        if last > MAX_SUBSETS:
            raise Inexpressible(
                "contains", "an element somewhere in an array without a small maxItems"
            )
        found = []
        for at in range(last):
            items = [
                option.first[i] if i < len(option.first) else option.rest or ANYTHING
                for i in range(max(at + 1, len(option.first)))
            ]
            items[at] = self.algebra.intersect(items[at], domain)
            found.append(
                replace(option, first=tuple(items), low=max(option.low, at + 1), contains=())
            )
        return found

    def different(self, option: Arr) -> list[Arr]:
        """All arrays without two equal elements, one by one."""
        choices: list[list[Any]] = []
        for at in range(len(option.first) + 1):
            domain = option.first[at] if at < len(option.first) else option.rest
            values = None if domain is None else enumerated(domain, self.links, 8)
            if values is None:
                raise Inexpressible("uniqueItems", "elements that are not a short list of values")
            choices.append(values)
        arrays: list[list[Any]] = [[]]
        found: list[list[Any]] = []
        while arrays:
            longer = []
            for array in arrays:
                if len(array) >= option.low:
                    found.append(array)
                if option.high is None or len(array) < option.high:
                    for value in choices[min(len(array), len(choices) - 1)]:
                        if all_different([*array, value]):
                            longer.append([*array, value])
            if len(found) + len(longer) > MAX_ARRAYS:
                raise Inexpressible("uniqueItems", "too many different arrays")
            arrays = longer
        options = [option for array in found for option in constant(array).options]
        return [option for option in options if isinstance(option, Arr)]

    def array(self, option: Arr) -> dict[str, Any]:
        """An array without conditions over several elements."""
        written: dict[str, Any] = {"type": "array"}
        first = option.first if option.high is None else option.first[: option.high]
        heads = [self.write(domain) for domain in first]
        if heads:
            written["prefixItems"] = heads
        rest = self.write(option.rest)
        if rest is not True:
            written["items"] = rest
        written |= _counts(option, "Items")
        return written

    # -- objects ----------------------------------------------------------------------------

    def objects(self, option: Obj) -> list[Obj]:
        """The same objects, their number of members only limited where all of them are required."""
        found = self.counted(option)
        if any(each.low > len(each.required) + 1 for each in found):
            # Two members of one name are one member, and nothing keeps a model from writing them.
            raise Inexpressible("minProperties", "names that are not listed may be written twice")
        return found

    def counted(self, option: Obj) -> list[Obj]:
        """The same objects, as cases in each of which numbers of members are simple."""
        known = {name for name, _ in option.members}
        self.links.spend(5 * len(option.required) + len(known), "properties and required names")
        more = tuple((n, option.member(n) or ANYTHING) for n in option.required if n not in known)
        option = replace(option, members=option.members + more)
        possible = [name for name, domain in option.members if not self.algebra.is_empty(domain)]
        required = set(option.required)
        optional = [name for name in possible if name not in required]
        closed = not option.by_pattern and self.algebra.is_empty(option.rest)
        count = len(option.required)
        if option.low <= count:
            option = replace(option, low=0)
        if option.high is not None and closed and option.high >= len(possible):
            option = replace(option, high=None)
        if (not option.low and option.high is None) or not optional:
            return [_closed_counts(option, closed)] if not optional else [option]
        if option.low == count + 1 and option.high is None:
            return self.at_least_one(option, optional, closed)
        if 2 ** len(optional) > MAX_SUBSETS:
            raise Inexpressible(
                "minProperties" if option.low else "maxProperties",
                f"numbers of members among {len(optional)} optional ones",
            )
        found = []
        for size in range(len(optional) + 1):
            for chosen in combinations(optional, size):
                total = count + size
                if (option.high is not None and total > option.high) or (
                    closed and total < option.low
                ):
                    continue
                left_out = set(optional) - set(chosen)
                found.append(_closed_counts(_with(option, chosen, left_out), closed))
        return found

    def at_least_one(self, option: Obj, optional: list[str], closed: bool) -> list[Obj]:
        """One more than the required members: which one comes first tells the cases apart."""
        found = [
            replace(_with(option, (name,), set(optional[:at])), low=0)
            for at, name in enumerate(optional)
        ]
        return found if closed else [*found, _with(option, (), set(optional))]

    def patterns(self, option: Obj) -> tuple[tuple[Node, Domain], ...]:
        """Domains of names that fit a pattern; llguidance applies them to the listed names, too."""
        for name, domain in option.members:
            for node, inner in option.by_pattern:
                if inner in (ANYTHING, domain) or not regex.fits(node, name):
                    continue
                try:
                    known = self.algebra.intersect(domain, inner) == domain
                except Inexpressible:
                    known = False
                if not known and not self.within(domain, inner):
                    reason = f"{name!r} has to be what the other names of its pattern are, too"
                    self.normalizer.warn(Inexact(Obj, "patternProperties", reason, option.where))
        return option.by_pattern

    def object(self, option: Obj) -> dict[str, Any]:
        """An object."""
        written: dict[str, Any] = {"type": "object"}
        members = {name: self.write(domain) for name, domain in option.members}
        if members:
            written["properties"] = members
        rest = self.write(option.rest)
        patterns = {
            f"^(?:{regex.show_regex(node)})$": self.write(domain)
            for node, domain in self.patterns(option)
        }
        patterns = {text: inner for text, inner in patterns.items() if inner is not rest}
        if patterns:
            written["patternProperties"] = patterns
        if rest is not True:
            written["additionalProperties"] = rest
        if option.required:
            written["required"] = list(option.required)
        written |= _counts(option, "Properties")
        return written


def check_size(compiled: Any) -> None:
    """Refuse what llguidance would compile for a long time, or on more stack than it has.

    Args:
        compiled: What `Emitter.run` gives.

    Raises:
        GrammarError: With what there is too much of.
    """
    pairs = depths = 0
    for part in (compiled, *compiled.get("$defs", {}).values()):
        todo, deepest = [(part, 0)], 0
        while todo:
            node, depth = todo.pop()
            deepest = max(deepest, depth)
            if isinstance(node, dict):
                pairs += len(node.get("properties", ())) ** 2
                todo += [(value, depth + 1) for key, value in node.items() if key != "$defs"]
            elif isinstance(node, list):
                todo += [(item, depth) for item in node if isinstance(item, dict)]
        depths += deepest
    if pairs > MAX_PAIRS:
        raise GrammarError(
            f"objects have too many properties: llguidance compares each with all others, and "
            f"{pairs:,} pairs are more than {MAX_PAIRS:,}"
        )
    if depths > MAX_DEPTHS:
        raise GrammarError(f"references may lead more than {MAX_DEPTHS:,} schemas deep")


def _counts(option: Str | Arr | Obj, what: str) -> dict[str, int]:
    low = {f"min{what}": option.low} if option.low else {}
    return low if option.high is None else {**low, f"max{what}": option.high}


def _with(option: Obj, chosen: tuple[str, ...], left_out: set[str]) -> Obj:
    members = tuple((n, NEVER if n in left_out else domain) for n, domain in option.members)
    return replace(option, members=members, required=(*option.required, *chosen))


def _closed_counts(option: Obj, closed: bool) -> Obj:
    """Without counts that no longer matter, all members being required."""
    count = len(option.required)
    if option.low <= count:
        option = replace(option, low=0)
    if closed and option.high is not None and option.high >= count:
        option = replace(option, high=None)
    return option


def _digits(step: Fraction) -> int | None:
    """Digits behind the point; None if they do not end."""
    return next((n for n in range(30) if (step * 10**n).denominator == 1), None)


def _representable(value: int | Decimal, is_low: bool, integer: bool) -> int | float | None:
    """A bound that llguidance reads exactly: itself, or the nearest one inside of the range."""
    if integer:
        value = math.ceil(value) if is_low else math.floor(value)
    limit = 2**63 - 1024
    if not -limit <= value <= limit:
        outside = value < 0 if is_low else value > 0
        return (-limit if is_low else limit) if outside else (limit if is_low else -limit)
    if isinstance(value, int) and -(2**53) <= value <= 2**53:
        return value
    number = float(value)
    toward = math.inf if is_low else -math.inf
    while Fraction(number) < Fraction(value) if is_low else Fraction(number) > Fraction(value):
        if isinstance(value, Decimal) and Decimal(repr(number)) == value:
            break  # llguidance reads the shortest decimal, as it was written
        number = math.nextafter(number, toward)
    return int(number) if isinstance(value, int) else number
