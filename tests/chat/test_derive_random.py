"""Formats that nobody publishes: made at random, written as a template, and found out again."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.chat.derive import derive_format
from helpers.chat.probe import as_messages
from helpers.chat.write import Call, write_calls
from helpers.models.render import render

TEXT = st.sampled_from(
    [
        "",
        "\n",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ", ",
        ";",
        ":",
        "call:",
        " call ",
        "```json\n",
        "\n```",
    ]
) | st.sampled_from(
    ["<call>", "</call>", "<|act|>\n", "[CALLS]", "\n<fn>\n", "<fn=", '">\n', '<fn name="']
)
SLOTS = st.lists(
    st.sampled_from(["function.name", "id"]), min_size=1, max_size=2, unique=True
).filter(lambda slots: "function.name" in slots)
FIRST = [{"role": "user", "content": "hello"}]
HEAD = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
CALLS = [
    Call("add", {"a": "x y", "b": 2}, "aaaaaaaa1"),
    Call("note", {"a": [1, "q"], "z": True}, "bbbbbbbb2"),
    Call("stop", {}, "cccccccc3"),
]


def says(text: str) -> str:
    return "{{ " + json.dumps(text) + " }}"


@st.composite
def arguments(draw: st.DrawFn) -> str:
    """Template source that writes the arguments of call `c`."""
    if draw(st.booleans()):
        return "{{ c.function.arguments | tojson }}"
    name_begin, value_end, between = (draw(TEXT) for _ in range(3))
    name_end = draw(st.sampled_from(["=", ">", "</k><v>", '">', ": ", "\n"]))
    begin, end = draw(st.sampled_from([("", ""), ("<s>", "</s>"), ("'", "'"), ('text">', "")]))
    other = draw(st.sampled_from(["tojson", "string"]))
    return (
        "{% for k, v in c.function.arguments.items() %}"
        f"{says(name_begin)}{{{{ k }}}}{says(name_end)}"
        f"{{% if v is string %}}{says(begin)}{{{{ v }}}}{says(end)}"
        f"{{% else %}}{{{{ v | {other} }}}}{{% endif %}}{says(value_end)}"
        f"{{% if not loop.last %}}{says(between)}{{% endif %}}{{% endfor %}}"
    )


@st.composite
def templates(draw: st.DrawFn) -> str:
    """ChatML, with calls in a form of its own."""
    call = says(draw(TEXT))
    for slot in draw(SLOTS):
        call += f"{{{{ c.{slot} }}}}" + says(draw(TEXT.filter(bool)))
    call += draw(arguments()) + says(draw(TEXT))
    begin, between, end = (says(draw(TEXT)) for _ in range(3))
    return (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}{{ m.content or '' }}"
        f"{{% if m.tool_calls %}}{begin}{{% for c in m.tool_calls %}}{call}"
        f"{{% if not loop.last %}}{between}{{% endif %}}{{% endfor %}}{end}{{% endif %}}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


@given(source=templates())
@settings(max_examples=40, deadline=None)
def test_a_format_that_is_found_writes_what_its_template_writes(source: str) -> None:
    tools = derive_format(source).tools
    assert tools.origin in ("derived", "fallback")
    if tools.origin == "derived":
        calls = CALLS if tools.parallel else CALLS[:1]
        reply = {"role": "assistant", "content": "", "tool_calls": as_messages(calls)}
        rendered = render(source, {"messages": [*FIRST, reply]}, "it")
        # Whitespace around the calls is no part of them.
        inner = rendered.removeprefix(HEAD).removesuffix("<|im_end|>\n").strip()
        assert inner == write_calls(tools, calls).strip()
