"""Calls of tools, written as a model writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helpers.chat.format import Fields, Slot, ToolFormat

ToJson = Callable[[Any], str]
_WRAPPED = frozenset("<&\n")


@dataclass(frozen=True)
class Call:
    """One call: a tool's name, its arguments, and an id where the format writes one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


def _json_of(tools: ToolFormat) -> ToJson:
    separators = (",", ":") if tools.compact else (", ", ": ")
    return partial(json.dumps, ensure_ascii=False, separators=separators)


def write_calls(tools: ToolFormat, calls: Sequence[Call], to_json: ToJson | None = None) -> str:
    r"""Write calls in a format.

    Args:
        tools: The format.
        calls: At least one.
        to_json: Writes a value as JSON, where models differ in escapes; default: by the format.

    Returns:
        The text, from `begin` to `end`.

    >>> from helpers.chat.format import HERMES
    >>> write_calls(HERMES, [Call("add", {"a": 1})])
    '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    """
    to_json = to_json or _json_of(tools)
    written = [
        "".join(
            part if isinstance(part, str) else _slot(part, tools, call, number, to_json)
            for part in tools.call
        )
        for number, call in enumerate(calls, tools.first_number)
    ]
    return tools.begin + tools.between.join(written) + tools.end


def _slot(slot: Slot, tools: ToolFormat, call: Call, number: int, to_json: ToJson) -> str:
    if slot is Slot.NAME:
        return call.name
    if slot is Slot.ID:
        return call.id
    if slot is Slot.NUMBER:
        return str(number)
    return write_arguments(tools.arguments, call.arguments, to_json)


def write_arguments(
    form: str | Fields, arguments: Mapping[str, Any], to_json: ToJson = json.dumps
) -> str:
    """Write a call's arguments alone.

    Args:
        form: `ToolFormat.arguments`.
        arguments: Their names and values.
        to_json: Writes a value as JSON.

    Returns:
        The text of the ARGUMENTS slot.

    >>> write_arguments(Fields(name_end="=", between=", ", strings="json"), {"a": 1, "b": "x"})
    'a=1, b="x"'
    """
    if isinstance(form, Fields):
        written = (
            form.name_begin + name + form.name_end + _value(form, value, to_json) + form.value_end
            for name, value in arguments.items()
        )
        return form.begin + form.between.join(written) + form.end
    text = to_json(dict(arguments))
    return to_json(text) if form == "string" else text


def _value(form: Fields, value: Any, to_json: ToJson) -> str:
    if not isinstance(value, str):
        return form.value_begin + _other(form, value, to_json)
    if form.strings == "json":
        return form.string_begin + to_json(value) + form.string_end
    wraps = form.wrap_begin and not _WRAPPED.isdisjoint(value)
    inner = form.wrap_begin + value + form.wrap_end if wraps else value
    return f"{form.string_begin}{inner}{form.string_end}"


def _other(form: Fields, value: Any, to_json: ToJson) -> str:
    if form.deep and isinstance(value, list):
        return "[" + form.between.join(_value(form, item, to_json) for item in value) + "]"
    if form.deep and isinstance(value, dict):
        return "{" + write_arguments(form, value, to_json) + "}"
    nested = isinstance(value, dict | list)
    if form.values == "json" or (nested and form.values == "mixed"):
        return to_json(value)
    return f"{value}"
