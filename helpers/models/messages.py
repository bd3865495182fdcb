"""Messages in the form that chat templates read: dicts with a role and a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# LangChain's names for the roles, beside those that templates know.
_ROLES = {"human": "user", "ai": "assistant", "function": "tool", "developer": "system"}
_CALLS = {"tool_call", "tool_call_chunk", "tool_use", "input_json_delta", "invalid_tool_call"}
"""Blocks that repeat what stands in a message's `tool_calls`."""
_REASONING = {"reasoning": "reasoning", "thinking": "thinking"}
"""Blocks of reasoning, and where their text is."""


def plain_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as plain dicts: role, content, and where they have them, calls, ids and names.

    Args:
        messages: A list of `{"role": …, "content": …}`, of `(role, content)`, or of LangChain
            messages; a LangChain prompt value; or a text, which is one message of the user.

    Returns:
        Dicts in the form of OpenAI's messages, the arguments of calls as objects, reasoning under
        `reasoning_content`.

    Raises:
        TypeError: The messages are of no known form, or contain something else than text.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if hasattr(messages, "to_messages"):
        messages = messages.to_messages()
    if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
        raise TypeError(
            "messages must be a list of dicts, (role, content) pairs or LangChain messages, "
            f"not {type(messages).__name__}"
        )
    return [_message(message) for message in messages]


def _message(message: Any) -> dict[str, Any]:
    if isinstance(message, Mapping):
        if "role" not in message:
            raise TypeError(f"a message needs a role: {dict(message)!r}")
        return {**message, **_spoken(message["role"], message.get("content"))}
    if isinstance(message, tuple) and len(message) == 2:
        return _spoken(*message)
    if hasattr(message, "type") and hasattr(message, "content"):
        return _langchain_message(message)
    raise TypeError(
        f"{message!r} is not a message: give a dict with role and content, a (role, content) "
        "pair, or a LangChain message"
    )


def _langchain_message(message: Any) -> dict[str, Any]:
    kind = message.type.removesuffix("MessageChunk").lower()
    fields = _spoken(message.role if kind == "chat" else kind, message.content)
    extra = getattr(message, "additional_kwargs", {})
    if thought := extra.get("reasoning_content"):
        fields["reasoning_content"] = str(thought)
    if calls := getattr(message, "tool_calls", None):
        # The form that templates know is OpenAI's, with the arguments as an object.
        fields["tool_calls"] = [
            {
                "id": call.get("id") or "",
                "type": "function",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in calls
        ]
    elif (faults := getattr(message, "invalid_tool_calls", None)) and not fields["content"]:
        # What was to be a call stays in the conversation as what it is: a text.
        fields["content"] = "\n".join(str(fault.get("args") or "") for fault in faults)
    if call_id := getattr(message, "tool_call_id", None):
        fields["tool_call_id"] = call_id
    if getattr(message, "name", None):
        fields["name"] = message.name
    return fields


def _spoken(role: Any, content: Any) -> dict[str, Any]:
    """Role and content as text, and the reasoning that stands among the content's blocks."""
    fields = {"role": _ROLES.get(str(role), role)}
    if content is None or isinstance(content, str):
        return {**fields, "content": content or ""}
    if isinstance(content, Mapping) or not isinstance(content, Iterable):
        raise TypeError(
            f"a message's content must be a text or a list of blocks, not {type(content).__name__}"
        )
    texts, thoughts = [], []
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if isinstance(block, str):
            texts.append(block)
        elif kind in ("text", "text-plain", "output_text", "input_text"):
            texts.append(str(block.get("text") or ""))
        elif kind in _REASONING:
            thoughts.append(str(block.get(_REASONING[kind]) or ""))
        elif kind == "tool_result":  # as Anthropic's clients write it
            texts.append(_spoken("", block.get("content"))["content"])
        elif kind == "json":
            texts.append(json.dumps(block.get("json"), ensure_ascii=False))
        elif kind not in _CALLS:
            shown = repr(kind) if kind else type(block).__name__
            raise TypeError(
                f"a message may contain text only, not a block of type {shown}: this model reads "
                "no images, audio, video or files. Turn it into text first."
            )
    fields["content"] = "".join(texts)
    if any(thoughts):
        fields["reasoning_content"] = "".join(thoughts)
    return fields
