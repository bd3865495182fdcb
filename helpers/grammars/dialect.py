"""Which keywords of JSON Schema hold schemas, which hold data, and which decide together."""

from __future__ import annotations

SUBSCHEMA_MAPS = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
    "dependencies",
)
NOT_SCHEMAS = ("enum", "const", "default", "examples", "example")
APPLICATORS = (
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "enum",
    "const",
    "unevaluatedProperties",
    "unevaluatedItems",
)
LATE = (
    "not",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
)
"""Conditions on members that other keywords name first."""
