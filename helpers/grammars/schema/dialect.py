"""The vocabulary of JSON Schema: its keywords, its pointers, and errors about them."""

from __future__ import annotations

from helpers.errors import GrammarError

TYPES = ("null", "boolean", "number", "string", "array", "object")
SIMPLE = frozenset(
    (
        "type",
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("uniqueItems", "contains"),
        *("properties", "patternProperties", "additionalProperties", "required"),
        *("propertyNames", "minProperties", "maxProperties"),
    )
)
"""Keywords that constrain the values of one type."""
LATE = (
    *("not", "if", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
"""Conditions on members that other keywords name first."""
APPLICATORS = (
    *("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "enum", "const"),
    *LATE,
)
"""Keywords that combine schemas or list values."""
NOT_SCHEMAS = ("enum", "const", "default", "examples", "example")
"""Keywords that hold data, in which nothing is a schema."""


def escape(part: str) -> str:
    """One part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


def invalid_schema(reason: str, pointer: str = "", keyword: str = "schema") -> GrammarError:
    """An error for what is not a schema; to be raised.

    Args:
        reason: What is wrong.
        pointer: JSON pointer to it.
        keyword: The keyword that is wrong.
    """
    where = f"'{keyword}' at {pointer or '/'}"
    return GrammarError(f"{where}: {reason}.", keyword=keyword, pointer=pointer)
