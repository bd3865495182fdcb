"""What goes between client and server comes through whole, and rubbish is refused in words."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import LlamaCpp, Timings
from helpers.chat.families import FAMILIES
from helpers.chat.format import HERMES, ChatFormat, Fields, Reasoning, Slot, ToolFormat
from helpers.chat.grammar import reply_grammar
from helpers.engine import Chunk, Completion, LoadReport, Request
from helpers.engine.options import ReasoningBudget
from helpers.errors import (
    ContextOverflowError,
    DeviceError,
    EngineCrashed,
    GrammarError,
    HelpersError,
    ModelFileError,
    ServerError,
)
from helpers.grammars import Grammar
from helpers.prompt import Prompt
from helpers.remote.codec import (
    REQUEST_FIELDS,
    InvalidField,
    chunk_from_json,
    chunk_to_json,
    completion_from_json,
    completion_to_json,
    end_to_json,
    error_from_json,
    error_to_json,
    grammar_from_json,
    grammar_to_json,
    parse_json,
    report_from_json,
    report_to_json,
    request_from_json,
    request_to_json,
    timings_from_json,
    timings_to_json,
    write_json,
)

REFUSED = (ValueError, TypeError, GrammarError)
YES = Grammar.from_string('root ::= "yes" | "no"')
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

texts = st.text(st.characters(), max_size=12)  # lone surrogates, too
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tokens = st.integers(0, 2**31 - 1)
finite = st.floats(-1e6, 1e6)
prompts = st.one_of(
    texts,
    st.lists(st.tuples(texts, st.booleans()), max_size=4).map(Prompt),
    st.lists(tokens, max_size=4).map(tuple),
)
requests = st.builds(
    Request,
    prompt=prompts,
    max_tokens=st.none() | st.integers(-1, 2**31 - 1),
    temperature=st.floats(0, 1e6),
    top_k=st.integers(-(2**31), 2**31 - 1),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0, 1),
    repeat_penalty=st.floats(1e-6, 1e6),
    frequency_penalty=finite,
    presence_penalty=finite,
    last_n=st.integers(-1, 2**31 - 1),
    seed=st.none() | st.integers(-1, 2**32 - 1),
    stop=st.lists(texts.filter(bool), max_size=3),
    grammar=st.sampled_from([None, YES]),
    fast_forward=st.booleans(),
    logprobs=st.none() | st.integers(0, 100_000),
    logit_bias=st.dictionaries(tokens, finite | st.just(-math.inf), max_size=3).map(
        lambda bias: tuple(bias.items())
    ),
    echo=st.booleans(),
    suffix=st.none() | texts,
    shown_tokens=st.lists(texts, max_size=3).map(tuple),
    reasoning=st.none()
    | st.builds(
        ReasoningBudget,
        begin=texts,
        end=words.filter(str.strip),
        tokens=tokens,
        open=st.booleans(),
    ),
    user=texts,
)
figures = st.none() | st.floats(0, 1e9)
counts = st.none() | st.integers(0, 2**53)
timings = st.builds(
    Timings,
    load_ms=figures,
    sample_ms=figures,
    sample_tokens=counts,
    prompt_ms=figures,
    cached_tokens=counts,
    eval_ms=figures,
    generated_tokens=counts,
    total_ms=figures,
    token_ms=st.none() | st.lists(st.floats(0, 1e9), max_size=3),
)
logprobs = st.lists(st.tuples(texts, st.integers(0, 99), st.floats(-1e3, 0)), max_size=3).map(
    lambda rows: {
        "tokens": [text for text, _, _ in rows],
        "text_offset": [offset for _, offset, _ in rows],
        "token_logprobs": [value for _, _, value in rows],
        "top_logprobs": [{text: value} for text, _, value in rows],
    }
)
completions = st.builds(
    Completion,
    text=texts,
    finish_reason=st.sampled_from(["stop", "length", "cancelled"]),
    timings=timings,
    prompt_tokens=st.integers(0, 10**6),
    generated_tokens=st.integers(0, 10**6),
    logprobs=st.none() | logprobs,
    notes=st.lists(texts, max_size=2).map(tuple),
)
rubbish = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | texts
    | st.sampled_from(["prompt", "gbnf", "json_schema", "reply", "-inf", "ARGUMENTS"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def through(value: Any) -> Any:
    """A value as it comes out of the wire."""
    return parse_json(write_json(value))


# -- requests -------------------------------------------------------------------------------------


@given(requests)
def test_a_request_comes_through_whole(request: Request) -> None:
    found = request_from_json(through(request_to_json(request)))
    keys = [one.grammar and one.grammar.key for one in (found, request)]
    assert keys[0] == keys[1]
    assert dataclasses.replace(found, grammar=None) == dataclasses.replace(request, grammar=None)
    if isinstance(request.prompt, Prompt):
        assert isinstance(found.prompt, Prompt)
        assert found.prompt.parts == request.prompt.parts
    else:
        assert type(found.prompt) is type(request.prompt)


def test_what_is_not_given_is_as_the_model_has_it() -> None:
    fields = LlamaCpp.model_fields
    request = request_from_json({"prompt": "Hi!"})
    for field in dataclasses.fields(Request):
        name = {"last_n": "last_n_tokens_size"}.get(field.name, field.name)
        if name in fields and name not in ("stop", "logit_bias", "seed", "speculate"):
            assert getattr(request, field.name) == fields[name].default, name
    assert request.seed in (None, fields["seed"].default)
    nothing = dict.fromkeys(("temperature", "stop", "logit_bias", "grammar", "seed"))
    assert request_from_json({"prompt": "Hi!", **nothing}) == request
    assert request_from_json({"prompt": "Hi!", "max_tokens": None}).max_tokens is None


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({}, ValueError, "prompt"),
        ([], TypeError, "JSON object"),
        ({"prompt": "a", "prompt_parts": []}, ValueError, "one of the two"),
        ({"prompt": 7}, TypeError, "must be a list"),
        ({"prompt": [-1]}, ValueError, "number of a token"),
        ({"prompt": [True]}, ValueError, "number of a token"),
        ({"prompt": [10**400]}, ValueError, "number of a token"),
        ({"prompt_parts": [["a", 1]]}, TypeError, "template"),
        ({"prompt": "a", "temprature": 1}, ValueError, "'temperature'"),
        ({"prompt": "a", "top_p": 2}, ValueError, "top_p=2"),
        ({"prompt": "a", "top_k": 10**400}, ValueError, "too large"),
        ({"prompt": "a", "top_p": "1"}, TypeError, "top_p='1'"),
        ({"prompt": "a", "logprobs": True}, TypeError, "logprobs=True"),
        ({"prompt": "a", "stop": {"a": 1}}, TypeError, "stop="),
        ({"prompt": "a", "stop": [""]}, ValueError, "stop="),
        ({"prompt": "a", "shown_tokens": "ab"}, TypeError, "list"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, ValueError, "token"),
        ({"prompt": "a", "logit_bias": {"9" * 10: 1}}, ValueError, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"7": "a"}}, TypeError, "logit_bias"),
        ({"prompt": "a", "reasoning": {"end": "b"}}, TypeError, "reasoning"),
        ({"prompt": "a", "reasoning": {"begin": 1, "end": "b", "tokens": 1}}, TypeError, "begin"),
        ({"prompt": "a", "grammar": "root := a"}, GrammarError, "line 1"),
        ({"prompt": "a", "grammar": {"gbnf": 7}}, TypeError, "gbnf=7"),
        ({"prompt": "a", "grammar": {"json_schema": {"type": 7}}}, GrammarError, "type"),
        ({"prompt": "a", "grammar": {"json_schema": {}, "strct": True}}, ValueError, "'strict'"),
        ({"prompt": "a", "grammar": {}}, ValueError, "one of"),
        ({"prompt": "a", "grammar": 7}, ValueError, "one of"),
    ],
)
def test_what_has_no_meaning_is_refused_in_words(body: Any, kind: type, said: str) -> None:
    with pytest.raises(kind) as caught:
        request_from_json(body)
    assert said in str(caught.value)
    status, answer = error_to_json(caught.value)
    assert status == 400
    assert type(error_from_json(status, through(answer))) in (kind, GrammarError)


def test_errors_name_the_field() -> None:
    for body, param, code in (
        ({"prompt": "a", "top_p": 2}, "top_p", "invalid_value"),
        ({"prompt": "a", "last_n_tokens_size": -7}, "last_n_tokens_size", "invalid_value"),
        ({"prompt": "a", "temprature": 2}, "temprature", "unknown_field"),
    ):
        with pytest.raises(InvalidField) as caught:
            request_from_json(body)
        told = error_to_json(caught.value)[1]["error"]
        assert (told["param"], told["code"]) == (param, code)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(REQUEST_FIELDS)), rubbish))
def test_rubbish_is_refused_and_nothing_worse(body: dict[str, Any]) -> None:
    try:
        request_from_json(body)
    except REFUSED as error:
        assert error_to_json(error)[0] == 400


def test_depth_ends_in_words() -> None:
    for raw in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "NaN", b"\xff\x00\xff", "{", ""):
        with pytest.raises(ValueError):
            parse_json(raw)
    deep: Any = "a"
    for _ in range(100_000):
        deep = [deep]
    for body in ({"prompt": deep}, {"prompt": "a", "stop": deep}, {"prompt": "a", "grammar": deep}):
        with pytest.raises(REFUSED):
            request_from_json(body)
    with pytest.raises(REFUSED):
        grammar_from_json({"json_schema": {"enum": deep}})


# -- grammars -------------------------------------------------------------------------------------

FORMS = [
    ChatFormat(HERMES),
    ChatFormat(HERMES, reasoning=Reasoning("<think>", "</think>"), thinking_values=("on", 0)),
    ChatFormat(
        ToolFormat(
            call=("<f=", Slot.NAME, ">", Slot.ARGUMENTS, "</f>"),
            arguments=Fields(name_begin="<p=", name_end=">", value_end="</p>"),
            marker="<f=",
        ),
        empty_content=None,
        thinking_variable="enable_thinking",
    ),
]


def replies() -> list[Grammar]:
    made = []
    for form in FORMS:
        for changes in (
            {},
            {"choice": "any", "parallel": False},
            {"choice": "weather", "thinking": True},
            {"content": YES, "choice": "none"},
            {"content": Grammar.from_json_schema(CITY), "thinking": False},
        ):
            made.append(reply_grammar(form, {"weather": CITY, "now": {}}, **changes))
    return [one for one in made if one is not None]


@pytest.mark.parametrize(
    "grammar",
    [
        YES,
        Grammar.from_json_schema(CITY),
        Grammar.from_json_schema({"properties": {"b": True, "a": {"const": 1.5}}}),
        Grammar.from_json_schema({"type": "string", "contentEncoding": "x"}, strict=False),
        Grammar.from_json_schema({"not": {"pattern": "a"}, "type": "string"}, strict=False),
        Grammar.from_typescript("interface Point { x: number; y?: number }"),
        *replies(),
    ],
    ids=repr,
)
def test_a_grammar_comes_through_whole(grammar: Grammar) -> None:
    found = grammar_from_json(through(grammar_to_json(grammar)))
    assert found.key == grammar.key
    assert found.guidance() == grammar.guidance()
    assert found.relaxed == grammar.relaxed
    assert grammar_from_json(through(grammar_to_json(grammar))) is found


def test_formats_of_known_families_come_through() -> None:
    for family in FAMILIES:
        grammar = reply_grammar(ChatFormat(family.tools), {"now": CITY})
        assert grammar is not None
        assert grammar_from_json(through(grammar_to_json(grammar))).key == grammar.key


def damaged(value: Any) -> list[Any]:
    """Copies of a value with one part of it replaced by something else."""
    strange = [None, 7, "", "x", [], {}, True, [["slot"]], {"slot": "names"}, -(10**30)]
    found = [one for one in strange if one != value]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [{**value, key: one} for one in damaged(inner)]
            found.append({name: one for name, one in value.items() if name != key})
        found.append({**value, "more": 1})
    if isinstance(value, list):
        for at, inner in enumerate(value):
            found += [[*value[:at], one, *value[at + 1 :]] for one in damaged(inner)]
    return found


def test_a_damaged_reply_is_a_grammar_or_an_error() -> None:
    whole = grammar_to_json(replies()[1])
    refused = 0
    for one in damaged(whole):
        try:
            grammar_from_json(one)
        except REFUSED:
            refused += 1
    assert refused > 100


# -- answers --------------------------------------------------------------------------------------


@given(completions)
def test_an_answer_comes_through_whole(completion: Completion) -> None:
    assert completion_from_json(through(completion_to_json(completion))) == completion


@given(completions, st.lists(st.builds(Chunk, texts, st.none() | logprobs), max_size=3))
def test_a_stream_makes_the_answer(completion: Completion, chunks: list[Chunk]) -> None:
    found = [chunk_from_json(through(chunk_to_json(chunk))) for chunk in chunks]
    assert found == chunks
    whole = completion_from_json(through(end_to_json(completion)), found)
    assert whole.text == "".join(chunk.text for chunk in chunks)
    assert (whole.timings, whole.notes) == (completion.timings, completion.notes)
    told = [token for chunk in chunks for token in (chunk.logprobs or {}).get("tokens", [])]
    assert (whole.logprobs or {}).get("tokens", []) == told


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(rubbish)
def test_an_answer_that_is_none_is_refused(body: Any) -> None:
    whole = completion_to_json(Completion("a", "stop", Timings(), 1, 1))
    bodies = [body, {"choices": [body]}]
    if isinstance(body, dict):
        bodies += [{**whole, **body}]
    bodies += [{**whole, name: body} for name in whole if name != "object"]
    for one in bodies:
        for read in (completion_from_json, chunk_from_json, report_from_json, timings_from_json):
            try:
                read(one)
            except ValueError:
                continue


def test_what_cannot_be_has_a_number_in_json() -> None:
    told = {"tokens": ["a"], "text_offset": [0], "token_logprobs": [-math.inf]}
    chunk = Chunk("a", {**told, "top_logprobs": [{"a": -math.inf, "b": -1.0}]})
    found = chunk_from_json(through(chunk_to_json(chunk))).logprobs
    assert found is not None
    assert found["token_logprobs"] == [-9999.0]
    assert found["top_logprobs"] == [{"a": -9999.0, "b": -1.0}]


@given(timings)
def test_timings_come_through(one: Timings) -> None:
    assert timings_from_json(through(timings_to_json(one))) == one
    assert timings_from_json({**timings_to_json(one), "more": 1}) == one


def test_a_report_comes_through() -> None:
    report = LoadReport(
        "a.gguf", "llama", 4096, 512, 0, 31, {"CPU": {"weights": 1.5, "kv": 2, "compute": 0}}
    )
    assert report_from_json(through(report_to_json(report))) == report
    assert report_from_json({**report_to_json(report), "later": 1}) == report
    for field in ("model", "n_ctx", "by_device", "load_ms", "pooling"):
        with pytest.raises(ValueError, match=field):
            report_from_json({**report_to_json(report), field: [7]})
    with pytest.raises(ValueError, match="n_ctx"):
        report_from_json({"model": "a", "description": "b"})


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code", "type_"),
    [
        (ContextOverflowError(5000, 4096), 400, "context_length_exceeded", "invalid_request_error"),
        (GrammarError("no", line=1, column=2), 400, "invalid_grammar", "invalid_request_error"),
        (GrammarError("no", keyword="k", pointer="/k"), 400, "invalid_grammar", None),
        (ValueError("no"), 400, "invalid_value", "invalid_request_error"),
        (TypeError("no"), 400, "invalid_value", "invalid_request_error"),
        (EngineCrashed("gone"), 503, "engine_crashed", "server_error"),
        (DeviceError("full"), 500, "device_error", "server_error"),
        (ModelFileError("bad"), 500, "model_error", "server_error"),
        (ServerError("who?", status=401, code="invalid_api_key"), 401, "invalid_api_key", None),
        (ServerError("full", status=429, code="queue_full"), 429, "queue_full", "rate_limit_error"),
        (ServerError("slow", status=408, code="timeout"), 408, "timeout", "timeout_error"),
        (ServerError("end", status=503, code="shutting_down"), 503, "shutting_down", None),
    ],
)
def test_an_error_comes_through(
    error: HelpersError, status: int, code: str, type_: str | None
) -> None:
    found_status, body = error_to_json(error)
    assert found_status == status
    assert body["error"]["code"] == code
    assert type_ in (None, body["error"]["type"])
    found = error_from_json(status, through(body), {"retry-after": "2.5"})
    assert type(found) is type(error)
    if isinstance(error, ContextOverflowError):  # n_ctx is not the client's to set
        assert "n_ctx=" not in str(found)
    else:
        assert str(found) == str(error)
    for name, value in vars(error).items():
        if name != "retry_after":
            assert getattr(found, name) == value
    if isinstance(found, ServerError):
        assert found.retry_after == 2.5


def test_what_a_bug_says_stays_with_the_server() -> None:
    status, body = error_to_json(KeyError("/srv/teacher/secret"))
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert isinstance(error_from_json(status, body), ServerError)
    assert error_to_json(HelpersError("why"))[1]["error"]["message"] == "why"


@given(rubbish, st.none() | st.integers(100, 599), texts)
def test_a_foreign_answer_is_an_error_of_the_server(body: Any, status: Any, after: str) -> None:
    for one in (body, {"error": body}, {"error": {"message": "no", "code": body, "n_ctx": body}}):
        found = error_from_json(status, one, {"retry-after": after})
        assert isinstance(found, HelpersError | ValueError | TypeError)
        assert len(str(found)) < 1000


def test_a_page_of_a_proxy_is_shown_short() -> None:
    found = error_from_json(502, "<html>\n" + "x" * 10_000)
    assert isinstance(found, ServerError)
    assert found.status == 502
    assert "502" in str(found)
    assert len(str(found)) < 600
