"""How a template writes calls: found by rendering known ones, and proved by writing others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from helpers.chat.cuts import before, first_tag, head, last_tag, tail, trim, without
from helpers.chat.fields import derive_fields
from helpers.chat.format import Fields, Slot, ToolFormat
from helpers.chat.frame import ASKED, Frame
from helpers.chat.probe import CONTENT, IDS, LETTERS, NAMES, RESULT, Probe, as_messages, message
from helpers.chat.write import Call, ToJson, write_calls

A, B, C, D, *_ = LETTERS
_CALL = Call(NAMES[0], {A: "vone"}, IDS[0])
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
# What every format must write as the template does.
_PROOFS: tuple[Mapping[str, Any], ...] = (
    {A: 'two\nlines, "quoted" \\ 한글 😀'},
    {A: -3, B: 2.5, C: True, D: False},
    {A: [1, "x", True], B: {"k": "v", "n": [False, 2]}, C: []},
    {},
    {A: "one", B: 7, C: "<b> & more"},
)


@dataclass(frozen=True)
class _Parts:
    """A rendered reply, cut at what was known of it: fixed texts and slots."""

    opening: str
    first: list[str | Slot]
    middle: str
    second: list[str | Slot]
    closing: str
    text: str
    calls: list[Call]


def derive_calls(probe: Probe, frame: Frame) -> tuple[ToolFormat | None, Writer | None]:
    """Find out how a template writes calls.

    Returns:
        The format, None where it is not a known one; and the way in which the template writes
        calls, None where it does not.
    """
    writers = [
        writer
        for strings in (False, True)
        for content in ("", None)
        for followed in (True, False)
        if NAMES[0] in (writer := Writer(probe, frame, strings, content, followed)).write([_CALL])
    ]
    for writer in writers:
        if tools := _derive(writer):
            return tools, writer
    return None, writers[0] if writers else None


@dataclass(frozen=True)
class Writer:
    """A template as a writer of calls.

    Attributes:
        probe: The template.
        frame: What it writes around the calls.
        strings: Whether arguments are handed over as JSON text.
        content: What stands beside the calls.
        followed: Whether results follow the calls: some templates write the last message otherwise.
    """

    probe: Probe
    frame: Frame
    strings: bool
    content: str | None
    followed: bool

    def write(self, calls: list[Call]) -> str:
        """The reply with these calls; an empty text where the template refuses it."""
        reply = message("assistant", self.content, tool_calls=as_messages(calls, self.strings))
        results = [
            message("tool", RESULT, tool_call_id=call.id, name=call.name)
            for call in calls
            if self.followed
        ]
        text = self.probe.added([ASKED, reply, *results])
        return before(text or "", (RESULT,))

    def until(self, text: str, start: int) -> int:
        """Where the turn ends that goes on at `start`."""
        return start + len(before(text[start:], self.frame.ends))

    def last(self, text: str, call: Call) -> int:
        """Where the last name or id of a call ends; -1 where it is not written."""
        until = self.until(text, text.find(call.name))
        found = re.finditer(f"{re.escape(call.name)}|{re.escape(call.id)}", text[:until])
        return max((match.end() for match in found), default=-1)

    def behind(self, arguments: Mapping[str, Any]) -> str | None:
        """What stands behind the last name or id of a call with these arguments."""
        text = self.write([Call(NAMES[0], arguments, IDS[0])])
        last = self.last(text, _CALL)
        return text[last:] if last >= 0 else None


def _derive(writer: Writer) -> ToolFormat | None:
    for parts, arguments in _cut(writer):
        tools, ahead, after = _join(writer, parts)
        for form in arguments:
            candidate = replace(tools, arguments=form)
            for to_json, compact in _styles(writer):
                if _proved(writer, candidate, to_json, ahead, after):
                    return replace(candidate, compact=compact)
    return None


def _cut(writer: Writer) -> Iterator[tuple[_Parts, list[Literal["json", "string"] | Fields]]]:
    calls = [Call(name, {A: f"v{name}"}, id) for name, id in zip(NAMES, IDS, strict=True)][:2]
    text = writer.write(calls)
    if NAMES[1] not in text:
        calls = calls[:1]
        text = writer.write(calls)
    regions = []
    start = 0
    for call in calls:
        region = find_json(text, call.arguments, start)
        if region is None:
            break
        regions.append(region)
        start = region[1]
    else:
        kind: Literal["json", "string"] = "string" if text[regions[0][0]] == '"' else "json"
        yield _parts(writer, text, calls, regions), [kind]
        return
    bare = [replace(call, arguments={}) for call in calls]
    text = writer.write(bare)
    spots = [writer.last(text, call) for call in bare]
    for length, forms in derive_fields(writer.behind):
        regions = [(spot + length, spot + length) for spot in spots]
        yield _parts(writer, text, bare, regions), list(forms)


def find_json(text: str, value: Mapping[str, Any], start: int = 0) -> tuple[int, int] | None:
    """Where an object is written as JSON, or as JSON inside of a JSON string."""
    decoder = json.JSONDecoder()
    for position in range(start, len(text)):
        if text[position] in '{"':
            try:
                found, end = decoder.raw_decode(text, position)
                found = json.loads(found) if isinstance(found, str) else found
            except (ValueError, RecursionError):
                continue
            if found == value:
                return position, end
    return None


def _parts(writer: Writer, text: str, calls: list[Call], regions: list[tuple[int, int]]) -> _Parts:
    spans = []
    for call, region in zip(calls, regions, strict=True):
        until = writer.until(text, region[1])
        found = [(*region, Slot.ARGUMENTS)]
        for part, slot in ((call.name, Slot.NAME), (call.id, Slot.ID)):
            for match in re.finditer(re.escape(part), text[:until]):
                if not region[0] <= match.start() < region[1]:
                    found.append((*match.span(), slot))
        spans.append(sorted(found, key=lambda span: span[:2]))
    pieces = []
    for call_spans in spans:
        piece: list[str | Slot] = []
        for number, (begin, _, slot) in enumerate(call_spans):
            if number:
                piece.append(text[call_spans[number - 1][1] : begin])
            piece.append(slot)
        pieces.append(piece)
    return _Parts(
        opening=text[: spans[0][0][0]],
        first=pieces[0],
        middle=text[spans[0][-1][1] : spans[1][0][0]] if len(spans) > 1 else "",
        second=pieces[-1],
        closing=text[spans[-1][-1][1] :],
        text=text,
        calls=calls,
    )


def _join(writer: Writer, parts: _Parts) -> tuple[ToolFormat, str, str]:
    """The format without its arguments' form, and what stands before and after the calls."""
    frame = writer.frame
    opening = _opening(writer, parts.opening)
    ahead = parts.opening[: len(parts.opening) - len(opening)]
    closing = _closing(writer, parts)
    after = parts.closing[len(closing) :]
    begin, between, suffix, number = "", "", closing, 0
    prefix: list[str | Slot] = [opening]
    if parts.middle:
        suffix = head(parts.middle, closing).rstrip()
        begin, between, prefix, number = _common_start(opening, parts.middle[len(suffix) :])
    call: list[str | Slot] = [*prefix]
    for one, other in zip(parts.first, parts.second, strict=False):
        if isinstance(one, str) and isinstance(other, str) and one != other:
            left = head(one, other)
            right = tail(one[len(left) :], other[len(left) :])
            counted = one[len(left) : len(one) - len(right)]
            if _NUMBER.fullmatch(counted):
                number = int(counted)
                call += [left, Slot.NUMBER, right]
                continue
        call.append(one)
    call.append(suffix)
    tools = ToolFormat(
        call=merged(call),
        begin=begin,
        between=between,
        end=closing[len(suffix) :],
        first_number=number,
        parallel=bool(parts.middle),
    )
    return replace(tools, marker=_marker(tools.opening, frame)), ahead, after


def merged(parts: list[str | Slot]) -> tuple[str | Slot, ...]:
    """Parts of a call, neighbouring texts joined."""
    found: list[str | Slot] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part:
            found.append(part)
    return tuple(found)


def _opening(writer: Writer, opening: str) -> str:
    """What of the text before the first call's slots belongs to it."""
    said = replace(writer, content=CONTENT).write([_CALL])
    _, found, rest = before(said, (NAMES[0], IDS[0])).partition(CONTENT)
    if found and NAMES[0] in said:
        own = tail(opening, rest)
    else:
        own = opening[max(len(head(opening, prompt)) for prompt in writer.frame.prompts) :]
    return without(own, writer.frame.marks)


def _closing(writer: Writer, parts: _Parts) -> str:
    """What of the text after the last call's slots belongs to it."""
    text = parts.closing
    if writer.followed:
        # What the calls write when they are last, too, is theirs.
        start = len(parts.text) - len(text)
        shared = head(parts.text, replace(writer, followed=False).write(parts.calls))
        text = shared[start:] or text
    return before(text, writer.frame.ends).rstrip()


def _common_start(opening: str, middle: str) -> tuple[str, str, list[str | Slot], int]:
    """What goes before the first call, between two, and with each; and the first call's number."""
    common = tail(opening, middle)
    first, second = _digits(_less(opening, common)), _digits(_less(middle, common))
    if first and second and int(second) == int(first) + 1:
        begin, between = _less(opening, first + common), _less(middle, second + common)
        text = trim(tail(begin, between))
        return _less(begin, text), _less(between, text), [text, Slot.NUMBER, common], int(first)
    common = trim(common)
    return _less(opening, common), _less(middle, common), [common], 0


def _less(text: str, end: str) -> str:
    return text[: len(text) - len(end)]


def _digits(text: str) -> str:
    found = _NUMBER.search(text)
    return found[0] if found else ""


def _marker(opening: str, frame: Frame) -> str:
    if tag := first_tag(opening):
        if tag not in frame.ends:
            return tag
        # A call is a turn of its own: the end of the one before is no mark by itself.
        last = last_tag(opening)
        return opening[: opening.rfind(last) + len(last)]
    if opening[:1] in '{["':
        return ""
    mark = opening.partition("{")[0].rstrip()
    return mark if set(mark) & set("<>[]`|") else ""


def _styles(writer: Writer) -> Iterator[tuple[ToJson, bool]]:
    text = writer.write([_CALL])
    layout: dict[str, Any] = {}
    margin = ""
    if (region := find_json(text, _CALL.arguments)) and "\n" in text[region[0] : region[1]]:
        lines = text[region[0] : region[1]].split("\n")
        margin = lines[-1][: -len(lines[-1].lstrip())]
        layout["indent"] = len(lines[1]) - len(lines[1].lstrip()) - len(margin)
    for ascii_only in (False, True):
        for compact in (False, True):
            separators = (",", ":") if compact else None
            style = {**layout, "ensure_ascii": ascii_only, "separators": separators}
            yield partial(_dump, style, margin), compact


def _dump(style: dict[str, Any], margin: str, value: Any) -> str:
    return json.dumps(value, **style).replace("\n", "\n" + margin)


def _proved(writer: Writer, tools: ToolFormat, to_json: ToJson, ahead: str, after: str) -> bool:
    groups = [[number] for number in range(len(_PROOFS))]
    if tools.parallel:
        groups += [[0, 1], [3, 2, 0]]
    for group in groups:
        calls = [
            Call(name, _PROOFS[number], id)
            for number, name, id in zip(group, NAMES, IDS, strict=False)
        ]
        if writer.write(calls) != ahead + write_calls(tools, calls, to_json) + after:
            return False
    return True
