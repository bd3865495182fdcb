"""The JSON Schema of a pydantic model, made so that whatever it allows parses into the model.

Pydantic's own schema describes what may be sent to a model by anybody; a language model gets less
freedom: decimals are numbers, objects hold the declared fields only (unless the model says
`extra="allow"`), and types whose format is not a standard one are written as patterns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from helpers.errors import GrammarError
from helpers.grammars.schema.dialect import invalid_schema

if TYPE_CHECKING:
    from pydantic_core import core_schema

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
_HEX = "[0-9a-f]"
_PORT = r"(:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}))?"
_NAME = r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
# Kept simple where some of a kind are enough, such as networks of whole bytes.
_PATTERNS = {
    **{
        f"uuid{version}": (
            rf"^{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}$"
        )
        for version in range(1, 9)
    },
    "ipv4network": rf"^({_BYTE}(\.0){{3}}/8|{_BYTE}\.{_BYTE}(\.0){{2}}/16|({_BYTE}\.){{3}}0/24)$",
    "ipv4interface": rf"^{_IPV4}(/([12]?\d|3[0-2]))?$",
    "ipv6network": rf"^({_HEX}{{1,4}}:){{1,3}}:/64$",
    "ipv6interface": rf"^({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}(/(\d\d?|1[01]\d|12[0-8]))?$",
    "ipvanyaddress": rf"^({_IPV4}|({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}})$",
    "ipvanynetwork": rf"^({_BYTE}\.){{3}}0/24$",
    "ipvanyinterface": rf"^{_IPV4}(/([12]?\d|3[0-2]))?$",
}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator with the changes that the module's docstring names."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        made: dict[str, Any] = {"type": "number"}
        names = {
            "ge": "minimum",
            "le": "maximum",
            "gt": "exclusiveMinimum",
            "lt": "exclusiveMaximum",
        }
        for key, name in names.items():
            if key in schema:
                made[name] = float(schema[key])  # type: ignore[literal-required]
        places, digits = schema.get("decimal_places"), schema.get("max_digits")
        if digits is not None:
            places = 0 if places is None else places
            bound = 10 ** max(digits - places, 0)
            made["exclusiveMaximum"] = min(bound, made.get("exclusiveMaximum", bound))
            made["exclusiveMinimum"] = max(-bound, made.get("exclusiveMinimum", -bound))
        steps = [float(f"1e-{places}")] if places is not None else []
        if "multiple_of" in schema:
            steps.append(float(schema["multiple_of"]))
        if steps:
            made["multipleOf"] = steps[0]
        if steps[1:]:
            made["allOf"] = [{"multipleOf": steps[1]}]
        return made

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        return _repeatable(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        return _repeatable(super().frozenset_schema(schema))

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^-?P(\d{1,5}D(T\d{1,2}H(\d{1,2}M)?)?|T(\d{1,4}H)?\d{1,4}M|T\d{1,6}S)$",
        }

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        if schema.get("tz_constraint") == "naive":
            return {
                "type": "string",
                "pattern": rf"^[12]\d{{3}}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T{_CLOCK}$",
            }
        return super().datetime_schema(schema)

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        return self._url(schema)

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> JsonSchemaValue:
        return self._url(schema)

    def _url(self, schema: Any) -> JsonSchemaValue:
        schemes = "|".join(schema.get("allowed_schemes") or ["https?"]).replace("+", "\\+")
        host = rf"({_NAME}(\.{_NAME})*|{_IPV4})"
        made: dict[str, Any] = {
            "type": "string",
            "pattern": rf"^({schemes})://{host}{_PORT}(/[\w.~&=+,;@-]*)*(\?[\w.~&=+,;@/-]*)?(#[\w-]*)?$",
        }
        if "max_length" in schema:
            made["maxLength"] = schema["max_length"]
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        keys = schema.get("keys_schema", {}).get("type")
        if keys == "int" and "propertyNames" not in made:
            made["propertyNames"] = {"pattern": r"^(0|-?[1-9]\d{0,15})$"}
        return made

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        name = made.get("discriminator", {}).get("propertyName")
        if name is None or "oneOf" not in made:
            return made
        # The tag has to be written even where the field has a default.
        tag = {"type": "object", "required": [name]}
        return {"anyOf": [{"allOf": [branch, tag]} for branch in made["oneOf"]]}


def _repeatable(made: JsonSchemaValue) -> JsonSchemaValue:
    """A set parses from an array with repetitions, as long as none of a size is asked for."""
    if made.get("minItems", 0) <= 1:
        made.pop("uniqueItems", None)
    return made


def pydantic_schema(model: Any) -> dict[str, Any]:
    """The schema of a model.

    Args:
        model: A pydantic model, a dataclass, a TypedDict, or any type that pydantic understands.

    Returns:
        A JSON Schema whose every value parses into the model, as far as a schema can tell
        (validators written in Python are not known to it).

    Raises:
        GrammarError: If pydantic has no schema for it.
    """
    try:
        adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
        schema = adapter.json_schema(schema_generator=_Generator, mode="validation")
        _finish(schema)
    except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
        raise GrammarError(
            f"pydantic has no JSON Schema for {model!r}: {error.message}",
            keyword="schema",
            pointer="",
        ) from error
    except RecursionError as error:
        raise invalid_schema("the model nests too deep for pydantic") from error
    return schema


def _finish(node: Any) -> None:
    """Close objects with declared fields, and write pydantic's own formats as patterns."""
    if isinstance(node, list):
        for item in node:
            _finish(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    form = node.get("format")
    if isinstance(form, str) and form in _PATTERNS and "pattern" not in node:
        node["pattern"] = _PATTERNS[form]
    for key, value in node.items():
        if key not in ("enum", "const", "default", "examples"):
            _finish(value)
