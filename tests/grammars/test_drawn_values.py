"""Any value drawn from a schema matches the schema's grammar: nothing valid is refused.

Schemas are drawn together with a strategy for their values, so every drawn value is valid by its
making, and `jsonschema` says so once more. (The package hypothesis-jsonschema, which turns a given
schema into a strategy, has had no release since 2024.)
"""

from __future__ import annotations

import json
import string
from decimal import Decimal
from typing import Any, TypeAlias

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from helpers.errors import GrammarError
from helpers.grammars import Grammar

Values: TypeAlias = st.SearchStrategy[Any]
Pair: TypeAlias = tuple[dict[str, Any], Values]

TEXT = st.characters(exclude_categories=("Cs",))
NAMES = st.text(string.ascii_letters + ' _-"\\é가', min_size=1, max_size=6)
PATTERNS = [r"^[A-Z]{2}\d{2,4}$", r"^(\+\d{1,3} )?\d{3}-\d{4}$", r"^[^\s@]+@[a-z]+\.(com|org)$"]


@st.composite
def integers(draw: st.DrawFn) -> Pair:
    low, high = sorted(draw(st.tuples(*[st.integers(-(10**9), 10**9)] * 2)))
    schema: dict[str, Any] = {"type": "integer"}
    if draw(st.booleans()):
        schema |= {"minimum": low} if draw(st.booleans()) else {"exclusiveMinimum": low - 1}
    else:
        low = -(10**15)
    if draw(st.booleans()):
        schema |= {"maximum": high} if draw(st.booleans()) else {"exclusiveMaximum": high + 1}
    else:
        high = 10**15
    if draw(st.booleans()):
        step = draw(st.integers(1, 100))
        schema["multipleOf"] = step
        first, last = -(-low // step), high // step
        if first <= last:
            return schema, st.integers(first, last).map(lambda n: n * step)
        del schema["multipleOf"]
    return schema, st.integers(low, high)


@st.composite
def numbers(draw: st.DrawFn) -> Pair:
    cents = sorted(draw(st.tuples(*[st.integers(-(10**6), 10**6)] * 2)))
    low, high = (Decimal(value) / 100 for value in cents)
    schema = {"type": "number", "minimum": float(low), "maximum": float(high)}
    return schema, st.decimals(low, high, places=draw(st.integers(2, 5))).map(float)


@st.composite
def texts(draw: st.DrawFn) -> Pair:
    least = draw(st.integers(0, 4))
    most = least + draw(st.integers(0, 12))
    schema: dict[str, Any] = {"type": "string", "minLength": least}
    if draw(st.booleans()):
        schema["maxLength"] = most
    return schema, st.text(TEXT, min_size=least, max_size=most)


PATTERNED = st.sampled_from(PATTERNS).map(
    lambda pattern: (
        {"type": "string", "pattern": pattern},
        st.from_regex(pattern.replace("$", r"\Z"), alphabet=st.characters(codec="ascii")),
    )
)
TIMES = st.times().map(lambda time: time.isoformat() + "Z")
FORMATS: dict[str, Values] = {
    "date": st.dates().map(lambda day: day.isoformat()),
    "time": TIMES,
    "date-time": st.builds(lambda day, time: f"{day.isoformat()}T{time}", st.dates(), TIMES),
    "uuid": st.uuids().map(str),
    "ipv4": st.ip_addresses(v=4).map(str),
    "ipv6": st.ip_addresses(v=6).map(str),
    "email": st.from_regex(r"\A[a-z0-9]{1,8}(\.[a-z0-9]{1,5})?@[a-z]{1,8}\.[a-z]{2,4}\Z"),
    "json-pointer": st.lists(st.text("ab01", max_size=4)).map(
        lambda parts: "".join("/" + part for part in parts)
    ),
}


def formatted(name: str) -> Pair:
    return {"type": "string", "format": name}, FORMATS[name]


LEAVES = st.one_of(
    integers(),
    numbers(),
    texts(),
    PATTERNED,
    st.sampled_from(sorted(FORMATS)).map(formatted),
    st.sampled_from([({"type": "boolean"}, st.booleans()), ({"type": "null"}, st.none())]),
    st.lists(st.one_of(st.text(TEXT, max_size=5), st.integers()), min_size=1, max_size=5).map(
        lambda values: ({"enum": values}, st.sampled_from(values))
    ),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    members = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(members)), unique=True)) if members else []
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in members.items()},
        "required": required,
    }
    values = st.fixed_dictionaries(
        {name: drawn for name, (_, drawn) in members.items() if name in required},
        optional={name: drawn for name, (_, drawn) in members.items() if name not in required},
    )
    if draw(st.booleans()):
        schema["additionalProperties"] = False
        return schema, values
    others, more = draw(inner)
    schema["additionalProperties"] = others
    extra = st.dictionaries(NAMES.map(lambda name: name + "+"), more, max_size=2)
    return schema, st.builds(lambda known, new: new | known, values, extra)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    first = draw(st.lists(inner, max_size=2))
    items, drawn = draw(inner)
    least = draw(st.integers(0, 3))
    most = least + draw(st.integers(0, 3))
    schema: dict[str, Any] = {
        "type": "array",
        "items": items,
        "minItems": len(first) + least,
        "maxItems": len(first) + most,
    }
    if first:
        schema["prefixItems"] = [one for one, _ in first]
    head = st.tuples(*(values for _, values in first)).map(list)
    tail = st.lists(drawn, min_size=least, max_size=most)
    return schema, st.builds(lambda a, b: a + b, head, tail)


def either(pairs: list[Pair]) -> Pair:
    return {"anyOf": [schema for schema, _ in pairs]}, st.one_of(*(values for _, values in pairs))


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner), arrays(inner), st.lists(inner, min_size=1, max_size=3).map(either)
    ),
    max_leaves=8,
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_value_drawn_from_a_schema_matches_its_grammar(data: st.DataObject) -> None:
    schema, values = data.draw(SCHEMAS)
    drawn = data.draw(st.lists(values, min_size=1, max_size=4))
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    try:
        grammar = Grammar.from_json_schema(schema)
    except GrammarError as error:
        assert error.keyword and error.pointer is not None
        event(f"refused for {error.keyword}")
        return
    assert not grammar.warnings
    for value in drawn:
        assert validator.is_valid(value)
        assert grammar.matches(json.dumps(value), any_order=True), (schema, value)
        loose = json.dumps(value, ensure_ascii=False, indent=1)
        assert grammar.matches(loose, any_order=True), (schema, loose)


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
TREES = st.recursive(
    st.fixed_dictionaries({"name": st.text(TEXT)}),
    lambda inner: st.builds(
        lambda name, children: {"name": name, "children": children}, st.text(TEXT), st.lists(inner)
    ),
)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_trees_drawn_from_a_recursive_schema_match_its_grammar(tree: Any) -> None:
    grammar = Grammar.from_json_schema(TREE)
    assert grammar.matches(json.dumps(tree))
    broken = json.dumps(tree)[:-1] + ', "children": 1}'
    assert not grammar.matches(broken)


def test_hardly_any_drawn_schema_is_refused() -> None:
    """Otherwise the tests above would say nothing."""
    made = refused = 0

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(SCHEMAS)
    def count(pair: Pair) -> None:
        nonlocal made, refused
        try:
            Grammar.from_json_schema(pair[0])
            made += 1
        except GrammarError:
            refused += 1

    count()
    assert made >= 60 and refused <= made / 10, (made, refused)
