"""What all grammars have in common, whatever they were written in."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

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
