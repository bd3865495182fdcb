"""What a model writes under a grammar belongs to the grammar, whatever the grammar and sampling."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest

from helpers.engine import Completion, Engine, LoadOptions, Request
from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.models import default_model
from tests.grammars.random_grammars import random_grammar

GRAMMARS = 100
SAMPLING: list[dict[str, float]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},  # with the default top_k, top_p and min_p
    {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
]
PROMPTS = ["Here is my list:\n", "Once upon a time", "I have two things to say: "]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    options = LoadOptions(model_path=str(default_model()), n_ctx=256, n_gpu_layers=0)
    with Engine(options) as made:
        yield made


def usable_grammars(count: int) -> list[Grammar]:
    rng = random.Random(2026)
    made: list[Grammar] = []
    while len(made) < count:
        grammar = Grammar.from_string(random_grammar(rng))
        if not grammar.matches(""):  # of the others, many a text is empty
            made.append(grammar)
    return made


def check(grammar: Grammar, answer: Completion, request: Request) -> bool:
    """Hold an answer against its grammar; returns whether it is a finished text."""
    shown = (grammar, answer.text, answer.finish_reason, request.temperature, request.seed)
    if answer.finish_reason == "stop":
        assert grammar.matches(answer.text), (shown, grammar.explain(answer.text).message)
        return True
    assert answer.finish_reason == "length", shown
    # The last token may have ended inside a character. What is before can be gone on with if no
    # character of it was refused: each rule of a grammar has a text (checked when it is made).
    text = answer.text.rstrip("\N{REPLACEMENT CHARACTER}")
    found = grammar.explain(text)
    assert found.position == len(text), (shown, found.message)
    assert found.matches or found.expected, shown
    return False


@pytest.mark.timeout(300)
def test_texts_generated_under_random_grammars_match_them(engine: Engine) -> None:
    cases = [
        (grammar, Request(
            prompt=PROMPTS[number % len(PROMPTS)],
            grammar=grammar,
            max_tokens=10,
            repeat_penalty=1.0,
            seed=number,
            fast_forward=number % 4 != 3,
            **sampling,
        ))
        for number, (grammar, sampling) in enumerate(product(usable_grammars(GRAMMARS), SAMPLING))
    ]  # fmt: skip
    # From eight threads, which the engine takes side by side: one that fails leaves the others be.
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda case: answer_or_error(engine, case[1]), cases))
    finished = [
        check(grammar, answer, request)
        for (grammar, request), answer in zip(cases, answers, strict=True)
        if isinstance(answer, Completion)
    ]
    # Loops in loops can be too ambiguous to follow: an error in words, and a rare one.
    assert len(finished) >= 0.98 * GRAMMARS * len(SAMPLING)
    assert sum(finished) > len(finished) / 4 and not all(finished)
    assert len({answer.text for answer in answers if isinstance(answer, Completion)}) > 150


def answer_or_error(engine: Engine, request: Request) -> Completion | GrammarError:
    try:
        return engine.generate(request)
    except GrammarError as error:
        assert "too many ways" in str(error), error
        return error


SCHEMAS: list[dict[str, Any]] = [
    {"type": "array", "items": {"type": "integer", "minimum": 7, "maximum": 1300}, "maxItems": 3},
    {"enum": ["red", "green", 3, None]},
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^[A-Z][a-z]+ \\d{2}$"},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.25},
    {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "name": {"type": "string", "maxLength": 12}},
        "required": ["ok"],
        "additionalProperties": False,
    },
    {
        "$ref": "#/$defs/n",
        "$defs": {
            "n": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
                "additionalProperties": False,
            }
        },
    },
]


@pytest.mark.timeout(300)
def test_texts_generated_under_schemas_are_valid(engine: Engine) -> None:
    cases = [
        Request(
            prompt="Some JSON: ",
            grammar=Grammar.from_json_schema(schema),
            max_tokens=40,
            repeat_penalty=1.0,
            seed=seed,
            **sampling,
        )
        for schema, sampling, seed in product(SCHEMAS, SAMPLING, range(2))
    ]
    finished = 0
    for request, answer in zip(cases, engine.generate_many(cases), strict=True):
        assert request.grammar is not None
        if check(request.grammar, answer, request):
            finished += 1
            assert request.grammar.problems(answer.text) == []
            json.loads(answer.text)
    assert finished > len(cases) / 2


def test_each_text_of_a_batch_keeps_to_its_own_grammar(engine: Engine) -> None:
    """Side by side, streaming and alone: the same texts, since the seed is the same."""
    grammars = [Grammar.from_string(f'root ::= "{word} " [a-z]{{3}}') for word in "abcdefgh"]
    requests = [
        Request(prompt="Say:", grammar=grammar, max_tokens=10, seed=5, temperature=1.0)
        for grammar in grammars
    ]
    together = engine.generate_many(requests)
    for grammar, request, answer in zip(grammars, requests, together, strict=True):
        assert grammar.matches(answer.text) and answer.finish_reason == "stop"
        pieces = list(engine.stream(request))
        last = pieces[-1]
        assert isinstance(last, Completion)
        streamed = "".join(piece.text for piece in pieces[:-1])
        assert streamed == last.text and grammar.matches(streamed)


def test_a_stop_string_ends_a_text_before_its_grammar_does(engine: Engine) -> None:
    grammar = Grammar.from_string('root ::= [a-z]{2} "END" [a-z]+')
    request = Request(prompt="Go", grammar=grammar, stop=("END",), max_tokens=20, seed=1)
    answer = engine.generate(request)
    assert answer.finish_reason == "stop"
    assert len(answer.text) == 2 and grammar.explain(answer.text).position == 2


def test_a_grammar_that_no_token_continues_ends_in_an_error(engine: Engine) -> None:
    """The one token that the grammar asks for is banned."""
    (letter,) = engine.tokenize("q")
    grammar = Grammar.from_string('root ::= "q"')
    request = Request(
        prompt="Go", grammar=grammar, max_tokens=3, logit_bias=((letter, -float("inf")),)
    )
    with pytest.raises(GrammarError, match="No token"), warnings.catch_warnings():
        engine.generate(request)
