"""Grammars made from JSON Schemas accept what the schema allows, and nothing else."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from tests.grammars.fuzz_schemas import run, written

DATA = Path(__file__).parents[3] / "shared" / "data" / "json_schemas.jsonl"


def judged(schema: Any, value: Any, **options: Any) -> bool:
    return Grammar.from_json_schema(schema).matches(json.dumps(value), **options)


NUMBERS = {"type": "number"}
OBJECT = {"type": "object"}
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [1, "a", None, {"a": [True]}], []),
    ({"type": ["string", "null"]}, ["", None], [1, [], {}]),
    ({"type": "integer"}, [0, -7, 10**15, 1.0], [1.5, "1", True]),
    ({"minimum": 0.5, "exclusiveMaximum": 3}, [0.5, 2.99, "text"], [0.49, 3, 1e9]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13]),
    ({"type": "integer", "maximum": 2**63 - 1}, [0, 9_000_000_000_000_000_000], [2**63]),
    ({"type": "number", "multipleOf": 0.25, "minimum": -1}, [0.75, -1, 3], [0.3, -1.25]),
    ({"type": "integer", "multipleOf": 1.5}, [3, 6, 0], [1, 4]),
    (
        {"enum": [1, "1", None, True, [1], {"a": 1}]},
        [1, "1", None, True, [1], {"a": 1}],
        [0, False],
    ),
    ({"const": 1.0}, [1, 1.0], [True, 1.5]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "한국어", "😀😀"], ["a", "abcd"]),
    ({"type": "string", "pattern": r"^\d{3}$"}, ["123"], ["12", "1234", "١٢٣", "123\n"]),
    ({"type": "string", "pattern": r"b|^a"}, ["ax", "xbx"], ["xa", ""]),
    ({"type": "string", "pattern": r"^.$"}, ["x"], ["\n", "\r", "\u2028", "xx"]),
    ({"type": "string", "pattern": "a", "maxLength": 2}, ["ab"], ["abc", "b"]),
    (
        {"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d)(?!Admin|Root).{4,}$"},
        ["Abc1", "1xYz", "Adm1n"],
        ["abc1", "ABCD", "A1", "Admin1", "Root22"],
    ),
    (
        {"type": "string", "pattern": r"^(?!(?:null|\d)$)"},
        ["", "nul", "nulls", "12"],
        ["null", "7"],
    ),
    ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-1", ""]),
    ({"type": "string", "format": "date-time"}, ["2024-01-01T00:00:00Z"], ["2024-01-01 00:00:00Z"]),
    ({"type": "string", "format": "uri-reference"}, ["a/b", "//x", "#f", ""], ["a b", "%zz"]),
    ({"type": "string", "format": "no-such-format"}, ["anything"], [1]),
    ({"format": "ipv4"}, ["1.2.3.4", 7], ["1.2.3.256", "01.2.3.4"]),
    ({"type": "array", "items": NUMBERS, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], ["a"]]),
    ({"prefixItems": [NUMBERS, {"type": "null"}], "items": False}, [[], [1], [1, None]], [[1, 2]]),
    ({"items": [NUMBERS], "additionalItems": False}, [[], [1]], [["a"], [1, 2]]),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [{}]], [[1, 1]]),
    (
        {"items": {"enum": ["a", "b", 1]}, "uniqueItems": True},
        [[], ["a", 1], ["b", "a"]],
        [["a", "a"]],
    ),
    ({"items": NUMBERS, "contains": {"minimum": 5}, "maxItems": 3}, [[1, 7], [5]], [[], [1, 2, 3]]),
    ({"items": {"minimum": 6}, "contains": {"minimum": 5}}, [[7]], [[], [5]]),
    (
        {"properties": {"a": NUMBERS, "b": {"type": "string"}}, "required": ["a"]},
        [{"a": 1}, {"a": 1, "b": "x"}, {"a": 1, "z": []}, 5],
        [{}, {"a": "1"}, {"a": 1, "b": 2}],
    ),
    ({"properties": {"a": NUMBERS}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
    (
        {"patternProperties": {"^x": NUMBERS}, "additionalProperties": {"type": "null"}},
        [{"x1": 1, "y": None}],
        [{"x1": None}, {"y": 1}],
    ),
    (
        {"properties": {"x1": {"minimum": 3}}, "patternProperties": {"^x": NUMBERS}},
        [{"x1": 3}],
        [{"x1": 2}, {"x1": "a"}],
    ),
    ({"propertyNames": {"pattern": "^[a-z]+$"}}, [{"ab": 1}, 3], [{"A": 1}]),
    ({"propertyNames": {"enum": ["a", "b"]}, "type": "object"}, [{"a": 1, "b": 2}], [{"c": 1}]),
    ({**OBJECT, "minProperties": 1, "properties": {"a": {}, "b": {}}}, [{"b": 1}, {"z": 1}], [{}]),
    (
        {
            **OBJECT,
            "properties": {"a": {}, "b": {}, "c": {}},
            "maxProperties": 2,
            "minProperties": 2,
            "additionalProperties": False,
        },
        [{"a": 1, "c": 2}, {"a": 1, "b": 1}],
        [{"a": 1}, {"a": 1, "b": 1, "c": 1}, {}],
    ),
    ({"allOf": [{"minimum": 2}, {"maximum": 3}], "type": "integer"}, [2, 3], [1, 4]),
    (
        {"allOf": [{"properties": {"a": NUMBERS}}, {"required": ["a"]}], "type": "object"},
        [{"a": 1}],
        [{}, {"a": ""}],
    ),
    (
        {
            "allOf": [
                {"properties": {"a": NUMBERS}, "additionalProperties": False},
                {"required": ["a"]},
            ]
        },
        [{"a": 1}],
        [{"a": 1, "b": 1}],
    ),
    ({"anyOf": [{"type": "integer"}, {"minimum": 2.5}]}, [1, 2.5, "a"], [1.5]),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["a", 1], [1.5, None]),
    ({"oneOf": [{"minimum": 3}, {"maximum": 5}], "type": "number"}, [2, 6], [3, 4, 5]),
    (
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    (
        {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]},
        ["a", "c"],
        ["b", "d"],
    ),
    (
        {
            "oneOf": [
                {"properties": {"kind": {"const": "x"}, "v": NUMBERS}, "required": ["kind"]},
                {"properties": {"kind": {"const": "y"}}, "required": ["kind"]},
            ],
            "type": "object",
        },
        [{"kind": "x", "v": 1}, {"kind": "y", "v": "s"}],
        [{"kind": "x", "v": "s"}, {"kind": "z"}, {}],
    ),
    ({"not": {"enum": ["a", "b"]}, "type": "string"}, ["", "c", "ab", "aa"], ["a", "b"]),
    ({"not": {"type": ["string", "object"]}}, [1, [], None, True], ["", {}]),
    ({"not": {"required": ["a"]}, "type": "object"}, [{}, {"b": 1}], [{"a": 1}]),
    ({"not": {"minimum": 3}, "type": "number"}, [2.9], [3, 4]),
    ({"not": {"maxLength": 2}, "type": "string"}, ["abc"], ["", "ab"]),
    (
        {
            **OBJECT,
            "properties": {"a": {"enum": [1, 2]}, "b": {}},
            "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
            "then": {"required": ["b"]},
            "else": {"properties": {"b": False}},
        },
        [{"a": 1, "b": 0}, {"a": 2}, {}],
        [{"a": 1}, {"a": 2, "b": 0}, {"b": 0}],
    ),
    (
        {**OBJECT, "dependentRequired": {"a": ["b"]}, "properties": {"a": {}, "b": {}}},
        [{}, {"b": 1}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    (
        {
            **OBJECT,
            "dependentSchemas": {"a": {"properties": {"b": NUMBERS}}},
            "properties": {"a": {}},
        },
        [{"b": ""}, {"a": 1, "b": 1}],
        [{"a": 1, "b": ""}],
    ),
    (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "dependencies": {"a": ["b"]},
            "properties": {"a": {}, "b": {}},
        },
        [{"b": 1}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "minimum": 3,
            "exclusiveMinimum": True,
        },
        [3.5],
        [3],
    ),
    (
        {
            "$ref": "#/$defs/list",
            "$defs": {"list": {"items": {"$ref": "#/$defs/list"}, "type": "array"}},
        },
        [[], [[], [[]]]],
        [[1], {}],
    ),
    ({"$ref": "#node", "$defs": {"n": {"$anchor": "node", "type": "null"}}}, [None], [1]),
    (
        {
            "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
            "$defs": {
                "a": {"properties": {"x": {"$ref": "#/$defs/a"}}, "type": "object"},
                "b": {"properties": {"x": {"$ref": "#/$defs/b"}}, "additionalProperties": False},
            },
        },
        [{}, {"x": {"x": {}}}],
        [{"y": 1}, {"x": {"y": 1}}, {"x": 1}],
    ),
    ({"unevaluatedProperties": False, "properties": {"a": {}}}, [{"a": 1}], [{"b": 1}]),
    ({"type": "number", "exclusiveMinimum": 0.3}, [0.31, 1], [0.3, 0.1]),
    ({"type": "number", "not": {"const": 0.1}}, [0.11, 1, -0.1], [0.1]),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.25}, [1.25, 1.2, 1.001], [1, 1.3]),
    ({"type": "number", "minimum": -1.25, "exclusiveMaximum": -1}, [-1.2, -1.25], [-1, -1.3]),
    ({"type": "number", "minimum": -0.25}, [-0.2, -0.25, 3], [-0.3, -0.26]),
    ({"type": "number", "multipleOf": 0.25}, [2.5, 2.25, 2, 0], [2.1, 0.3]),
    (
        {**OBJECT, "propertyNames": {"pattern": "^..$"}, "additionalProperties": False}
        | {"properties": {"xa": NUMBERS, "y": NUMBERS}},
        [{"xa": 1}, {}],
        [{"y": 1}, {"zz": 1}],
    ),
    (
        {"uniqueItems": True, "items": {"minimum": 5, "exclusiveMaximum": 5, "type": "integer"}},
        [[], 1],
        [[5], [4]],
    ),
    ({"propertyNames": {"minLength": 2, "maxLength": 0}}, [{}, 1], [{"a": 1}, {"": 1}]),
    ({**OBJECT, "minProperties": 2, "required": ["a"]}, [{"a": 1, "b": 1}], [{"a": 1}]),
]


@pytest.mark.parametrize(("schema", "inside", "outside"), CASES)
def test_schemas_are_judged_as_the_specification_says(
    schema: Any, inside: list[Any], outside: list[Any]
) -> None:
    grammar = Grammar.from_json_schema(schema)
    assert grammar.relaxed == () and grammar.gbnf is None
    for value in inside + outside:
        wanted = any(value is sample for sample in inside)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
            assert grammar.matches(text) is wanted, (text, grammar.explain(text).message)
            assert grammar.matches(text, any_order=True) is wanted
    again = pickle.loads(pickle.dumps(grammar))
    assert all(again.matches(json.dumps(value)) for value in inside)


REFUSED: list[tuple[Any, str, str]] = [
    ({"properties": {"a": {"uniqueItems": True}}}, "uniqueItems", "/properties/a/uniqueItems"),
    ({"type": "array", "contains": {"type": "null"}}, "contains", "/contains"),
    ({"items": {"type": "string", "pattern": "(?<=a)b"}}, "pattern", "/items/pattern"),
    ({"pattern": r"(a)\1", "type": "string"}, "pattern", "/pattern"),
    ({"pattern": "(", "type": "string"}, "pattern", "/pattern"),
    ({"type": "string", "format": "regex"}, "format", "/format"),
    ({"$ref": "http://elsewhere.example/x"}, "$ref", "/$ref"),
    ({"$ref": "#/$defs/gone"}, "$ref", "/$ref"),
    ({"$ref": "#"}, "$ref", "/$ref"),
    ({"not": {"type": "integer"}}, "not", "/not"),
    ({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, "oneOf", "/oneOf"),
    (
        {"patternProperties": {"a": {"type": "null"}, "b": {}}},
        "patternProperties",
        "/patternProperties",
    ),
    ({"type": "strin"}, "type", "/type"),
    ({"required": "a"}, "required", "/required"),
    ({"minItems": -1}, "minItems", "/minItems"),
    ({"properties": {"a/b~c": 3}}, "schema", "/properties/a~1b~0c"),
    ({"multipleOf": 0}, "multipleOf", "/multipleOf"),
    ({"const": 2**70}, "const", "/const"),
    ({"not": {"not": {**OBJECT, "required": ["a"], "additionalProperties": False}}}, "not", "/not"),
    ({"type": "object", "minProperties": 2}, "minProperties", "/minProperties"),
    ({"allOf": [{"$ref": "#/allOf/0"}]}, "$ref", ""),
]


@pytest.mark.parametrize(("schema", "keyword", "pointer"), REFUSED)
def test_what_cannot_be_enforced_is_named(schema: Any, keyword: str, pointer: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.from_json_schema(schema)
    assert caught.value.keyword == keyword
    assert (caught.value.pointer or "").startswith(pointer)


def test_relaxed_grammars_list_what_they_leave_out_and_find_it_afterwards() -> None:
    schema = {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
        "required": ["tags"],
    }
    grammar = Grammar.from_json_schema(schema, strict=False)
    assert len(grammar.relaxed) == 1 and grammar.relaxed[0].startswith(
        "uniqueItems at /properties/tags/uniqueItems"
    )
    assert grammar.matches('{"tags": ["a", "a"]}') and not grammar.matches('{"tags": [1]}')
    assert grammar.problems('{"tags": ["a", "b"]}') == []
    (problem,) = grammar.problems('{"tags": ["a", "a"]}')
    assert problem.startswith("$.tags: ")
    assert pickle.loads(pickle.dumps(grammar)).relaxed == grammar.relaxed


def test_spelling_does_not_matter_but_order_does() -> None:
    grammar = Grammar.from_json_schema(
        {
            "type": "object",
            "properties": {"é": {"const": "A/B"}, "n": {"type": "integer", "maximum": 100}},
            "required": ["n", "é"],
            "additionalProperties": False,
        }
    )
    for text in (
        '{"é":"A/B","n":100}',
        ' {\n\t"\\u00e9" : "\\u0041\\/B" , "n" : 1e2 }\n',
        '{"é":"A/B","n":10.0}',
    ):
        assert grammar.matches(text), grammar.explain(text)
    swapped = '{"n": 1, "é": "A/B"}'
    assert not grammar.matches(swapped) and grammar.matches(swapped, any_order=True)
    for text in ("{", '{"é":"A/B","n":1.5}', "NaN", "", '{"é":"A/B","n":1}x'):
        assert not grammar.matches(text) and not grammar.matches(text, any_order=True)


def test_explain_points_at_the_place() -> None:
    grammar = Grammar.from_json_schema(
        {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    )
    found = grammar.explain('{\n  "age": "x"\n}')
    assert (found.line, found.column) == (2, 10) and not found.matches
    assert grammar.explain('{"age": 3}').matches
    early = grammar.explain("{")
    assert early.expected == ('"\\""',) and early.position == 1


def test_schemas_may_come_as_text_and_faults_have_their_place() -> None:
    assert Grammar.from_json_schema('{"type": "null"}').matches("null")
    with pytest.raises(GrammarError, match="not JSON") as caught:
        Grammar.from_json_schema('{\n "type": }')
    assert (caught.value.line, caught.value.column) == (2, 10)
    for odd in (3, None, [], "3"):
        with pytest.raises(GrammarError):
            Grammar.from_json_schema(odd)  # type: ignore[arg-type]


def test_deep_and_wide_schemas_end_in_a_grammar_or_an_error() -> None:
    deep: Any = {"type": "null"}
    for _ in range(400):
        deep = {"items": deep}
    wide = {"properties": {f"p{i}": {"type": "integer"} for i in range(2000)}}
    product = {
        "allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(8)]} for i in range(8)]
    }
    for schema in (deep, wide, product, {"pattern": "(" * 3000}, {"pattern": "(a{900}){900}"}):
        try:
            Grammar.from_json_schema(schema)
        except GrammarError as error:
            assert error.keyword is not None and error.pointer is not None


def test_patterns_that_ruin_backtracking_do_no_harm() -> None:
    # One that backtracks would not come back within this suite's limit for a test.
    for pattern in ("^(a+)+$", "^(a|aa)*b?$", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$"):
        grammar = Grammar.from_json_schema({"type": "string", "pattern": pattern})
        for text in ("a" * 300 + "!", "x" * 300):
            assert not grammar.matches(json.dumps(text), any_order=True)
            assert not grammar.matches(json.dumps(text))
    schema = {"enum": ["a" * 60 + "!", "aaa"], "pattern": "^(a+)+$"}
    assert judged(schema, "aaa") and not judged(schema, "a" * 60 + "!")


def test_texts_that_nest_without_end_are_judged() -> None:
    grammar = Grammar.from_json_schema(
        {"$ref": "#/$defs/l", "$defs": {"l": {"items": {"$ref": "#/$defs/l"}, "type": "array"}}}
    )
    for any_order in (False, True):
        assert grammar.matches("[" * 900 + "]" * 900, any_order=any_order)
        assert not grammar.matches("[" * 50_000, any_order=any_order)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ('{"properties": {"a": {"const": 1e999}}}', "const", "/properties/a/const"),
        ('{"minimum": NaN}', "minimum", "/minimum"),
        ({"enum": [1, -float("inf")]}, "enum", "/enum/1"),
        ({"maxLength": 10**5000}, "maxLength", "/maxLength"),
        ({"const": b"bytes"}, "const", "/const"),
        ({"properties": {1: {}}}, "properties", "/properties"),
    ],
)
def test_what_json_has_not_is_refused_at_its_place(
    schema: Any, keyword: str, pointer: str, strict: bool
) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.from_json_schema(schema, strict=strict)
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)


def test_a_schema_that_contains_itself_as_an_object_is_judged() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    with pytest.raises(GrammarError, match="deep"):
        Grammar.from_json_schema(schema)


def test_what_was_asked_for_late_is_refused_with_its_place() -> None:
    """Both conditions on the same objects meet only when the reference is followed."""
    schema = {
        "allOf": [{"$ref": "#/$defs/p"}, {"patternProperties": {"1$": {"type": "null"}}}],
        "$defs": {"p": {"patternProperties": {"^x": {"type": "boolean"}}}},
    }
    with pytest.raises(GrammarError) as caught:
        Grammar.from_json_schema(schema)
    assert (caught.value.keyword, caught.value.pointer) == ("allOf", "/allOf")
    assert Grammar.from_json_schema(schema, strict=False).relaxed


def test_what_a_negation_leaves_out_is_said_and_not_negated_again() -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "patternProperties": {"^x": {"type": "null"}},
        "additionalProperties": False,
    }
    grammar = Grammar.from_json_schema({"not": closed})
    assert grammar.matches('{"a": 1}') and not grammar.matches('{"a": "", "x": null}')
    assert not grammar.matches('{"b": 1}') and "narrower" in grammar.warnings[0]
    for twice in ({"not": {"not": closed}}, {"not": {"properties": {"m": {"not": closed}}}}):
        with pytest.raises(GrammarError, match="negation"):
            Grammar.from_json_schema(twice)
        relaxed = Grammar.from_json_schema(twice, strict=False)
        assert relaxed.matches('{"a": ""}') and relaxed.relaxed


def test_what_is_left_out_is_not_negated() -> None:
    schema = {"properties": {"a": {"not": {"not": {"type": "string", "pattern": "(?<=x)y"}}}}}
    grammar = Grammar.from_json_schema(schema, strict=False)
    assert grammar.relaxed and grammar.matches('{"a": "xy"}')


def test_any_order_follows_what_was_written_for_contains() -> None:
    wanted = {"properties": {"k": {}, "a": {"const": 1}}, "required": ["a"], "type": "object"}
    schema = {"type": "array", "maxItems": 3, "items": {"type": "object"}, "contains": wanted}
    grammar = Grammar.from_json_schema(schema)
    for text in ('[{"a":1,"k":2}]', '[{"k":2,"a":1}]', '[{"z":1},{"a":1,"k":2},{"b":1,"a":0}]'):
        assert grammar.matches(text, any_order=True), text
    assert not grammar.matches('[{"a":2,"k":1}]', any_order=True)


def test_a_limit_is_not_taken_for_a_mismatch() -> None:
    many = {f"p{at}": {"type": "integer"} for at in range(1500)}
    schema = {"type": "object", "properties": many, "additionalProperties": False}
    try:
        grammar = Grammar.from_json_schema(schema)
    except GrammarError:
        return
    for judge in (grammar.matches, grammar.explain):
        try:
            assert judge("{}")
        except GrammarError as error:
            assert "cannot be followed" in str(error)


@pytest.mark.parametrize("part", range(5))
def test_random_schemas_accept_what_they_allow_and_nothing_else(part: int) -> None:
    """Against the jsonschema package; `python -m tests.grammars.fuzz_schemas` has more of them."""
    seen: Counter[str] = Counter()
    for number in range(100 * part, 100 * part + 100):
        schema, found = run(1, number, seen)
        assert not found, (number, json.dumps(schema), found)
    assert seen["exact"] > 35 and seen["valid texts"] > 500 and seen["invalid texts"] > 500, seen


def test_texts_written_under_a_grammar_match_it_and_are_valid() -> None:
    rng = random.Random(3)
    checked = 0
    for schema, inside, _ in CASES:
        if not inside:
            continue
        grammar = Grammar.from_json_schema(schema)
        validator = Draft202012Validator(
            {} if schema is True or "$schema" in schema else schema,
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        for _ in range(6):
            text = written(grammar, rng)
            if text is None:
                continue
            assert grammar.matches(text), (schema, text)
            value = json.loads(text)
            if "items" not in validator.schema or isinstance(validator.schema["items"], dict):
                assert validator.is_valid(value) or "pattern" in str(schema), (schema, text)
            checked += 1
    assert checked > 150


@pytest.mark.skipif(not DATA.exists(), reason="the real-world schemas are not part of the project")
def test_real_schemas() -> None:
    right = refused = 0
    rows = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()][::6]
    for row in rows:
        relaxed = Grammar.from_json_schema(row["schema"], strict=False)
        try:
            grammar = Grammar.from_json_schema(row["schema"])
        except GrammarError as error:
            assert error.keyword and error.pointer is not None
            refused += 1
            grammar = None
        good = True
        for test in row["tests"]:
            text = json.dumps(test["data"])
            if grammar is not None:
                accepted = grammar.matches(text, any_order=True)
                assert test["valid"] or not accepted, row["name"]
                good = good and accepted == test["valid"]
            checked = relaxed.matches(text, any_order=True) and not relaxed.problems(text)
            assert checked == test["valid"], row["name"]
        right += good and grammar is not None
    assert right >= 0.94 * len(rows) and refused <= 0.06 * len(rows)
