"""Families of models whose template does not say how they write calls, or not as they do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helpers.chat.format import HERMES, Fields, Slot, ToolFormat


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        sign: A text that its template holds, and others do not.
        tools: How it writes calls.
        first: Whether this goes before what the template's own calls say.
    """

    sign: str
    tools: ToolFormat
    first: bool = False


FAMILIES = (
    # SmolLM3: the template lists tools in Hermes' way, and drops calls.
    Family("xml_tools", replace(HERMES, origin="row")),
    # Granite 3: lists tools in a turn of its own, asks for `<|tool_call|>` in words, drops calls.
    Family(
        "write <|tool_call|> followed by a JSON list",
        ToolFormat(
            call=('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
            begin="<|tool_call|>[",
            between=", ",
            end="]",
            marker="<|tool_call|>",
            origin="row",
        ),
    ),
    # LFM2: lists tools between marks, and drops calls, which are Python's.
    Family(
        "<|tool_list_start|>",
        ToolFormat(
            call=(Slot.NAME, "(", Slot.ARGUMENTS, ")"),
            begin="<|tool_call_start|>[",
            between=", ",
            end="]<|tool_call_end|>",
            arguments=Fields(name_end="=", between=", ", strings="json", values="python"),
            marker="<|tool_call_start|>",
            origin="row",
        ),
    ),
    # gpt-oss: the template repeats calls with the addressee before the channel; the model writes
    # them the other way round.
    Family(
        "<|start|>assistant<|channel|>analysis<|message|>",
        ToolFormat(
            call=(
                "<|channel|>commentary to=functions.",
                Slot.NAME,
                " <|constrain|>json<|message|>",
                Slot.ARGUMENTS,
            ),
            marker="<|channel|>commentary to=functions.",
            parallel=False,
            origin="row",
        ),
        first=True,
    ),
)


def family_of(template: str) -> Family | None:
    """The family to which a template belongs, or None."""
    return next((family for family in FAMILIES if family.sign in template), None)
