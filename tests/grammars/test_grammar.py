"""What all grammars have in common, whatever they were written in."""

from __future__ import annotations

import enum
import pickle
from collections import OrderedDict
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar

SCHEMA: dict[str, Any] = {"properties": {"a": {"type": "integer"}, "b": {"uniqueItems": True}}}
MAKERS = [
    lambda: Grammar.from_string('root ::= "yes" | "no"'),
    lambda: Grammar.from_string('root ::= "no" | "yes"'),
    lambda: Grammar.from_json_schema({"enum": ["yes", "no"]}),
    lambda: Grammar.from_json_schema({"properties": {"a": True, "b": {"type": "null"}}}),
    lambda: Grammar.from_json_schema({"properties": {"b": {"type": "null"}, "a": True}}),
    lambda: Grammar.from_json_schema(SCHEMA, strict=False),
    lambda: Grammar.from_pydantic(dict[str, int]),
    lambda: Grammar.from_typescript("type A = 'yes' | 'no'"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_equal_content_has_an_equal_key_also_when_unpickled(make: Any) -> None:
    grammar, same = make(), make()
    again = pickle.loads(pickle.dumps(grammar))
    assert grammar is not same
    assert grammar.key == same.key == again.key == pickle.loads(pickle.dumps(again)).key
    assert len(grammar.key) == 64
    assert (again.guidance(), again.gbnf, again.schema) == (
        grammar.guidance(),
        grammar.gbnf,
        grammar.schema,
    )
    assert (again.relaxed, again.warnings) == (grammar.relaxed, grammar.warnings)


def test_other_content_has_another_key() -> None:
    assert len({make().key for make in MAKERS}) == len(MAKERS)
    # How the content was given does not matter, and strictness only where it changes something.
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    one = Grammar.from_json_schema(schema)
    assert one.key == Grammar.from_json_schema(one._source.content()).key
    assert one.key == Grammar.from_json_schema(schema, strict=False).key


def test_a_grammar_knows_what_it_was_written_in() -> None:
    text = '{"type": "null"}'
    assert Grammar.from_json_schema(text).gbnf is None
    assert Grammar.from_json_schema(text).schema == {"type": "null"}
    assert Grammar.from_string('root ::= "a"').schema is None


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Word(str):
    pass


def test_a_schema_is_kept_as_a_plain_copy() -> None:
    values = (Colour.RED, Size.SMALL, Word("w"), np.int64(4), np.bool_(True), Decimal("0.5"), 2.5)
    schema: dict[Any, Any] = OrderedDict(
        {Word("enum"): values, Colour.RED: MappingProxyType({"a": [np.float64(1.5)]})}
    )
    plain = {"enum": ["red", 1, "w", 4, True, 0.5, 2.5], "red": {"a": [1.5]}}
    grammar = Grammar.from_json_schema(schema)
    assert grammar.schema == plain and grammar.key == Grammar.from_json_schema(plain).key
    sent = pickle.dumps(grammar)
    assert not any(name in sent for name in (b"Colour", b"Size", b"Word", b"numpy", b"Ordered"))
    assert all(grammar.matches(text) for text in ('"red"', "1", '"w"', "4", "true", "0.5"))


def test_a_grammar_does_not_change_with_the_schema_it_was_made_from() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"enum": [1]}}}
    grammar = Grammar.from_json_schema(schema)
    schema["properties"]["a"]["enum"].append(2)
    grammar.schema["properties"]["a"]["enum"].append(2)
    again = pickle.loads(pickle.dumps(grammar))
    assert again.schema == grammar.schema == {"type": "object", "properties": {"a": {"enum": [1]}}}
    assert again.guidance() == grammar.guidance() and again.key == grammar.key
    assert grammar.problems('{"a": 2}') and not again.matches('{"a": 2}')


@pytest.mark.parametrize(
    "value",
    [object(), {1}, b"", np.array([1]), np.float64("nan"), Decimal("1.0000000000000000001")],
)
def test_what_has_no_plain_form_is_refused_at_its_place(value: Any) -> None:
    for schema in ({"items": {"const": value}}, {"items": {"enum": (value,)}}):
        with pytest.raises(GrammarError) as caught:
            Grammar.from_json_schema(schema)
        assert (caught.value.pointer or "").startswith("/items/")
