"""How models write replies, found out from all chat templates of the pinned source."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest

from helpers.chat import derive, probe
from helpers.chat.derive import derive_format
from helpers.chat.format import HERMES, ChatFormat, Fields, Slot, ToolFormat
from helpers.chat.write import Call, write_arguments, write_calls
from helpers.errors import ModelFileError
from helpers.models import default_model, inspect_model
from helpers.models.render import render
from tests.chat.templates import (
    CALLS,
    CONTENT,
    DERIVED,
    NAMES,
    NO_CALLS,
    NO_LIST_OF_TOOLS,
    NO_PLACE_FOR_TOOLS,
    NO_RESULTS,
    NO_SYSTEM,
    REASONING,
    REFUSED,
    ROWS,
    SWITCHES,
    TEXT_ARGUMENTS,
    needs_templates,
    template,
)

BOS, EOS = "<BOS>", "<EOS>"
PLAIN = ChatFormat(HERMES)


def by_name(table: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, str]]:
    return [(name, text, marker) for text, marker, names in table for name in names.split()]


@cache
def formats(name: str) -> ChatFormat:
    return derive_format(template(name), bos=BOS, eos=EOS)


@needs_templates
def test_the_table_has_every_template_once() -> None:
    listed = [name for name, _, _ in [*by_name(DERIVED), *by_name(ROWS)]]
    assert sorted([*listed, *NO_PLACE_FOR_TOOLS, *REFUSED]) == NAMES and len(NAMES) == 70


@needs_templates
def test_how_many_are_derived() -> None:
    origins = [formats(name).tools.origin for name in NAMES]
    assert {origin: origins.count(origin) for origin in origins} == {
        "derived": 59,
        "row": 6,
        "fallback": 5,
    }


@needs_templates
@pytest.mark.parametrize(("name", "text", "marker"), by_name(DERIVED))
def test_calls_are_written_as_the_template_is_known_to(name: str, text: str, marker: str) -> None:
    tools = formats(name).tools
    calls = CALLS if tools.parallel else CALLS[:1]
    assert (written(tools, calls, text), tools.marker, tools.origin) == (text, marker, "derived")


@needs_templates
@pytest.mark.parametrize(("name", "text", "marker"), by_name(ROWS))
def test_rows(name: str, text: str, marker: str) -> None:
    tools = formats(name).tools
    calls = CALLS if tools.parallel else CALLS[:1]
    assert (written(tools, calls, text), tools.marker, tools.origin) == (text, marker, "row")


@needs_templates
@pytest.mark.parametrize("name", [*NO_PLACE_FOR_TOOLS, *REFUSED])
def test_fallback(name: str) -> None:
    assert formats(name).tools is HERMES


@needs_templates
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_around_calls(name: str) -> None:
    found = formats(name)
    known = {name: reasoning for reasoning, names in REASONING for name in names.split()}
    switches = {name: switch for *switch, names in SWITCHES for name in names.split()}
    assert found.reasoning == known.get(name)
    assert (found.content_begin, found.content_end) == CONTENT.get(name, ("", ""))
    assert [found.thinking_variable, *found.thinking_values] == switches.get(
        name, [None, True, False]
    )
    assert found.system is (name not in NO_SYSTEM)
    assert found.tool_role is (name not in NO_RESULTS)
    assert found.takes_tools is (name not in NO_LIST_OF_TOOLS)
    assert found.takes_calls is (name not in NO_CALLS)
    assert found.arguments_as == ("string" if name in TEXT_ARGUMENTS else "object")


# Round trip: a conversation that no probe holds.
STYLES: list[Callable[[Any], str]] = [
    partial(json.dumps, ensure_ascii=ascii_only, separators=separators)
    for ascii_only in (False, True)
    for separators in (None, (",", ":"))
]
MANY = (
    Call("look_up", {"city": '서울 "Seoul"', "days": -3, "near": 37.5}, "abcdEF123"),
    Call("look_up", {"city": "two\nlines\n\n{}[]</x>", "days": 10**12}, "abcdEF124"),
    Call("note", {"place": {"k": "v", "n": {"m": 2}}, "tags": ["a", 1, True, []]}, "abcdEF125"),
    Call("note", {"text": "\\ ' 😀 \\n <b> & \t|"}, "abcdEF126"),
    Call("stop", {}, "abcdEF127"),
)
TEXT = {"type": "string", "description": "a text"}
LISTED = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in (
        ("look_up", {"type": "object", "properties": {"city": TEXT}}),
        ("note", {"type": "object", "properties": {"text": TEXT}}),
        ("stop", {"type": "object", "properties": {}}),
    )
]


def written(tools: ToolFormat, calls: tuple[Call, ...], text: str) -> str:
    """The calls in the style of JSON that `text` has, or in the first style."""
    indented = partial(json.dumps, ensure_ascii=False, indent=4)
    texts = [write_calls(tools, calls, style) for style in STYLES]
    texts.append(
        write_calls(tools, calls, lambda value: indented(value).replace("\n", "\n" + " " * 8))
    )
    return next((one for one in texts if one in text), texts[0])


def conversation(found: ChatFormat, calls: tuple[Call, ...]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Where am I?"},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "And then?"},
        {
            "role": "assistant",
            "content": found.empty_content,
            "tool_calls": probe.as_messages(calls, found.arguments_as == "string"),
        },
        *(
            {"role": "tool", "content": "done", "tool_call_id": call.id, "name": call.name}
            for call in calls
        ),
    ]


@needs_templates
@pytest.mark.parametrize("name", [name for name, _, _ in by_name(DERIVED)])
def test_what_the_template_renders_is_what_the_format_writes(name: str) -> None:
    found = formats(name)
    groups = [(call,) for call in MANY] + ([MANY] if found.tools.parallel else [])
    for calls in groups:
        values = {"tools": LISTED, "functions": json.dumps(LISTED), "datetime": "today"}
        values |= {"bos_token": BOS, "eos_token": EOS}
        text = render(template(name), {**values, "messages": conversation(found, calls)}, name)
        calls_text = written(found.tools, calls, text)
        assert calls_text in text, calls_text
        # Nothing that belongs to the calls stands beside them: no further bracket or closing tag.
        behind = text.partition(calls_text)[2].lstrip()
        assert not behind.startswith(("}", "]", ")", "</tool", "</function"))


def test_a_format_is_written_as_it_says() -> None:
    fields = Fields(
        begin="(", name_end="=", between=", ", end=")", string_begin="'", string_end="'"
    )
    tools = ToolFormat(
        call=(Slot.ID, ":", Slot.NAME, "#", Slot.NUMBER, Slot.ARGUMENTS, "/", Slot.NAME),
        begin="<",
        between=" ",
        end=">",
        arguments=fields,
        first_number=1,
    )
    calls = [Call("f", {"a": "x", "b": None}, "i"), Call("g")]
    assert write_calls(tools, calls) == "<i:f#1(a='x', b=null)/f :g#2()/g>"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Fields(name_end="=", values="python"), "a=['x', True, {'k': None}]"),
        (Fields(name_end="=", values="json"), 'a=["x", true, {"k": null}]'),
        (Fields(name_end="=", values="mixed"), 'a=["x", true, {"k": null}]'),
        (
            Fields(name_end=":", between=",", string_begin="^", string_end="$", deep=True),
            "a:[^x$,true,{k:null}]",
        ),
    ],
)
def test_arrays_and_objects_in_fields(form: Fields, text: str) -> None:
    assert write_arguments(form, {"a": ["x", True, {"k": None}]}) == text


def test_a_mark_around_strings_is_written_where_they_need_it() -> None:
    form = Fields(name_end="=", value_end=";", wrap_begin="<![", wrap_end="]>", value_begin="#")
    text = write_arguments(form, {"a": "x", "b": "x<y", "c": 1})
    assert text == "a=x;b=<![x<y]>;c=#1;"


def test_arguments_as_json_in_a_string() -> None:
    assert write_arguments("string", {"a": '"'}) == r'"{\"a\": \"\\\"\"}"'


# Templates that nobody publishes.
def test_the_embedded_model_has_no_place_for_tools() -> None:
    own = inspect_model(default_model()).chat_template
    assert own and derive_format(own) == PLAIN


@pytest.fixture
def short_of_time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Probes may take 0.5 s each; returns the time limits with which the template was rendered."""
    limits: list[float] = []

    def counted(*arguments: Any) -> str:
        limits.append(arguments[3])
        return render(*arguments)

    monkeypatch.setattr(probe, "_SECONDS", 0.5)
    monkeypatch.setattr(probe, "render", counted)
    return limits


ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [ENDLESS, "{{ 'x' * 10000000 }}", "{{ messages[-1].content * 100000 }}"],
    ids=["loop", "long text", "long content"],
)
def test_a_hostile_template_is_given_up_after_one_rendering(
    source: str, short_of_time: list[float]
) -> None:
    assert derive_format(source) == PLAIN
    assert len(short_of_time) == 1


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('no') }}", "{% if %}", "", "plain text"],
    ids=["refuses all", "no Jinja", "empty", "no variables"],
)
def test_a_template_that_says_nothing_gives_the_fallback(source: str) -> None:
    assert derive_format(source).tools is HERMES


def test_a_template_that_hangs_on_calls_alone_gives_the_fallback(
    short_of_time: list[float],
) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}"
        f"{ENDLESS}{{% endif %}}{{% endfor %}}"
    )
    assert derive_format(source) == PLAIN
    assert len(short_of_time) < 15


MEMORY = (
    "{% set ns = namespace(l='x') %}"
    "{% for a in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}"
)


def test_a_template_that_eats_memory_gives_the_fallback(short_of_time: list[float]) -> None:
    assert derive_format(MEMORY).tools is HERMES
    assert len(short_of_time) < 5


def test_a_format_is_found_once() -> None:
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    assert derive_format(source) is derive_format(source)
    assert derive_format(source) is not derive_format(source, eos="x")


CLOSE_CALLS = {
    # What these render looks like calls, and cannot be written for arguments in general.
    "names only": "{{ c.function.name }};",
    "keys only": "{{ c.function.name }}({{ c.function.arguments.keys() | list | join(',') }})",
    "values cut": "<c>{{ c.function.name }}|{{ c.function.arguments | tojson | truncate(30) }}</c>",
    "upper case": "<c>{{ c.function.name }}|{{ c.function.arguments | tojson | upper }}</c>",
    "raw in quotes": (
        "<c>{{ c.function.name }}|{% for k, v in c.function.arguments.items() %}"
        "{{ k }}={% if v is string %}'{{ v }}'{% else %}{{ v }}{% endif %}"
        "{{ ' ' if not loop.last }}{% endfor %}</c>"
    ),
    "backwards": (
        "<c>{{ c.function.name }}|{% for k, v in c.function.arguments.items() | reverse %}"
        "{{ k }}={{ v }};{% endfor %}</c>"
    ),
}


@pytest.mark.parametrize("call", CLOSE_CALLS.values(), ids=CLOSE_CALLS)
def test_what_cannot_be_proved_is_not_taken(call: str) -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
        f"{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}<end>{{% endfor %}}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = derive_format(source)
    assert found.tools is HERMES and found.takes_calls


def test_derivation_uses_no_more_than_a_few_renderings(short_of_time: list[float]) -> None:
    derive._derive.cache_clear()
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}"
        '<call>{"name": "{{ c.function.name }}", '
        '"args": {{ c.function.arguments | tojson }}}</call>'
        "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = derive_format(source)
    assert found.tools.call == (
        '<call>{"name": "',
        Slot.NAME,
        '", "args": ',
        Slot.ARGUMENTS,
        "}</call>",
    )
    assert len(short_of_time) < 60


def test_a_refusal_is_not_an_error_of_the_suite() -> None:
    source = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}hello"
    with pytest.raises(ModelFileError):
        render(source, {"messages": [{}, {}]}, "it")
    assert derive_format(source) == ChatFormat(HERMES, system=False, tool_role=False)
