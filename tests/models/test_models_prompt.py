"""Chat templates: the same text as llama-cpp-python makes, and no harm from hostile ones."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from helpers import ModelFileError, default_model, format_prompt, inspect_model
from helpers.models import render
from tests.models.gguf_builders import CHAT_TEMPLATE, Draft, tiny_llama
from tests.support import gone

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Wie spät? 몇 시? <b>"},
    {"role": "assistant", "content": "Noon."},
    {"role": "user", "content": "Thanks"},
]

# Forms that published templates have: conditions, loops, white space, tools, loop controls.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>'"
        " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}"
    ),
    "bos and eos": (
        "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}"
    ),
    "white space": (
        "{%- for m in messages %}\n    {%- if m.role == 'user' -%}\n U:{{ m.content | trim }}\n"
        "    {% else %}\n  A:{{ m.content }}\n{% endif %}\n{%- endfor %}\n"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}"
        "{% endfor %}"
    ),
    "json": "{{ messages | tojson }} {{ {'a': '<&>'} | tojson(indent=2) }}",
    "namespace and slices": (
        "{% set ns = namespace(n=0) %}{% for m in messages[1:][::-1] %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }}{{ m.content[:3] }}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ),
    "macro": "{% macro show(m) %}({{ m.role }}){% endmacro %}{{ show(messages[0]) }}",
    "date": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("generate", [True, False])
def test_same_text_as_llama_cpp_python(name: str, generate: bool) -> None:
    oracle = Jinja2ChatFormatter(
        TEMPLATES[name],
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        add_generation_prompt=generate,
    )
    ours = format_prompt(CHAT, add_generation_prompt=generate, chat_template=TEMPLATES[name])
    assert ours == oracle(messages=CHAT).prompt  # type: ignore[arg-type]
    assert ours


def test_the_file_s_own_template() -> None:
    prompt = format_prompt([("system", "Be brief."), ("user", "Hi!")])
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    template = inspect_model(default_model()).chat_template
    assert template is not None
    oracle = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="<|im_start|>")
    assert format_prompt(CHAT) == oracle(messages=CHAT).prompt  # type: ignore[arg-type]


def test_messages_in_every_form_give_the_same_prompt() -> None:
    forms: list[Any] = [
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        [("system", "S"), ("human", "U")],
        [SystemMessage("S"), HumanMessage("U")],
        [SystemMessage("S"), HumanMessage([{"type": "text", "text": "U"}])],
        ChatPromptTemplate.from_messages([("system", "S"), ("human", "{q}")]).invoke({"q": "U"}),
    ]
    prompts = {format_prompt(form) for form in forms}
    assert len(prompts) == 1
    assert format_prompt("U") == format_prompt([("user", "U")])


def test_tool_calls_reach_the_template() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.tool_calls | tojson if m.tool_calls else "
        "m.content }}{{ m.tool_call_id or '' }};{% endfor %}{{ tools[0].function.name }}"
    )
    messages = [
        HumanMessage("add"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}]),
        ToolMessage("2", tool_call_id="c1"),
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    prompt = format_prompt(messages, chat_template=template, tools=tools)
    assert '"arguments": {"a": 1}' in prompt
    assert prompt.endswith("tool:2c1;add")


def test_variables_reach_the_template() -> None:
    assert format_prompt("x", chat_template="{{ enable_thinking }}", enable_thinking=False) == (
        "False"
    )


@pytest.mark.parametrize("wrong", [{"role": "user", "content": "x"}, 5, [5], [{"content": "x"}]])
def test_other_forms_are_type_errors(wrong: Any) -> None:
    with pytest.raises(TypeError, match="message"):
        format_prompt(wrong)


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, {"x": [HumanMessage("Hi")]}])
def test_variables_that_json_does_not_have_are_type_errors(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot be written as JSON.*Give texts"):
        format_prompt("Hi", more=value)


def test_a_role_that_is_no_text_is_left_to_the_template() -> None:
    with pytest.raises(ModelFileError, match="fails: TypeError"):
        format_prompt([{"role": ["user"], "content": "Hi"}])


def test_images_are_refused() -> None:
    with pytest.raises(TypeError, match="image_url"):
        format_prompt([HumanMessage([{"type": "image_url", "image_url": "x"}])])


def with_template(folder: Path, template: str | None, **keys: bool) -> Path:
    draft = Draft(tiny_llama(folder / "tiny.gguf").read_bytes())
    draft.remove("tokenizer.chat_template")
    if template is not None:
        draft.set_text("tokenizer.chat_template", template)
    for name, value in keys.items():
        draft.set(f"tokenizer.ggml.{name}", "?", 7, value)
    return draft.write(folder / "changed.gguf")


def test_a_missing_template_says_so(tmp_path: Path) -> None:
    path = with_template(tmp_path, None)
    with pytest.raises(ModelFileError, match=r"has no chat template.*base model"):
        format_prompt("hi", path)
    assert format_prompt("hi", path, chat_template="{{ messages[0].content }}!") == "hi!"


def test_model_may_be_a_path_an_info_or_an_llm(tmp_path: Path) -> None:
    path = with_template(tmp_path, CHAT_TEMPLATE)
    expected = "<|user|>hi<|end|><|assistant|>"

    class Llm:
        model_path = str(path)

    for model in (path, str(path), inspect_model(path), Llm()):
        assert format_prompt("hi", model) == expected


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_model_sees_exactly_one_bos(tmp_path: Path, adds_bos: bool) -> None:
    path = with_template(
        tmp_path, "{{ bos_token }}{{ messages[0].content }}", add_bos_token=adds_bos
    )
    prompt = format_prompt("hello", path)
    # What LlamaCpp does with a prompt: tokenized with special tokens, BOS by the file's setting.
    tokens = _tokens(path, prompt)
    assert tokens.count(0) == 1 and tokens[0] == 0
    assert prompt == ("hello" if adds_bos else "<|endoftext|>hello")


def _tokens(path: Path, text: str) -> list[int]:
    script = (
        "import sys, llama_cpp\n"
        "m = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)\n"
        "print(m.tokenize(sys.argv[2].encode(), add_bos=True, special=True))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path), text], capture_output=True, text=True, check=True
    )
    return [int(token) for token in run.stdout.strip().strip("[]").split(",")]


HOSTILE = {
    "loops for days": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "did not end within",
    ),
    "one long call": ("{{ 7 ** (10 ** 9) }}", "did not end within"),
    "huge text": ("{{ 'a' * (10 ** 11) }}", "too much memory"),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
    "reaches for the system": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "loads another": ("{% include '/etc/passwd' %}", "fails"),
    "refuses": ("{{ raise_exception('Roles must alternate') }}", "refuses.*Roles must alternate"),
    "is not Jinja": ("{% if %}", "not valid Jinja.*line 1"),
    "unknown filter": ("{{ 1 | nosuch }}", "nosuch"),
    "divides by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "unknown field": ("{{ messages[0].a.b.c }}", "UndefinedError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_an_error(name: str) -> None:
    template, words = HOSTILE[name]
    with pytest.raises(ModelFileError, match=words):
        format_prompt("hi", chat_template=template, timeout=0.5)
    # And the next one works.
    assert format_prompt("hi", chat_template="{{ messages[0].content }}") == "hi"


def test_many_threads_get_their_own_answers() -> None:
    results: dict[int, str] = {}

    def ask(number: int) -> None:
        results[number] = format_prompt(str(number), chat_template="{{ messages[0].content }}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: str(number) for number in range(20)}


def test_a_killed_child_is_replaced() -> None:
    assert format_prompt("hi", chat_template="a") == "a"
    process = render._child._process
    assert process is not None
    process.kill()
    process.wait()
    assert format_prompt("hi", chat_template="b") == "b"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_no_child_outlives_its_parent() -> None:
    script = (
        "from helpers import format_prompt\n"
        "from helpers.models import render\n"
        "format_prompt('hi', chat_template='x')\n"
        "print(render._child._process.pid, flush=True)\n"
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    child = int(run.stdout)
    assert gone(child)


def test_a_template_may_change_its_own_copy_of_the_messages() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    add, tell = (
        "{% set _ = messages.append({'content': '!'}) %}",
        "{{ messages | map(attribute='content') | join }}",
    )
    source = add + tell
    assert [format_prompt(messages, chat_template=source) for _ in range(2)] == ["Hi!", "Hi!"]
    assert messages == [{"role": "user", "content": "Hi"}]
