"""How long grammars take that were made to take long: to make, to ask, and to generate with.

    python -m tests.benchmarks.bench_grammars [--family WORD] [--largest] [--random SEED COUNT]

Each family grows to about 1 MB. Each case runs in a process of its own: the grammar is made, asked
about a text, and a matcher for the embedded model's tokens computes three masks. The seconds are of
processor time, as the machine may be shared. `GrammarError` is as good an outcome as a grammar.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Source = tuple[str, Any]
"""The notation, and what is written in it."""

SIZES = (1_000, 30_000, 1_000_000)
# GBNF has at most 400,000 characters, TypeScript 200,000: theirs are the largest that are read.
READ = (1_000, 30_000, 180_000)
FAMILIES: dict[str, tuple[Callable[[int], Source], tuple[int, ...]]] = {}


def family(*sizes: int) -> Callable[[Callable[[int], Source]], Callable[[int], Source]]:
    """Adds a family; `sizes` are about characters of text, unless its function says otherwise."""

    def add(make: Callable[[int], Source]) -> Callable[[int], Source]:
        FAMILIES[make.__name__.replace("_", " ")] = make, sizes or SIZES
        return make

    return add


def _object(members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
        **more,
    }


def _words(size: int, seed: int = 1) -> list[str]:
    """Different words of some 8 letters, about `size` characters in all."""
    rng = random.Random(seed)
    words = {
        "".join(rng.choices("abcdefghijklmnop", k=rng.randint(5, 11))) for _ in range(size // 12)
    }
    return sorted(words)


# -- schemas ------------------------------------------------------------------------------------


@family(2, 8, 20, 100, 10_000)
def octree(n: int) -> Source:
    """`n` required members, each the whole again."""
    return "schema", _object({f"c{i}": {"$ref": "#"} for i in range(n)})


@family(8, 100)
def tree_with_leaves(n: int) -> Source:
    """`n` required members, each the whole again or null."""
    node = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
    return "schema", _object({f"c{i}": node for i in range(n)})


@family()
def enum_of_words(n: int) -> Source:
    return "schema", {"enum": _words(n)}


@family()
def enum_of_numbers(n: int) -> Source:
    return "schema", {"enum": list(range(n // 7))}


@family()
def enum_of_objects(n: int) -> Source:
    return "schema", {"enum": [{"a": i, "b": [i]} for i in range(n // 25)]}


@family()
def long_const(n: int) -> Source:
    return "schema", {"const": "ab c" * (n // 4)}


@family()
def huge_const_object(n: int) -> Source:
    return "schema", {"const": {w: [i, {"x": w}] for i, w in enumerate(_words(n // 3))}}


@family()
def wide_object(n: int) -> Source:
    return "schema", _object({w: {"type": "integer"} for w in _words(n // 4)})


@family()
def wide_optional_object(n: int) -> Source:
    members = {w: {"type": "string"} for w in _words(n // 3)}
    return "schema", {"type": "object", "properties": members, "additionalProperties": False}


@family()
def wide_open_object(n: int) -> Source:
    return "schema", {"properties": {w: {"type": "string"} for w in _words(n // 3)}}


@family()
def open_object_with_patterns(n: int) -> Source:
    words = _words(n // 4)
    return "schema", {
        "type": "object",
        "properties": {w: {"type": "string"} for w in words},
        "patternProperties": {f"^x-{w}": {"type": "number"} for w in words[:20]},
        "additionalProperties": {"type": "boolean"},
    }


@family()
def many_pattern_properties(n: int) -> Source:
    return "schema", {
        "patternProperties": {f"^{w}[0-9]*$": {"type": "null"} for w in _words(n // 3)}
    }


@family()
def many_required_names(n: int) -> Source:
    return "schema", {"type": "object", "required": _words(n)}


@family()
def property_names_enum(n: int) -> Source:
    return "schema", {"type": "object", "propertyNames": {"enum": _words(n)}}


@family(100, 3_000, 30_000)
def deep_schema(n: int) -> Source:
    """`n` arrays in each other."""
    return "schema", '{"items":' * n + "{}" + "}" * n


@family(100, 1_000, 10_000)
def chain_of_references(n: int) -> Source:
    defs: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}
    return "schema", {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}


@family(100, 1_000, 10_000)
def chain_of_objects(n: int) -> Source:
    defs: dict[str, Any] = {
        f"d{i}": _object({"a": {"$ref": f"#/$defs/d{i + 1}"}}) for i in range(n)
    }
    return "schema", {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}


@family(10, 30, 1_000, 10_000)
def doubling_references(n: int) -> Source:
    """`n` definitions, each with two members of the next: 2^n leaves."""
    defs: dict[str, Any] = {}
    for i in range(n):
        node = {"$ref": f"#/$defs/d{i + 1}"}
        defs[f"d{i}"] = _object({"a": node, "b": node})
    return "schema", {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}


@family(10, 30, 1_000)
def doubling_all_of(n: int) -> Source:
    """`n` definitions, each the next twice at once."""
    defs: dict[str, Any] = {}
    for i in range(n):
        node = {"$ref": f"#/$defs/d{i + 1}"}
        defs[f"d{i}"] = {"allOf": [_object({"a": node}), _object({"a": node})]}
    return "schema", {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}


@family(5, 30, 300)
def mutual_recursion(n: int) -> Source:
    """`n` definitions, each with a list of every other."""
    defs = {
        f"d{i}": {
            "type": "object",
            "properties": {
                f"m{j}": {"type": "array", "items": {"$ref": f"#/$defs/d{j}"}} for j in range(n)
            },
        }
        for i in range(n)
    }
    return "schema", {"$ref": "#/$defs/d0", "$defs": defs}


@family(5, 30, 300)
def recursion_under_all_of(n: int) -> Source:
    """`n` trees at once."""
    defs = {
        f"d{i}": {
            "properties": {"l": {"$ref": f"#/$defs/d{i}"}, "r": {"$ref": f"#/$defs/d{(i + 1) % n}"}}
        }
        for i in range(n)
    }
    return "schema", {"allOf": [{"$ref": f"#/$defs/d{i}"} for i in range(n)], "$defs": defs}


@family()
def all_of_many(n: int) -> Source:
    return "schema", {
        "allOf": [{"properties": {w: {"minimum": i}}} for i, w in enumerate(_words(n // 4))]
    }


@family()
def all_of_lengths(n: int) -> Source:
    return "schema", {"allOf": [{"minLength": i} for i in range(n // 18)]}


@family()
def all_of_patterns(n: int) -> Source:
    return "schema", {"type": "string", "allOf": [{"pattern": w} for w in _words(n // 2)]}


@family()
def all_of_choices(n: int) -> Source:
    """Products of alternatives."""
    parts = [
        {"anyOf": [_object({f"a{i}": {}}), {"type": "array", "minItems": i}]}
        for i in range(n // 120)
    ]
    return "schema", {"allOf": parts}


@family()
def any_of_types(n: int) -> Source:
    return "schema", {"anyOf": [_object({w: {"type": "string"}}) for w in _words(n // 10)]}


@family()
def any_of_patterns(n: int) -> Source:
    return "schema", {"anyOf": [{"type": "string", "pattern": f"^{w}.*x$"} for w in _words(n // 5)]}


@family()
def any_of_lengths(n: int) -> Source:
    return "schema", {
        "anyOf": [
            {"type": "string", "minLength": 2 * i, "maxLength": 2 * i} for i in range(n // 55)
        ]
    }


@family()
def one_of_objects(n: int) -> Source:
    return "schema", {"oneOf": [_object({"kind": {"const": w}, "x": {}}) for w in _words(n // 12)]}


@family()
def one_of_overlapping(n: int) -> Source:
    return "schema", {"oneOf": [{"properties": {w: {"type": "string"}}} for w in _words(n // 5)]}


@family()
def one_of_patterns(n: int) -> Source:
    return "schema", {"oneOf": [{"type": "string", "pattern": f"{w}"} for w in _words(n // 4)]}


@family()
def not_many(n: int) -> Source:
    return "schema", {"not": {"anyOf": [{"const": w} for w in _words(n // 2)]}}


@family()
def nested_not(n: int) -> Source:
    schema: Any = _object({"a": {"type": "string"}, "b": {"enum": _words(n // 2)}})
    for _ in range(20):
        schema = {"not": schema}
    return "schema", schema


@family()
def if_then_else(n: int) -> Source:
    return "schema", {
        "allOf": [
            {"if": {"properties": {"k": {"const": w}}}, "then": {"required": [w]}}
            for w in _words(n // 6)
        ]
    }


@family()
def dependent_required(n: int) -> Source:
    words = _words(n // 2)
    return "schema", {
        "dependentRequired": dict(zip(words, ([w] for w in reversed(words)), strict=True))
    }


@family(5, 60, 2_000)
def minimum_of_members(n: int) -> Source:
    return "schema", {
        "properties": {f"m{i}": {} for i in range(n)},
        "minProperties": n // 2,
        "additionalProperties": False,
    }


@family(5, 60, 100_000)
def contains_at_a_place(n: int) -> Source:
    return "schema", {"type": "array", "contains": {"const": 1}, "maxItems": n}


@family(5, 60, 100_000)
def unique_items(n: int) -> Source:
    return "schema", {"type": "array", "items": {"enum": list(range(n))}, "uniqueItems": True}


@family(100, 10_000, 1_000_000_000)
def counted_items(n: int) -> Source:
    return "schema", {
        "type": "array",
        "items": {"type": "integer"},
        "minItems": n,
        "maxItems": 2 * n,
    }


@family(100, 10_000, 1_000_000_000)
def counted_characters(n: int) -> Source:
    return "schema", {"type": "string", "minLength": n, "maxLength": 2 * n}


@family()
def prefix_items(n: int) -> Source:
    return "schema", {"type": "array", "prefixItems": [{"const": w} for w in _words(n // 3)]}


@family(100, 10_000)
def numbers_with_many_digits(n: int) -> Source:
    return "schema", json.dumps({"multipleOf": 7}).replace("7", f"0.{'0' * n}7")


@family()
def ranges_of_integers(n: int) -> Source:
    return "schema", {
        "anyOf": [
            {"type": "integer", "minimum": 1000 * i, "maximum": 1000 * i + 517}
            for i in range(n // 60)
        ]
    }


# -- patterns -----------------------------------------------------------------------------------


def _pattern(pattern: str, *, beside: bool = False) -> Source:
    schema: dict[str, Any] = {"type": "string", "pattern": pattern}
    return "schema", {**schema, "enum": ["a" * 60 + "!", "b"]} if beside else schema


@family(1_000, 19_000, 1_000_000)
def long_pattern(n: int) -> Source:
    return _pattern(f"^{'ab c' * (n // 4)}$")


@family(1_000, 19_000)
def pattern_of_alternatives(n: int) -> Source:
    return _pattern(f"^({'|'.join(_words(n))})*$")


@family(3, 10, 60)
def overlapping_alternatives(n: int) -> Source:
    return _pattern("^(" + "|".join("a" * i for i in range(1, n)) + ")*$", beside=True)


@family(3, 10, 50)
def nested_stars(n: int) -> Source:
    return _pattern("^" + "(" * n + "a" + "*)*" * n + "$", beside=True)


@family(3, 10, 50)
def overlapping_names(n: int) -> Source:
    pattern = "^" + "(a|aa)*" * n + "$"
    return "schema", {
        "properties": {"a" * 19: {}, "a" * 60 + "!": {}, "a" * 18 + "!": {}},
        "patternProperties": {pattern: {"type": "null"}},
    }


@family(10, 1_000, 100_000)
def counted_pattern(n: int) -> Source:
    return _pattern(f"^a{{1,{n}}}$")


@family(2, 3, 6, 30)
def nested_counts(n: int) -> Source:
    """`(((a{1,1000}){1,1000}…`."""
    return _pattern("^" + "(" * n + "a" + "{1,1000})" * n + "$", beside=True)


@family(10, 100, 1_000)
def optional_then_needed(n: int) -> Source:
    """`(a?){n}a{n}`."""
    return _pattern(f"^(a?){{{n}}}a{{{n}}}$", beside=True)


@family(10, 20, 100)
def letter_from_the_end(n: int) -> Source:
    """Needs 2^n states."""
    return _pattern(f"^[ab]*a[ab]{{{n}}}$")


@family(3, 6, 60)
def intersected_patterns(n: int) -> Source:
    """Multiples of several primes at once."""
    primes = [p for p in range(2, 400) if all(p % q for q in range(2, p))][:n]
    return "schema", {"type": "string", "allOf": [{"pattern": f"^(a{{{p}}})*b$"} for p in primes]}


@family(3, 8, 60)
def look_aheads(n: int) -> Source:
    ahead = "".join(f"(?=.*{chr(97 + i % 26)}.*{chr(97 + i * 7 % 26)})" for i in range(n))
    return _pattern(f"^{ahead}.*$")


@family(1_000, 19_000)
def long_character_class(n: int) -> Source:
    return _pattern("^[" + "".join(chr(0x4E00 + 2 * i) for i in range(n)) + "]*$")


@family()
def patterns_that_may_overlap(n: int) -> Source:
    return "schema", {"patternProperties": {f"{w}.*{w[::-1]}": {} for w in _words(n // 4)}}


@family()
def negative_look_ahead(n: int) -> Source:
    return _pattern(f"^(?!({'|'.join(_words(n))})$).*$")


@family(5, 30, 3_000)
def anchors_in_alternatives(n: int) -> Source:
    return _pattern("(^|b)a" * n + "($|b)" * n)


# -- GBNF ---------------------------------------------------------------------------------------


@family(1_000, 20_000, 1_000_000)
def gbnf_literal(n: int) -> Source:
    return "gbnf", f'root ::= "{"ab c" * (n // 4)}"'


@family(*READ)
def gbnf_many_words(n: int) -> Source:
    return "gbnf", "root ::= " + " | ".join(f'"{w}"' for w in _words(n))


@family(*READ)
def gbnf_many_words_in_a_group(n: int) -> Source:
    return "gbnf", "root ::= (" + " | ".join(f'"{w}" [0-9]' for w in _words(n)) + ")*"


@family(*READ)
def gbnf_chain_of_rules(n: int) -> Source:
    count = n // 25
    rules = [f'r{i} ::= "a" r{i + 1}' for i in range(count)]
    return "gbnf", "\n".join(["root ::= r0", *rules, f'r{count} ::= "b"'])


@family(*READ)
def gbnf_wide_rules(n: int) -> Source:
    count = n // 25
    rules = [f'r{i} ::= "a{i}"' for i in range(count)]
    return "gbnf", "\n".join(["root ::= " + " | ".join(f"r{i}" for i in range(count)), *rules])


@family(5, 30, 300)
def gbnf_all_call_all(n: int) -> Source:
    calls = " | ".join(f"r{j}" for j in range(n))
    return "gbnf", "\n".join(["root ::= r0", *(f'r{i} ::= "x" ({calls}) | "y"' for i in range(n))])


@family(10, 100, 1_000)
def gbnf_doubling(n: int) -> Source:
    rules = [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(n)]
    return "gbnf", "\n".join(["root ::= r0", *rules, f'r{n} ::= "a"'])


@family(10, 100, 1_000)
def gbnf_doubling_optional(n: int) -> Source:
    rules = [f"r{i} ::= r{i + 1}? r{i + 1}?" for i in range(n)]
    return "gbnf", "\n".join(["root ::= r0", *rules, f'r{n} ::= "a"?'])


@family(90, 3_000, 500_000)
def gbnf_parentheses(n: int) -> Source:
    return "gbnf", "root ::= " + "(" * n + '"a"' + ")" * n


@family(*READ)
def gbnf_character_class(n: int) -> Source:
    return "gbnf", "root ::= [" + "".join(
        chr(0x400 + 2 * (i % 30_000) % 50_000) for i in range(n)
    ) + "]*"


@family(*READ)
def gbnf_many_character_classes(n: int) -> Source:
    return "gbnf", "root ::= " + " ".join(
        f"[{chr(0x4E00 + i % 20_000)}-{chr(0x4E00 + i % 20_000 + i % 7)}]" for i in range(n // 6)
    )


@family(2, 3, 10)
def gbnf_repetitions(n: int) -> Source:
    return "gbnf", "root ::= " + "(" * n + '"ab"' + "){1,30}" * n


@family(3, 30, 300)
def gbnf_ambiguous(n: int) -> Source:
    return "gbnf", "root ::= (" + " | ".join(f'"{"a" * i}"' for i in range(1, n)) + ")*"


@family(20, 200, 2_000)
def gbnf_nested_lists(n: int) -> Source:
    return "gbnf", f'root ::= (("a"? "b"?){{0,{n}}} "c"?){{0,{2000 // n}}}'


@family(*READ)
def gbnf_comments(n: int) -> Source:
    return "gbnf", "# comment\n" * (n // 10) + 'root ::= "a"'


@family(*READ)
def gbnf_undefined_names(n: int) -> Source:
    return "gbnf", "\n".join(["root ::= r0x", *(f'r{i} ::= "a" q{i}' for i in range(n // 16))])


# -- TypeScript ---------------------------------------------------------------------------------


@family(*READ)
def typescript_members(n: int) -> Source:
    return "typescript", "interface A {\n" + "\n".join(
        f"  {w}: number;" for w in _words(n // 2)
    ) + "\n}"


@family(*READ)
def typescript_union(n: int) -> Source:
    return "typescript", "type A = " + " | ".join(f'"{w}"' for w in _words(n))


@family(*READ)
def typescript_interfaces(n: int) -> Source:
    count = n // 30
    return "typescript", "\n".join(
        [*(f"interface A{i} {{ a: A{i + 1} }}" for i in range(count)), f"interface A{count} {{}}"]
    )


@family(5, 20, 300)
def typescript_generics(n: int) -> Source:
    lines = [f"type T{i}<A> = {{ a: T{i + 1}<A[]>, b: T{i + 1}<[A]> }}" for i in range(n)]
    return "typescript", "\n".join(["type R = T0<string>", *lines, f"type T{n}<A> = A"])


@family(50, 1_000, 100_000)
def typescript_nesting(n: int) -> Source:
    return "typescript", "type A = " + "{a:" * n + "1" + "}" * n


@family(50, 1_000, 100_000)
def typescript_parentheses(n: int) -> Source:
    return "typescript", "type A = " + "(" * n + "1" + ")" * n


@family(2, 8, 500)
def typescript_octree(n: int) -> Source:
    return "typescript", "interface A { " + "; ".join(f"m{i}: A" for i in range(n)) + " }"


@family(*READ)
def typescript_errors(n: int) -> Source:
    return "typescript", "type A = {" * (n // 10)


# -- pydantic -----------------------------------------------------------------------------------


@family(100, 3_000)
def pydantic_literals(n: int) -> Source:
    return "pydantic", f"Literal[{', '.join(repr(w) for w in _words(n * 12))}]"


@family(20, 300, 2_000)
def pydantic_nested(n: int) -> Source:
    return "pydantic", (
        "list[" * n + "int" + "]" * n
    ) if n < 100 else f"functools.reduce(lambda t, _: list[t], range({n}), int)"


# -- what is asked of a grammar -----------------------------------------------------------------


@family()
def explain_brackets(n: int) -> Source:
    return "explain schema", ({}, "[" * n)


@family()
def explain_many_values(n: int) -> Source:
    return "explain schema", ({}, "[" + "1,\n" * (n // 3))


@family()
def explain_long_string(n: int) -> Source:
    return "explain schema", ({"type": "string"}, '"' + "a" * n)


@family()
def explain_long_number(n: int) -> Source:
    return "explain schema", ({}, "1" * n)


@family()
def explain_small_numbers(n: int) -> Source:
    return "explain schema", ({}, "[" + "1e399," * (n // 6) + "1]")


@family()
def explain_gbnf_brackets(n: int) -> Source:
    return "explain gbnf", ('root ::= "[" root? "]"', "[" * n)


@family()
def explain_gbnf_ambiguous(n: int) -> Source:
    return "explain gbnf", (
        'root ::= "a" | root2 root2\nroot2 ::= "a" root2? | "a" root2 root2',
        "a" * n,
    )


@family()
def explain_lines(n: int) -> Source:
    return "explain gbnf", ("root ::= [^x]*", "\n" * n + "x")


# -- random ones --------------------------------------------------------------------------------


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    """A schema that joins what is costly."""
    words = ["a", "aa", "aaa", "ab", "b" * 25]
    again = lambda: random_schema(rng, depth + 1)  # noqa: E731
    few = range(rng.choice((1, 2, 3, 8)))
    patterns = [
        "^(a|aa)*$",
        "(a*)*b",
        "^a{0,900}$",
        "a.*b.*a",
        "^[ab]*a[ab]{9}$",
        "^(a?){30}a{30}$",
    ]
    makers: list[Callable[[], Any]] = [
        lambda: {"$ref": rng.choice(["#", "#/$defs/x", "#/$defs/y"])},
        lambda: {"pattern": rng.choice(patterns)},
        lambda: {"type": "string", "pattern": rng.choice(patterns)},
        lambda: {
            "enum": [rng.choice(words) * rng.randint(1, 40) for _ in range(rng.choice((2, 50)))]
        },
        lambda: {"maxLength": rng.choice((3, 500, 10**6))},
        lambda: {"type": rng.choice(["string", "object", "array", "null", ["integer", "object"]])},
        lambda: {"maximum": rng.randint(0, 10**12)},
        lambda: True,
    ]
    if depth < 4:
        makers = [
            *makers[: 4 if depth else 0],
            lambda: {"allOf": [again() for _ in few]},
            lambda: {"anyOf": [again() for _ in few]},
            lambda: {"oneOf": [again() for _ in few]},
            lambda: {"not": again()},
            lambda: {"if": again(), "then": again(), "else": again()},
            lambda: {"properties": {w: again() for w in words}, "additionalProperties": again()},
            lambda: {"properties": {w: again() for w in words}, "required": words},
            lambda: {"patternProperties": {rng.choice(patterns): again()}, "minProperties": 2},
            lambda: {"propertyNames": again(), "additionalProperties": again()},
            lambda: {"items": again(), "minItems": rng.choice((0, 3, 90))},
            lambda: {"prefixItems": [again() for _ in few], "maxItems": rng.choice((3, 60, 10**6))},
            lambda: {"contains": again(), "maxItems": rng.choice((3, 60)), "items": again()},
            lambda: {"dependentSchemas": {w: again() for w in words[:2]}},
            lambda: {"uniqueItems": True, "items": again(), "maxItems": 4},
        ]  # fmt: skip
    made: Any = rng.choice(makers)()
    if isinstance(made, dict) and rng.random() < 0.4 and depth < 4:
        other = again()
        made = {**other, **made} if isinstance(other, dict) else made
    if depth == 0 and isinstance(made, dict):
        made["$defs"] = {"x": random_schema(rng, 1), "y": random_schema(rng, 1)}
    return made


# -- measuring ----------------------------------------------------------------------------------


def make(kind: str, content: Any) -> Any:
    """The grammar of a source."""
    from helpers.grammars import Grammar

    if kind == "typescript":
        return Grammar.from_typescript(content)
    if kind == "pydantic":
        import functools
        from typing import Literal

        return Grammar.from_pydantic(eval(content, {"Literal": Literal, "functools": functools}))
    return (Grammar.from_string if kind == "gbnf" else Grammar.from_json_schema)(content)


def run_case(kind: str, content: Any) -> dict[str, Any]:
    """One case, here."""
    from helpers.errors import GrammarError
    from tests.benchmarks.schemas import embedded_vocabulary

    vocabulary = embedded_vocabulary()
    start = time.process_time()
    times: dict[str, float] = {}

    def took(name: str) -> None:
        times[name] = round(time.process_time() - start - sum(times.values()), 2)

    text = '{"a": ["aaaaaaaaaaaaaaaaaaaa'
    verb, _, notation = kind.rpartition(" ")
    try:
        if verb:
            content, text = content
        grammar = make(notation, content)
        took("make")
        grammar.matches(text)
        grammar.explain(text)
        took("ask")
        if not verb:
            matcher = grammar.matcher(vocabulary)
            for _ in range(3):
                mask = matcher.mask()
                words = mask.nonzero()[0]
                if matcher.is_finished or not words.size:
                    break
                word = int(mask[words[0]])
                token = int(words[0]) * 32 + (word & -word).bit_length() - 1
                matcher.accept(token)
                matcher.forced()
            took("call")
        outcome = "grammar"
    except GrammarError as error:
        took("error")
        outcome = str(error).splitlines()[0]
    except Exception as error:
        took("error")
        outcome = f"CRASH {error!r}"
    return {"seconds": sum(times.values()), "times": times, "outcome": outcome}


def run(name: str, size: int, limit: float) -> dict[str, Any]:
    """One case, in a process of its own."""
    arguments = [sys.executable, "-m", "tests.benchmarks.bench_grammars", "--case", name, str(size)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"seconds": limit, "times": {}, "outcome": "NOT ENDED"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        died = f"DIED {done.returncode} {done.stderr[-300:]!r}"
        return {"seconds": float("nan"), "times": {}, "outcome": died}
    return dict(json.loads(lines[-1]))


def source(name: str, size: int) -> Source:
    if name == "random":
        return "schema", random_schema(random.Random(size))
    return FAMILIES[name][0](size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="", help="only families whose name has this")
    parser.add_argument("--largest", action="store_true", help="only the largest of a family")
    parser.add_argument("--limit", type=float, default=60, help="seconds until a case is ended")
    parser.add_argument("--random", type=int, nargs=2, metavar=("SEED", "COUNT"))
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(*source(options.case[0], int(options.case[1])))))
        return
    if options.random:
        first, count = options.random
        cases = [("random", seed) for seed in range(first, first + count)]
    else:
        cases = [
            (name, size)
            for name, (_, sizes) in FAMILIES.items()
            if options.family in name
            for size in (sizes[-1:] if options.largest else sizes)
        ]
    print("| family | size | characters | seconds | make, ask, call | outcome |")
    print("|---|---|---|---|---|---|")
    for name, size in cases:
        content = source(name, size)[1]
        length = len(content if isinstance(content, str) else json.dumps(content))
        found = run(name, size, options.limit)
        parts = " ".join(f"{part} {seconds}" for part, seconds in found["times"].items())
        shown = found["outcome"].replace("|", "\\|")
        shown = shown if len(shown) < 110 else shown[:107] + "…"
        print(
            f"| {name} | {size:,} | {length:,} | {found['seconds']:.2f} | {parts} | {shown} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
