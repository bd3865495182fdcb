"""Readers of replies against the formats of all templates, in pieces of any size."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from helpers.chat.derive import derive_format
from helpers.chat.events import CallArguments, CallBegin, CallEnd, Content, Event, Thought
from helpers.chat.format import HERMES, ChatFormat, Fields, Reasoning, Slot, ToolFormat
from helpers.chat.grammar import reply_grammar
from helpers.chat.reader import ReadReply, ReplyReader, gather, read_reply
from helpers.chat.write import Call, write_calls
from tests.chat.templates import NAMES, needs_templates, template
from tests.support import calls_in

PLAIN = ChatFormat(HERMES)
THINKING = ChatFormat(HERMES, reasoning=Reasoning("<think>", "</think>"))
TOOLS: dict[str, Any] = {
    "look_up": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "near": {"type": "number"},
            "sure": {"type": "boolean"},
        },
    },
    "note": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "tags": {"type": "array"},
            "place": {"type": "object"},
        },
    },
    "stop": {"type": "object", "properties": {}},
}
CALLS = (
    Call("look_up", {"city": '서울 "Seoul"', "days": -3, "near": 37.5}, "abcdEF123"),
    Call("look_up", {"city": "two\nlines\n\n{}[]</x>", "days": 10**12, "sure": False}, "abcdEF124"),
    Call("note", {"tags": ["a", 1, True, []], "place": {"k": "v", "n": {"m": 2}}}, "abcdEF125"),
    Call("note", {"text": "\\ ' 😀 \\n <b> & \t| <tool"}, "abcdEF126"),
    Call("look_up", {"city": "", "days": 0, "near": 1e-300}, "abcdEF127"),
    Call("stop", {}, "abcdEF128"),
)


@cache
def formats(name: str) -> ChatFormat:
    return derive_format(template(name), bos="<BOS>", eos="<EOS>")


def read_in_pieces(form: ChatFormat, text: str, size: int, **given: Any) -> ReadReply:
    cut = given.pop("cut", False)
    reader = ReplyReader(form, given.pop("tools", TOOLS), **given)
    events: list[Event] = []
    for at in range(0, len(text), size):
        events += reader.feed(text[at : at + size])
    return gather([*events, *reader.finish(cut)])


def read(form: ChatFormat, text: str, **given: Any) -> ReadReply:
    """What is read, the same in pieces of every size."""
    whole, *others = (read_in_pieces(form, text, n, **given) for n in (10**9, 1, 2, 3, 7, 40))
    for other in others:
        assert other == whole
    return whole


def expect(reply: ReadReply, calls: tuple[Call, ...], with_ids: bool = False) -> None:
    assert not reply.faults
    assert [call.name for call in reply.calls] == [call.name for call in calls]
    for found, known in zip(reply.calls, calls, strict=True):
        assert json.loads(found.arguments) == known.arguments
        if with_ids:
            assert found.id == known.id


def call_text(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# -- all formats ----------------------------------------------------------------------------------


@needs_templates
@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_writes_is_read_back(name: str) -> None:
    form = formats(name)
    with_ids = Slot.ID in form.tools.call
    groups: list[tuple[Call, ...]] = [(call,) for call in CALLS]
    groups += [CALLS] if form.tools.parallel else []
    for calls in groups:
        text = write_calls(form.tools, calls)
        expect(read(form, text), calls, with_ids)
        if form.tools.marker:
            before = f"{form.content_begin}Well, {{1}} <b>:{form.content_end}"
            reply = read(form, f"{before}\n{text}")
            expect(reply, calls, with_ids)
            assert reply.content.strip() == "Well, {1} <b>:"
        if form.reasoning is not None:
            thought = f"{form.reasoning.begin}\nA {text[:9]}.\n{form.reasoning.end}\n\n"
            reply = read(form, thought + text)
            expect(reply, calls, with_ids)
            assert reply.thoughts == f"A {text[:9]}.".strip() and not reply.content


@needs_templates
@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_writes_is_what_its_grammar_allows(name: str) -> None:
    form = formats(name)
    for parallel in (True, False):
        grammar = reply_grammar(form, TOOLS, parallel=parallel, strict=False)
        forced = reply_grammar(form, TOOLS, choice="any", parallel=parallel, strict=False)
        assert grammar is not None and forced is not None
        groups: list[tuple[Call, ...]] = [(call,) for call in CALLS]
        if parallel and form.tools.parallel:
            groups.append(CALLS)
        for calls in groups:
            text = write_calls(form.tools, calls)
            assert grammar.matches(text), grammar.explain(text)
            assert forced.matches(text), forced.explain(text)
            assert not forced.problems(text)
            assert not forced.matches(f"Well. {text}")
            beginning = text[: text.index(calls[0].name)]
            assert not grammar.matches(f"{beginning}unknown{text[len(beginning) :]}")
        prose = f"{form.content_begin}Hello, world. {{1}} < [x] 서울{form.content_end}"
        assert grammar.matches(prose), grammar.explain(prose)
        assert not forced.matches(prose)


@needs_templates
@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_is_cut_off_loses_nothing(name: str) -> None:
    form = formats(name)
    text = write_calls(form.tools, CALLS[1:2])
    for end in range(1, len(text)):
        reply = read_in_pieces(form, text[:end], 5, cut=True)
        kept = reply.content + "".join(fault.text for fault in reply.faults)
        if reply.calls:
            expect(reply, CALLS[1:2])
            assert not reply.faults
        else:
            assert "".join(kept.split()) == "".join(text[:end].split())
            assert all("max_tokens" in fault.error for fault in reply.faults)


# -- streaming ------------------------------------------------------------------------------------


def test_events_come_as_soon_as_they_are_certain() -> None:
    reader = ReplyReader(THINKING, TOOLS, thinking=True)
    assert reader.feed("\nHm") == [Thought("Hm")]
    assert reader.feed(". </th") == [Thought(".")]
    assert reader.feed("ink>\n\nI <tool") == [Content("I ")]
    assert reader.feed("s> <tool_call>") == [Content("<tools> ")]
    assert reader.feed('\n{"name": "look_') == []
    assert reader.feed('up"') == [CallBegin(0, "look_up")]
    assert reader.feed(', "arguments": {"city": "Se') == [
        CallArguments(0, "{"),
        CallArguments(0, '"'),
        CallArguments(0, 'city"'),
        CallArguments(0, ': "'),
        CallArguments(0, "Se"),
    ]
    assert reader.feed('oul"}')[0] == CallArguments(0, 'oul"')
    assert reader.feed("}\n</tool_call>") == [CallEnd(0)]
    assert reader.finish(cut=False) == []


def test_strings_among_fields_stream() -> None:
    form = ChatFormat(
        ToolFormat(
            call=("<f=", Slot.NAME, ">", Slot.ARGUMENTS, "</f>"),
            marker="<f=",
            arguments=Fields(name_begin="<p=", name_end=">\n", value_end="\n</p>\n"),
        )
    )
    reader = ReplyReader(form, TOOLS)
    assert reader.feed('<f=note><p=text>\nA "long')[-1] == CallArguments(0, 'A \\"lon')
    assert gather(reader.feed(" text\n</p>\n</f>")[:-1] and reader.finish(False)) is not None


# -- what models do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name":"stop","arguments":{}}</tool_call>',
        '<tool_call>\n\n {\n "name" : "stop" ,\n "arguments" : { } \n}\n\n</tool_call>\n',
        '<tool_call>\n{"name": "stop", "arguments": "{}"}\n</tool_call>',
        '<tool_call>\n{"name": "stop", "arguments": {}}',
        '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool',
    ],
)
def test_spacing_may_differ(text: str) -> None:
    expect(read(PLAIN, text), (Call("stop"),))


def test_line_breaks_in_strings_are_mended() -> None:
    reply = read(PLAIN, call_text("note", '{"text": "two\nlines\t"}'))
    expect(reply, (Call("note", {"text": "two\nlines\t"}),))


def test_arguments_are_told_as_they_are_written() -> None:
    written = '{"days": 1E400, "near": 0.10000000000000000000001, "city": "\\u00e9\\ud83d\\ude00"}'
    (call,) = read(PLAIN, call_text("look_up", written)).calls
    assert call.arguments == written


def test_markers_inside_of_strings_are_text() -> None:
    inner = '</tool_call><tool_call>{"name": "stop"}\n</think>'
    text = call_text("note", json.dumps({"text": inner}))
    expect(read(THINKING, text + text), (Call("note", {"text": inner}),) * 2)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<tool_call>nothing</tool_call>", "expected '{\"name\": \"' but found 'nothing"),
        (call_text("stop", "[1]"), "expected arguments but found '[1]"),
        (call_text("stop", "{1}"), "not JSON"),
        (call_text("stop", '"[1]"'), "not an object"),
        (call_text("go", "{}"), "no tool 'go'; there are: 'look_up', 'note', 'stop'"),
        (call_text("x" * 999, "{}"), "a name that does not end"),
        ('<tool_call>\n{"name": "stop", "args": {}}\n</tool_call>', "expected"),
    ],
)
def test_what_cannot_be_read_is_a_fault_with_its_text(text: str, error: str) -> None:
    whole = f"One {text} two {call_text('stop', '{}')}"
    reply = read(PLAIN, whole)
    (fault,) = reply.faults
    assert error in fault.error and fault.text == text
    assert reply.content == "One two " and [call.name for call in reply.calls] == ["stop"]


def test_a_fault_ends_where_the_next_call_begins() -> None:
    reply = read(PLAIN, f"<tool_call> oh, {call_text('stop', '{}')}")
    assert [fault.text for fault in reply.faults] == ["<tool_call> oh, "]
    assert [call.name for call in reply.calls] == ["stop"]


def test_calls_are_content_where_nobody_asked_for_them() -> None:
    text = call_text("stop", "{}")
    assert read(PLAIN, text, reading_calls=False).content == text
    assert read(THINKING, f"<think>a</think>{text}", reading_calls=False).content == text


def test_reasoning_stands_before_the_content() -> None:
    assert read(THINKING, "The <think> tag").content == "The <think> tag"
    reply = read(THINKING, "  <think>\n a \n b </think>\n\nHello")
    assert (reply.thoughts, reply.content) == ("a \n b", "Hello")
    assert read(THINKING, "never ends", thinking=True).thoughts == "never ends"
    assert read(PLAIN, "<think>a</think>").content == "<think>a</think>"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "Hello\n", " x ", "<", "<tool_cal", "{", "]"])
def test_plain_content_is_left_as_it_is(text: str) -> None:
    assert read(PLAIN, text).content == text
    assert read(THINKING, text).content == text


def test_calls_without_a_marker_stand_at_the_beginning() -> None:
    bare = ChatFormat(
        ToolFormat(call=('{"name": "', Slot.NAME, '", "parameters": ', Slot.ARGUMENTS, "}"))
    )
    text = '{"name": "stop", "parameters": {}}'
    expect(read(bare, text), (Call("stop"),))
    expect(read(bare, f"\n{text}\n{text}"), (Call("stop"),) * 2)
    assert read(bare, f"See {text}").content == f"See {text}"
    assert read(bare, '{"nom": 1}').content == '{"nom": 1}'
    python = ChatFormat(
        ToolFormat(
            call=(Slot.NAME, "(", Slot.ARGUMENTS, ")"),
            begin="[",
            end="]",
            between=", ",
            arguments=Fields(name_end="=", between=", ", strings="json", values="python"),
        )
    )
    text = "[note(text='it\\'s', tags=[None, 'a, ]']), stop()]"
    expect(
        read(python, text), (Call("note", {"text": "it's", "tags": [None, "a, ]"]}), Call("stop"))
    )
    assert read(python, "[note] that").content == "[note] that"


def test_the_schema_tells_texts_from_numbers() -> None:
    form = ChatFormat(
        ToolFormat(
            call=("<f=", Slot.NAME, ">", Slot.ARGUMENTS, "</f>"),
            marker="<f=",
            arguments=Fields(name_begin="<p=", name_end=">", value_end="</p>", values="python"),
        )
    )
    schema = {
        "$defs": {"t": {"anyOf": [{"type": "string"}, {"const": "x"}]}},
        "properties": {"a": {"$ref": "#/$defs/t"}, "b": {"type": ["integer", "null"]}},
    }
    text = "<f=f><p=a>1</p><p=b>1</p><p=c>True</p><p=d>one</p></f>"
    (call,) = read(form, text, tools={"f": schema}).calls
    assert json.loads(call.arguments) == {"a": "1", "b": 1, "c": True, "d": "one"}


FIELDS = ToolFormat(
    call=("<f=", Slot.NAME, ">", Slot.ARGUMENTS, "</f>"),
    marker="<f=",
    arguments=Fields(name_begin="<p=", name_end=">", value_end="</p>"),
)


def test_the_end_of_a_value_may_stand_inside_of_one() -> None:
    form = ChatFormat(FIELDS)
    call = Call("note", {"tags": ["a</p><p=b>c", '"</f>'], "place": {"</p>": "}]</p>"}})
    text = write_calls(FIELDS, [call])
    for size in (1, 7, len(text)):
        reply = read_in_pieces(form, text, size)
        assert not reply.faults and json.loads(reply.calls[0].arguments) == call.arguments


def test_a_character_in_two_halves_inside_of_python_is_one() -> None:
    form = ChatFormat(replace(FIELDS, arguments=replace(FIELDS.arguments, values="python")))
    reply = read_reply(form, TOOLS, r"""<f=note><p=tags>['\ud83d\ude00', "\/"]</p></f>""")
    assert json.loads(reply.calls[0].arguments)["tags"] == ["😀", r"\/"]


def test_what_follows_a_name_may_be_in_any_spacing() -> None:
    shape = ("to=", Slot.NAME, '<|message|><calls> <call name="', Slot.NAME, '">', Slot.ARGUMENTS)
    form = ChatFormat(ToolFormat(call=(*shape, "</call>"), marker="to="))
    reply = read_reply(form, TOOLS, 'to=stop<|message|><calls>\n<call name="stop">{}</call>')
    assert [call.name for call in reply.calls] == ["stop"] and not reply.faults


def test_random_texts_lose_nothing() -> None:
    draw = random.Random(5)
    words = ["<tool_call>", "</tool_call>", '{"name": "', "stop", '", "arguments": ', "{}"]
    words += ["}", "\n", " ", "a", '"', "\\", "{", "]", "<think>", "</think>"]
    for _ in range(400):
        text = "".join(draw.choices(words, k=draw.randint(1, 14)))
        reply = read(THINKING, text)
        kept = reply.thoughts + reply.content
        kept += "".join(fault.text for fault in reply.faults)
        kept += "".join(call_text(call.name, call.arguments) for call in reply.calls)
        for mark in ("<think>", "</think>"):
            kept, text = kept.replace(mark, ""), text.replace(mark, "")
        counts = [
            {char: one.count(char) for char in set(one) if not char.isspace()}
            for one in (text, kept)
        ]
        # A call at the end may lack its last characters; no other may be missing.
        missing = sum(counts[0].values()) - sum(counts[1].values())
        assert missing <= 0 or not reply.calls, (text, reply)


def test_the_work_grows_with_the_text_alone() -> None:
    def work(form: ChatFormat, size: int) -> int:
        value = ("ab\n" * size) + "서" * size
        text = write_calls(form.tools, [Call("note", {"text": value}, "abcdEF123")])

        def feed() -> None:
            reader = ReplyReader(form, TOOLS)
            for char in text:
                reader.feed(char)
            reader.finish(cut=False)

        return calls_in(feed)

    fields = ToolFormat(
        call=("<f=", Slot.NAME, ">", Slot.ARGUMENTS, "</f>"),
        marker="<f=",
        arguments=Fields(name_begin="<p=", name_end=">", value_end="</p>"),
    )
    for form in (PLAIN, ChatFormat(fields)):
        small, large = work(form, 200), work(form, 800)
        assert large < 4.4 * small


def test_a_huge_call_is_read_one_character_at_a_time() -> None:
    value = '"\\ 서울 </tool_call>{}' * 12_000
    text = call_text("note", json.dumps({"text": value}, ensure_ascii=False))
    assert len(text) > 200_000
    expect(read_in_pieces(PLAIN, text, 1), (Call("note", {"text": value}),))


def test_a_whole_reply() -> None:
    reply = read_reply(
        THINKING, TOOLS, f"Why</think>Well. {call_text('stop', '{}')}", thinking=True
    )
    assert (reply.thoughts, reply.content, reply.calls[0].name) == ("Why", "Well. ", "stop")
