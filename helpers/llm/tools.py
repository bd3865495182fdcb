"""Tools as a call of a chat model gets them: one form, checked names, one choice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import TypeAdapter

MAX_TOOLS = 1024
"""More tools than that do not fit any context that a description of them would have to share."""

_NAME = re.compile(r"[\w.:/-]{1,128}")
_NO_CHOICE = "none"
_CHOICES = ("auto", "any", "required", _NO_CHOICE)
_NOTHING = {"type": "object", "properties": {}}


def tool_list(tools: Iterable[Any], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools in OpenAI's form.

    Args:
        tools: Functions, LangChain tools, pydantic models, TypedDicts, dataclasses, JSON Schemas
            with a title, or dicts in OpenAI's or Anthropic's form.
        strict: Whether a schema that the grammar cannot hold as a whole is an error.

    Raises:
        TypeError: Something is no tool.
        ValueError: A name cannot be used, or stands for two tools, or there are too many.
    """
    if isinstance(tools, Mapping | str) or not isinstance(tools, Iterable):
        raise TypeError(f"tools={tools!r} must be a list of tools.")
    made: list[dict[str, Any]] = []
    known: list[Any] = []
    for tool in tools:
        one = _tool(tool, strict)
        if (bare := _bare(one)) not in known:  # a model and its schema are one tool
            made.append(one)
            known.append(bare)
    if len(made) > MAX_TOOLS:
        raise ValueError(f"{len(made)} tools were given; at most {MAX_TOOLS:,} can be.")
    names = [tool["function"]["name"] for tool in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two tools are called {twice!r}; a call could mean either. Rename one.")
    return made


def _tool(tool: Any, strict: bool | None) -> dict[str, Any]:
    if isinstance(tool, type) and dataclasses.is_dataclass(tool):
        tool = {"title": tool.__name__, **TypeAdapter(tool).json_schema()}
    try:
        made: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
    except Exception as error:  # LangChain's converters raise whatever their checks do
        raise TypeError(
            f"{tool!r} is not a tool: {error}. Give a function with type hints, a LangChain tool, "
            "a pydantic model, a TypedDict, or a JSON Schema with a title."
        ) from error
    function = made.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise TypeError(f"{tool!r} is not a function: this model has no tools built in.")
    if not _NAME.fullmatch(function["name"]):
        raise ValueError(
            f"A tool cannot be called {function['name']!r}: 1 to 128 letters, digits and . _ - : / "
            "are allowed, as names stand among what the model writes."
        )
    if function["name"] in _CHOICES:
        raise ValueError(
            f"A tool cannot be called {function['name']!r}: as a tool_choice the word has another "
            "meaning. Rename the tool."
        )
    return {**made, "function": dict(function)}


def _bare(schema: Any) -> Any:
    """A schema without what is there for people."""
    if isinstance(schema, list | tuple):
        return [_bare(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    said = ("title", "description")  # a property of such a name has a schema, and no text
    return {k: _bare(v) for k, v in schema.items() if k not in said or not isinstance(v, str)}


def tool_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """What `tool_choice` stands for: "auto", "any", "none", or the name of a tool.

    Args:
        choice: One of these; None ("auto"), True or "required" ("any"), False ("none"); or a dict
            in OpenAI's or Anthropic's form.
        tools: The tools, from `tool_list`.

    Raises:
        ValueError: There is no such tool.
    """
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, Mapping):
        named = choice.get("function", choice)
        named = named.get("name") if isinstance(named, Mapping) else named
        choice = named or choice.get("type") or dict(choice)
    if choice is None:
        choice = "auto"
    elif isinstance(choice, bool):
        choice = "any" if choice else _NO_CHOICE
    elif choice == "required":
        choice = "any"
    if choice in names or choice in ("auto", _NO_CHOICE) or (choice == "any" and names):
        return str(choice)
    raise ValueError(
        f"tool_choice={choice!r} is not the name of a tool. There "
        + (f"are {', '.join(names)}" if names else "are none")
        + ('; "auto", "any"' if names else '; "auto"')
        + ' and "none" are possible, too.'
    )


def parameters(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of each tool's arguments, by the tool's name."""
    return {
        tool["function"]["name"]: closed(tool["function"].get("parameters") or _NOTHING)
        for tool in tools
    }


def closed(schema: Any) -> Any:
    """A schema whose objects have the listed properties alone, where it does not say otherwise.

    What it allows, the schema allows: a model is kept from inventing further names.

    >>> closed({"type": "object", "properties": {"a": {"type": "integer"}}})["additionalProperties"]
    False
    """
    if isinstance(schema, list | tuple):
        return [closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {
        key: value if key in ("enum", "const", "default", "examples") else _closed_part(key, value)
        for key, value in schema.items()
    }
    combined = {"allOf", "$ref", "patternProperties", "unevaluatedProperties", "$dynamicRef"}
    if "properties" in made and not combined & made.keys():
        made.setdefault("additionalProperties", False)
    return made


def _closed_part(key: str, value: Any) -> Any:
    if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
        return {name: closed(one) for name, one in value.items()}
    if key in ("allOf", "not", "if", "then", "else", "dependentSchemas"):
        return value  # closed parts of a whole would refuse each other's properties
    return closed(value)
