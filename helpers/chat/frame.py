"""What stands around the calls of a reply, from a template: reasoning, content, the turn's end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from helpers.chat.cuts import before, first_tag, head, last_tag, tail, trim, without
from helpers.chat.format import Reasoning
from helpers.chat.probe import (
    CONTENT,
    IDS,
    NAMES,
    RESULT,
    THOUGHT,
    USER,
    Probe,
    as_messages,
    message,
)
from helpers.chat.write import Call

Value = bool | str | int

# Texts that llama.cpp takes for the end of a turn in any model's vocabulary.
_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
    *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "[e~["),
    "<｜end▁of▁sentence｜>",  # noqa: RUF001
)
# Variables that switch reasoning, with what switches it on and off.
_SWITCHES: tuple[tuple[str, Value, Value], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("enable_reasoning", True, False),
    ("reasoning", True, False),
    ("thinking_mode", "enabled", "disabled"),
    ("reasoning_effort", "high", "no_think"),
    ("thinking_budget", -1, 0),
)
_FIELDS = ("reasoning_content", "reasoning", "thinking")
# Marks of reasoning in templates that do not repeat it: by its end in their text.
_PAIRS = (
    Reasoning("<think>", "</think>"),
    Reasoning("[THINK]", "[/THINK]"),
    Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
    Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
ASKED = message("user", USER)


@dataclass(frozen=True)
class Frame:
    """What a template writes around the calls.

    Attributes:
        base: The conversation before the reply.
        prompts: The generation prompts: as it is, with reasoning on, and off.
        ends: Texts that end a turn, or begin the next one.
        reasoning: As in `ChatFormat`.
        reasoning_field: As in `ChatFormat`.
        content_begin: As in `ChatFormat`.
        content_end: As in `ChatFormat`.
        switch: `ChatFormat.thinking_variable` and its values.
    """

    base: str
    prompts: tuple[str, ...] = ("",)
    ends: tuple[str, ...] = _ENDS
    reasoning: Reasoning | None = None
    reasoning_field: str | None = None
    content_begin: str = ""
    content_end: str = ""
    switch: tuple[str, Value, Value] | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks of reasoning and content."""
        thought = (self.reasoning.begin, self.reasoning.end) if self.reasoning else ()
        return (self.content_end, self.content_begin, *thought)


def derive_frame(probe: Probe) -> Frame | None:
    """Find out what stands around the calls; None where not even a question can be rendered."""
    base = probe.render([ASKED])
    prompt = probe.added([ASKED], prompt=True)
    if base is None or prompt is None:
        return None
    switch, prompts = _switch(probe, prompt)
    off = {switch[0]: switch[2]} if switch else {}
    said = probe.added([ASKED, message("assistant", CONTENT)], variables=off) or ""
    common = min((head(said, text) or _overlap(text, said) for text in prompts), key=len)
    begin, _, after = said[len(common) :].partition(CONTENT)
    reasoning_field, reasoning = _reasoning(probe, switch, [*prompts, said])
    marks = (reasoning.begin, reasoning.end) if reasoning else ()
    begin = without(begin, marks)
    ends = tuple(filter(None, (*_ENDS, probe.eos, first_tag(prompt.lstrip()))))
    end = _turn_end(probe, after, base) if begin else after
    ends += tuple(filter(None, (first_tag(end.lstrip()) or end.strip(), _next_turn(probe, begin))))
    if reasoning and begin:
        reasoning = Reasoning(reasoning.begin, _apart(reasoning.end, begin))
    return Frame(
        base=base,
        prompts=tuple(prompts),
        ends=ends,
        reasoning=reasoning,
        reasoning_field=reasoning_field,
        content_begin=begin,
        content_end=before(after, ends).rstrip() if begin else "",
        switch=switch,
    )


def _overlap(prompt: str, said: str) -> str:
    """The end of a generation prompt with which a reply begins."""
    return next((prompt[i:] for i in range(len(prompt)) if said.startswith(prompt[i:])), "")


def _next_turn(probe: Probe, content_begin: str) -> str:
    """The tag behind content where a question follows, and content has no end of its own."""
    messages = [ASKED, message("assistant", CONTENT), message("user", RESULT)]
    text = (probe.added(messages) or "").partition(CONTENT)[2]
    return "" if content_begin else first_tag(text.lstrip())


def _turn_end(probe: Probe, after: str, base: str) -> str:
    """What ends a turn, where content has an end of its own: what calls and questions share."""
    calls = as_messages([Call(NAMES[0], {}, IDS[0])])
    called = probe.added([ASKED, message("assistant", "", tool_calls=calls)]) or ""
    return (NAMES[0] in called and tail(after, called)) or tail(after, base.partition(USER)[2])


def _apart(end: str, begin: str) -> str:
    """The end of reasoning without what belongs to the beginning of content."""
    shared = next(size for size in range(len(begin), -1, -1) if end.endswith(begin[:size]))
    return end[: len(end) - shared].rstrip()


def _switch(probe: Probe, prompt: str) -> tuple[tuple[str, Value, Value] | None, list[str]]:
    for switch in _SWITCHES:
        name, on, off = switch
        if not re.search(rf"\b{name}\b", probe.source):
            continue
        if isinstance(off, str) and not re.search(rf"['\"]{off}['\"]", probe.source):
            continue
        for tools in (True, False):
            one = probe.render([ASKED], prompt=True, tools=tools, **{name: on})
            other = probe.render([ASKED], prompt=True, tools=tools, **{name: off})
            if one is not None and other is not None and one != other:
                added = [probe.added([ASKED], True, {name: value}) for value in (on, off)]
                return switch, [prompt, *(text for text in added if text is not None)]
    return None, [prompt]


def _reasoning(
    probe: Probe, switch: tuple[str, Value, Value] | None, others: list[str]
) -> tuple[str | None, Reasoning | None]:
    on = {switch[0]: switch[1]} if switch else {}
    calls = as_messages([Call(NAMES[0], {}, IDS[0])])
    for name in _FIELDS:
        if not re.search(rf"\b{name}\b", probe.source):
            continue
        begins, ends = [], []
        for content, called in ((CONTENT, False), ("", True)):
            more = {"tool_calls": calls} if called else {}
            reply = message("assistant", content, **{name: THOUGHT}, **more)
            text = probe.added([ASKED, reply], variables=on) or ""
            begin, found, end = text.partition(THOUGHT)
            if found:
                common = min((head(begin, other) for other in others), key=len)
                begins.append((trim(begin[len(common) :]).rstrip(), last_tag(begin)))
                ends.append(before(end, (CONTENT,) if content else (NAMES[0], IDS[0])))
        if ends:
            # One of a kind may hold what begins content or calls.
            end = head(*ends) if len(ends) > 1 else first_tag(ends[0].lstrip()) or ends[0]
            end = end.strip()
            usual = next((pair.begin for pair in _PAIRS if pair.end == end), "")
            begin = begins[0][0] or usual or begins[0][1]
            if begin and end:
                return name, Reasoning(begin, end)
    return None, next((pair for pair in _PAIRS if pair.end in probe.source), None)
