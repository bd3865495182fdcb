"""Render a template with known messages, in bounded time."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
_LONGEST_TAG = 200
# A third kind is made of three tokens: `<|open|>call tool="…"<|sep|>`.
_TAG = re.compile(r"<\|(?:open|close)\|>[^<>\n]*<\|sep\|>|<[^<>\n]*>|\[/?[A-Z][A-Z_ ]*\]")


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
        whose: Which model it belongs to.

    Attributes:
        source: The template.
        eos: The same.
    """

    def __init__(self, template: str, bos: str, eos: str, whose: str) -> None:
        self.source = template
        self.eos = eos
        self._whose = whose
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
            text = render(self.source, values, self._whose, _SECONDS)
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


def head(one: str, other: str) -> str:
    """The longest common beginning that does not end inside a tag.

    >>> head("<a><b_begin>", "<a><b_end>")
    '<a>'
    """
    size = _shared(one, other)
    while size and not (whole(one, size) and whole(other, size)):
        size -= 1
    return one[:size]


def tail(one: str, other: str) -> str:
    """The longest common end that does not begin inside a tag.

    >>> tail("</a><b>", "</c><b>")
    '<b>'
    """
    size = _shared(one[::-1], other[::-1])
    while size and not (whole(one, len(one) - size) and whole(other, len(other) - size)):
        size -= 1
    return one[len(one) - size :]


def _shared(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next(
        (size for size, (left, right) in enumerate(pairs) if left != right),
        min(len(one), len(other)),
    )


def whole(text: str, position: int) -> bool:
    """Whether a position is not inside a tag, such as `<call>` or `[CALLS]`."""
    # A tag is on one line, and short.
    begin = max(0, position - _LONGEST_TAG, text.rfind("\n", 0, position) + 1)
    part = text[begin : position + _LONGEST_TAG]
    return not any(tag.start() < position - begin < tag.end() for tag in _TAG.finditer(part))


def first_tag(text: str) -> str:
    """The tag with which a text begins, or nothing."""
    found = _TAG.match(text)
    return found[0] if found else ""


def last_tag(text: str) -> str:
    """The last tag of a text, or nothing."""
    found = _TAG.findall(text)
    return found[-1] if found else ""


def trim(text: str) -> str:
    r"""Drop whitespace at the beginning, but for a space before a word: it belongs to the word.

    >>> trim("\n<call>"), trim(" to=")
    ('<call>', ' to=')
    """
    bare = text.lstrip()
    return " " + bare if bare[:1].isalpha() and text[: -len(bare)].endswith(" ") else bare


def before(text: str, ends: Iterable[str]) -> str:
    """A text up to the first of some others."""
    return text[: min((text.find(end) for end in ends if end in text), default=len(text))]


def without(text: str, known: Iterable[str]) -> str:
    """A text without known texts and whitespace at its beginning."""
    text = trim(text)
    while found := next((part for part in known if part and text.startswith(part)), None):
        text = trim(text[len(found) :])
    return text
