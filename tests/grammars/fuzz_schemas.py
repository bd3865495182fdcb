"""Random JSON Schemas and texts near them, judged by their grammars and by `jsonschema`.

`python -m tests.grammars.fuzz_schemas --count 10000 --seed 1` is the long form; `--only 17` repeats
one schema. A grammar must accept no text that its schema refuses, and refuse no valid one without
a warning; what it does not express must be a `GrammarError` with keyword and pointer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.guidance import byte_tokenizer, compile_guidance

Chance = random.Random
NAMES = ["a", "b", "c", "d", "x", "xa", "x1", "b1"]
PATTERNS = ["^x", "1$", "^[ab]$", "^[^x]*$", "b", "^.{2}$", "^(a|b|x1)$", "^[a-z]1?$"]
TEXTS = ["", "a", "b", "ab", "x", "xa", "x1", "1", "b1", "abc", "é", "2024-02-29", "1.2.3.4"]
FORMATS = ["date", "ipv4", "uuid", "json-pointer", "no-such-format"]
NUMBERS = [0, 1, 2, 3, -1, -2, 5, 10, 0.5, 1.5, -0.25, 2.5, 0.1, 0.3, 100]
SCALARS = [None, True, False, *NUMBERS, *TEXTS]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


# -- schemas ---------------------------------------------------------------------------------


def random_schema(rng: Chance) -> Any:
    """A schema with definitions that may refer to each other."""
    defs = ["p", "q"][: rng.choice([0, 0, 1, 2])]
    schema = _schema(rng, rng.choice([1, 2, 2, 3]), defs, defs)
    if defs and isinstance(schema, dict):
        schema["$defs"] = {name: _schema(rng, 1, [], defs) for name in defs}
    return schema


def _schema(rng: Chance, depth: int, here: list[str], below: list[str]) -> Any:
    """A schema that refers to the definitions `here` for the value itself, `below` for its parts.

    A definition never leads back to itself for the same value: that has no meaning.
    """
    if rng.random() < 0.06:
        return rng.random() < 0.7
    if here and rng.random() < 0.12:
        return {"$ref": f"#/$defs/{rng.choice(here)}"}
    flat: list[Callable[[Chance], dict[str, Any]]] = [_number, _string, _listed, _typed]
    deep: list[Callable[[Chance, Callable[[], Any], Callable[[], Any]], dict[str, Any]]]
    deep = [_object, _object, _array, _logic, _logic]

    def part() -> Any:
        return _schema(rng, depth - 1, below, below)

    def same() -> Any:
        return _schema(rng, depth - 1, here, below)

    made: dict[str, Any] = {}
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        at = rng.random()
        made |= rng.choice(deep)(rng, part, same) if depth and at < 0.75 else rng.choice(flat)(rng)
    items = list(made.items())
    rng.shuffle(items)  # the order of keywords must not matter, though it sets that of members
    return dict(items)


def _some(rng: Chance, chance: float, **made: Callable[[], Any]) -> dict[str, Any]:
    return {key: make() for key, make in made.items() if rng.random() < chance}


def _number(rng: Chance) -> dict[str, Any]:
    made = _some(
        rng,
        0.35,
        minimum=lambda: rng.choice(NUMBERS),
        maximum=lambda: rng.choice(NUMBERS),
        exclusiveMinimum=lambda: rng.choice(NUMBERS),
        exclusiveMaximum=lambda: rng.choice(NUMBERS),
    )
    if rng.random() < 0.2:
        made["multipleOf"] = rng.choice([1, 2, 3, 0.5, 0.1, 1.5, 0.25])
    return made | _some(rng, 0.6, type=lambda: rng.choice(["integer", "number"]))


def _string(rng: Chance) -> dict[str, Any]:
    made = _some(
        rng, 0.35, minLength=lambda: rng.randint(0, 3), maxLength=lambda: rng.randint(0, 4)
    )
    made |= _some(rng, 0.3, pattern=lambda: rng.choice(PATTERNS))
    made |= _some(rng, 0.1, format=lambda: rng.choice(FORMATS))
    return made | _some(rng, 0.6, type=lambda: "string")


def _constant(rng: Chance, depth: int = 2) -> Any:
    kind = rng.random()
    if depth and kind < 0.1:
        return [_constant(rng, depth - 1) for _ in range(rng.randint(0, 2))]
    if depth and kind < 0.2:
        names = rng.sample(NAMES, rng.randint(0, 2))
        return {name: _constant(rng, depth - 1) for name in names}
    return rng.choice(SCALARS)


def _listed(rng: Chance) -> dict[str, Any]:
    if rng.random() < 0.4:
        return {"const": _constant(rng)}
    return {"enum": [_constant(rng) for _ in range(rng.randint(1, 5))]}


def _typed(rng: Chance) -> dict[str, Any]:
    names = rng.sample(TYPES, rng.choice([1, 1, 1, 2, 3]))
    return {"type": names[0] if len(names) == 1 else names}


def _object(rng: Chance, inner: Callable[[], Any], same: Callable[[], Any]) -> dict[str, Any]:
    def named(make: Callable[[], Any], least: int = 0) -> dict[str, Any]:
        return {name: make() for name in rng.sample(NAMES, rng.randint(least, 3))}

    def names() -> list[str]:
        return rng.sample(NAMES, rng.randint(1, 2))

    made = _some(rng, 0.7, properties=lambda: named(inner, 1), type=lambda: "object")
    made |= _some(rng, 0.45, required=names, additionalProperties=inner)
    made |= _some(
        rng,
        0.2,
        patternProperties=lambda: {
            pattern: inner() for pattern in rng.sample(PATTERNS, rng.choice([1, 1, 2]))
        },
        minProperties=lambda: rng.randint(0, 3),
        maxProperties=lambda: rng.randint(0, 3),
    )
    made |= _some(
        rng,
        0.08,
        propertyNames=lambda: rng.choice([_string, _string, _listed, _typed])(rng),
        dependentRequired=lambda: named(names, 1),
        dependentSchemas=lambda: named(same, 1),
        unevaluatedProperties=inner,
    )
    if "additionalProperties" in made and rng.random() < 0.4:
        made["additionalProperties"] = False
    return made


def _array(rng: Chance, inner: Callable[[], Any], _: Callable[[], Any]) -> dict[str, Any]:
    made = _some(rng, 0.6, items=inner, type=lambda: "array")
    made |= _some(rng, 0.3, prefixItems=lambda: [inner() for _ in range(rng.randint(1, 3))])
    made |= _some(rng, 0.35, minItems=lambda: rng.randint(0, 3), maxItems=lambda: rng.randint(0, 3))
    made |= _some(rng, 0.25, contains=inner)
    if "contains" in made:
        made |= _some(
            rng, 0.15, minContains=lambda: rng.randint(0, 2), maxContains=lambda: rng.randint(0, 2)
        )
        made |= _some(rng, 0.6, maxItems=lambda: rng.randint(1, 3))
    return made | _some(rng, 0.1, uniqueItems=lambda: True, unevaluatedItems=inner)


def _logic(rng: Chance, _: Callable[[], Any], inner: Callable[[], Any]) -> dict[str, Any]:
    kind = rng.choice(["not", "not", "allOf", "anyOf", "oneOf", "if", "not not"])
    if kind == "not not":  # what is negated twice has to be what it was
        return {"not": {"not": inner()}}
    if kind == "not":
        return {"not": inner()}
    if kind == "if":
        return {"if": inner()} | _some(rng, 0.7, then=inner, **{"else": inner})
    return {kind: [inner() for _ in range(rng.randint(1, 3))]}


# -- values near a schema --------------------------------------------------------------------


def near(rng: Chance, schema: Any, root: Any, depth: int = 5) -> Any:
    """A value that follows some keywords of a schema; often a valid one, never certainly."""
    if depth == 0 or not isinstance(schema, dict) or not schema:
        return _constant(rng)
    if "$ref" in schema and rng.random() < 0.9:
        return near(rng, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, depth - 1)
    for keyword in ("allOf", "anyOf", "oneOf"):
        if keyword in schema and rng.random() < 0.4:
            inner = rng.choice(schema[keyword])
            both = {**schema, **inner} if isinstance(inner, dict) else schema
            return near(rng, {k: v for k, v in both.items() if k != keyword}, root, depth - 1)
    for keyword in ("then", "else", "if", "not"):
        if keyword in schema and rng.random() < 0.25:
            return near(rng, schema[keyword], root, depth - 1)
    if "const" in schema and rng.random() < 0.9:
        return schema["const"]
    if "enum" in schema and rng.random() < 0.9:
        return rng.choice(schema["enum"])
    kinds = {
        "object": ("properties", "required", "patternProperties", "additionalProperties"),
        "array": ("items", "prefixItems", "contains", "maxItems", "minItems"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "string": ("pattern", "minLength", "maxLength", "format"),
    }
    names = schema.get("type") or [k for k, words in kinds.items() if set(words) & schema.keys()]
    kind = rng.choice([names] if isinstance(names, str) else names or TYPES)
    if kind == "object":
        return _near_object(rng, schema, root, depth)
    if kind == "array":
        first = schema.get("prefixItems", [])
        low = schema.get("minItems", 0)
        count = rng.randint(low, max(low, schema.get("maxItems", low + 2)))
        value = [
            near(rng, first[i] if i < len(first) else schema.get("items"), root, depth - 1)
            for i in range(count)
        ]
        if value and "contains" in schema:
            value[rng.randrange(count)] = near(rng, schema["contains"], root, depth - 1)
        return value
    if kind in ("number", "integer"):
        bounds = [schema[word] for word in kinds["number"] if word in schema]
        return rng.choice(bounds or NUMBERS) + rng.choice([0, 0, 1, -1, 0.5])
    if kind == "string":
        return rng.choice(TEXTS)
    return None if kind == "null" else rng.random() < 0.5


def _near_object(rng: Chance, schema: dict[str, Any], root: Any, depth: int) -> dict[str, Any]:
    known = schema.get("properties", {})
    names = [*schema.get("required", []), *(name for name in known if rng.random() < 0.6)]
    others = schema.get("patternProperties", {})
    extra = [*others.values(), schema.get("additionalProperties", True)]
    if rng.random() < 0.5:
        names.append(rng.choice(NAMES))
    rng.shuffle(names)
    return {
        name: near(rng, known.get(name, rng.choice(extra)), root, depth - 1)
        for name in dict.fromkeys(names)
    }


def mutated(rng: Chance, value: Any) -> Any:
    """A value that differs in one place."""
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        new = rng.choice([[], [mutated(rng, value[at])], [value[at], _constant(rng)]])
        return [*value[:at], *new, *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        rest = {key: item for key, item in value.items() if key != name}
        choice = rng.random()
        if choice < 0.3:
            return rest
        if choice < 0.6:
            return {**value, rng.choice(NAMES): _constant(rng)}
        return {**value, name: mutated(rng, value[name])}
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.7:
        return value + rng.choice([1, -1, 0.5, 0.05])
    if isinstance(value, str) and rng.random() < 0.7:
        return rng.choice([value + "a", value[1:], value + "1", value.upper()])
    return _constant(rng)


def written(grammar: Grammar, rng: Chance, most: int = 150) -> str | None:
    """A text that llguidance lets a model write, byte by byte, ends preferred."""
    import numpy as np

    matcher = compile_guidance(grammar.guidance())
    text = b""
    for _ in range(most):
        if matcher.is_accepting() and (matcher.is_stopped() or rng.random() < 0.8):
            return text.decode("utf-8", "replace")
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        codes = [int(code) for code in np.nonzero(bits[:256])[0]]
        if not codes:
            return None
        closing = [code for code in codes if code in b'"}]:,']
        code = rng.choice(closing if closing and rng.random() < 0.6 else codes)
        matcher.consume_tokens(byte_tokenizer().tokenize_bytes(bytes([code])))
        text += bytes([code])
    return None


# -- verdicts --------------------------------------------------------------------------------


def _multiple_of(_: Any, step: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if number and (Fraction(str(value)) / Fraction(str(step))).denominator != 1:
        yield ValidationError(f"{value} is not a multiple of {step}")


Validator = extend(Draft202012Validator, {"multipleOf": _multiple_of})
"""`jsonschema` divides floats, for which 0.3 is no multiple of 0.1."""


def findings(
    schema: Any, rng: Chance, values: int = 14, seen: Counter[str] | None = None
) -> list[tuple[str, str]]:
    """What a schema's grammar says otherwise than `jsonschema`.

    Args:
        schema: The schema.
        rng: Where values come from.
        values: How many texts are judged.
        seen: Counts what happened, if given.

    Returns:
        Pairs of what is wrong ("wider", "narrower", or an exception) and the text.
    """
    count = Counter() if seen is None else seen
    try:
        grammar = Grammar.from_json_schema(schema)
        count["warned" if grammar.warnings else "exact"] += 1
    except GrammarError as error:
        count["refused"] += 1
        if not error.keyword or error.pointer is None:
            return [("an error without its place", str(error))]
        try:
            grammar = Grammar.from_json_schema(schema, strict=False)
        except GrammarError:  # not a schema, or one that refers to itself without end
            return []
    except Exception as error:
        return [(type(error).__name__, str(error))]
    validator = Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    found = []

    def judge(text: str, any_order: bool) -> None:
        try:
            accepted = grammar.matches(text, any_order=any_order)
        except Exception as error:
            found.append((f"{type(error).__name__}: {error}", text))
            return
        try:
            valid = validator.is_valid(json.loads(text))
        except RecursionError:  # a reference that leads to itself
            return
        count["valid texts" if valid else "invalid texts"] += 1
        if accepted and not valid and not grammar.relaxed:
            found.append(("wider", text))
        if any_order and valid and not accepted and not grammar.warnings:
            found.append(("narrower" + " though relaxed" * bool(grammar.relaxed), text))

    for _ in range(values // 2):
        value = near(rng, schema, schema)
        for each in (value, mutated(rng, value)):
            judge(json.dumps(each), True)
        judge(json.dumps(value), False)
    if not grammar.relaxed:
        for _ in range(2):
            text = written(grammar, rng)
            if text is not None:
                count["written texts"] += 1
                judge(text, False)
    return found


def shrunk(schema: Any, bad: Callable[[Any], bool]) -> Any:
    """The smallest schema found for which `bad` still holds, by leaving out and replacing parts."""
    while True:
        for smaller in _smaller(schema):
            if bad(smaller):
                schema = smaller
                break
        else:
            return schema


def _smaller(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for key, value in node.items():
            if not key.startswith("$def") or "$ref" not in str(node):
                yield {k: v for k, v in node.items() if k != key}
            if isinstance(value, dict) and "$ref" not in str(value):
                yield value
            for less in _smaller(value):
                yield {**node, key: less}
    elif isinstance(node, list):
        for at, value in enumerate(node):
            if len(node) > 1:
                yield node[:at] + node[at + 1 :]
            for less in _smaller(value):
                yield [*node[:at], less, *node[at + 1 :]]


def run(
    seed: int, number: int, seen: Counter[str] | None = None
) -> tuple[Any, list[tuple[str, str]]]:
    """One schema of one seed, and what is wrong with its grammar."""
    rng = random.Random(f"{seed} {number}")
    schema = random_schema(rng)
    return schema, findings(schema, rng, seen=seen)


def main() -> int:
    """Judge many schemas and print what is wrong, as small as it gets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one schema by its number")
    parser.add_argument("--shrink", type=int, default=10, help="how many findings are made small")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    bad = 0
    numbers = range(options.count) if options.only is None else [options.only]
    slowest = 0.0, 0
    for number in numbers:
        start = time.perf_counter()
        schema, found = run(options.seed, number, seen)
        slowest = max(slowest, (time.perf_counter() - start, number))
        if not found:
            continue
        bad += 1
        kind, text = found[0]
        if bad <= options.shrink:
            head = kind.split(":")[0]

            def same(other: Any, number: int = number, head: str = head) -> bool:
                rng = random.Random(f"{options.seed} {number}")
                try:
                    return any(k.split(":")[0] == head for k, _ in findings(other, rng, 24))
                except Exception:
                    return False

            small = shrunk(schema, same)
            texts = [t for _, t in findings(small, random.Random(f"{options.seed} {number}"), 24)]
            schema, text = (small, texts[0]) if texts else (schema, text)
        print(f"{number}: {kind}\n  {json.dumps(schema)}\n  {text}", flush=True)
    print(f"{bad} schemas with findings; {dict(seen)}; slowest {slowest[0]:.1f} s: {slowest[1]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
