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

    @property
    def tools(self) -> Mapping[str, SchemaSource]: ...  # noqa: D102

    form: ChatFormat
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
        self.parts = Parts(vocabulary, compact=reply.form.tools.compact)
        # Where an end of the reply stands between calls, there is one call.
        between = vocabulary.split_special(self.tools.between) if vocabulary is not None else []
        ends = any(isinstance(p, int) and vocabulary and vocabulary.is_eog(p) for p in between)
        self.several = reply.parallel and self.tools.parallel and not ends
        # From the first token on, there is no prose.
        self.held = reply.forced or reply.inner is not None
        reasoning, self.avoid = self.form.reasoning, ""
        begin = reasoning.begin.strip() if reasoning is not None and not reply.thinking else ""
        if begin and self.parts.is_text(begin):
            # Prose that begins like reasoning could not be told from it.
            self.avoid = rf"\s*{regex_of(begin)}(?s:.*)"

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
        if self.form.known_by_name:
            first = self.named_call(exact=True)
        else:
            first = f"{parts.literal(tools.begin)} {self.call('call', tools.call)}"
        return parts.rule("calls", f"{first} {self.more()} {parts.literal(tools.end)}")

    def after_marker(self) -> str:
        """The same, the marker having been written already."""
        parts, tools = self.parts, self.tools
        rest = tools.call[isinstance(tools.call[0], str) :]
        first = self.call("first", (tools.opening[len(tools.marker) :], *rest))
        more = self.more() if tools.begin else ""
        return parts.rule("rest", f"{first} {more} {parts.literal(tools.end)}")

    def more(self) -> str:
        """Further calls of a group."""
        first, *rest = self.tools.call
        # One text with what comes between: the end may begin like it.
        shape = (self.tools.between + first, *rest) if isinstance(first, str) else self.tools.call
        between = "" if isinstance(first, str) else self.parts.literal(self.tools.between)
        return f"({between} {self.call('next', shape)})*" if self.several else ""

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
        if self.form.known_by_name:
            return self.named(again)
        if not tools.marker:
            return self.unmarked()
        if not parts.is_text(tools.marker):
            return self.around_tokens(again)
        alone, call = parts.without(self.marker, self.avoid), self.marked(self.avoid)
        if not again:
            return f"{call} | {alone}"
        return f"{call} ({self.marked()})* {parts.without(self.marker)} | {alone}"

    @property
    def marker(self) -> str:
        """The marker without the blanks around it, which a model may leave out."""
        return self.tools.marker.strip()

    def marked(self, *avoid: str) -> str:
        """Prose up to a marker, and the rest of the calls."""
        return f"{self.parts.upto(self.marker, *avoid)} {self.after_marker()}"

    def unmarked(self) -> str:
        """Calls without a marker: how one begins is one lexeme, as prose is."""
        parts, tools = self.parts, self.tools
        rest = tools.call[isinstance(tools.call[0], str) :]
        opening = spaced(tools.opening)
        first = f"{parts.terminal(_bounded(opening))} {self.call('first', rest)}"
        prose = parts.terminal("(?s:.*)", f"{opening}(?s:.*)", self.avoid)
        return f"{first} {self.more()} {parts.literal(tools.end)} | {prose}"

    def named(self, again: bool) -> str:
        """Calls that are known by a tool's name."""
        parts, form = self.parts, self.form
        call = f"{self.named_call()} {self.more()} {parts.literal(self.tools.end)}"
        if not form.content_begin:
            begins = "|".join(self.named_begin(tool) for tool in self.reply.tools)
            return f"{call} | {parts.terminal('(?s:.*)', f'({begins})(?s:.*)', self.avoid)}"
        # Where content has a mark, calls have it, too, or stand alone.
        begin, end = parts.literal(form.content_begin), parts.literal(form.content_end)
        if not self.marker or not parts.is_text(self.marker):
            return f"{call} | {begin} ({parts.terminal('(?s:.+)')})? {f'({end})?' if end else ''}"
        tail = f"({self.marked()}){'*' if again else '?'} {parts.without(self.marker)}"
        return f"({call} | {begin}) {tail}" if again else f"{call} | {begin} {tail}"

    def named_begin(self, tool: str) -> str:
        """A regular expression of how a call begins, to what follows its name."""
        opening, after, _ = self.around_name()
        return f"{spaced(opening)}{re.escape(tool)}{spaced(after)}"

    def around_name(self) -> tuple[str, str, tuple[str | Slot, ...]]:
        """The texts before and after the name, and the rest of a call."""
        tools = self.tools
        rest = tools.call[isinstance(tools.call[0], str) + 1 :]
        after = rest[0] if rest and isinstance(rest[0], str) else ""
        return tools.opening, after, rest[bool(after) :]

    def named_call(self, *, exact: bool = False) -> str:
        """The first call, its name in its first lexeme; in its exact spacing, or in any."""
        opening, after, rest = self.around_name()
        options = []
        for number, tool in enumerate(self.reply.tools):
            if exact or not self.parts.is_text(opening + after):
                head = self.parts.literal(opening + tool + after)
            else:
                head = self.parts.terminal(_bounded(self.named_begin(tool)))
            options.append(f"{head} {self.of_tool('named', number, tool, '', rest)}")
        return self.parts.rule("named", *options)

    def around_tokens(self, again: bool) -> str:
        """The same where calls begin with a control token."""
        parts, form = self.parts, self.form
        # Nor may the marker be written as plain text: who reads it could not tell.
        plain = f"(?s:.*){regex_of(self.marker)}(?s:.*)"
        prose = f"({parts.terminal('(?s:.+)', plain, self.avoid)})?"
        begin, end = parts.literal(form.content_begin), parts.literal(form.content_end)
        if begin:
            prose = f"(({begin})? {prose})"
        if end:
            prose += f" ({end})?"
        return f"{prose} ({self.calls()} {prose if again else ''}){'*' if again else '?'}"


def _bounded(regex: str) -> str:
    """What `spaced` gives, without whitespace that never ends."""
    return regex.replace(r"\s*", r"[ \n]{0,4}")
