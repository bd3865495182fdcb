"""Reads a reply while it is written: reasoning, content and calls as events, nothing lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from helpers.chat.events import (
    CallArguments,
    CallBegin,
    CallEnd,
    CallFault,
    Content,
    Event,
    Thought,
)
from helpers.chat.fields_reader import FieldsReader
from helpers.chat.format import ChatFormat, Fields, Slot
from helpers.chat.scanner import Ended, Mismatch, Scanner, Steps, match_loosely

_LONGEST_NAME = 200
_QUOTE, _NO_NAME, _SIGNS = re.compile(r'["\\]'), re.compile(r"[\s<{\[]"), '{}[],:("'
_HALVES = ("d8", "d9", "da", "db")


class ReplyReader:
    r"""Turns the text of a reply, piece by piece, into events.

    Content and reasoning are passed on at once: only what may be the beginning of a marker waits.
    Spacing between the fixed texts of calls may differ. What cannot be read is a `CallFault` with
    all its text.

    Args:
        form: How the model writes replies.
        tools: The JSON Schema of each tool's parameters, by its name.
        thinking: Whether the reply begins inside the reasoning, which the prompt has opened.
        reading_calls: Whether to look for calls; if not, they are content.

    >>> from helpers.chat.format import HERMES
    >>> reader = ReplyReader(ChatFormat(HERMES), {"now": {}}, thinking=False)
    >>> reader.feed('Well. <tool_call>\n{"name": "now", "argu')
    [Content(text='Well. '), CallBegin(index=0, name='now', id=None)]
    >>> reader.feed('ments": {}}\n</tool_call>') + reader.finish(cut=False)
    [CallArguments(index=0, text='{'), CallArguments(index=0, text='}'), CallEnd(index=0, id=None)]
    """

    def __init__(
        self,
        form: ChatFormat,
        tools: Mapping[str, Any],
        *,
        thinking: bool = False,
        reading_calls: bool = True,
    ) -> None:
        self._form, self._tools = form, tools
        self._shape = form.tools
        self._thinking, self._reading_calls = thinking, reading_calls
        self._scanner = Scanner()
        self._events: list[Event] = []
        self._count = 0
        self._cut = False
        self._blanks: str | None = ""  # before the content; None once there is some
        self._steps = self._reply()
        next(self._steps)

    def feed(self, text: str) -> list[Event]:
        """Read more of the reply.

        Args:
            text: The next piece, of any length.

        Returns:
            What was found.
        """
        self._scanner.feed(text)
        return self._go_on()

    def finish(self, cut: bool) -> list[Event]:
        """Read what was held back, the reply being over.

        Args:
            cut: Whether it was cut off, by `max_tokens` or otherwise.

        Returns:
            What was found.
        """
        self._scanner.ended, self._cut = True, cut
        return self._go_on()

    def _go_on(self) -> list[Event]:
        next(self._steps, None)
        events, self._events = self._events, []
        return events

    # -- the reply --------------------------------------------------------------------------------

    def _reply(self) -> Steps[None]:
        yield
        scanner, form, tools = self._scanner, self._form, self._shape
        reasoning = form.reasoning if form.reasoning and form.reasoning.end.strip() else None
        if reasoning and self._thinking:
            yield from self._thought(reasoning.end.strip())
        calls = self._reading_calls
        begin = reasoning.begin.strip() if reasoning else ""
        around = tuple(t for t in (form.content_begin.strip(), form.content_end.strip()) if t)
        marker = (tools.marker.strip(),) if calls and tools.marker.strip() else ()
        while True:
            unmarked = calls and not marker and self._blanks == ""
            if unmarked and (yield from self._opens_call()):
                yield from self._calls()
                continue
            marks = tuple(m for m in (*around, *marker, begin) if m)
            stop = yield from scanner.upto(marks, self._content)
            if not stop:
                break
            if stop == begin and reasoning:
                if self._blanks is None and begin not in around:
                    self._content(stop)  # reasoning stands before the content
                    continue
                yield from self._thought(reasoning.end.strip())
            elif stop in marker:
                yield from self._calls(stop)
        if self._blanks:
            self._events.append(Content(self._blanks))
        assert scanner.at == len(scanner.text)

    def _content(self, text: str) -> None:
        if self._blanks is not None:
            if not text.strip():
                self._blanks += text
                return
            text, self._blanks = self._blanks + text, None
        if text:
            self._events.append(Content(text))

    def _thought(self, end: str) -> Steps[None]:
        """Reasoning, without the whitespace around it, which is the template's."""
        waiting: list[str] = []
        begun = False

        def think(text: str) -> None:
            nonlocal begun
            bare = text.rstrip()
            if bare:
                shown = "".join(waiting) + bare
                waiting.clear()
                self._events.append(Thought(shown if begun else shown.lstrip()))
                begun = True
            waiting.append(text[len(bare) :])

        yield from self._scanner.upto((end,), think)
        yield from self._scanner.blanks()
        self._blanks = ""

    # -- calls ------------------------------------------------------------------------------------

    def _opens_call(self) -> Steps[bool]:
        """Whether the content begins with a call that has no marker; nothing is read."""
        scanner, shape = self._scanner, self._shape
        if self._form.known_by_name:
            at = shape.call.index(Slot.NAME) + 1
            after = shape.call[at] if at < len(shape.call) else ""
            after = after if isinstance(after, str) else ""
            begins = [f"{shape.opening}{name}{after}" for name in self._tools]
        else:
            begins = [shape.opening]
        while True:
            text = scanner.text[scanner.at :].lstrip()
            found = [match_loosely(begin, text, 0) for begin in begins]
            if any(end is not None and end > 0 for end in found):
                return True
            if None not in found or scanner.ended:
                return False
            yield

    def _calls(self, marker: str = "") -> Steps[None]:
        """A group of calls; its marker has been read."""
        shape = self._shape
        self._blanks = ""  # what stands between calls is not content
        fixed = shape.opening.strip()[len(marker) :] if marker else shape.opening
        going = yield from self._call(marker, fixed)
        while going:
            going = yield from self._next_call()
        yield from self._scanner.blanks()

    def _next_call(self) -> Steps[bool]:
        """What comes after a call that could be read; whether that was one more, and is well."""
        scanner, shape = self._scanner, self._shape
        first = shape.call[0] if isinstance(shape.call[0], str) else ""
        if not shape.begin and shape.marker and not shape.end:
            return False  # the next one has a marker of its own
        opening = shape.between + first
        if opening.strip() and (yield from scanner.matches(opening)):
            return (yield from self._call(opening, ""))
        if shape.end.strip():
            yield from scanner.matches(shape.end)
        return False

    def _call(self, read: str, fixed: str) -> Steps[bool]:
        """One call, from behind what has been read of it; whether it could be read."""
        scanner = self._scanner
        scanner.record = record = [read]
        call = _Call(self._count)
        self._count += 1
        problem = ""
        try:
            yield from self._parts(call, fixed)
        except Mismatch as mismatch:
            problem = str(mismatch)
            yield from self._skip()
        except Ended:
            scanner.take(len(scanner.text))
            if not call.whole:
                of = f"of {call.name!r}" if call.name else "that has no name yet"
                cut = self._cut
                problem = (
                    f"the reply {'was cut off' if cut else 'ends'} in the middle of a call {of}"
                )
                problem += "; give it more tokens (max_tokens)" if cut else ""
        scanner.record = None
        problem = call.problem or problem
        if problem:
            fault = CallFault(call.index, "".join(record), f"{problem}.", call.name)
            self._events.append(fault)
        else:
            self._events.append(CallEnd(call.index, None if call.told_id else call.id))
        return not problem

    def _skip(self) -> Steps[None]:
        """Read on to the end of what was to be a call, or to the next one."""
        shape, scanner = self._shape, self._scanner
        last = shape.call[-1]
        ends = (last if isinstance(last, str) else "", shape.end)
        words = [word for end in ends for word in end.split()[-1:]]
        closing = next((word for word in words if any(char.isalnum() for char in word)), "")
        marks = tuple(m for m in (closing, shape.marker.strip()) if m)
        stop = yield from scanner.upto(marks, lambda _: None)
        if stop and stop != closing:
            scanner.put_back(len(stop))  # the next call is not part of it

    def _parts(self, call: _Call, fixed: str) -> Steps[None]:
        """The parts of a call from its first slot on, or from `fixed` before it."""
        scanner, shape = self._scanner, self._shape
        parts = list(shape.call[isinstance(shape.call[0], str) :])
        before = shape.opening
        if fixed.strip():
            yield from scanner.fixed(fixed)
        for at, part in enumerate(parts):
            after = parts[at + 1] if at + 1 < len(parts) else ""
            if isinstance(part, str):
                yield from scanner.fixed(part)
                before = part
            elif part is Slot.ARGUMENTS:
                yield from self._arguments(call, before, after if isinstance(after, str) else "")
                call.done = True
                if call.name is not None and not call.problem:
                    self._check(call)
            else:
                yield from scanner.blanks()
                text = yield from self._word(before, after)
                if part is Slot.NAME and call.name is None:
                    self._named(call, text)
                elif part is Slot.ID:
                    call.id = text

    def _word(self, before: str, after: str | Slot) -> Steps[str]:
        """A name, an id or a number, up to what comes after it."""
        scanner, found, count = self._scanner, [], 0

        def keep(text: str) -> None:
            nonlocal count
            count += len(text)
            found.append(text)
            if count > _LONGEST_NAME:
                raise Mismatch("a name that does not end")

        fixed = after.strip() if isinstance(after, str) else ""
        if before.rstrip().endswith('"') and fixed[:1] == '"':
            ended = not (yield from scanner.until(_QUOTE, keep))
            while not ended and scanner.text[scanner.at] == "\\":
                keep((yield from scanner.escape()))
                ended = not (yield from scanner.until(_QUOTE, keep))
        elif fixed and fixed[0] in _SIGNS:
            ended = not (yield from scanner.until(re.compile(re.escape(fixed[0])), keep))
        elif fixed:
            # Its first word: what follows may be in any spacing.
            word = re.split(r"[\s{}\[\],:(\"]", fixed, maxsplit=1)[0]
            stop = yield from scanner.upto((word,), keep)
            ended = not stop
            scanner.put_back(len(stop))
        else:
            ended = not (yield from scanner.until(_NO_NAME, keep))
        if ended:
            raise Ended
        return "".join(found).strip()

    def _named(self, call: _Call, name: str) -> None:
        if name not in self._tools:
            with suppress(ValueError):
                name = json.loads(f'"{name}"')
        call.name = name
        if name not in self._tools:
            known = ", ".join(map(repr, self._tools)) or "none"
            # What is wrong is known, but the call is read to its end.
            call.problem, call.held = f"there is no tool {name!r}; there are: {known}", []
            return
        call.told_id = call.id
        self._events.append(CallBegin(call.index, name, call.id))
        if call.held is not None:
            held, call.held = call.held, None
            for text in held:
                self._events.append(CallArguments(call.index, text))
        if call.done:
            self._check(call)

    def _check(self, call: _Call) -> None:
        """Whether the arguments are an object."""
        try:
            value = json.loads("".join(call.arguments))
        except (ValueError, RecursionError) as error:
            raise Mismatch(f"the arguments of {call.name!r} are not JSON ({error})") from None
        if not isinstance(value, dict):
            raise Mismatch(f"the arguments of {call.name!r} are not an object")
        call.whole = True

    def _arguments(self, call: _Call, before: str, after: str) -> Steps[None]:
        scanner, form = self._scanner, self._shape.arguments
        if call.name is None:
            call.held = []

        def emit(text: str) -> None:
            if not text:
                return
            call.arguments.append(text)
            if call.held is not None:
                call.held.append(text)
            else:
                self._events.append(CallArguments(call.index, text))

        if isinstance(form, Fields):
            schema = self._tools.get(call.name or "")
            yield from FieldsReader(scanner, form, schema, before, after).read(emit)
            return
        yield from scanner.blanks()
        first = yield from scanner.peek(1)
        if not first:
            raise Ended
        if first == '"':
            yield from scanner.json_value(_Unquoted(emit))
        elif first == "{":
            yield from scanner.json_value(emit)
        else:
            yield from scanner.unexpected("arguments")


class _Unquoted:
    """Passes on what a JSON string says, given as it is written, each escape by itself."""

    def __init__(self, emit: Any) -> None:
        self._emit, self._held, self._code, self._begun = emit, "", -1, False

    def __call__(self, piece: str) -> None:
        if not self._begun:
            self._begun, piece = True, piece[1:]
        closing = piece[-1:] == '"' and piece[0] != "\\"
        if piece == "\\u":
            self._code = len(self._held)
        self._held += piece[:-1] if closing else piece
        if self._code >= 0 and not closing:
            # Four digits follow, and to the first half of a character, the second.
            digits = self._held[self._code + 2 :]
            if len(digits) < 4 or (len(digits) == 4 and digits[:2].lower() in _HALVES):
                return
        text, self._held, self._code = self._held, "", -1
        try:
            self._emit(json.loads(f'"{text}"'))
        except ValueError as error:
            raise Mismatch(f"expected a JSON string of arguments ({error})") from None


@dataclass
class _Call:
    """What is known of a call."""

    index: int
    name: str | None = None
    id: str | None = None
    told_id: str | None = None
    arguments: list[str] = field(default_factory=list)
    held: list[str] | None = None  # arguments that come before the name
    done: bool = False
    whole: bool = False
    problem: str = ""


@dataclass(frozen=True)
class ReadCall:
    """A call that was read."""

    name: str
    arguments: str
    id: str | None


@dataclass(frozen=True)
class ReadReply:
    """A reply that was read as a whole."""

    thoughts: str
    content: str
    calls: tuple[ReadCall, ...]
    faults: tuple[CallFault, ...]


def gather(events: Iterable[Event]) -> ReadReply:
    """Put the events of a reply together.

    Args:
        events: All of them, in their order.

    Returns:
        The reply.
    """
    thoughts, content, faults = [], [], []
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, Thought):
            thoughts.append(event.text)
        elif isinstance(event, Content):
            content.append(event.text)
        elif isinstance(event, CallBegin):
            calls[event.index] = {"name": event.name, "arguments": [], "id": event.id}
        elif isinstance(event, CallArguments):
            calls[event.index]["arguments"].append(event.text)
        elif isinstance(event, CallEnd):
            calls[event.index]["id"] = event.id or calls[event.index]["id"]
        else:
            calls.pop(event.index, None)
            faults.append(event)
    found = [ReadCall(c["name"], "".join(c["arguments"]), c["id"]) for c in calls.values()]
    return ReadReply("".join(thoughts), "".join(content), tuple(found), tuple(faults))


def read_reply(
    form: ChatFormat, tools: Mapping[str, Any], text: str, *, thinking: bool = False
) -> ReadReply:
    """Read a whole reply.

    Args:
        form: How the model writes replies.
        tools: The JSON Schema of each tool's parameters, by its name.
        text: The reply.
        thinking: Whether it begins inside the reasoning.

    Returns:
        What is in it.
    """
    reader = ReplyReader(form, tools, thinking=thinking)
    return gather([*reader.feed(text), *reader.finish(cut=False)])
