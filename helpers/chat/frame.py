"""What stands around the calls of a reply, from a template: reasoning, content, the turn's end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from helpers.chat.format import Reasoning
from helpers.chat.probe import (
    CONTENT,
    IDS,
    NAMES,
    THOUGHT,
    USER,
    Probe,
    after_last_tag,
    as_messages,
    head,
    message,
    tail,
    trim,
)
from helpers.chat.write import Call

# Texts that llama.cpp takes for the end of a turn in any model's vocabulary, in its list's order.
_ENDS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> "
    "<|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> "
    "<eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~["  # noqa: RUF001
).split()
_SWITCHES = ("enable_thinking", "thinking", "enable_reasoning", "reasoning")
_FIELDS = ("reasoning_content", "reasoning", "thinking")
_PAIRS = (Reasoning("<think>", "</think>"), Reasoning("[THINK]", "[/THINK]"))
ASKED = message("user", USER)
ONE_CALL = as_messages([Call(NAMES[0], {}, IDS[0])])


@dataclass(frozen=True)
class Frame:
    """What a template writes around the calls.

    Attributes:
        base: The conversation before the reply.
        prompts: The conversation with each generation prompt, from its end on.
        ends: Texts that end a turn.
        reasoning: As in `ChatFormat`.
        content_begin: As in `ChatFormat`.
        content_end: As in `ChatFormat`.
        thinking_variable: As in `ChatFormat`.
        reasoning_field: As in `ChatFormat`.
    """

    base: str
    prompts: tuple[str, ...]
    ends: tuple[str, ...]
    reasoning: Reasoning | None
    content_begin: str
    content_end: str
    thinking_variable: str | None
    reasoning_field: str | None

    def reply(self, text: str) -> str:
        """What a rendered conversation adds to `base`."""
        return text[len(head(self.base, text)) :]

    def before_end(self, text: str) -> str:
        """A reply's last text without what ends the turn."""
        return _before(text, self.ends)

    def bare(self, text: str) -> str:
        """The text before a call without what belongs to reasoning and content."""
        known = [self.content_end, self.content_begin]
        if self.reasoning:
            known += [self.reasoning.begin, self.reasoning.end]
        return _without(text, known)


def derive_frame(probe: Probe) -> Frame | None:
    """Find out what stands around the calls; None where not even a question can be rendered."""
    base = probe.render([ASKED])
    asked = probe.render([ASKED], prompt=True)
    if base is None or asked is None:
        return None
    switch, prompts = _switch(probe, asked)
    prompts = [text[len(head(base, text)) :] for text in prompts]
    said = probe.render([ASKED, message("assistant", CONTENT)]) or ""
    rest = said[len(head(base, said)) :]
    header = min((head(rest, prompt) for prompt in prompts), key=len) if rest else ""
    before, _, after = rest[len(header) :].partition(CONTENT)
    field, reasoning = _reasoning(probe, base, switch, [*prompts, rest])
    known = [reasoning.begin, reasoning.end] if reasoning else []
    content_begin = _without(before, known)
    ends = [*_ENDS, probe.eos]
    if content_begin:
        ends.append(tail(after, base.partition(USER)[2]).strip())
    else:
        ends.append(after.strip())
    if reasoning and content_begin and reasoning.end.endswith(content_begin):
        end = reasoning.end.removesuffix(content_begin).strip()
        reasoning = Reasoning(reasoning.begin, end)
    return Frame(
        base=base,
        prompts=tuple(prompts),
        ends=tuple(filter(None, ends)),
        reasoning=reasoning,
        content_begin=content_begin,
        content_end=_before(after, ends).rstrip() if content_begin else "",
        thinking_variable=switch,
        reasoning_field=field,
    )


def _switch(probe: Probe, asked: str) -> tuple[str | None, list[str]]:
    for name in _SWITCHES:
        if not re.search(rf"\b{name}\b", probe.source):
            continue
        on = probe.render([ASKED], prompt=True, **{name: True})
        off = probe.render([ASKED], prompt=True, **{name: False})
        if on is not None and off is not None and on != off:
            return name, [asked, on, off]
    return None, [asked]


def _reasoning(
    probe: Probe, base: str, switch: str | None, others: list[str]
) -> tuple[str | None, Reasoning | None]:
    on = {switch: True} if switch else {}
    for field in _FIELDS:
        if not re.search(rf"\b{field}\b", probe.source):
            continue
        thought = {field: THOUGHT}
        after = []
        begin = None
        for fields in ({}, {"tool_calls": ONE_CALL}):
            content = "" if fields else CONTENT
            reply = message("assistant", content, **thought, **fields)
            text = probe.render([ASKED, reply], **on) or ""
            rest = text[len(head(base, text)) :]
            if THOUGHT not in rest:
                continue
            before, _, behind = rest.partition(THOUGHT)
            after.append(behind)
            header = min((head(before, other) for other in others), key=len)
            begin = begin or trim(before[len(header) :]).rstrip() or _last_tag(before)
        if begin and after:
            end = head(after[0], after[-1]) if len(after) > 1 else after[0].partition(CONTENT)[0]
            if end := end.partition(CONTENT)[0].strip():
                return field, Reasoning(begin, end)
    for pair in _PAIRS:
        if pair.end in probe.source:
            return None, pair
    return None, None


def _last_tag(text: str) -> str:
    text = text[: after_last_tag(text)]
    return text[text.rfind(text[-1:] == "]" and "[" or "<") :] if text else ""


def _without(text: str, known: list[str]) -> str:
    text = trim(text)
    while found := next((part for part in known if part and text.startswith(part)), None):
        text = trim(text[len(found) :])
    return text


def _before(text: str, ends: list[str] | tuple[str, ...]) -> str:
    return text[: min((text.find(end) for end in ends if end and end in text), default=len(text))]
