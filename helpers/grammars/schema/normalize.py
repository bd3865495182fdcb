"""Resolves the logic of a JSON Schema: from keywords to domains.

Follows JSON Schema 2020-12 (Core and Validation), and older drafts where `$schema` names one:
arrays in `items`, boolean `exclusiveMinimum`, `dependencies`, `$ref` without siblings. What no
grammar can enforce is reported with its keyword and JSON pointer, and either refused or left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema import ecma, regex
from helpers.grammars.schema.algebra import Algebra
from helpers.grammars.schema.dialect import (
    APPLICATORS,
    LATE,
    SIMPLE,
    TYPES,
    escape,
    invalid_schema,
)
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
    constants,
    either,
    exact,
    is_number,
    string_in,
)
from helpers.grammars.schema.formats import IRREGULAR, LENGTHS, format_node
from helpers.grammars.schema.references import References, check_depth
from helpers.grammars.schema.scalars import (
    Inexpressible,
    as_pattern,
    is_inexpressible,
    least,
    values_in,
)


class Normalizer:
    """Computes the domains of one schema.

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
        self.algebra = Algebra(self.links, self._late)
        self._place = ("schema", "")  # keyword and pointer of what is being computed
        self._left_out = 0
        self.relaxed: list[str] = []
        self.warnings: list[str] = []
        declared = schema.get("$schema") if isinstance(schema, dict) else None
        found = re.search(r"draft-0?(\d+)|draft/(\d{4})", str(declared or ""))
        self.draft = int(found[1] or found[2]) if found else 2020
        self.references = References(schema, self.draft)

    def report(self, keyword: str, pointer: str, reason: str) -> None:
        """Raise an error, or note what is left out.

        Args:
            keyword: The keyword that cannot be enforced.
            pointer: JSON pointer of the schema that contains it.
            reason: Why it cannot be enforced.

        Raises:
            GrammarError: If the schema is read strictly.
        """
        place = f"{pointer}/{escape(keyword)}"
        self._left_out += 1
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

    def invalid(self, keyword: str, pointer: str, reason: str) -> GrammarError:
        """An error for a keyword whose value is none of its values."""
        return invalid_schema(reason, f"{pointer}/{escape(keyword)}", keyword)

    def attempt(
        self, keyword: str, pointer: str, make: Callable[[], Domain], other: Domain
    ) -> Domain:
        """What `make` gives; `other` where that is inexpressible and may be left out."""
        outer, self._place = self._place, (keyword, pointer)
        try:
            return make()
        except Inexpressible as error:
            self.report(keyword, pointer, f"cannot be expressed in a grammar ({error.reason})")
            return other
        except ecma.RegexError as error:
            self.report(keyword, pointer, str(error))
            return other
        except RecursionError:
            self.report(keyword, pointer, "the schema refers to itself without end")
            return other
        finally:
            self._place = outer

    def _late(self, make: Callable[[], Domain], other: Domain) -> Callable[[], Domain]:
        """The same attempt for a domain that is computed later, reported where it was asked for."""
        keyword, pointer = self._place

        def attempt() -> Domain:
            before = self._left_out
            return self._marked(self.attempt(keyword, pointer, make, other), before)

        return attempt

    def _marked(self, domain: Domain, before: int) -> Domain:
        """The domain, marked if something was left out since a count of `_left_out`."""
        if self._left_out == before:
            return domain
        why = "something is left out"
        marks = tuple(Inexact(type(o), "", why, narrower=False) for o in ANYTHING.options)
        return either([domain, Union(marks)], keep=True)

    def warn(self, option: Inexact) -> None:
        """Note that the grammar is narrower than the schema."""
        place = f"{option.keyword} at {option.where}/{option.keyword}"
        note = f"{place}: the grammar is narrower than the schema; {option.reason}."
        if option.narrower and note not in self.warnings:
            self.warnings.append(note)

    # -- references -------------------------------------------------------------------------

    def link(self, reference: Any, pointer: str, keyword: str) -> Domain:
        """The domain that a reference leads to, computed when it is needed."""
        found = self.references.resolve(reference, f"{pointer}/{escape(keyword)}", keyword)
        if found is None:
            self.report(keyword, pointer, f"{reference} is not in this schema")
            return ANYTHING
        node, target = found
        return self.links.link(("ref", target), lambda: self.domain(node, target, 0))

    # -- one schema -------------------------------------------------------------------------

    def domain(self, schema: Any, pointer: str, depth: int) -> Domain:
        """The domain of a subschema.

        Args:
            schema: The subschema.
            pointer: Its JSON pointer.
            depth: How deep it nests.

        Returns:
            The domain.
        """
        if schema is True:
            return ANYTHING
        if schema is False:
            return NEVER
        if not isinstance(schema, dict):
            raise invalid_schema("a schema is an object, true or false", pointer)
        check_depth(depth, pointer)
        self.links.spend(20 + len(schema), f"the schemas up to {pointer[:80] or '/'}")
        if "$ref" in schema and self.draft <= 7:
            return self.link(schema["$ref"], pointer, "$ref")
        if {"if", "then", "else"} & schema.keys() and self.draft < 7:
            schema = {k: v for k, v in schema.items() if k not in ("if", "then", "else")}
        before = self._left_out
        return self._marked(self._keywords(schema, pointer, depth), before)

    def _keywords(self, schema: dict[str, Any], pointer: str, depth: int) -> Domain:
        """Both what constrains single types and what combines schemas."""
        result: Domain = ANYTHING
        base_done = False
        # Members take the order in which the schema first names them, so keywords go in order.
        lead = "properties" if "properties" in schema else None
        for keyword in sorted(schema, key=lambda key: key in LATE):
            if keyword in SIMPLE and not base_done and keyword == (lead or keyword):
                base_done = True
                result = self.intersect(result, self.base(schema, pointer, depth), keyword, pointer)
            elif keyword in APPLICATORS:
                part = self.applicator(keyword, schema, pointer, depth, result)
                result = self.intersect(result, part, keyword, pointer)
        if lead is None or base_done:
            return result
        return self.intersect(result, self.base(schema, pointer, depth), "properties", pointer)

    def intersect(self, one: Domain, other: Domain, keyword: str, pointer: str) -> Domain:
        """Both domains at once."""
        return self.attempt(keyword, pointer, lambda: self.algebra.intersect(one, other), one)

    def applicator(
        self, keyword: str, schema: dict[str, Any], pointer: str, depth: int, sofar: Domain
    ) -> Domain:
        """What one of the keywords that combine schemas asks for."""
        value = schema[keyword]
        place = f"{pointer}/{escape(keyword)}"
        if keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            return self.link(value, pointer, keyword)
        if keyword == "const":
            return self.values([value], keyword, pointer) if self.draft >= 6 else ANYTHING
        if keyword == "enum":
            if not isinstance(value, list):
                raise self.invalid(keyword, pointer, "a list of values is needed")
            return self.values(value, keyword, pointer)
        if keyword in ("allOf", "anyOf", "oneOf"):
            if not isinstance(value, list):
                raise self.invalid(keyword, pointer, "a list of schemas is needed")
            parts = [self.domain(s, f"{place}/{at}", depth + 1) for at, s in enumerate(value)]
            if keyword == "allOf":
                result: Domain = ANYTHING
                for part in parts:
                    result = self.intersect(result, part, keyword, pointer)
                return result
            return (
                either(parts) if keyword == "anyOf" else self.one_of(parts, pointer, sofar, schema)
            )
        if keyword == "not":
            inner = self.domain(value, place, depth + 1)
            return self.attempt(keyword, pointer, lambda: self.algebra.complement(inner), ANYTHING)
        if keyword == "if":
            return self.condition(schema, pointer, depth)
        if keyword in ("unevaluatedProperties", "unevaluatedItems"):
            return self.unevaluated(keyword, schema, pointer, depth, sofar)
        return self.dependencies(keyword, value, pointer, depth)

    def values(self, values: list[Any], keyword: str, pointer: str) -> Domain:
        """The domain of listed values."""
        self.links.spend(15 * values_in(values), "const and enum")
        if any(is_inexpressible(value) for value in values):
            self.report(keyword, pointer, "numbers beyond 2^53 and lone surrogates")
            return ANYTHING
        return constants(values)

    def one_of(
        self, parts: list[Domain], pointer: str, sofar: Domain, schema: dict[str, Any]
    ) -> Domain:
        """The values in exactly one of some domains; overlaps are left out."""

        def exactly() -> Domain:
            # What else the schema asks for decides which overlaps matter.
            known = self.algebra.intersect(sofar, self.typed(schema))
            inner = [p if known == ANYTHING else self.algebra.intersect(known, p) for p in parts]
            results: list[Domain] = []
            for at, part in enumerate(parts):
                self.links.spend(len(parts), "oneOf, whose schemas are compared with each other")
                for other_at, other in enumerate(parts):
                    if other_at != at and not self.algebra.disjoint(inner[at], inner[other_at]):
                        part = self.algebra.difference(part, other)
                results.append(part)
            return either(results)

        return self.attempt("oneOf", pointer, exactly, either(parts))

    def typed(self, schema: dict[str, Any]) -> Domain:
        """The domain that the keyword `type` alone describes."""
        return Union(tuple(_OF_TYPE[name] for name in self.types(schema, "")))

    def condition(self, schema: dict[str, Any], pointer: str, depth: int) -> Domain:
        """`if`, `then` and `else`."""
        parts = {
            key: self.domain(schema.get(key, True), f"{pointer}/{key}", depth + 1)
            for key in ("if", "then", "else")
        }

        def decide() -> Domain:
            both = self.algebra.intersect_now
            yes = both(parts["if"], parts["then"])
            return either([yes, both(self.algebra.complement(parts["if"]), parts["else"])])

        return self.attempt("if", pointer, decide, either([parts["then"], parts["else"]]))

    def dependencies(self, keyword: str, value: Any, pointer: str, depth: int) -> Domain:
        """Members that need others, or make other conditions hold."""
        if not isinstance(value, dict):
            raise self.invalid(keyword, pointer, "an object is needed")
        if keyword == "dependencies" and self.draft > 7:
            # Gone since 2019-09: split in two, and without effect under its old name.
            return ANYTHING
        if keyword != "dependencies" and self.draft <= 7:
            return ANYTHING
        result: Domain = ANYTHING
        for name, needed in value.items():
            if isinstance(needed, list):
                then: Domain = Union(
                    (*_all_but_type("object"), Obj(required=tuple(map(str, needed))))
                )
            else:
                place = f"{pointer}/{escape(keyword)}/{escape(name)}"
                then = self.domain(needed, place, depth + 1)
            absent = Union((*_all_but_type("object"), Obj(members=((name, NEVER),))))
            with_it = self.intersect(Union((Obj(required=(name,)),)), then, keyword, pointer)
            result = self.intersect(result, either([absent, with_it]), keyword, pointer)
        return result

    def unevaluated(
        self, keyword: str, schema: dict[str, Any], pointer: str, depth: int, sofar: Domain
    ) -> Domain:
        """What the other keywords leave open; known where those only name members."""
        inner = self.domain(schema[keyword], f"{pointer}/{keyword}", depth + 1)
        if inner == ANYTHING:
            return ANYTHING
        if keyword == "unevaluatedProperties":
            plain = "additionalProperties"
            doubtful = {"not", "if", "oneOf", "dependentSchemas", "$ref", "allOf", "anyOf"}
        else:
            plain = "items"
            doubtful = {"not", "if", "oneOf", "contains", "$ref", "allOf", "anyOf"}
        if doubtful & schema.keys():
            self.report(keyword, pointer, "what other keywords evaluate is not known here")
            return ANYTHING
        if plain in schema:
            return ANYTHING
        keep = ("properties", "patternProperties", "prefixItems")
        local = {key: schema[key] for key in keep if key in schema}
        local[plain] = schema[keyword]
        return self.base(local, pointer, depth)

    # -- keywords of one type ---------------------------------------------------------------

    def types(self, schema: dict[str, Any], pointer: str) -> list[str]:
        """The names in `type`, or all of them."""
        value = schema.get("type", list(TYPES))
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.invalid("type", pointer, "a name or a list of names is needed")
        for name in names:
            if name not in (*TYPES, "integer"):
                raise self.invalid("type", pointer, f"{name!r} is not a JSON type")
        return [name for name in names if name != "integer" or "number" not in names]

    def base(self, schema: dict[str, Any], pointer: str, depth: int) -> Domain:
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
                options.append(_OF_TYPE[name])
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
                raise self.invalid(key, pointer, "a number is needed")
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
            raise self.invalid("multipleOf", pointer, "a number above zero is needed")
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
                high = least(high, LENGTHS.get(form))
            elif form in IRREGULAR:
                self.report("format", pointer, f"{form!r} is not a regular language")
        return Str(None, (), low, high, tuple(patterns), frozenset(), pointer)

    def pattern(self, value: Any, keyword: str, pointer: str) -> list[Node]:
        """A regular expression as nodes that all have to fit; none if it is left out."""
        if not isinstance(value, str):
            raise self.invalid(keyword, pointer, "a regular expression is a string")
        self.links.spend(4 * len(value), "patterns")
        try:
            nodes = regex.search_all(value)
        except ecma.RegexError as error:
            self.report(keyword, pointer, f"{value[:80]!r}: {error}")
        except RecursionError as error:
            self.report(keyword, pointer, f"{value[:80]!r} is too complex ({error})")
        else:
            return [node for node in nodes if node != ecma.search("")]
        return []

    def count(self, schema: dict[str, Any], key: str, pointer: str) -> int | None:
        """A keyword whose value is a whole number, such as `maxItems`."""
        value = schema.get(key)
        if value is None:
            return None
        number = exact(value) if is_number(value) else -1
        if isinstance(number, int) and number >= 0:
            return number
        raise self.invalid(key, pointer, "a whole number, zero or more, is needed")

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
            raise self.invalid(first_key, pointer, "a list of schemas is needed")
        heads = tuple(
            self.domain(item, f"{pointer}/{first_key}/{at}", depth + 1)
            for at, item in enumerate(first)
        )
        rest = self.domain(items, f"{pointer}/{rest_key}", depth + 1)
        contains: tuple[tuple[Domain, int, int | None], ...] = ()
        if "contains" in schema and self.draft >= 6:
            inner = self.domain(schema["contains"], f"{pointer}/contains", depth + 1)
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
                raise self.invalid(key, pointer, "an object of schemas is needed")
        required = schema.get("required", [])
        if isinstance(required, bool) and self.draft <= 4:
            required = []  # draft 3 wrote it into the member
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            raise self.invalid("required", pointer, "a list of names is needed")
        rest = self.domain(
            schema.get("additionalProperties", True), f"{pointer}/additionalProperties", depth + 1
        )
        patterns: list[tuple[Node, Domain]] = []
        unclear = False
        for text, sub in maps["patternProperties"].items():
            inner = self.domain(sub, f"{pointer}/patternProperties/{escape(text)}", depth + 1)
            nodes = self.pattern(text, "patternProperties", pointer)
            if len(nodes) > 1 or (not nodes and ecma.search("") != self._search(text)):
                if nodes:
                    self.report("patternProperties", pointer, "look-ahead in a name's pattern")
                unclear = True
                continue
            patterns.append((nodes[0] if nodes else ecma.ANYTHING, inner))
        patterns, overlap = self._separate(patterns, pointer)
        if unclear or overlap:
            rest = ANYTHING
        members = []
        for name, sub in maps["properties"].items():
            domain = self.domain(sub, f"{pointer}/properties/{escape(name)}", depth + 1)
            self.links.spend(5 * len(patterns), "properties beside patternProperties")
            for node, inner in patterns:
                if self.fits(node, name, pointer):
                    domain = self.intersect(domain, inner, "patternProperties", pointer)
            members.append((name, domain))
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

    def fits(self, node: Node, name: str, pointer: str) -> bool:
        """Whether a pattern describes a member's name."""
        try:
            return regex.fits(node, name)
        except ecma.RegexError as error:
            self.report("patternProperties", pointer, str(error))
            return False

    def _search(self, text: str) -> Node | None:
        try:
            return ecma.search(text)
        except ecma.RegexError:
            return None

    def _separate(
        self, patterns: list[tuple[Node, Domain]], pointer: str
    ) -> tuple[list[tuple[Node, Domain]], bool]:
        """Patterns of which no two fit one name; else none, where that may be left out."""
        joined: dict[Node, Domain] = {}
        for node, domain in patterns:
            known = joined.get(node)
            joined[node] = domain if known is None else self.algebra.intersect(known, domain)
        nodes = list(joined)
        for at, node in enumerate(nodes):
            for other in nodes[:at]:
                if self.algebra.may_overlap([node, other]):
                    self.report("patternProperties", pointer, "two patterns may fit the same name")
                    return [], True
        return list(joined.items()), False

    def named(self, made: Obj, schema: Any, pointer: str, depth: int) -> Obj:
        """Apply `propertyNames`."""
        names = self.links.resolve(self.domain(schema, f"{pointer}/propertyNames", depth + 1))
        texts = [option for option in names.options if isinstance(option, Str)]
        if any(option == Str() for option in texts):
            return made
        members = tuple(
            (name, domain if any(string_in(option, name) for option in texts) else NEVER)
            for name, domain in made.members
        )
        if not texts:
            return replace(made, members=members, by_pattern=(), rest=NEVER)
        if len(texts) == 1 and texts[0].texts is not None and not made.by_pattern:
            extra = tuple((name, made.rest or ANYTHING) for name in texts[0].order)
            known = {name for name, _ in members}
            more = tuple((name, domain) for name, domain in extra if name not in known)
            return replace(made, members=members + more, rest=NEVER)
        nodes = [node for option in texts for node in (as_pattern(option),) if node is not None]
        if made.by_pattern or len(nodes) != 1 or len(texts) != 1:
            self.report("propertyNames", pointer, "names under several conditions")
            return made
        return replace(
            made, members=members, by_pattern=((nodes[0], made.rest or ANYTHING),), rest=NEVER
        )


def _all_but_type(name: str) -> tuple[Simple, ...]:
    return tuple(_OF_TYPE[other] for other in TYPES if other != name)


_OF_TYPE: dict[str, Simple] = {
    "null": Null(),
    "boolean": Bool(),
    "number": Num(),
    "integer": Num(integer=True),
    "string": Str(),
    "array": Arr(),
    "object": Obj(),
}
