"""How a model writes its replies, found out from its chat template.

The template is rendered with known messages, with and without calls, with and without reasoning;
what differs is what stands around them. A format counts only where writing further calls with it
gives, character by character, what the template renders.
"""

from __future__ import annotations

from functools import lru_cache

from helpers.chat.calls import derive_calls
from helpers.chat.families import family_of
from helpers.chat.format import HERMES, ChatFormat
from helpers.chat.frame import ASKED, Frame, derive_frame
from helpers.chat.probe import IDS, NAMES, RESULT, Probe, Stopped, as_messages, message
from helpers.chat.write import Call

_SYSTEM = "Zsystem"


def derive_format(template: str, *, bos: str = "", eos: str = "") -> ChatFormat:
    """Find out how a model writes reasoning, content and calls of tools.

    Args:
        template: The chat template, Jinja source.
        bos: Text of the token that begins a conversation.
        eos: Text of the token that ends a turn.

    Returns:
        The format. `tools.origin` says where the calls' form comes from: the template, a row for
        its family (`helpers.chat.families`), or the fallback, Hermes' form.

    >>> derive_format("{{ messages[-1].content }}").tools.origin
    'fallback'
    """
    return _derive(template, bos, eos)


@lru_cache(maxsize=32)
def _derive(template: str, bos: str, eos: str) -> ChatFormat:
    probe = Probe(template, bos, eos)
    try:
        frame = derive_frame(probe)
        if frame is None:
            return ChatFormat(HERMES)
        return _assemble(probe, frame)
    except Stopped:
        return ChatFormat(HERMES)


def _assemble(probe: Probe, frame: Frame) -> ChatFormat:
    family = family_of(probe.source)
    derived, writer = derive_calls(probe, frame)
    tools = derived or HERMES
    if family and (family.first or not derived):
        tools = family.tools
    content_begin = frame.content_begin
    if content_begin and tools.opening and frame.prompts[0].endswith(tools.opening):
        # The generation prompt ends with what begins content and calls alike.
        content_begin = tools.opening + content_begin
    name, on, off = frame.switch or (None, True, False)
    return ChatFormat(
        tools=tools,
        reasoning=frame.reasoning,
        content_begin=content_begin,
        content_end=frame.content_end,
        thinking_variable=name,
        thinking_values=(on, off),
        system=_takes(probe, [message("system", _SYSTEM), ASKED], _SYSTEM),
        tool_role=_takes_results(probe),
        takes_tools=NAMES[0] in (probe.render([ASKED]) or ""),
        takes_calls=writer is not None,
        arguments_as="string" if writer and writer.strings else "object",
        empty_content=writer.content if writer else "",
        reasoning_field=frame.reasoning_field,
    )


def _takes(probe: Probe, messages: list[dict[str, object]], text: str) -> bool:
    return text in (probe.render(messages) or "")


def _takes_results(probe: Probe) -> bool:
    result = message("tool", RESULT, tool_call_id=IDS[0], name=NAMES[0])
    calls = [as_messages([Call(NAMES[0], {}, IDS[0])], strings) for strings in (False, True)]
    return any(
        _takes(probe, [ASKED, message("assistant", content, tool_calls=call), result], RESULT)
        for content in ("", None)
        for call in calls
    )
