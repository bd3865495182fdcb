"""How a model writes its replies: reasoning, content and tool calls, as data.

One `ChatFormat` says all that the grammar of a reply (`helpers.chat.grammar`) and its reader
(`helpers.chat.reader`) need. `helpers.chat.derive` finds it out from a model's own chat template.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, fields
from typing import Literal


class Slot(enum.Enum):
    """What a call writes between its fixed texts."""

    NAME = "name"
    """The function's name."""
    ID = "id"
    """A text that names this call."""
    NUMBER = "number"
    """Which call of the reply it is, counted from `ToolFormat.first_number`."""
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
        value_begin: Text before a value that is not a string, as `string_begin` before one that is.
        value_end: Text after a value.
        between: Text between two arguments.
        end: Text after the last argument, also where there is none.
        string_begin: Text before a string, in place of a quotation mark.
        string_end: Text after a string.
        strings: "raw" (as they are, up to `string_end` and `value_end`) or "json" (in quotation
            marks, escaped as in JSON; `string_begin` and `string_end` are empty).
        wrap_begin: Text that may stand before a raw string, which `wrap_end` then follows, as
            `<![CDATA[` where the string holds `<`, `&` or a newline. Empty: never.
        wrap_end: Text that ends what `wrap_begin` begins.
        values: How all else is written: "json" (`true`, `null`), "python" (`True`, `None`,
            `['a']`), or "mixed" (Python, but arrays and objects as JSON).
        deep: Whether strings and names inside arrays and objects are written as outside of them:
            `{tags:[<|"|>a<|"|>],size:{width:3}}` with `:` as `name_end`, and `,` between.
    """

    begin: str = ""
    name_begin: str = ""
    name_end: str = ""
    value_begin: str = ""
    value_end: str = ""
    between: str = ""
    end: str = ""
    string_begin: str = ""
    string_end: str = ""
    strings: Literal["raw", "json"] = "raw"
    wrap_begin: str = ""
    wrap_end: str = ""
    values: Literal["json", "python", "mixed"] = "json"
    deep: bool = False


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls of tools.

    A reply's calls are `begin`, the calls with `between` from one to the next, and `end`.

    Attributes:
        call: One call: fixed texts and slots in their order. ARGUMENTS occurs once, NAME at least
            once: further ones repeat the first.
        begin: Text before the first call.
        between: Text between two calls.
        end: Text after the last call.
        arguments: "json" (an object), "string" (an object inside a JSON string; the quotation
            marks are part of the slot), or `Fields`.
        marker: The text by which a call is known in the midst of prose: a beginning of `begin` and
            the first fixed text of `call`. Empty: calls have no mark of their own, and are known by
            their opening, at the beginning of the content alone; or, as `known_by_name` says, by
            the opening, the name of a tool, and what follows it.
        id_form: A regular expression for the ID slot.
        first_number: What the NUMBER slot of the first call holds.
        parallel: Whether a reply may have several calls.
        compact: Whether JSON has no blanks after `,` and `:`. A call that is held is written as the
            template will write it in the history, whose tokens then need not be computed again.
        origin: "derived" from the template, "row" (`helpers.chat.families`), or "fallback".
    """

    call: tuple[str | Slot, ...]
    begin: str = ""
    between: str = ""
    end: str = ""
    arguments: Literal["json", "string"] | Fields = "json"
    marker: str = ""
    id_form: str = "[a-zA-Z0-9]{9}"
    first_number: int = 0
    parallel: bool = True
    compact: bool = False
    origin: Literal["derived", "row", "fallback"] = "derived"

    @property
    def opening(self) -> str:
        """All fixed text before the first slot of the first call."""
        first = self.call[0]
        return self.begin + (first if isinstance(first, str) else "")


@dataclass(frozen=True)
class Reasoning:
    """Where a model's reasoning stands: between two texts, before the content.

    The texts are without the whitespace around them, of which models write more or less.

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
        thinking_variable: The template's variable that switches reasoning on and off, such as
            `enable_thinking`; None where it has none.
        thinking_values: What switches it on, and what off: mostly True and False.
        system: Whether the template takes a system message.
        tool_role: Whether the template takes results of tools as messages of their own.
        takes_tools: Whether the template lists the tools itself, from its variable `tools`.
        takes_calls: Whether the template writes the calls of earlier messages. Where it does not,
            they are to be written into the content.
        arguments_as: How the arguments of earlier calls are handed to the template: as an object,
            or as JSON text.
        empty_content: What stands for the content of a message that has calls alone: an empty text,
            or None, without which some templates do not write the calls.
        reasoning_field: The message's field that gives the template earlier reasoning, such as
            `reasoning_content`; None where it takes none.
    """

    tools: ToolFormat
    reasoning: Reasoning | None = None
    content_begin: str = ""
    content_end: str = ""
    thinking_variable: str | None = None
    thinking_values: tuple[bool | str | int, bool | str | int] = (True, False)
    system: bool = True
    tool_role: bool = True
    takes_tools: bool = False
    takes_calls: bool = False
    arguments_as: Literal["object", "string"] = "object"
    empty_content: str | None = ""
    reasoning_field: str | None = None

    @property
    def known_by_name(self) -> bool:
        """Whether a call is known by a tool's name alone.

        Its opening has no word and no marker, or is how content or reasoning begins, too.
        """
        tools = self.tools
        others = [self.content_begin, self.reasoning.begin if self.reasoning is not None else ""]
        known = tools.marker or any(char.isalnum() for char in tools.opening)
        shared = any(other.strip().startswith(tools.opening.strip()) for other in others if other)
        return Slot.NAME in tools.call[:2] and (shared or not known)

    def texts(self, *, calls: bool) -> tuple[str, ...]:
        """The fixed texts of a reply, among which a model's control tokens may be.

        Args:
            calls: Whether those of calls are wanted, too.
        """
        found = [self.content_begin, self.content_end]
        if self.reasoning is not None:
            found += [self.reasoning.begin, self.reasoning.end]
        if calls:
            form = self.tools
            found += [form.begin, form.between, form.end]
            found += [part for part in form.call if isinstance(part, str)]
            if isinstance(form.arguments, Fields):
                values = (getattr(form.arguments, field.name) for field in fields(Fields))
                found += [value for value in values if isinstance(value, str)]
        return tuple(dict.fromkeys(filter(None, found)))


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
