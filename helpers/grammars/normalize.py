"""Works out the logic of a JSON Schema: from keywords to shapes.

Follows JSON Schema 2020-12 (Core and Validation), and older drafts where `$schema` names one:
arrays in `items`, boolean `exclusiveMinimum`, `dependencies`, `$ref` without siblings. What no
grammar can enforce is reported with its keyword and JSON pointer, and either refused or left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urljoin

from ..errors import GrammarError
from .algebra import Algebra
from .dialect import APPLICATORS, LATE, NOT_SCHEMAS
from .keywords import SIMPLE, TYPES, KeywordReader, escape, of_type
from .scalars import CannotSay
from .shapes import (
    ANYTHING,
    NEVER,
    Link,
    Links,
    Obj,
    Shape,
    Simple,
    Union,
    constants,
    exact,
    is_number,
)

MAX_DEPTH = 150


class Normalizer(KeywordReader):
    """Turns one schema into shapes.

    Args:
        schema: The schema, as `json.loads` gives it.
        strict: Whether what cannot be enforced is an error; else it is left out and listed.

    Attributes:
        links: Where links lead.
        relaxed: What was left out, as `keyword at pointer: reason`.
        warnings: Where the grammar is narrower than the schema.
    """

    def __init__(self, schema: Any, *, strict: bool) -> None:
        self.schema = schema
        self.strict = strict
        self.links = Links()
        self.algebra = Algebra(self.links)
        self.relaxed: list[str] = []
        self.warnings: list[str] = []
        declared = schema.get("$schema") if isinstance(schema, dict) else None
        found = re.search(r"draft-0?(\d+)|draft/(\d{4})", str(declared or ""))
        self.draft = int(found[1] or found[2]) if found else 2020
        self.names: dict[str, str] = {}
        self._index(schema, "", "")

    # -- entry ------------------------------------------------------------------------------

    def run(self) -> Shape:
        """The shape of the whole schema.

        Raises:
            GrammarError: With `keyword` and `pointer`, for what cannot be enforced.
        """
        return self.shape(self.schema, "", 0)

    def cannot(self, keyword: str, pointer: str, reason: str) -> None:
        """Refuse, or note that something is left out.

        Args:
            keyword: The keyword at fault.
            pointer: JSON pointer of the schema that holds it.
            reason: Why it cannot be enforced.

        Raises:
            GrammarError: If the schema is read strictly.
        """
        place = f"{pointer}/{escape(keyword)}"
        if self.strict:
            raise GrammarError(
                f"'{keyword}' at {place}: {reason}. Change the schema, or pass strict=False to "
                "leave it out and check the result with jsonschema.",
                keyword=keyword,
                pointer=place,
            )
        note = f"{keyword} at {place}: {reason}"
        if note not in self.relaxed:
            self.relaxed.append(note)

    def broken(self, keyword: str, pointer: str, reason: str) -> GrammarError:
        """An error for a schema that is no schema."""
        place = f"{pointer}/{escape(keyword)}" if keyword else pointer
        return GrammarError(
            f"'{keyword or 'schema'}' at {place or '/'}: {reason}.",
            keyword=keyword or "schema",
            pointer=place,
        )

    def attempt(self, keyword: str, pointer: str, make: Callable[[], Shape], other: Shape) -> Shape:
        """What `make` gives; `other` where that cannot be said and need not be."""
        self.algebra.narrowed = False
        try:
            made = make()
            if self.algebra.narrowed:
                self.warnings.append(
                    f"{keyword} at {pointer}/{escape(keyword)}: the grammar is narrower than the "
                    "schema; values that fit only because a member is of another type are left out."
                )
            return made
        except CannotSay as error:
            self.cannot(keyword, pointer, f"{error.reason} cannot be part of a grammar")
            return other
        except RecursionError:
            self.cannot(keyword, pointer, "the schema leads to itself without end")
            return other

    # -- references -------------------------------------------------------------------------

    def _index(self, node: Any, pointer: str, base: str, depth: int = 0) -> None:
        """Note where `$id` and `$anchor` are, for `$ref`."""
        if depth > MAX_DEPTH:
            raise self.broken("", pointer[:200], f"schemas nest more than {MAX_DEPTH} deep")
        if isinstance(node, list):
            for at, item in enumerate(node):
                self._index(item, f"{pointer}/{at}", base, depth + 1)
        if not isinstance(node, dict):
            return
        name = node.get("$id", node.get("id") if self.draft <= 4 else None)
        if isinstance(name, str):
            base = urljoin(base, name)
            self.names.setdefault(base.rstrip("#"), pointer)
            self.names.setdefault(name.rstrip("#"), pointer)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(key), str):
                self.names.setdefault(f"{base.rstrip('#')}#{node[key]}", pointer)
                self.names.setdefault(f"#{node[key]}", pointer)
        for key, value in node.items():
            if key not in NOT_SCHEMAS:
                self._index(value, f"{pointer}/{escape(key)}", base, depth + 1)

    def resolve(self, reference: Any, pointer: str, keyword: str) -> tuple[Any, str] | None:
        """The schema that a reference names, and its pointer; None for one from elsewhere."""
        if not isinstance(reference, str):
            raise self.broken(keyword, pointer, "a reference is a string")
        base, _, fragment = reference.partition("#")
        start = ""
        if base:
            if base not in self.names:
                return None
            start = self.names[base]
        if fragment and not fragment.startswith("/"):
            found = self.names.get(reference, self.names.get(f"#{fragment}"))
            if found is None:
                raise self.broken(keyword, pointer, f"{reference} names nothing in this schema")
            start, fragment = found, ""
        target = start + unquote(fragment)
        node = self.schema
        for part in target.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and re.fullmatch(r"\d{1,6}", part) and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise self.broken(keyword, pointer, f"{reference} names nothing in this schema")
        return node, target

    def link(self, reference: Any, pointer: str, keyword: str) -> Shape:
        """The shape behind a reference, worked out later."""
        found = self.resolve(reference, pointer, keyword)
        if found is None:
            self.cannot(keyword, pointer, f"{reference} is not in this schema")
            return ANYTHING
        node, target = found
        return self.links.link(("ref", target), lambda: self.shape(node, target, 0))

    # -- one schema -------------------------------------------------------------------------

    def shape(self, schema: Any, pointer: str, depth: int) -> Shape:
        """The shape of a subschema.

        Args:
            schema: The subschema.
            pointer: Its JSON pointer.
            depth: How deep it nests.

        Returns:
            The shape.
        """
        if schema is True:
            return ANYTHING
        if schema is False:
            return NEVER
        if not isinstance(schema, dict):
            raise self.broken("", pointer, "a schema is an object, true or false")
        if depth > MAX_DEPTH:
            raise self.broken("", pointer[:200], f"schemas nest more than {MAX_DEPTH} deep")
        if "$ref" in schema and self.draft <= 7:
            return self.link(schema["$ref"], pointer, "$ref")
        if {"if", "then", "else"} & schema.keys() and self.draft < 7:
            schema = {k: v for k, v in schema.items() if k not in ("if", "then", "else")}
        result: Shape = ANYTHING
        base_done = False
        # Members take the order in which the schema first names them, so keywords go in order.
        lead = "properties" if "properties" in schema else None
        for keyword in sorted(schema, key=lambda key: key in LATE):
            if keyword in SIMPLE and not base_done and keyword == (lead or keyword):
                base_done = True
                result = self.meet(result, self.base(schema, pointer, depth), keyword, pointer)
            elif keyword in APPLICATORS:
                part = self.applicator(keyword, schema, pointer, depth, result)
                result = self.meet(result, part, keyword, pointer)
        if lead is None or base_done:
            return result
        return self.meet(result, self.base(schema, pointer, depth), "properties", pointer)

    def meet(self, one: Shape, other: Shape, keyword: str, pointer: str) -> Shape:
        """Both shapes at once."""
        return self.attempt(keyword, pointer, lambda: self.algebra.both(one, other), one)

    def applicator(
        self, keyword: str, schema: dict[str, Any], pointer: str, depth: int, sofar: Shape
    ) -> Shape:
        """What one of the keywords that combine schemas asks for."""
        value = schema[keyword]
        place = f"{pointer}/{escape(keyword)}"
        if keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            return self.link(value, pointer, keyword)
        if keyword == "const":
            return self.values([value], keyword, pointer) if self.draft >= 6 else ANYTHING
        if keyword == "enum":
            if not isinstance(value, list):
                raise self.broken(keyword, pointer, "a list of values is needed")
            return self.values(value, keyword, pointer)
        if keyword in ("allOf", "anyOf", "oneOf"):
            if not isinstance(value, list):
                raise self.broken(keyword, pointer, "a list of schemas is needed")
            parts = [self.shape(s, f"{place}/{at}", depth + 1) for at, s in enumerate(value)]
            if keyword == "allOf":
                result: Shape = ANYTHING
                for part in parts:
                    result = self.meet(result, part, keyword, pointer)
                return result
            return (
                either(parts) if keyword == "anyOf" else self.one_of(parts, pointer, sofar, schema)
            )
        if keyword == "not":
            inner = self.shape(value, place, depth + 1)
            return self.attempt(keyword, pointer, lambda: self.algebra.complement(inner), ANYTHING)
        if keyword == "if":
            return self.condition(schema, pointer, depth)
        if keyword in ("unevaluatedProperties", "unevaluatedItems"):
            return self.unevaluated(keyword, schema, pointer, depth, sofar)
        return self.dependencies(keyword, value, pointer, depth)

    def values(self, values: list[Any], keyword: str, pointer: str) -> Shape:
        """The shape of listed values."""
        if any(_unspeakable(value) for value in values):
            self.cannot(keyword, pointer, "numbers beyond 2^53 and lone surrogates")
            return ANYTHING
        return constants(values)

    def one_of(
        self, parts: list[Shape], pointer: str, sofar: Shape, schema: dict[str, Any]
    ) -> Shape:
        """Exactly one of some shapes: `anyOf` where they cannot overlap, else without overlaps."""

        def exactly() -> Shape:
            # What the schema asks for besides decides which overlaps matter.
            known = self.algebra.both(sofar, self.typed(schema))
            inner = [p if known == ANYTHING else self.algebra.both(known, p) for p in parts]
            results: list[Shape] = []
            for at, part in enumerate(parts):
                for other_at, other in enumerate(parts):
                    if other_at != at and not self.algebra.disjoint(inner[at], inner[other_at]):
                        part = self.algebra.without(part, other)
                results.append(part)
            return either(results)

        return self.attempt("oneOf", pointer, exactly, either(parts))

    def typed(self, schema: dict[str, Any]) -> Shape:
        """The shape that the keyword `type` alone describes."""
        return Union(tuple(of_type(name) for name in self.types(schema, "")))

    def condition(self, schema: dict[str, Any], pointer: str, depth: int) -> Shape:
        """`if`, `then` and `else`."""
        parts = {
            key: self.shape(schema.get(key, True), f"{pointer}/{key}", depth + 1)
            for key in ("if", "then", "else")
        }

        def decide() -> Shape:
            both = self.algebra.both_now
            yes = both(parts["if"], parts["then"])
            return either([yes, both(self.algebra.complement(parts["if"]), parts["else"])])

        return self.attempt("if", pointer, decide, either([parts["then"], parts["else"]]))

    def dependencies(self, keyword: str, value: Any, pointer: str, depth: int) -> Shape:
        """Members that need others, or make other conditions hold."""
        if not isinstance(value, dict):
            raise self.broken(keyword, pointer, "an object is needed")
        if keyword == "dependencies" and self.draft > 7:
            # Gone since 2019-09: split in two, and without effect under its old name.
            return ANYTHING
        if keyword != "dependencies" and self.draft <= 7:
            return ANYTHING
        result: Shape = ANYTHING
        for name, needed in value.items():
            if isinstance(needed, list):
                then: Shape = Union((*_others("object"), Obj(required=tuple(map(str, needed)))))
            else:
                place = f"{pointer}/{escape(keyword)}/{escape(name)}"
                then = self.shape(needed, place, depth + 1)
            absent = Union((*_others("object"), Obj(members=((name, NEVER),))))
            with_it = self.meet(Union((Obj(required=(name,)),)), then, keyword, pointer)
            result = self.meet(result, either([absent, with_it]), keyword, pointer)
        return result

    def unevaluated(
        self, keyword: str, schema: dict[str, Any], pointer: str, depth: int, sofar: Shape
    ) -> Shape:
        """What the other keywords leave open; known where those only name members."""
        inner = self.shape(schema[keyword], f"{pointer}/{keyword}", depth + 1)
        if inner == ANYTHING:
            return ANYTHING
        if keyword == "unevaluatedProperties":
            plain = "additionalProperties"
            doubtful = {"not", "if", "oneOf", "dependentSchemas", "$ref", "allOf", "anyOf"}
        else:
            plain = "items"
            doubtful = {"not", "if", "oneOf", "contains", "$ref", "allOf", "anyOf"}
        if doubtful & schema.keys():
            self.cannot(keyword, pointer, "what other keywords evaluate cannot be told here")
            return ANYTHING
        if plain in schema:
            return ANYTHING
        keep = ("properties", "patternProperties", "prefixItems")
        local = {key: schema[key] for key in keep if key in schema}
        local[plain] = schema[keyword]
        return self.base(local, pointer, depth)


def _unspeakable(value: Any) -> bool:
    """Whether llguidance would round a number, or a text cannot be written in UTF-8."""
    if isinstance(value, list):
        return any(_unspeakable(item) for item in value)
    if isinstance(value, dict):
        return any(_unspeakable(item) for pair in value.items() for item in pair)
    if isinstance(value, str):
        return any(0xD800 <= ord(char) <= 0xDFFF for char in value)
    return is_number(value) and not -(2**53) <= exact(value) <= 2**53


def _others(name: str) -> tuple[Simple, ...]:
    return tuple(of_type(other) for other in TYPES if other != name)


def either(shapes: list[Shape]) -> Shape:
    """The shape of values that have at least one of some shapes."""
    options: list[Simple | Link] = []
    for shape in shapes:
        if shape == ANYTHING:
            return ANYTHING
        options += [shape] if isinstance(shape, Link) else shape.options
    return Union(tuple(dict.fromkeys(options)))
