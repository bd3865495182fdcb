"""Render a template with known messages, in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.chat.cuts import head
from helpers.chat.write import Call
from helpers.errors import EngineCrashed, ModelFileError
from helpers.models.render import render

NAMES = ("probe_first", "probe_second", "probe_third")
IDS = ("idaaaaaa1", "idbbbbbb2", "idcccccc3")
LETTERS = ("arg_a", "arg_b", "arg_c", "arg_d", "arg_e", "arg_f", "arg_g")
USER = "Zasked"
CONTENT = "Zsaid"
THOUGHT = "Zthought"
RESULT = "Zresult"

_SECONDS = 5.0
_ALL_SECONDS = 10.0
# The longest published ones make 20,000 characters, and 1,000 for a reply.
_MAX_TEXT = 200_000
_MAX_REPLY = 10_000


class Stopped(Exception):
    """The template takes too long or too much: nothing more is asked of it."""


def message(role: str, content: str | None, **fields: Any) -> dict[str, Any]:
    """Return a message."""
    return {"role": role, "content": content, **fields}


def as_messages(calls: Sequence[Call], strings: bool = False) -> list[dict[str, Any]]:
    """Return calls as an assistant's message carries them; `strings`: arguments as JSON text."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": (
                    json.dumps(dict(call.arguments), ensure_ascii=False)
                    if strings
                    else dict(call.arguments)
                ),
            },
        }
        for call in calls
    ]


_PROPERTIES = {name: {"type": "string", "description": "Zdescribed"} for name in LETTERS}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Ztool",
            "parameters": {"type": "object", "properties": _PROPERTIES, "required": []},
        },
    }
    for name in NAMES
]


class Probe:
    """A template that can be asked.

    Args:
        template: Jinja source.
        bos: Its `bos_token`.
        eos: Its `eos_token`.

    Attributes:
        source: The template.
        eos: The same.
    """

    def __init__(self, template: str, bos: str, eos: str) -> None:
        self.source = template
        self.eos = eos
        self._values = {
            "bos_token": bos,
            "eos_token": eos,
            "functions": json.dumps(TOOLS),
            "datetime": "now",
        }
        self._until: float | None = None
        self._known: dict[str, str | None] = {}

    def render(
        self, messages: list[dict[str, Any]], prompt: bool = False, tools: bool = True, **more: Any
    ) -> str | None:
        """Render messages; None where the template refuses or fails.

        Raises:
            Stopped: It took too long, or made a huge text.
        """
        values = {**self._values, "messages": messages, "add_generation_prompt": prompt, **more}
        if tools:
            values["tools"] = TOOLS
        key = json.dumps(values, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._render(values)
        return self._known[key]

    def _render(self, values: dict[str, Any]) -> str | None:
        now = time.monotonic()
        self._until = self._until or now + _ALL_SECONDS
        if now > self._until:
            raise Stopped
        try:
            text = render(self.source, values, "this model", _SECONDS)
        except ModelFileError as error:
            if isinstance(error.__context__, TimeoutError | EngineCrashed):
                raise Stopped from error
            return None
        if len(text) > _MAX_TEXT:
            raise Stopped
        return str.__str__(text)

    def added(
        self,
        messages: list[dict[str, Any]],
        prompt: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str | None:
        """What messages, or the generation prompt, add to the first message alone."""
        more = variables or {}
        base = self.render(messages[:1], **more)
        text = self.render(messages, prompt, **more)
        if base is None or text is None:
            return None
        added = text[len(head(base, text)) :]
        if len(added) > _MAX_REPLY:
            raise Stopped
        return added
