"""From an answer in JSON to the object that its schema describes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import Generation
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import PrivateAttr, TypeAdapter

from helpers.grammars import Grammar
from helpers.llm.tools import closed

Method = Literal["json_schema", "function_calling", "json_mode"]
METHODS: tuple[str, ...] = get_args(Method)


class SchemaParser(JsonOutputParser):
    """Reads JSON and checks it against a schema; a stream gives what there is so far.

    Args:
        build: Makes the object from what was read.
        grammar: What was asked of the model; what it had to relax is checked.
    """

    _build: Callable[[Any], Any] | None = PrivateAttr(default=None)
    _grammar: Grammar | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, build: Callable[[Any], Any] | None, grammar: Grammar | None) -> SchemaParser:
        """A parser with these."""
        made = cls()
        made._build, made._grammar = build, grammar
        return made

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object in a model's answer.

        Args:
            result: The answer.
            partial: Whether it is the beginning of one: what can be read of it is given as it is.

        Raises:
            OutputParserException: It is not JSON, or not of the schema.
        """
        if partial:
            begun = super().parse_result(result, partial=True)
            if self._build is None or begun is None:
                return begun
            with suppress(Exception):  # it may become one
                return self._build(begun)
            return None
        text = result[0].text.strip()
        try:
            value = json.loads(text)
        except ValueError as error:
            raise OutputParserException(
                f"The answer is not JSON: {error}. It may have been cut off by max_tokens. It was: "
                f"{text[:500]!r}",
                llm_output=text,
            ) from error
        problems = self._grammar.problems(text) if self._grammar is not None else []
        if problems:
            raise OutputParserException(
                f"The answer breaks its schema: {'; '.join(problems)}. It was: {text[:500]!r}",
                llm_output=text,
            )
        if self._build is None:
            return value
        try:
            return self._build(value)
        except Exception as error:  # a validator of the user's may raise anything
            raise OutputParserException(
                f"The answer does not make the object that was asked for: {error}. It was: "
                f"{text[:500]!r}",
                llm_output=text,
            ) from error


def as_json_schema(schema: Any) -> tuple[dict[str, Any], Callable[[Any], Any] | None]:
    """A JSON Schema, and what makes the object from JSON; None where that is the dict itself.

    Args:
        schema: A pydantic model (2 or 1), a dataclass, a TypedDict, a function, or a JSON Schema.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        model: Any = schema
        if hasattr(model, "model_json_schema"):
            return _opened(model.model_json_schema()), model.model_validate
        return model.schema(), model.parse_obj
    if isinstance(schema, type) and dataclasses.is_dataclass(schema):
        adapter = TypeAdapter(schema)
        return adapter.json_schema(), adapter.validate_python
    if isinstance(schema, Mapping) and not {"function", "name", "parameters"} & schema.keys():
        return dict(schema), None
    try:
        return convert_to_json_schema(schema), None
    except Exception as error:
        raise TypeError(
            f"{schema!r} is no schema: {error}. Give a pydantic model, a dataclass, a TypedDict or "
            "a JSON Schema as a dict."
        ) from error


def _opened(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that is what it refers to: one that contains itself has its title there."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return {**schema["$defs"][name], "$defs": schema["$defs"]} if "$ref" in schema else schema


def schema_grammar(schema: Mapping[str, Any], *, strict: bool | None) -> Grammar:
    """The grammar of an answer: the schema's properties and no others.

    Args:
        schema: A JSON Schema.
        strict: True: what the grammar cannot hold is an error. Else it is checked afterwards.

    Raises:
        GrammarError: The schema is wrong, or cannot be held and `strict` is True.
    """
    return Grammar.from_json_schema(closed(schema), strict=strict is True)
