"""Reads the keywords of JSON Schema that constrain values of one type each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..errors import GrammarError
from . import regex
from .algebra import Algebra
from .formats import IRREGULAR, LENGTHS, format_node
from .shapes import (
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
    exact,
    is_number,
    text_in,
)
from .syntax import Node

TYPES = ("null", "boolean", "number", "string", "array", "object")
SIMPLE = {
    "type": TYPES,
    "minimum": ("number",),
    "maximum": ("number",),
    "exclusiveMinimum": ("number",),
    "exclusiveMaximum": ("number",),
    "multipleOf": ("number",),
    "minLength": ("string",),
    "maxLength": ("string",),
    "pattern": ("string",),
    "format": ("string",),
    "items": ("array",),
    "prefixItems": ("array",),
    "additionalItems": ("array",),
    "minItems": ("array",),
    "maxItems": ("array",),
    "uniqueItems": ("array",),
    "contains": ("array",),
    "properties": ("object",),
    "patternProperties": ("object",),
    "additionalProperties": ("object",),
    "required": ("object",),
    "propertyNames": ("object",),
    "minProperties": ("object",),
    "maxProperties": ("object",),
}


class KeywordReader(ABC):
    """What `Normalizer` knows about single types.

    Attributes:
        links: Where links lead.
        algebra: Computes with shapes.
        draft: 4, 6, 7, 2019 or 2020.
    """

    links: Links
    algebra: Algebra
    draft: int

    @abstractmethod
    def shape(self, schema: Any, pointer: str, depth: int) -> Shape:
        """The shape of a subschema."""

    @abstractmethod
    def meet(self, one: Shape, other: Shape, keyword: str, pointer: str) -> Shape:
        """Both shapes at once."""

    @abstractmethod
    def cannot(self, keyword: str, pointer: str, reason: str) -> None:
        """Refuse, or note that something is left out."""

    @abstractmethod
    def broken(self, keyword: str, pointer: str, reason: str) -> GrammarError:
        """An error for a schema that is no schema."""

    # -- keywords of one type ---------------------------------------------------------------

    def types(self, schema: dict[str, Any], pointer: str) -> list[str]:
        """The names in `type`, or all of them."""
        value = schema.get("type", list(TYPES))
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.broken("type", pointer, "a name or a list of names is needed")
        for name in names:
            if name not in (*TYPES, "integer"):
                raise self.broken("type", pointer, f"{name!r} is no type of JSON")
        return [name for name in names if name != "integer" or "number" not in names]

    def base(self, schema: dict[str, Any], pointer: str, depth: int) -> Shape:
        """The keywords that constrain values of one type each."""
        options: list[Simple | Link] = []
        for name in self.types(schema, pointer):
            if name == "array":
                options.append(self.array(schema, pointer, depth))
            elif name == "object":
                options.append(self.object(schema, pointer, depth))
            elif name == "string":
                options.append(self.string(schema, pointer))
            elif name in ("number", "integer"):
                options.append(self.number(schema, pointer, name))
            else:
                options.append(of_type(name))
        found = Union(tuple(dict.fromkeys(options)))
        return ANYTHING if found == ANYTHING else found

    def number(self, schema: dict[str, Any], pointer: str, name: str) -> Num:
        """Ranges and multiples."""
        limits: dict[str, Any] = {}
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            value = schema.get(key)
            if isinstance(value, bool) and key.startswith("exclusive"):
                continue
            if value is not None and not is_number(value):
                raise self.broken(key, pointer, "a number is needed")
            limits[key] = None if value is None else exact(value)
        low: Any = limits.get("minimum")
        high: Any = limits.get("maximum")
        low_open = schema.get("exclusiveMinimum") is True
        high_open = schema.get("exclusiveMaximum") is True
        low_other, high_other = limits.get("exclusiveMinimum"), limits.get("exclusiveMaximum")
        if low_other is not None and (low is None or low_other >= low):
            low, low_open = low_other, True
        if high_other is not None and (high is None or high_other <= high):
            high, high_open = high_other, True
        multiple = limits.get("multipleOf")
        if multiple is not None and multiple <= 0:
            raise self.broken("multipleOf", pointer, "a number above zero is needed")
        step = None if multiple is None else Fraction(multiple)
        if name == "integer" and step is not None and step.numerator == 1:
            step = None  # every integer is a multiple of 1, 0.5, 0.1 …
        return Num(name == "integer", low, low_open, high, high_open, step, pointer)

    def string(self, schema: dict[str, Any], pointer: str) -> Str:
        """Lengths, patterns and formats."""
        low = self.count(schema, "minLength", pointer) or 0
        high = self.count(schema, "maxLength", pointer)
        patterns: list[Node] = []
        if "pattern" in schema:
            patterns += self.pattern(schema["pattern"], "pattern", pointer)
        form = schema.get("format")
        if isinstance(form, str):
            found = format_node(form)
            if found is not None:
                patterns.append(found)
                bound = LENGTHS.get(form)
                high = bound if high is None else high if bound is None else min(high, bound)
            elif form in IRREGULAR:
                self.cannot("format", pointer, f"{form!r} is not a regular language")
        return Str(None, (), low, high, tuple(patterns), frozenset(), pointer)

    def pattern(self, value: Any, keyword: str, pointer: str) -> list[Node]:
        """A regular expression as nodes that all have to fit; none if it is left out."""
        if not isinstance(value, str):
            raise self.broken(keyword, pointer, "a regular expression is a string")
        try:
            nodes = regex.search_all(value)
            for node in nodes:
                regex.compiled(node)
        except regex.RegexError as error:
            self.cannot(keyword, pointer, f"{value[:80]!r}: {error}")
        except (re.error, RecursionError, OverflowError) as error:
            self.cannot(keyword, pointer, f"{value[:80]!r} is too complex ({error})")
        else:
            return [node for node in nodes if node != regex.search("")]
        return []

    def count(self, schema: dict[str, Any], key: str, pointer: str) -> int | None:
        """A keyword whose value is a whole number, such as `maxItems`."""
        value = schema.get(key)
        if value is None:
            return None
        number = exact(value) if is_number(value) else -1
        if isinstance(number, int) and number >= 0:
            return number
        raise self.broken(key, pointer, "a whole number, zero or more, is needed")

    def array(self, schema: dict[str, Any], pointer: str, depth: int) -> Arr:
        """Elements, their number, and what must be among them."""
        items, first = schema.get("items", True), schema.get("prefixItems", [])
        first_key, rest_key = "prefixItems", "items"
        if isinstance(items, list):
            first, items = items, schema.get("additionalItems", True)
            first_key, rest_key = "items", "additionalItems"
        elif self.draft < 2020:
            first = []
        if not isinstance(first, list):
            raise self.broken(first_key, pointer, "a list of schemas is needed")
        heads = tuple(
            self.shape(item, f"{pointer}/{first_key}/{at}", depth + 1)
            for at, item in enumerate(first)
        )
        rest = self.shape(items, f"{pointer}/{rest_key}", depth + 1)
        contains: tuple[tuple[Shape, int, int | None], ...] = ()
        if "contains" in schema and self.draft >= 6:
            inner = self.shape(schema["contains"], f"{pointer}/contains", depth + 1)
            low, high = 1, None
            if self.draft >= 2019:
                given = self.count(schema, "minContains", pointer)
                low = 1 if given is None else given
                high = self.count(schema, "maxContains", pointer)
            if low or high is not None:
                contains = ((inner, low, high),)
        return Arr(
            heads,
            None if rest == ANYTHING else rest,
            self.count(schema, "minItems", pointer) or 0,
            self.count(schema, "maxItems", pointer),
            schema.get("uniqueItems") is True,
            contains,
            pointer,
        )

    def object(self, schema: dict[str, Any], pointer: str, depth: int) -> Obj:
        """Members by name, by pattern, and all others."""
        maps: dict[str, dict[str, Any]] = {}
        for key in ("properties", "patternProperties"):
            maps[key] = schema.get(key, {})
            if not isinstance(maps[key], dict):
                raise self.broken(key, pointer, "an object of schemas is needed")
        required = schema.get("required", [])
        if isinstance(required, bool) and self.draft <= 4:
            required = []  # draft 3 wrote it into the member
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            raise self.broken("required", pointer, "a list of names is needed")
        rest = self.shape(
            schema.get("additionalProperties", True), f"{pointer}/additionalProperties", depth + 1
        )
        patterns: list[tuple[Node, Shape]] = []
        unclear = False
        for text, sub in maps["patternProperties"].items():
            inner = self.shape(sub, f"{pointer}/patternProperties/{escape(text)}", depth + 1)
            nodes = self.pattern(text, "patternProperties", pointer)
            if len(nodes) > 1 or (not nodes and regex.search("") != self._search(text)):
                if nodes:
                    self.cannot("patternProperties", pointer, "look-ahead in a name's pattern")
                unclear = True
                continue
            patterns.append((nodes[0] if nodes else regex.ANYTHING, inner))
        patterns, overlap = self._separate(patterns, pointer)
        if unclear or overlap:
            rest = ANYTHING
        members = []
        for name, sub in maps["properties"].items():
            shape = self.shape(sub, f"{pointer}/properties/{escape(name)}", depth + 1)
            for node, inner in patterns:
                if regex.fits(node, name):
                    shape = self.meet(shape, inner, "patternProperties", pointer)
            members.append((name, shape))
        made = Obj(
            tuple(members),
            tuple(patterns),
            None if rest == ANYTHING else rest,
            tuple(dict.fromkeys(required)),
            self.count(schema, "minProperties", pointer) or 0,
            self.count(schema, "maxProperties", pointer),
            pointer,
        )
        if "propertyNames" in schema and self.draft >= 6:
            made = self.named(made, schema["propertyNames"], pointer, depth)
        return made

    def _search(self, text: str) -> Node | None:
        try:
            return regex.search(text)
        except regex.RegexError:
            return None

    def _separate(
        self, patterns: list[tuple[Node, Shape]], pointer: str
    ) -> tuple[list[tuple[Node, Shape]], bool]:
        """Patterns of which no two fit one name; else none, where that may be left out."""
        joined: dict[Node, Shape] = {}
        for node, shape in patterns:
            known = joined.get(node)
            joined[node] = shape if known is None else self.algebra.both(known, shape)
        nodes = list(joined)
        for at, node in enumerate(nodes):
            for other in nodes[:at]:
                if self.algebra.may_overlap([node, other]):
                    self.cannot("patternProperties", pointer, "two patterns may fit the same name")
                    return [], True
        return list(joined.items()), False

    def named(self, made: Obj, schema: Any, pointer: str, depth: int) -> Obj:
        """Apply `propertyNames`."""
        names = self.links.open(self.shape(schema, f"{pointer}/propertyNames", depth + 1))
        texts = [option for option in names.options if isinstance(option, Str)]
        if any(option == Str() for option in texts):
            return made
        members = tuple(
            (name, shape if any(text_in(option, name) for option in texts) else NEVER)
            for name, shape in made.members
        )
        if not texts:
            return replace(made, members=members, by_pattern=(), rest=NEVER)
        if len(texts) == 1 and texts[0].texts is not None and not made.by_pattern:
            extra = tuple((name, made.rest or ANYTHING) for name in texts[0].order)
            known = {name for name, _ in members}
            more = tuple((name, shape) for name, shape in extra if name not in known)
            return replace(made, members=members + more, rest=NEVER)
        nodes = [node for option in texts for node in (_as_pattern(option),) if node is not None]
        if made.by_pattern or len(nodes) != 1 or len(texts) != 1:
            self.cannot("propertyNames", pointer, "names under several conditions")
            return made
        return replace(
            made, members=members, by_pattern=((nodes[0], made.rest or ANYTHING),), rest=NEVER
        )


def _as_pattern(option: Str) -> Node | None:
    """One pattern that says all of a text's conditions, if one can."""
    patterns = list(option.patterns)
    if option.low or option.high is not None:
        patterns.append(regex.of_length(option.low, option.high))
    if option.excluded:
        patterns.append(regex.all_but(option.excluded))
    return patterns[0] if len(patterns) == 1 else None


def of_type(name: str) -> Simple:
    """All values of a type, by its name."""
    if name == "integer":
        return Num(integer=True)
    simple: dict[str, Simple] = {
        "null": Null(),
        "boolean": Bool(),
        "number": Num(),
        "string": Str(),
        "array": Arr(),
        "object": Obj(),
    }
    return simple[name]


def escape(part: str) -> str:
    """One part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")
