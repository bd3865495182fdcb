"""Families of models whose template does not say how they write calls, or not as they do."""

# ruff: noqa: RUF001 (the bars and spaces of DeepSeek's tokens)

from __future__ import annotations

from dataclasses import dataclass

from helpers.chat.format import Fields, Slot, ToolFormat


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
    # Granite 3: lists tools in a turn of its own, asks for `<|tool_call|>` in words, drops calls.
    Family(
        "respond only with <|tool_call|> followed by a JSON list",
        ToolFormat(
            call=('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
            begin="<|tool_call|>[",
            between=", ",
            end="]",
            marker="<|tool_call|>",
            origin="row",
        ),
    ),
    # LFM2: lists tools, and drops calls, which are Python's.
    Family(
        "List of tools: ",
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
    # DeepSeek R1, first templates: the list of calls ends after the second, or not at all.
    Family(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
        ToolFormat(
            call=(
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                Slot.NAME,
                "\n```json\n",
                Slot.ARGUMENTS,
                "\n```<｜tool▁call▁end｜>",
            ),
            begin="<｜tool▁calls▁begin｜>",
            between="\n",
            end="<｜tool▁calls▁end｜>",
            marker="<｜tool▁calls▁begin｜>",
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
