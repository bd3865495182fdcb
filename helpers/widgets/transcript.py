"""A conversation as HTML, as text, and as the Python that has it again."""

from __future__ import annotations

import ast
import contextlib
import html
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage

from helpers.errors import ContextOverflowError, ModelFileError
from helpers.models import PLAIN_TEMPLATE, default_model, inspect_model
from helpers.widgets.conversation import ROUNDS, Conversation, Turn
from helpers.widgets.grammar_trials import failure_text

_MOST = 100_000
"""Characters of one text that a browser is given."""
_LINE = 70
"""Characters of a call that still stand in one line of code."""
_ENDS = {"length": "✗ cut off by max_tokens or the context", "cancelled": "✗ stopped here"}


def advice(error: BaseException) -> str:
    """A failure in words, and what the user of a chat can do about it."""
    more = "What you wrote is back in the field; this turn is not part of the conversation."
    if isinstance(error, ContextOverflowError):
        more = f"Or begin a new chat: all of a conversation is read with each message. {more}"
    return f"{failure_text(error)}\n{more}"


def answer_line(message: AIMessage) -> str:
    """Tokens, speed and cached tokens of one message of the model, and how it ended.

    >>> from langchain_core.messages import AIMessage
    >>> answer_line(AIMessage("Once", response_metadata={"finish_reason": "cancelled"}))
    '✗ stopped here'
    """
    parts = []
    usage, about = message.usage_metadata, message.response_metadata
    if usage:
        parts.append(_count(usage["output_tokens"], "token"))
    timings = about.get("timings")
    if timings is not None and timings.eval_per_second is not None:
        parts.append(f"{timings.eval_per_second:.1f} tokens/s")
    if usage:
        cached = usage.get("input_token_details", {}).get("cache_read", 0)
        parts.append(f"prompt of {_count(usage['input_tokens'], 'token')}, {cached:,} cached")
    if about.get("finish_reason") in _ENDS:
        parts.append(_ENDS[about["finish_reason"]])
    return " · ".join(parts)


# --- HTML ----------------------------------------------------------------------------------------


def turn_parts(turn: Turn) -> list[str]:
    """A turn as pieces of HTML: more come while it goes on, and those before them stay as they are.

    All that a user, a model or a tool has written is escaped.
    """
    parts = [_said("user", "You", turn.question)]
    running, results = turn.state == "running", turn.results
    for message in turn.answers:
        writing = running and isinstance(message, AIMessageChunk)
        calls = list(_calls(message))
        text = str(message.text)
        thought = str(message.additional_kwargs.get("reasoning_content") or "")
        if thought:
            parts.append(_fold("Reasoning", {"": thought}, is_open=writing and not (text or calls)))
        if text or not (calls or thought):
            parts.append(_said("model", "Model", text, writing=writing and not calls))
        for id_, name, arguments, fault in calls:
            parts.append(_call(name, arguments, fault, results.get(id_ or ""), running=running))
        if line := answer_line(message):
            parts.append(f'<div class="figures">{shown(line)}</div>')
    if running and not (turn.steps and isinstance(turn.steps[-1], AIMessage)):
        parts.append(_said("model", "Model", "", writing=True))
    if turn.error is not None:
        parts.append(f'<pre class="failure" role="alert">{shown(advice(turn.error))}</pre>')
    return parts


def shown(text: str) -> str:
    """A text as HTML that shows it and does nothing else; of a very long one the beginning.

    >>> shown("<b>Hi</b>")
    '&lt;b&gt;Hi&lt;/b&gt;'
    """
    if len(text) > _MOST:
        text = f"{text[:_MOST]}… ({len(text) - _MOST:,} more characters)"
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _said(kind: str, who: str, text: str, *, writing: bool = False) -> str:
    live = f' aria-live="polite" aria-busy="{str(writing).lower()}"' if kind == "model" else ""
    return (
        f'<div class="said {kind}" role="article" aria-label="{who}"{live}><b>{who}</b>'
        f'<div class="text">{shown(text)}{"…" if writing else ""}</div></div>'
    )


def _call(
    name: str, arguments: str, fault: str, result: ToolMessage | None, *, running: bool
) -> str:
    texts = {"Arguments": arguments}
    if result is not None:
        state = "✗ failed" if result.status == "error" else "✓ done"
        texts["Result"] = str(result.text)
    elif fault:
        state = "✗ not made"
        texts["Why"] = fault
    else:
        state = "…" if running else "✗ not made"
    return _fold(f"Tool {name}: {state}", texts)


def _calls(message: AIMessage) -> Iterator[tuple[str | None, str, str, str]]:
    """Id, name, arguments and fault of each call of a message, also of growing ones."""
    if isinstance(message, AIMessageChunk):
        for chunk in message.tool_call_chunks:
            yield chunk["id"], chunk["name"] or "", chunk["args"] or "", ""
        return
    for call in message.tool_calls:
        yield call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False, indent=1), ""
    for bad in message.invalid_tool_calls:
        fault = bad["error"] or "It cannot be read."
        yield bad["id"], bad["name"] or "", bad["args"] or "", fault


def _fold(title: str, texts: dict[str, str], *, is_open: bool = False) -> str:
    body = "".join(
        (f"<div>{head}</div>" if head else "") + f'<pre tabindex="0">{shown(text)}</pre>'
        for head, text in texts.items()
    )
    attribute = " open" if is_open else ""
    return f"<details{attribute}><summary>{shown(title)}</summary>{body}</details>"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- text and code -------------------------------------------------------------------------------


def as_text(turns: Sequence[Turn]) -> str:
    """A conversation as it can be read without widgets."""
    return "\n\n".join(part for turn in turns for part in _text_parts(turn) if part)


def _text_parts(turn: Turn) -> Iterator[str]:
    yield f"You: {turn.question}"
    for message in turn.steps:
        if isinstance(message, ToolMessage):
            yield f"Result of {message.name}: {message.text}"
        elif isinstance(message, AIMessage):
            calls = [f"[{name}: {arguments}]" for _, name, arguments, _ in _calls(message)]
            yield " ".join(["Model:", *filter(None, [str(message.text), *calls])])
            yield answer_line(message)
    yield advice(turn.error) if turn.error is not None else ""


def code_for(conversation: Conversation, system: str = "") -> str:
    """The Python that has a conversation again; turns that failed are left out.

    Args:
        conversation: The conversation.
        system: The system prompt, for one that has not begun.
    """
    turns = conversation.kept
    said = turns[0].system if turns else system
    imports, loading = _loading(conversation.chat)
    if any(code.startswith("tool(") for code in conversation.tools_code):
        imports = f"{imports}\nfrom langchain_core.tools import tool"
    lines = [imports, "", *loading]
    if conversation.tools:
        lines.append(f"tools = [{', '.join(conversation.tools_code)}]")
    lines += [_system_line(said), "messages = []", "", ""]
    lines += [_ASK_WITH_TOOLS if conversation.tools else _ASK, "", ""]
    for turn in turns:
        if turn.system != said:
            said = turn.system
            lines.append(_system_line(said))
        stopped = "  # was stopped" if turn.state == "stopped" else ""
        lines.append(f"ask({turn.question!r}, temperature={turn.temperature!r}){stopped}")
    return "\n".join(lines).rstrip() + "\n"


_ASK = """\
def ask(text, temperature):
    messages.append(("user", text))
    messages.append(chat.invoke(system + messages, temperature=temperature))
    print(messages[-1].text)"""
_ASK_WITH_TOOLS = f"""\
def ask(text, temperature):
    messages.append(("user", text))
    for choice in ["auto"] * {ROUNDS} + ["none"]:
        model = chat.bind_tools(tools, tool_choice=choice)
        answer = model.invoke(system + messages, temperature=temperature)
        messages.append(answer)
        for call in answer.tool_calls:
            messages.append(next(t for t in tools if t.name == call["name"]).invoke(call))
        if not answer.tool_calls:
            break
    print(messages[-1].text)"""


def _loading(chat: BaseChatModel) -> tuple[str, list[str]]:
    """Lines that import what is needed, and that load a model with the fields that it was given."""
    given = chat.model_fields_set - BaseChatModel.model_fields.keys()
    values = {name: getattr(chat, name) for name in sorted(given)}
    path = str(values.pop("model_path", ""))
    embedded = False
    with contextlib.suppress(ModelFileError):  # this machine may have no embedded model
        embedded = os.path.realpath(path) == os.path.realpath(default_model())
    fields = [f"model_path={'default_model()' if embedded else repr(path)}"] if path else []
    names = ["ChatLlamaCpp", *(["default_model"] if embedded else [])]
    if values.get("chat_template") == PLAIN_TEMPLATE:
        del values["chat_template"]
        fields.append("chat_template=PLAIN_TEMPLATE")
        names.insert(0, "PLAIN_TEMPLATE")
    elif "chat_template" in values:
        with contextlib.suppress(ModelFileError):  # the file may have gone since
            if values["chat_template"] == inspect_model(path).chat_template:
                del values["chat_template"]  # long, and what is used anyway
    fields += [f"{name}={value!r}" for name, value in values.items() if _is_literal(value)]
    rest = [name for name, value in values.items() if not _is_literal(value)]
    listed = ", ".join(fields)
    if len(listed) > _LINE:
        listed = "".join(f"\n    {one}," for one in fields) + "\n"
    return f"from helpers import {', '.join(names)}", [
        *([f"# It also had its own {', '.join(rest)}."] if rest else []),
        f"chat = ChatLlamaCpp({listed})",
    ]


def _system_line(system: str) -> str:
    return f'system = [("system", {system!r})]' if system.strip() else "system = []"


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
