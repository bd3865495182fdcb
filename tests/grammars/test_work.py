"""Grammars made to take for ever end, with a grammar or an error that says what was too much."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.gbnf import recognizer
from helpers.grammars.schema import domains, emit, source
from tests.benchmarks.bench_grammars import FAMILIES, make, random_schema
from tests.support import ROOT

SECONDS = 240

CHILD = """
import json, random, sys
from helpers.errors import GrammarError
from tests.benchmarks.bench_grammars import FAMILIES, make, random_schema

for name, size in json.loads(sys.argv[1]):
    known = name in FAMILIES
    source = FAMILIES[name][0](size) if known else ("schema", random_schema(random.Random(size)))
    kind, content = source
    verb, _, notation = kind.rpartition(" ")
    try:
        if verb:
            make(notation, content[0]).explain(content[1])
        else:
            make(notation, content).matches("")
        print("grammar", flush=True)
    except GrammarError as error:
        print("refused:", str(error).splitlines()[0], flush=True)
"""

SLOW = {
    "octree": (8, "grammar"),
    "typescript octree": (500, "grammar"),
    "enum of words": (100_000, "grammar"),
    "overlapping alternatives": (60, ""),
    "nested stars": (10, ""),
    "overlapping names": (50, "grammar"),
    "gbnf literal": (20_000, "grammar"),
    "many required names": (200_000, "too many properties"),
    "wide object": (400_000, "too many properties"),
    "all of patterns": (200_000, "strings of several schemas"),
    "one of overlapping": (30_000, "properties of several schemas"),
    "doubling all of": (300, ""),
    "chain of objects": (1_000, "grammar"),
    "typescript union": (30_000, "grammar"),
    "explain gbnf ambiguous": (1_000, "too ambiguous"),
    "explain small numbers": (30_000, "characters, numbers written out"),
}
"""What took minutes or ended the process before its work was counted, and how it ends."""


def outcomes(cases: list[tuple[str, int]]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    return lines


@pytest.mark.timeout(SECONDS + 30)
def test_what_took_minutes_ends() -> None:
    found = outcomes([(name, size) for name, (size, _) in SLOW.items()])
    for (name, (_, wanted)), line in zip(SLOW.items(), found, strict=True):
        assert wanted in line, (name, line)


@pytest.mark.timeout(SECONDS + 30)
def test_each_family_and_random_schemas_end() -> None:
    small = [(name, min(sizes)) for name, (_, sizes) in FAMILIES.items()]
    found = outcomes([*small, *(("random", seed) for seed in (*range(8), 159, 257))])
    assert found.count("grammar") > len(small) / 2


def deep(levels: int, opening: str = "[", inside: str = "", closing: str = "]") -> str:
    return opening * levels + inside + closing * levels


def test_no_depth_is_a_recursion_error() -> None:
    anything = Grammar.from_json_schema({})
    for text in ("[" * 3000, deep(3000), '{"a":' * 3000, "[" * 3000 + "x"):
        found = anything.explain(text)
        assert anything.matches(text) == found.matches
        assert anything.matches(text, any_order=True) == found.matches
        assert found.matches or found.position == len(text.rstrip("x"))
    listed: Any = int
    for _ in range(3000):
        listed = list[listed]
    nested: Any = 1
    for _ in range(3000):
        nested = [nested]
    makers = [
        lambda: Grammar.from_pydantic(listed),
        lambda: Grammar.from_json_schema(deep(3000)),
        lambda: Grammar.from_json_schema(deep(3000, '{"items":', "{}", "}")),
        lambda: Grammar.from_json_schema({"const": nested}),
        lambda: Grammar.from_json_schema({"default": nested}),
        lambda: Grammar.from_json_schema({"pattern": deep(3000, "(", "a", ")")}),
        lambda: Grammar.from_typescript("type A = " + deep(3000, "(", "1", ")")),
        lambda: Grammar.from_typescript("type A = " + deep(3000, "{a:", "1", "}")),
        lambda: Grammar.from_string("root ::= " + deep(3000, "(", '"a"', ")")),
    ]
    for maker in makers:
        with pytest.raises(GrammarError):
            maker()


def test_what_was_too_much_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_VALUES", 50)
    with pytest.raises(GrammarError, match=r"'enum' at /enum/.*more than 50 objects, lists"):
        Grammar.from_json_schema({"enum": list(range(60))})
    monkeypatch.setattr(emit, "MAX_PAIRS", 99)
    members: dict[str, Any] = {f"m{i}": {"type": "null"} for i in range(10)}
    with pytest.raises(GrammarError, match="100 pairs are more than 99"):
        Grammar.from_json_schema({"properties": members})
    relaxed = Grammar.from_json_schema({"properties": members}, strict=False)
    assert "too many properties" in relaxed.relaxed[0]
    monkeypatch.setattr(domains, "MAX_STEPS", 100)
    with pytest.raises(GrammarError, match="more than 100 steps to resolve, the last ones for"):
        Grammar.from_json_schema({"allOf": [{"minimum": i} for i in range(20)]})
    monkeypatch.setattr(recognizer, "MAX_STEPS", 100)
    with pytest.raises(GrammarError, match=r"more than \d+ characters: they took 100 steps"):
        Grammar.from_string('root ::= ("a" | "aa")*').matches("a" * 100)


def test_a_literal_is_expected_in_short() -> None:
    found = Grammar.from_string(f'root ::= "{"ab" * 5000}"').explain("abx")
    assert found.position == 2
    assert len(found.expected[0]) < 250 and found.expected[0].endswith('"…')
    assert Grammar.from_string('root ::= "abc"').explain("ax").expected == ('"bc"',)


def test_alternatives_that_share_a_member_judge_it_once() -> None:
    """Two ways at each of 60 levels are not 2^60 ways."""

    def node(tag: int) -> dict[str, Any]:
        members = {"next": {"$ref": "#"}, "tag": {"const": tag}}
        return {"properties": members, "required": ["tag"], "additionalProperties": False}

    grammar = Grammar.from_json_schema({"type": "object", "anyOf": [node(1), node(2)]})
    for tag, fits in ((2, True), (3, False)):
        text = f'{{"tag":{tag}}}'
        for level in range(60):
            text = f'{{"tag": {1 + level % 2}, "next": {text}}}'
        assert grammar.matches(text, any_order=True) == fits


def test_overlapping_patterns_are_still_exact() -> None:
    schema = {
        "pattern": "^(a|aa)*(b|ab)*$",
        "enum": ["a" * 40, "a" * 9 + "b", "a" * 40 + "!", "ba"],
    }
    grammar = Grammar.from_json_schema(schema)
    assert [grammar.matches(json.dumps(text)) for text in schema["enum"]] == [
        True,
        True,
        False,
        False,
    ]


def test_values_of_enums_stay_apart_and_in_order() -> None:
    grammar = Grammar.from_json_schema({"enum": [1, True, "1", None, 0, False, 1.0, [1], [True]]})
    for text in ("1", "true", '"1"', "null", "0", "false", "[1]", "[true]"):
        assert grammar.matches(text)
    assert not grammar.matches("[false]")


def test_equal_domains_have_equal_hashes() -> None:
    rng = random.Random(3)
    for _ in range(50):
        value = json.loads(json.dumps({"a": [rng.random(), {"b": rng.choice("xyz")}], "c": 1}))
        one, other = domains.constant(value), domains.constant(value)
        assert one == other and hash(one) == hash(other) and one is not other
    assert hash(domains.Arr(low=1)) != hash(domains.Arr(low=2))
    assert domains.constant(Decimal("1.5")) == domains.constant(1.5)


def test_random_schemas_are_many_kinds() -> None:
    made = [json.dumps(random_schema(random.Random(seed))) for seed in range(200)]
    for keyword in ("$ref", "pattern", "oneOf", "not", "contains", "uniqueItems", "if"):
        assert sum(f'"{keyword}"' in text for text in made) > 10, keyword
    assert make("schema", {}).matches("1")
