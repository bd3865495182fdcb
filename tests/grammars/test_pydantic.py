"""Whatever a grammar made from a pydantic model allows, parses into the model."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import json
import random
import uuid
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar

import numpy as np
import pytest
from pydantic import UUID4, BaseModel, ConfigDict, Field, HttpUrl, NaiveDatetime, TypeAdapter

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.guidance import byte_tokenizer, compile_guidance

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    good: bool


class Page(BaseModel, Generic[T]):
    items: list[T] = Field(max_length=3)
    next: Optional[Page[T]] = None  # noqa: UP045  (a forward reference)


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Temperature(BaseModel):
    degrees: float = Field(gt=-273.15, le=1e4)
    note: str | None = Field(default=None, max_length=40)


SMALL: list[tuple[Any, list[Any], list[Any]]] = [
    (
        Cat,
        [{"lives": 3}, {"kind": "cat", "lives": 0}],
        [{"lives": 10}, {"kind": "dog", "lives": 1}],
    ),
    (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        [{"kind": "cat", "lives": 1}, {"kind": "dog", "good": True}],
        [{"lives": 1}, {"kind": "dog", "lives": 1}],
    ),
    (Tree, [{"value": 1, "children": [{"value": 2, "children": []}]}], [{"children": []}]),
    (Page[int], [{"items": [1], "next": {"items": [], "next": None}}], [{"items": ["a"]}]),
    (Page[Page[str]], [{"items": [{"items": ["x"]}]}], [{"items": [1]}, {"items": [{}] * 4}]),
    (Open, [{"name": "a", "more": [1]}], [{"more": 1}]),
    (Temperature, [{"degrees": 21.5}, {"degrees": 0, "note": "x"}], [{"degrees": -300}, {}]),
    (Any, [None, [1, {"a": "b"}]], []),
    (Annotated[str, Field(pattern=r"^\d{3}$")], ["123"], ["12", "1234"]),
    (Annotated[str, Field(pattern=r"[a-c]\d")], ["xxa1xx"], ["a", "1"]),
    (Annotated[str, Field(max_length=100_000)], ["x" * 5000], [1]),
    (Annotated[int, Field(gt=-2, lt=10**12, multiple_of=3)], [0, 999], [-3, 4]),
    (
        Annotated[decimal.Decimal, Field(ge=0, max_digits=5, decimal_places=2)],
        [0, 999.99, 12.5],
        [-1, 1000, 0.001],
    ),
    (dt.date, ["2024-02-29"], ["2023-02-29"]),
    (dt.datetime, ["2024-01-01T12:00:00Z"], ["2024-01-01"]),
    (dt.time, ["12:30:00Z"], ["25:00:00Z"]),
    (dt.timedelta, ["P3D", "PT1H30M"], ["3 days"]),
    (NaiveDatetime, ["2024-01-01T12:00:00"], ["2024-01-01T12:00:00Z"]),
    (uuid.UUID, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    (UUID4, ["123e4567-e89b-42d3-a456-426614174000"], ["123e4567-e89b-12d3-a456-426614174000"]),
    (HttpUrl, ["https://example.com/a?b=c#d"], ["ftp://example.com", "example.com"]),
    (ipaddress.IPv4Address, ["10.0.0.1"], ["10.0.0.256"]),
    (Literal["a", 1, True], ["a", 1, True], ["b", 2, False]),
    (Colour, ["red", 2], ["green", 1]),
    (set[int], [[1, 1, 2], []], [["a"]]),
    (dict[int, str], [{"1": "a", "-20": "b"}, {}], [{"x": "a"}, {"1": 1}]),
    (tuple[int, str], [[1, "a"]], [[1], [1, "a", 2]]),
    (int | str | None, [1, "a", None], [1.5, []]),
    (list[Literal["red", "blue"]], [["red"]], [["green"]]),
]


@pytest.mark.parametrize(("model", "inside", "outside"), SMALL)
def test_values_are_judged_as_pydantic_would_have_them(
    model: Any, inside: list[Any], outside: list[Any]
) -> None:
    grammar = Grammar.from_pydantic(model)
    adapter = TypeAdapter(model)
    for value in inside:
        text = json.dumps(value)
        assert grammar.matches(text), grammar.explain(text)
        adapter.validate_json(text)
    for value in outside:
        assert not grammar.matches(json.dumps(value)), value


@pytest.mark.parametrize(("model", "inside", "outside"), SMALL)
def test_what_a_model_may_write_parses(model: Any, inside: list[Any], outside: list[Any]) -> None:
    grammar, adapter = Grammar.from_pydantic(model), TypeAdapter(model)
    rng = random.Random(str(model))
    parsed = 0
    for _ in range(12):
        matcher = compile_guidance(grammar.guidance())
        text = b""
        while len(text) < 400 and not (matcher.is_accepting() and rng.random() < 0.5):
            bits = np.unpackbits(
                np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"
            )
            codes = [int(code) for code in np.nonzero(bits[:128])[0]]  # no half characters
            if not codes:
                break
            closing = [code for code in codes if code in b'"}]:']
            code = rng.choice(closing if closing and rng.random() < 0.5 else codes)
            matcher.consume_tokens(byte_tokenizer().tokenize_bytes(bytes([code])))
            text += bytes([code])
        if matcher.is_accepting():
            adapter.validate_json(text)
            parsed += 1
    assert parsed >= 3


def test_the_schema_is_kept_and_strictness_applies() -> None:
    grammar = Grammar.from_pydantic(Cat)
    assert grammar.schema["properties"]["lives"]["maximum"] == 9
    with pytest.raises(GrammarError) as caught:
        Grammar.from_pydantic(Annotated[str, Field(pattern="(?i)a")])
    assert caught.value.keyword == "pattern"
    relaxed = Grammar.from_pydantic(Annotated[str, Field(pattern="(?i)a")], strict=False)
    assert relaxed.relaxed and relaxed.matches('"x"')


def test_types_without_a_schema_are_refused() -> None:
    class Odd:
        pass

    for model in (Odd, type(lambda: 0)):
        with pytest.raises(GrammarError, match="pydantic has no JSON Schema"):
            Grammar.from_pydantic(model)
