"""TypeScript types become grammars; what is not supported is named with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar

CASES: list[tuple[str, list[Any], list[Any]]] = [
    ("type A = string", ["x"], [1, None]),
    ("type A = 'a' | \"b\" | 3 | -1.5 | true | null", ["a", "b", 3, -1.5, True, None], ["c", 1]),
    ("type A = number | string[]", [1.5, [], ["a"]], ["a", [1]]),
    ("type A = Array<number | null>", [[1, None]], [["a"]]),
    ("type A = readonly (string | boolean)[]", [["a", True]], [[1]]),
    ("type A = [number, string?, ...boolean[]]", [[1], [1, "a"], [1, "a", True]], [[], [1, True]]),
    ("type A = [x: number, y?: number]", [[1], [1, 2]], [[], [1, 2, 3]]),
    ("type A = [...string[]]", [[], ["a", "b"]], [[1]]),
    (
        "interface A { a: number; b?: string }",
        [{"a": 1}, {"a": 1, "b": "x"}],
        [{}, {"a": 1, "c": 2}],
    ),
    ("interface A { readonly a: 1 }", [{"a": 1}], [{"a": 2}]),
    ("interface A { 'odd name': any; 2: unknown }", [{"odd name": [], "2": {}}], [{"2": 1}]),
    ("interface A { a: string | undefined }", [{}, {"a": "x"}], [{"a": None}]),
    ("interface A { [key: string]: number }", [{}, {"x": 1}], [{"x": "a"}]),
    ("interface A { a: string; [key: string]: any }", [{"a": "x", "b": 1}], [{"b": 1}]),
    ("type A = Record<string, boolean>", [{}, {"q": True}], [{"q": 1}]),
    (
        "type A = Record<'x' | 'y', number>",
        [{"x": 1, "y": 2}],
        [{"x": 1}, {"x": 1, "y": 2, "z": 3}],
    ),
    ("type A = { [key: number]: string }", [{"1": "a"}], [{"x": "a"}]),
    ("enum E { A, B = 5, C }\ntype T = E[]", [[0, 5, 6]], [[1]]),
    ("enum E { A = 'a', B = \"b\" }\ninterface T { e: E.A }", [{"e": "a"}], [{"e": "b"}]),
    ("const enum E { A = 'a' }\ninterface T { e: E }", [{"e": "a"}], [{"e": "A"}]),
    (
        "interface B { b: number }\ninterface C { c: string }\n"
        "interface A extends B, C { a: null }",
        [{"b": 1, "c": "x", "a": None}],
        [{"a": None}, {"b": 1, "c": "x"}],
    ),
    ("interface A { a: 1 }\ninterface A { b: 2 }", [{"a": 1, "b": 2}], [{"a": 1}]),
    ("type A = { a: number } & { b: string }", [{"a": 1, "b": "x"}], [{"a": 1}]),
    ("type A = { a: number } & { a: 3; b?: 1 }", [{"a": 3}], [{"a": 4}]),
    ("type Box<T> = { value: T }\ntype A = Box<string>", [{"value": "a"}], [{"value": 1}]),
    (
        "interface Page<T, U = null> { items: T[]; more: U }\ntype A = Page<{ id: number }>",
        [{"items": [{"id": 1}], "more": None}],
        [{"items": [1], "more": None}],
    ),
    (
        "interface Tree<T> { value: T; children: Tree<T>[] }\ntype A = Tree<number>",
        [{"value": 1, "children": [{"value": 2, "children": []}]}],
        [{"value": 1, "children": [1]}],
    ),
    (
        "interface Node { next: Node | null }",
        [{"next": {"next": None}}],
        [{"next": {}}],
    ),
    ("type A = Partial<{ a: 1; b: 2 }>", [{}, {"b": 2}], [{"a": 2}]),
    ("type A = Required<{ a?: 1 }>", [{"a": 1}], [{}]),
    ("type A = Pick<{ a: 1; b: 2 }, 'a'>", [{"a": 1}], [{"a": 1, "b": 2}]),
    ("type A = Omit<{ a: 1; b: 2 }, 'a'>", [{"b": 2}], [{"a": 1}]),
    ("type A = keyof { a: 1; b: 2 }", ["a", "b"], ["c"]),
    ("type A = Exclude<'a' | 'b' | 'c', 'a'>", ["b", "c"], ["a"]),
    ("type A = `${number}px` | `v-${'a' | 'b'}`", ["12px", "-1.5px", "v-a"], ["px", "v-c"]),
    ("type A = Date", ["2024-01-01T00:00:00Z"], ["yesterday"]),
    ("/* lead */ export type A = /* in */ string // tail\n", ["a"], [1]),
    ("declare interface A { a: 1 }", [{"a": 1}], [{}]),
    ("export default interface A { a: 1 }", [{"a": 1}], [{}]),
    ("interface A { [\"a-b\"]: string; ['c']?: 1 }", [{"a-b": "x"}], [{}, {'["a-b"]': "x"}]),
    (
        "interface A { 0x10: 1; 1.50: 2; 1_0: 3; [7]: 4 }",
        [{"16": 1, "1.5": 2, "10": 3, "7": 4}],
        [],
    ),
    (r"type A = 'a\d' | '\q' | '\a'", ["ad", "q", "a"], ["a\\d", "\\q", "\a"]),
    (r"type A = '\x41\u{1F600}\uD83D\uDE00\u0042\0\v\n\'\/'", ["A😀😀B\0\v\n'/"], ["A"]),
    ("type A = 'a\\\nb\\\r\nc'", ["abc"], ["a\nb\nc"]),
    (r"type A = '\N{BULLET}\U00000041'", ["N{BULLET}U00000041"], ["\u2022A"]),
    ("type A = `a\r\nb`", ["a\nb"], ["a\r\nb"]),
    ("type A = (string | undefined)[]", [["a"], []], [[1], [None]]),
    ("type U = string | undefined\ninterface A { a: U }", [{"a": "x"}, {}], [{"a": 1}]),
    ("type A = -0x10 | 5. | 1_000 | 0b11", [-16, 5, 1000, 3], [10, 0]),
    ("enum E { ['a-b'] = 'x', 'c' = 'y' }\ntype T = E", ["x", "y"], ["a-b"]),
]


@pytest.mark.parametrize(("source", "inside", "outside"), CASES)
def test_types_say_what_they_hold(source: str, inside: list[Any], outside: list[Any]) -> None:
    grammar = Grammar.from_typescript(source)
    for value in inside + outside:
        wanted = any(value is sample for sample in inside)
        text = json.dumps(value)
        assert grammar.matches(text) is wanted, grammar.explain(text)


FAULTS = [
    ("interface A { f(): void }", 1, 15, "f(): void"),
    ("interface A {\n  f: () => void\n}", 2, 6, "=> void"),
    ("type A = B", 1, 10, "'B' is not declared"),
    ("type A = symbol", 1, 10, "'symbol'"),
    ("type A = {\n  [K in 'a' | 'b']: number }", 2, 3, "mapped"),
    ("type A<T> = T extends string ? 1 : 2\ntype R = A<string>", 1, 13, "conditional"),
    ("type A = typeof x", 1, 10, "typeof"),
    ("class X {}", 1, 1, "expected an interface"),
    ("const x = 1", 1, 1, "expected an interface"),
    ("type A = {\n  a: ;\n}", 2, 3, ""),
    ("type A = string\ntype A = number", 2, 1, "declared twice"),
    ("type Box<T> = T[]\ntype A = Box", 2, 10, "needs 1 type arguments"),
    ("type Box<T> = T[]\ntype A = Box<1, 2>", 2, 10, "takes 1 type arguments"),
    ("type A<T> = { x: A<T[]> | null }\ntype R = A<string>", 1, 20, ""),
    ("interface A extends A { a: 1 }", 1, 21, "extends itself"),
    ("enum E { A = 'a', B }\ntype T = E", 1, 19, "needs a value"),
    ("enum E { A }\ntype T = E.B", 2, 10, "not a member"),
    ("", 1, 1, "no type"),
    ("const X = 'a'\ninterface A { [X]: 1 }", 1, 1, ""),
    ("interface A { [Symbol.iterator]: 1 }", 1, 15, "not a string or a number"),
    ("interface A { 10n: 1 }", 1, 15, "10n"),
    ("interface A { 1e30: 1 }", 1, 15, "write it as a string"),
    (r"interface A { \u0061: 1 }", 1, 15, "write it as a string"),
    (r"type A = '\8'", 1, 10, "not an escape"),
    (r"type A = '\01'", 1, 10, "not an escape"),
    (r"type A = '\u{110000}'", 1, 10, "last character"),
    (r"type A = '\uD83D'", 1, 10, "surrogate"),
    ("type A = '\ud83d'", 1, 11, "surrogate"),
    ("type A = 017", 1, 10, "017"),
    ("type A = [string?, number]", 1, 20, "optional"),
    ("type A = { a: 1; a: 2 }", 1, 18, "declared twice"),
    ("interface A { a: 1 }\ninterface A { a: 2 }", 2, 1, "differently"),
    ("type A = { public a: 1 }", 1, 12, "modifier"),
    ("type A = keyof { 5: 1 }", 1, 10, "numbers"),
    ("type A = keyof { [k: string]: 1 }", 1, 10, "any names"),
    (r"type A = `a\n`", 1, 12, ""),
]


@pytest.mark.parametrize(("source", "line", "column", "words"), FAULTS)
def test_faults_have_their_place(source: str, line: int, column: int, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.from_typescript(source)
    assert words in str(caught.value)
    assert caught.value.line == line
    assert caught.value.column == column or not words


def test_root_chooses_the_type() -> None:
    source = "type A = 1\ntype B = 2"
    with pytest.raises(GrammarError, match="root=…; declared are: A, B"):
        Grammar.from_typescript(source)
    assert Grammar.from_typescript(source, root="B").matches("2")
    with pytest.raises(GrammarError, match="no type 'C'"):
        Grammar.from_typescript(source, root="C")


def test_comments_become_descriptions() -> None:
    grammar = Grammar.from_typescript(
        "/** A person\n * of note */\ninterface P {\n  /* given */ name: string; // and family\n"
        "  // in years\n  age: number\n}"
    )
    (schema,) = grammar.schema["$defs"].values()
    assert schema["description"] == "A person of note"
    assert schema["properties"]["name"]["description"] == "given"
    assert schema["properties"]["age"]["description"] == "in years"


def test_any_text_ends_in_a_grammar_or_an_error() -> None:
    import random

    rng = random.Random(5)
    pieces = [source for source, _, _ in CASES] + [source for source, *_ in FAULTS]
    made = 0
    for _ in range(400):
        text = rng.choice(pieces)
        for _ in range(rng.randint(0, 3)):
            at = rng.randint(0, len(text))
            text = (
                text[:at]
                + rng.choice(["<", ">", "{", "}", "|", "&", "[", "A", "?", "`", ""])
                + text[at + rng.randint(0, 2) :]
            )
        try:
            Grammar.from_typescript(text)
            made += 1
        except GrammarError:
            pass
    assert 20 < made < 400
    for deep in (
        "type A = " + "[" * 500 + "]" * 500,
        "type A = " + "Array<" * 300 + "1" + ">" * 300,
    ):
        with pytest.raises(GrammarError):
            Grammar.from_typescript(deep)


@pytest.mark.parametrize(
    "source",
    [
        "interface R { a: Array<&R>; b: Array<&R>; c: keyof R }",
        "interface R { a: Pick<R, 'a'> & R; b: Omit<R, 'a'> & R; c: (keyof R)[] }",
        "type A<T> = A<A<T>> | T; type B = A<1>",
        "type A = 1e999",
        "type A = -1e999",
        "type A = " + "9" * 5000,
        "enum E { A = 1e400 }",
    ],
)
def test_what_doubles_at_each_depth_or_is_too_large_ends_in_an_error(source: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.from_typescript(source, "B" if "type B" in source else None)
    assert caught.value.line == 1 and caught.value.column
