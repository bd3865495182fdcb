"""Writes a reply as a Lark grammar for llguidance: prose, the marker of a call, the held rest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from helpers.chat.format import ChatFormat, Fields, Slot, spaced
from helpers.chat.lark_fields import write_fields
from helpers.chat.lark_parts import Parts, regex_of

if TYPE_CHECKING:
    from helpers.grammars import Grammar
    from helpers.grammars.mask.vocabulary import Vocabulary
    from helpers.grammars.schema.source import SchemaSource


class Reply(Protocol):
    """What is to be written; `helpers.chat.grammar.ReplySource` says what each part means."""

    form: ChatFormat
    tools: Mapping[str, SchemaSource]
    forced: bool
    parallel: bool
    thinking: bool | None
    inner: Grammar | None


def write_reply(reply: Reply, vocabulary: Vocabulary | None) -> tuple[str, list[str]]:
    """Write a reply's grammar.

    Args:
        reply: What may be in it.
        vocabulary: The model's tokens; None to write control tokens as their texts.

    Returns:
        The grammar, and what it does not hold of the tools' schemas.
    """
    writer = _Writer(reply, vocabulary)
    return writer.run(), writer.parts.relaxed


class _Writer:
    def __init__(self, reply: Reply, vocabulary: Vocabulary | None) -> None:
        self.reply, self.form, self.tools = reply, reply.form, reply.form.tools
        self.parts = Parts(vocabulary)
        self.several = reply.parallel and self.tools.parallel
        # From the first token on, there is no prose.
        self.held = reply.forced or reply.inner is not None
        reasoning, self.avoid = self.form.reasoning, ""
        if reasoning is not None and reasoning.begin.strip() and not reply.thinking:
            if self.parts.is_text(reasoning.begin):
                # Prose that begins like reasoning could not be told from it.
                self.avoid = rf"\s*{regex_of(reasoning.begin.strip())}(?s:.*)"

    def run(self) -> str:
        parts, reasoning = self.parts, self.form.reasoning
        options = []
        if self.reply.inner is not None and not self.reply.forced:
            options.append(self.content(self.reply.inner))
        if self.reply.tools:
            options.append(self.calls() if self.held else self.prose_and_calls())
        body = parts.rule("body", *options)
        start = [body]
        if reasoning is not None and self.reply.thinking is not False:
            blanks = parts.terminal(r"[ \n]{1,4}")
            gap = f"({blanks})?" if self.held else ""
            thought = f"{parts.upto(reasoning.end.strip())} {gap} {body}"
            if self.reply.thinking:
                start = [thought]
            elif self.avoid:
                begin = parts.terminal(r"\s{0,8}" + regex_of(reasoning.begin.strip()))
                start.append(f"{begin} {thought}")
            elif reasoning.begin:
                start.append(f"{parts.literal(reasoning.begin)} {thought}")
        parts.rule("start", *start)
        return parts.text()

    def content(self, grammar: Grammar) -> str:
        """Content that another grammar holds."""
        begin, end = self.form.content_begin, self.form.content_end
        held = self.parts.embed(grammar, "content")
        return f"{self.parts.literal(begin)} {held} {self.parts.literal(end)}"

    # -- calls ------------------------------------------------------------------------------------

    def calls(self) -> str:
        """A group of calls, from its first text to its last."""
        parts, tools = self.parts, self.tools
        call = self.call("call", tools.call)
        begin, end = parts.literal(tools.begin), parts.literal(tools.end)
        return parts.rule("calls", f"{begin} {call} {self.more()} {end}")

    def after_marker(self) -> str:
        """The same, the marker having been written already."""
        parts, tools = self.parts, self.tools
        rest = tools.call[isinstance(tools.call[0], str) :]
        first = self.call("first", (tools.opening[len(tools.marker) :], *rest))
        more = self.more() if tools.begin else ""
        return parts.rule("rest", f"{first} {more} {parts.literal(tools.end)}")

    def more(self) -> str:
        """Further calls of a group."""
        if not self.several:
            return ""
        return f"({self.parts.literal(self.tools.between)} {self.call('call', self.tools.call)})*"

    def call(self, name: str, shape: tuple[str | Slot, ...]) -> str:
        """One call; from its name on, each tool has a rule of its own."""
        at = min(shape.index(Slot.NAME), shape.index(Slot.ARGUMENTS))
        before = shape[at - 1] if at and isinstance(shape[at - 1], str) else ""
        head = " ".join(self.slot(part) for part in shape[:at])
        options = [
            self.of_tool("tool", number, tool, str(before), shape[at:])
            for number, tool in enumerate(self.reply.tools)
        ]
        return self.parts.rule(name, f"{head} {self.parts.rule('tool', *options)}")

    def of_tool(
        self, rule: str, number: int, tool: str, before: str, shape: tuple[str | Slot, ...]
    ) -> str:
        """A call of one tool, from the first slot that depends on it."""
        found, fixed = [], ""
        for part in shape:
            if isinstance(part, str):
                fixed += part
            elif part is Slot.NAME:
                quoted = (fixed or before).endswith('"')
                fixed += json.dumps(tool, ensure_ascii=False)[1:-1] if quoted else tool
            else:
                found.append(self.parts.literal(fixed))
                found.append(
                    self.arguments(number, tool) if part is Slot.ARGUMENTS else self.slot(part)
                )
                fixed = ""
        return self.parts.rule(f"{rule}{number}", " ".join([*found, self.parts.literal(fixed)]))

    def slot(self, part: str | Slot) -> str:
        if isinstance(part, str):
            return self.parts.literal(part)
        return self.parts.terminal(self.tools.id_form if part is Slot.ID else "[0-9]{1,4}")

    def arguments(self, number: int, tool: str) -> str:
        schema, form = self.reply.tools[tool].compiled or {"type": "object"}, self.tools.arguments
        if isinstance(form, Fields):
            return write_fields(self.parts, form, f"fields{number}", tool, schema)
        if form == "string":
            self.parts.relax(tool, "arguments that stand in a string are not looked into")
            return self.parts.json({"type": "string"})
        return self.parts.json(schema)

    # -- prose ------------------------------------------------------------------------------------

    def prose_and_calls(self) -> str:
        """Prose as the model likes; what begins as a call has to be one."""
        parts, tools = self.parts, self.tools
        again = self.several and not tools.begin
        if not tools.marker:
            return self.unmarked()
        if not parts.is_text(tools.marker):
            return self.around_tokens(again)
        rest, marker = self.after_marker(), tools.marker
        alone = parts.without(marker, self.avoid)
        call = f"{parts.upto(marker, self.avoid)} {rest}"
        if not again:
            return f"{call} | {alone}"
        return f"{call} ({parts.upto(marker)} {rest})* {parts.without(marker)} | {alone}"

    def unmarked(self) -> str:
        """The same where calls have no marker: how one begins is one lexeme, as prose is."""
        parts, tools = self.parts, self.tools
        rest = tools.call[isinstance(tools.call[0], str) :]
        opening = spaced(tools.opening)
        if not tools.known_by_name:
            begins = [opening]
            first = f"{parts.terminal(_bounded(opening))} {self.call('first', rest)}"
        else:
            after = rest[1] if len(rest) > 1 and isinstance(rest[1], str) else ""
            shape = rest[1 + bool(after) :]
            begins = [f"{opening}{re.escape(tool)}{spaced(after)}" for tool in self.reply.tools]
            options = [
                f"{parts.terminal(_bounded(begin))} {self.of_tool('first', number, tool, '', shape)}"
                for number, (tool, begin) in enumerate(zip(self.reply.tools, begins, strict=True))
            ]
            first = parts.rule("first", *options)
        prose = parts.terminal("(?s:.*)", f"({'|'.join(begins)})(?s:.*)", self.avoid)
        return f"{first} {self.more()} {parts.literal(tools.end)} | {prose}"

    def around_tokens(self, again: bool) -> str:
        """The same where calls begin with a control token."""
        parts, form = self.parts, self.form
        # Nor may the same characters be written as plain text: who reads them could not tell.
        marks = [t for t in self.tools.marker.split() if not parts.is_text(t)]
        plain = [f"(?s:.*){regex_of(mark)}(?s:.*)" for mark in marks]
        prose = f"({parts.terminal('(?s:.+)', *plain, self.avoid)})?"
        begin, end = parts.literal(form.content_begin), parts.literal(form.content_end)
        if begin:
            prose = f"(({begin})? {prose})"
        if end:
            prose += f" ({end})?"
        return f"{prose} ({self.calls()} {prose if again else ''}){'*' if again else '?'}"


def _bounded(regex: str) -> str:
    """What `spaced` gives, without whitespace that never ends."""
    return regex.replace(r"\s*", r"[ \n]{0,4}")
