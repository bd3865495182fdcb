"""A model's chat template: from messages and tools to a prompt, whatever the template knows."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers.chat.derive import derive_format
from helpers.chat.format import ChatFormat
from helpers.chat.write import Call, write_calls
from helpers.errors import ModelFileError
from helpers.models import ModelInfo
from helpers.models.prompt import render_prompt, template_of, token_text
from helpers.prompt import Prompt

_INSTRUCTIONS = """\
You can call functions. Each is described by a line of JSON, its arguments by a JSON Schema:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON, and nothing else:
{example}
The result comes back in <tool_response></tool_response>. Without need of one, just answer."""


@dataclass(frozen=True)
class Rendered:
    """A prompt, and where in a reply the model goes on.

    Attributes:
        prompt: The prompt.
        thinking: Whether the reply begins inside the model's reasoning.
    """

    prompt: Prompt
    thinking: bool = False


class ChatTemplate:
    """A chat template and what it says about the model's replies.

    Args:
        model: The model's file.
        source: Jinja source to use in place of the file's own, or the path of a file with it.

    Raises:
        ModelFileError: There is no template, or it cannot be read.
    """

    def __init__(self, model: ModelInfo, source: str | os.PathLike[str] | None = None) -> None:
        self.model = model
        self._own = None if source is None else _read(source)
        if not self.source(tools=False):
            raise ModelFileError(
                f"{model.path.name} has no chat template (tokenizer.chat_template): it may be a "
                "base model, which continues text and does not chat. Use LlamaCpp, or pass "
                "chat_template=… (Jinja source, or a file with it)."
            )

    def source(self, *, tools: bool) -> str:
        """The Jinja source that is used with tools, or without."""
        return self._own or template_of(self.model.metadata, tools) or ""

    @cached_property
    def form(self) -> ChatFormat:
        """How the model writes its replies."""
        header = self.model.metadata
        return derive_format(
            self.source(tools=True),
            bos=token_text(header, "bos"),
            eos=token_text(header, "eos"),
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        reasoning: bool | None = None,
    ) -> Rendered:
        """Write a conversation as the model was trained to read it.

        Args:
            messages: What `helpers.models.messages.plain_messages` gives. A last one of the
                assistant, without calls, is what the reply goes on from. Where the template takes
                no message of the system, its text begins the user's next one.
            tools: Tools in OpenAI's JSON form; a template that does not know them gets them as
                a part of the system message.
            variables: Further variables of the template.
            reasoning: Whether the model is to reason before it answers; None: as it does by itself.

        Raises:
            ModelFileError: The template refuses the messages, fails, or does not end.
        """
        said = [dict(message) for message in messages]
        last = said.pop() if _to_continue(said) else None
        given = dict(variables or {})
        form = self.form
        if reasoning is not None and form.thinking_variable is not None:
            given.setdefault(form.thinking_variable, form.thinking_values[not reasoning])
        prompt = self._text(self._for_template(said, tools), tools, given)
        opened = self._opened(prompt)
        if form.reasoning is not None:
            begin, end = form.reasoning.begin, form.reasoning.end
            if reasoning is False and not opened and not self._closed(prompt):
                prompt = Prompt([*prompt.parts, (f"{begin}\n\n{end}\n\n", True)])
            elif (reasoning is False or last is not None) and opened:
                thought = last.get("reasoning_content", "") if last else ""
                prompt = Prompt([*prompt.parts, (thought, False), (f"\n{end}\n\n", True)])
                opened = False
        if last is None:
            return Rendered(prompt, thinking=opened)
        parts = [*prompt.parts, (form.content_begin, True), (last["content"], False)]
        return Rendered(Prompt(parts))

    def _text(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> Prompt:
        given = {"add_generation_prompt": True, **variables}
        if not tools or not self.form.takes_tools:
            return self._written(messages, given)
        try:
            return self._written(messages, {**given, "tools": [_described(tool) for tool in tools]})
        except ModelFileError as error:
            # Some templates fail at schemas that they do not expect, such as unions.
            said = _instructed(messages, _instructions(tools, self.form), self.form)
            try:
                return self._written(said, given)
            except ModelFileError:
                raise error from None

    def _written(self, messages: list[dict[str, Any]], given: dict[str, Any]) -> Prompt:
        source = self.source(tools="tools" in given)
        try:
            return render_prompt(self.model, messages, given, chat_template=source)
        except ModelFileError:
            merged = _merged(messages)
            if merged == messages:
                raise
            # Many templates want the user and the assistant to take turns.
            return render_prompt(self.model, merged, given, chat_template=source)

    def _for_template(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Messages without what the template has no place for."""
        form = self.form
        found = [_in_words(_with_ids(message, form), form) for message in messages]
        if form.arguments_as == "string":
            found = [_with_text_arguments(message) for message in found]
        if tools and not form.takes_tools:
            found = _instructed(found, _instructions(tools, form), form)
        return found if form.system else _without_system(found)

    def _opened(self, prompt: Prompt) -> bool:
        """Whether the template has opened the model's reasoning at the end of the prompt."""
        tags = self.form.reasoning
        text, trusted = prompt.parts[-1] if prompt.parts else ("", False)
        return tags is not None and trusted and text.rstrip().endswith(tags.begin.strip())

    def _closed(self, prompt: Prompt) -> bool:
        tags = self.form.reasoning
        text, trusted = prompt.parts[-1] if prompt.parts else ("", False)
        return tags is not None and trusted and text.rstrip().endswith(tags.end.strip())


def _read(source: str | os.PathLike[str]) -> str:
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return source
    file = Path(source).expanduser()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"chat_template={os.fspath(source)!r} is neither Jinja source nor a file with it "
            f"({error})."
        ) from None


def _to_continue(messages: list[dict[str, Any]]) -> bool:
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and not last.get("tool_calls")


def _with_ids(message: dict[str, Any], form: ChatFormat) -> dict[str, Any]:
    """A message whose ids of calls are of the form that the template wants."""

    def fitting(given: Any) -> str:
        name = str(given or "")
        if re.fullmatch(form.tools.id_form, name):
            return name
        return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:9]

    message = dict(message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{**call, "id": fitting(call.get("id"))} for call in calls]
    if "tool_call_id" in message:
        message["tool_call_id"] = fitting(message["tool_call_id"])
    return message


def _in_words(message: dict[str, Any], form: ChatFormat) -> dict[str, Any]:
    """A message whose calls, results and reasoning stand where the template looks for them.

    A template that knows none of the first two gets them as parts of the text.
    """
    message = dict(message)
    thought = message.pop("reasoning_content", None)
    if thought and form.reasoning_field is not None:
        message[form.reasoning_field] = thought
    if not form.takes_calls and (calls := message.pop("tool_calls", None)):
        made = [
            Call(call["function"]["name"], call["function"]["arguments"], call.get("id") or "")
            for call in calls
        ]
        message["content"] = "\n".join(
            filter(None, [message["content"], write_calls(form.tools, made)])
        )
    if message.get("tool_calls") and not message["content"]:
        message["content"] = form.empty_content
    if message["role"] == "tool" and not (form.tool_role and form.takes_calls):
        message = {
            "role": "user",
            "content": f"<tool_response>\n{message['content']}\n</tool_response>",
        }
    return message


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    as_text = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in calls
    ]
    return {**message, "tool_calls": as_text}


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with what templates take for granted."""
    function = dict(tool.get("function", {}))
    function.setdefault("description", "")
    schema = dict(function.get("parameters") or {"type": "object"})
    if schema.get("type") == "object":
        schema.setdefault("properties", {})
    return {**tool, "function": {**function, "parameters": schema}}


def _instructions(tools: Sequence[Mapping[str, Any]], form: ChatFormat) -> str:
    lines = [
        json.dumps(tool.get("function", tool), ensure_ascii=False, separators=(",", ":"))
        for tool in tools
    ]
    example = write_calls(form.tools, [Call("…", {"…": "…"})])
    return _INSTRUCTIONS.format(tools="\n".join(lines), example=example)


def _instructed(
    messages: list[dict[str, Any]], text: str, form: ChatFormat
) -> list[dict[str, Any]]:
    """Messages with a text in the system message, or before the user's first where none may be."""
    role = "system" if form.system else "user"
    for at, message in enumerate(messages):
        if message["role"] == role:
            both = [message["content"], text] if form.system else [text, message["content"]]
            changed = {**message, "content": "\n\n".join(filter(None, both))}
            return [*messages[:at], changed, *messages[at + 1 :]]
        if form.system:
            break
    return [{"role": role, "content": text}, *messages]


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages where what the system says begins the next one of the user."""
    found: list[dict[str, Any]] = []
    said: list[str] = []
    for message in messages:
        if message["role"] == "system":
            said.append(message["content"])
        elif message["role"] == "user":
            content = "\n\n".join([*filter(None, said), message["content"]])
            found.append({**message, "content": content})
            said = []
        else:
            found.append(message)
    rest = "\n\n".join(filter(None, said))
    return [*found, {"role": "user", "content": rest}] if rest else found


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages of which no two beside each other are the user's."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and message["role"] == merged[-1]["role"] == "user":
            content = f"{merged[-1]['content']}\n\n{message['content']}"
            merged[-1] = {**merged[-1], "content": content}
        else:
            merged.append(message)
    return merged
