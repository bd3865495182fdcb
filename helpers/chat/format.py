"""How a model writes its replies: reasoning, content and tool calls, as data.

One `ChatFormat` says all that the grammar of a reply (`helpers.chat.grammar`) and its reader
(`helpers.chat.reader`) need. `helpers.chat.derive` finds it out from a model's own chat template.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Literal


class Slot(enum.Enum):
    """What a call writes between its fixed texts."""

    NAME = "name"
    """The function's name."""
    ID = "id"
    """A text that names this call."""
    NUMBER = "number"
    """Which call of the reply it is, counted from 0."""
    ARGUMENTS = "arguments"
    """The arguments, in the form of `ToolFormat.arguments`."""


@dataclass(frozen=True)
class Fields:
    """Arguments that are not one JSON object: each is written by itself.

    In `<parameter=city>Seoul</parameter>` the name stands between `name_begin` and `name_end`, the
    value before `value_end`; `between` stands from one argument to the next.

    Attributes:
        begin: Text before the first argument, also where there is none.
        name_begin: Text before a name.
        name_end: Text between a name and its value.
        value_end: Text after a value.
        between: Text between two arguments.
        end: Text after the last argument, also where there is none.
        string_begin: Text before a string, in place of a quotation mark.
        string_end: Text after a string.
        strings: "raw" (as they are, up to `string_end` and `value_end`) or "json" (in quotation
            marks, escaped as in JSON; `string_begin` and `string_end` are empty).
        values: How all else is written: "json" (`true`, `null`) or "python" (`True`, `None`).
    """

    begin: str = ""
    name_begin: str = ""
    name_end: str = ""
    value_end: str = ""
    between: str = ""
    end: str = ""
    string_begin: str = ""
    string_end: str = ""
    strings: Literal["raw", "json"] = "raw"
    values: Literal["json", "python"] = "json"


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls of tools.

    A reply's calls are `begin`, the calls with `between` from one to the next, and `end`.

    Attributes:
        call: One call: fixed texts and slots in their order. NAME and ARGUMENTS occur once each.
        begin: Text before the first call.
        between: Text between two calls.
        end: Text after the last call.
        arguments: "json" (an object), "string" (an object inside a JSON string; the quotation
            marks are part of the slot), or `Fields`.
        marker: The text by which a call is known in the midst of prose: a beginning of `begin` and
            the first fixed text of `call`. Empty: calls have no mark of their own, and are known by
            their opening, at the beginning of the content alone; where that has no word in it, such
            as `[`, by the opening, the name of a tool, and what follows it.
        id_form: A regular expression for the ID slot.
        parallel: Whether a reply may have several calls.
        origin: "derived" from the template, "row" (`helpers.chat.families`), or "fallback".
    """

    call: tuple[str | Slot, ...]
    begin: str = ""
    between: str = ""
    end: str = ""
    arguments: Literal["json", "string"] | Fields = "json"
    marker: str = ""
    id_form: str = "[a-zA-Z0-9]{9}"
    parallel: bool = True
    origin: Literal["derived", "row", "fallback"] = "derived"

    @property
    def opening(self) -> str:
        """All fixed text before the first slot of the first call."""
        first = self.call[0]
        return self.begin + (first if isinstance(first, str) else "")

    @property
    def known_by_name(self) -> bool:
        """Whether a call without a marker is known by a tool's name: its opening has no word."""
        word = any(char.isalnum() for char in self.opening)
        return not self.marker and not word and Slot.NAME in self.call[:2]


@dataclass(frozen=True)
class Reasoning:
    """Where a model's reasoning stands: between two texts, before the content.

    Attributes:
        begin: Text before it, for example `<think>`.
        end: Text after it, for example `</think>`.
    """

    begin: str
    end: str


@dataclass(frozen=True)
class ChatFormat:
    """How a model writes a reply: reasoning, then content, then calls; each may be missing.

    Attributes:
        reasoning: Where reasoning stands; None for models that do not reason.
        content_begin: Text before the content, for models that mark it; often empty.
        content_end: Text after it.
        tools: How calls are written.
        thinking_variable: The template's variable that switches reasoning on (True) and off
            (False), such as `enable_thinking`; None where it has none.
        system: Whether the template takes a system message.
        tool_role: Whether the template takes results of tools as messages of their own.
    """

    tools: ToolFormat
    reasoning: Reasoning | None = None
    content_begin: str = ""
    content_end: str = ""
    thinking_variable: str | None = None
    system: bool = True
    tool_role: bool = True


def spaced(text: str) -> str:
    r"""A regular expression of a text in any spacing: around JSON's signs, and where it has some.

    >>> print(spaced('{"name": "'))
    \s*\{\s*"name"\s*:\s*"
    """
    parts = re.findall(r"[{}\[\],:]|\s+|[^{}\[\],:\s]+", text.strip())
    found = r"\s*".join(re.escape(part) if part.strip() else "" for part in parts)
    return r"\s*" + found.replace(r"\s*\s*", r"\s*")


HERMES = ToolFormat(
    call=(
        '<tool_call>\n{"name": "',
        Slot.NAME,
        '", "arguments": ',
        Slot.ARGUMENTS,
        "}\n</tool_call>",
    ),
    between="\n",
    marker="<tool_call>",
    origin="fallback",
)
"""For templates without a place for tools: the form of Nous Research's Hermes models."""
