"""Grammars of replies: what they allow, in which vocabulary, and how they travel."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chat.format import HERMES, ChatFormat, Fields, Reasoning, Slot, ToolFormat
from helpers.chat.grammar import ReplySource, reply_grammar
from helpers.chat.write import Call, write_calls
from helpers.errors import GrammarError
from helpers.grammars import Grammar, Matcher, Vocabulary
from helpers.install.configure import pinned_source
from helpers.isolation.wire import frame
from tests.support import calls_in

PLAIN = ChatFormat(HERMES)
THINKING = ChatFormat(HERMES, reasoning=Reasoning("<think>", "</think>"))
TOOLS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "a<tool_call>b"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
MARKED = ToolFormat(
    call=('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, ', "id": "', Slot.ID, '"}'),
    begin="[TOOL_CALLS][",
    between=", ",
    end="]",
    marker="[TOOL_CALLS]",
)
XML = ToolFormat(
    call=("<call>\n<function=", Slot.NAME, ">\n", Slot.ARGUMENTS, "</function>\n</call>"),
    between="\n",
    marker="<call>",
    arguments=Fields(name_begin="<parameter=", name_end=">\n", value_end="\n</parameter>\n"),
)

PYTHON = Fields(name_end="=", between=", ", strings="json", values="python")


def made(form: ChatFormat = PLAIN, tools: Any = None, **given: Any) -> Grammar:
    grammar = reply_grammar(form, TOOLS if tools is None else tools, **given)
    assert grammar is not None
    return grammar


# -- what is allowed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("Hello. { <tool> </tool_call>", True),
        (CALL, True),
        (f"First:\n{CALL}\n{NOW}", True),
        (f"{CALL} and then {NOW} done", True),
        ("Hello <tool_call>", False),
        (CALL[:-1], False),
        (CALL.replace("weather", "whether"), False),
        (CALL.replace("city", "town"), False),
        (CALL.replace('"a<tool_call>b"', "7"), False),
        (CALL.replace('"city": "a<tool_call>b"', ""), False),
        (CALL.replace(': {"', ':  {"'), False),
        (CALL.replace('": "a', '":"a'), False),
        (f"<tool_call> {NOW}", False),
    ],
)
def test_prose_is_free_and_calls_are_held(text: str, allowed: bool) -> None:
    assert made().matches(text) is allowed
    assert made(THINKING).matches(text) is allowed
    assert made(THINKING).matches(f"<think>\nHm {NOW} <tool_call></think>\n\n{text}") is allowed


def test_choices() -> None:
    for choice, allowed in (("any", [True, True]), ("now", [False, True])):
        grammar = made(choice=choice)
        assert [grammar.matches(CALL), grammar.matches(NOW)] == allowed
        assert not grammar.matches("") and not grammar.matches(f" {NOW}")
        assert grammar.matches(f"{NOW}\n{NOW}") and not grammar.matches(f"{NOW} text")
        single = made(choice=choice, parallel=False)
        assert single.matches(NOW) and not single.matches(f"{NOW}\n{NOW}")
    single = made(parallel=False)
    assert single.matches("x") and single.matches(f"x {NOW}") and not single.matches(NOW + NOW)


def test_nothing_to_hold_is_no_grammar() -> None:
    assert reply_grammar(PLAIN, {}) is None
    assert reply_grammar(PLAIN, TOOLS, choice="none") is None
    with pytest.raises(
        ValueError, match=r"'gone' is no tool.*'auto', 'any', 'none', 'weather', 'now'"
    ):
        reply_grammar(PLAIN, TOOLS, choice="gone")
    with pytest.raises(ValueError, match="needs tools"):
        reply_grammar(PLAIN, {}, choice="any")


@pytest.mark.parametrize(
    ("thinking", "bare", "begun", "open_"),
    [(True, False, True, True), (False, True, False, False), (None, True, True, False)],
)
def test_where_reasoning_may_be(
    thinking: bool | None, bare: bool, begun: bool, open_: bool
) -> None:
    forced = made(THINKING, choice="any", thinking=thinking)
    assert forced.matches(NOW) is bare
    assert forced.matches(f"<think>a {NOW}</think>\n\n{NOW}") is begun
    assert forced.matches(f"a</think>\n\n{NOW}") is open_
    auto = made(THINKING, thinking=thinking)
    assert auto.matches("Hello") is bare
    assert auto.matches("\n<think>a</think>Hello") is begun
    assert not auto.matches("<think>a")
    held = made(THINKING, {}, thinking=thinking, content=Grammar.from_string('root ::= "x"+'))
    assert held.matches("xx") is bare
    assert held.matches("<think>y</think>\n\nxx") is begun
    assert not held.matches("xy") and not held.matches("<think>y</think>y")


def test_content_that_another_grammar_holds() -> None:
    nested = Grammar.from_string('root ::= "(" root ")" | r1 C0\nr1 ::= [a-c]\nC0 ::= [0-9]')
    for grammar in (made(PLAIN, {}, content=nested), made(PLAIN, TOOLS, content=nested)):
        assert grammar.matches("((a1))") and not grammar.matches("((a1)")
    both = made(PLAIN, TOOLS, content=nested)
    assert both.matches(NOW) and not both.matches(f"a1{NOW}") and not both.matches("Hello")
    assert not made(PLAIN, TOOLS, content=nested, choice="any").matches("a1")
    schema = Grammar.from_json_schema(TOOLS["weather"])
    grammar = made(ChatFormat(HERMES, content_begin="<c>", content_end="</c>"), {}, content=schema)
    assert grammar.matches('<c>{\n"city":  "x"}</c>') and not grammar.matches('{"city": "x"}')
    assert grammar.schema == schema.schema


def test_fields_are_held_one_by_one() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["C", "F", 3]},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "place": {"$ref": "#/$defs/place"},
        },
        "required": ["unit"],
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    grammar = made(ChatFormat(XML), {"weather": schema}, choice="any")
    assert grammar.relaxed == ()

    def allows(**arguments: Any) -> bool:
        return grammar.matches(write_calls(XML, [Call("weather", arguments)]))

    assert allows(unit="C") and allows(unit=3) and allows(city='1 <b> "\n"', unit="F", days=2)
    assert allows(unit="C", days=None, place={"x": 1.5})
    assert not allows() and not allows(city="x") and not allows(unit="K") and not allows(unit=4)
    assert not allows(unit="C", days="x") and not allows(unit="C", place={"x": "y"})
    assert not allows(unit="C", city="x") and not allows(unit="C", more=1)


def test_an_end_that_a_reader_takes_for_one_is_one() -> None:
    grammar = made(ChatFormat(XML), TOOLS, choice="weather")
    text = write_calls(XML, [Call("weather", {"city": "a</parameter"})])
    assert grammar.matches(text)
    # A reader looks at no whitespace around it: this would end the city after its first letter.
    assert not grammar.matches(text.replace("</parameter", "</parameter>b", 1))


def test_dicts_of_python_are_held() -> None:
    place = {
        "type": "object",
        "properties": {"x": {"type": "number"}, "kind": {"enum": ["A", None]}},
        "required": ["x"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/place"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/place"}},
            "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "$defs": {"place": place},
    }
    form = replace(XML, arguments=PYTHON)
    grammar = made(ChatFormat(form), {"f": schema}, choice="any")
    assert grammar.relaxed == ()

    def allows(**arguments: Any) -> bool:
        return grammar.matches(write_calls(form, [Call("f", arguments)]))

    assert allows(place={"x": 1}) and allows(
        place={"x": 1, "kind": None}, tags=[{"x": 2}, {"x": 3}]
    )
    assert allows(tags=[], sizes={}) and allows(sizes={"a b": 1, "c": -2})
    assert not allows(place=1) and not allows(place={}) and not allows(place={"x": "1"})
    assert not allows(place={"x": 1, "y": 2}) and not allows(place={"x": 1, "kind": "C"})
    assert not allows(tags=[{"kind": "A"}]) and not allows(sizes={"a": "b"})


DEEP = ToolFormat(
    call=("<|tool_call>call:", Slot.NAME, "{", Slot.ARGUMENTS, "}<tool_call|>"),
    marker="<|tool_call>",
    arguments=Fields(name_end=":", between=",", string_begin="^", string_end="$", deep=True),
)


def test_what_stands_inside_of_deep_fields_is_held() -> None:
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "sizes": {"type": "array", "items": {"enum": ["S", "L", 1]}},
            "next": {"$ref": "#/$defs/node"},
            "any": {},
        },
        "required": ["name"],
    }
    schema = {"properties": {"node": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    grammar = made(ChatFormat(DEEP), {"f": schema}, choice="any")

    def allows(node: Any) -> bool:
        return grammar.matches(write_calls(DEEP, [Call("f", {"node": node})]))

    assert allows({"name": "x"}) and allows({"name": "a:b,{", "sizes": ["S", 1]})
    assert allows({"name": "x", "next": {"name": "y", "next": {"name": "z"}}})
    assert allows({"name": "x", "any": {"a": [1, "b", None, {"c": []}]}})
    assert not allows({}) and not allows({"name": 1}) and not allows({"name": "x", "sizes": ["M"]})
    assert not allows({"name": "x", "next": {"sizes": []}}) and not allows([]) and not allows("x")
    assert "more than 6 deep" in grammar.relaxed[0]
    sizes = {"type": "object", "additionalProperties": {"type": "integer"}}
    grammar = made(ChatFormat(DEEP), {"f": {"properties": {"node": sizes}}}, choice="any")
    assert not grammar.relaxed and allows({}) and allows({"a": 1, "b": 2})
    assert not allows({"a": "b"}) and not allows({"a": 1, "b": True})


@pytest.mark.parametrize("tools", [DEEP, XML, replace(XML, arguments=PYTHON)])
def test_schemas_that_refer_to_themselves_have_an_end(tools: ToolFormat) -> None:
    own = {"$ref": "#/$defs/n"}
    lists = {"type": "array", "items": {"anyOf": [own, own, {"type": "null"}]}}
    node = {"anyOf": [lists, {"type": "object", "properties": dict.fromkeys("abcdefgh", own)}]}
    schema = {"properties": {"x": own}, "$defs": {"n": node}}
    grammar = made(ChatFormat(tools), {"f": schema}, choice="any")
    text = write_calls(tools, [Call("f", {"x": [None, [], [[[None]]]]})])
    assert grammar.matches(text) and not grammar.matches(text.replace("x", "y"))


def test_what_is_not_held_is_said() -> None:
    schema = {"properties": {"a": {"type": "string", "maxLength": 2}, "b": {"type": "string"}}}
    grammar = made(ChatFormat(XML), {"f": schema, "g": {}})
    assert grammar.relaxed == ("f: pattern and length of strings",)
    text = write_calls(XML, [Call("f", {"a": "long"})])
    assert grammar.matches(text) and any("too long" in line for line in grammar.problems(text))
    unique = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(GrammarError, match="parameters of the tool 'f'") as error:
        made(tools={"f": unique})
    assert (
        error.value.keyword == "uniqueItems" and error.value.pointer == "/properties/a/uniqueItems"
    )
    loose = made(tools={"f": unique}, strict=False)
    assert "uniqueItems" in "".join(loose.relaxed) and loose.relaxed[0].startswith("f: ")


@pytest.mark.parametrize("schema", [None, True, {}, {"description": "x"}, {"type": "object"}])
def test_arguments_are_always_an_object(schema: Any) -> None:
    grammar = made(tools={"f": schema}, choice="any")
    for arguments, allowed in (("{}", True), ('{"a": [1]}', True), ("[]", False), ("1", False)):
        text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
        assert grammar.matches(text) is allowed


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "<tool_call>", "</tool_call>", "도구", "a b", "[", "x/y"]
)
def test_tools_of_any_name(name: str) -> None:
    grammar = made(tools={name: TOOLS["now"], "z": TOOLS["now"]})
    text = f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {{}}}}'
    assert grammar.matches(text + "\n</tool_call>") and not grammar.matches(text)
    assert not grammar.problems(text + "\n</tool_call>")


def test_explanations_and_problems() -> None:
    grammar = made(choice="any")
    found = grammar.explain(CALL.replace("city", "town"))
    assert (found.line, found.column) == (2, 36) and not found.matches
    assert grammar.explain(CALL).matches and grammar.problems(CALL) == []
    assert grammar.problems(CALL.replace('"a<tool_call>b"', "7")) == [
        "weather: $.city: 7 is not of type 'string'"
    ]
    assert "no tool 'then'" in grammar.problems(NOW.replace("now", "then"))[0]


def test_five_hundred_tools() -> None:
    tools = {f"tool_{number}": TOOLS["weather"] for number in range(500)}
    grammar = made(tools=tools)
    assert grammar.matches(f"Well. {CALL.replace('weather', 'tool_499')}")
    assert not grammar.matches(CALL.replace("weather", "tool_500"))
    few = calls_in(lambda: made(tools=dict(list(tools.items())[:100]), parallel=False))
    assert calls_in(lambda: made(tools=tools, parallel=False)) < 8 * few  # five times the tools


def test_a_grammar_is_made_once() -> None:
    grammar = made(choice="any")
    assert made(choice="any", tools=json.loads(json.dumps(TOOLS))) is grammar
    assert made(choice="any", parallel=False) is not grammar
    changed = {**TOOLS, "now": {"type": "object"}}
    assert made(choice="any", tools=changed) is not grammar
    looped: dict[str, Any] = {}
    looped["properties"] = {"a": looped}
    with pytest.raises(GrammarError, match="'f'"):
        made(tools={"f": looped})


# -- how they travel ------------------------------------------------------------------------------


def test_grammars_of_equal_content_have_equal_keys_after_pickling() -> None:
    content = Grammar.from_json_schema({"type": "integer"})
    variants = [
        made(),
        made(parallel=False),
        made(choice="any"),
        made(choice="now"),
        made(THINKING),
        made(THINKING, thinking=True),
        made(content=content),
        made(tools={"now": TOOLS["now"], "weather": TOOLS["weather"]}),
        made(ChatFormat(XML)),
    ]
    assert len({grammar.key for grammar in variants}) == len(variants)
    for grammar in variants:
        copy = pickle.loads(pickle.dumps(grammar))
        assert copy.key == grammar.key and copy.relaxed == grammar.relaxed
        assert copy.matches(CALL) is grammar.matches(CALL)
        assert frame("generate", 1, grammar)
    assert isinstance(variants[0]._source, ReplySource)
    assert made().key == made().key and "reply" in repr(made())


# -- vocabularies ---------------------------------------------------------------------------------


def vocabularies() -> list[str]:
    source = pinned_source()
    folder = (source or Path("missing")) / "vendor" / "llama.cpp" / "models"
    return sorted(str(path) for path in folder.glob("ggml-vocab-*.gguf"))


def vocabulary_of(path: str) -> Iterator[Vocabulary]:
    import llama_cpp

    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    yield Vocabulary.for_model(model)
    model.close()


@pytest.fixture(scope="module")
def embedded() -> Iterator[Vocabulary]:
    from helpers.models import default_model

    yield from vocabulary_of(str(default_model()))


def write(matcher: Matcher, tokens: list[int]) -> int:
    """How many of some tokens a matcher takes."""
    for count, token in enumerate(tokens):
        if not matcher.allows(token):
            return count
        matcher.accept(token)
    return len(tokens)


# The embedded model's control tokens play those of models that have some for calls.
CONTROL = ToolFormat(
    call=("<file_sep>", Slot.NAME, "<jupyter_code>", Slot.ARGUMENTS),
    marker="<file_sep>",
)


def test_control_tokens_are_tokens_in_the_grammar(embedded: Vocabulary) -> None:
    form = ChatFormat(CONTROL, reasoning=Reasoning("<issue_start>", "<issue_closed>"))
    text = 'Well. <file_sep>weather<jupyter_code>{"city": "x"}<file_sep>now<jupyter_code>{}'
    tokens = embedded.tokenizer.tokenize_str(text, parse_special=True)
    plain = embedded.tokenizer.tokenize_str(text, parse_special=False)
    grammar = made(form)
    assert write(matcher := grammar.matcher(embedded), tokens) == len(tokens)
    assert matcher.is_accepting and grammar.matches(text)
    # The same characters as plain text are no marker, and not allowed, as a reader could not tell.
    assert write(grammar.matcher(embedded), plain) < len(plain)
    forced = made(form, choice="weather", parallel=False, thinking=False)
    matcher = forced.matcher(embedded)
    allowed = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert np.nonzero(allowed)[0].tolist() == embedded.split_special("<file_sep>")
    call = embedded.tokenizer.tokenize_str(
        '<file_sep>weather<jupyter_code>{"city": "x"}', parse_special=True
    )
    assert write(matcher, call) == len(call) and matcher.is_finished
    thought = embedded.tokenizer.tokenize_str(
        "<issue_start>a<issue_closed>Hello", parse_special=True
    )
    assert write(made(form).matcher(embedded), thought) == len(thought)
    assert write(made(form, thinking=False).matcher(embedded), thought) == 0
    assert write(made(form, thinking=True).matcher(embedded), thought[1:]) == len(thought) - 1


def test_a_token_that_ends_the_reply_is_not_written(embedded: Vocabulary) -> None:
    form = ChatFormat(
        ToolFormat(
            call=("<file_sep>", Slot.NAME, "\n", Slot.ARGUMENTS, "<|im_end|>"), marker="<file_sep>"
        )
    )
    tokens = embedded.tokenizer.tokenize_str("<file_sep>now\n{}", parse_special=True)
    matcher = made(form, choice="now", parallel=False).matcher(embedded)
    assert write(matcher, tokens) == len(tokens) and matcher.is_finished


def test_texts_are_taken_apart_at_control_tokens(embedded: Vocabulary) -> None:
    (begin, end) = (embedded.token_number(f"<|im_{name}|>") for name in ("start", "end"))
    assert embedded.split_special("a<|im_start|><|im_end|> b<tool_call>") == [
        "a", begin, end, " b<tool_call>",
    ]  # fmt: skip
    assert embedded.split_special("") == []


@pytest.mark.skipif(not vocabularies(), reason="the pinned source is not here")
@pytest.mark.parametrize("name", ["qwen2", "qwen35", "gemma-4", "llama-bpe", "command-r", "phi-3"])
def test_formats_in_vocabularies_of_models(name: str) -> None:
    (path,) = [path for path in vocabularies() if path.endswith(f"vocab-{name}.gguf")]
    forms = {
        "gemma-4": ToolFormat(
            call=("<|tool_call>call:", Slot.NAME, "{", Slot.ARGUMENTS, "}<tool_call|>"),
            marker="<|tool_call>",
            arguments=Fields(
                name_end=":", between=",", string_begin='<|"|>', string_end='<|"|>', deep=True
            ),
        ),
        "command-r": MARKED,
    }
    tools = forms.get(name, HERMES)
    for vocabulary in vocabulary_of(path):
        for choice in ("auto", "weather"):
            calls = [Call("weather", {"city": "서울 <b>", "days": 3}, "abcdEF123")]
            text = write_calls(tools, calls)
            tokens = vocabulary.tokenizer.tokenize_str(text, parse_special=True)
            matcher = made(ChatFormat(tools), choice=choice, parallel=False).matcher(vocabulary)
            assert write(matcher, tokens) == len(tokens), text
            assert matcher.is_accepting
        # Tokens that a vocabulary's author added to write text with are allowed in prose.
        prose = vocabulary.tokenizer.tokenize_str("A <b>text</b> <table>.", parse_special=True)
        assert write(made(ChatFormat(tools)).matcher(vocabulary), prose) == len(prose)
