"""Writes arguments that are not one JSON object: each by itself, in the schema's order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helpers.chat.format import Fields
from helpers.chat.lark_parts import Parts

Schema = Mapping[str, Any] | bool


def write_fields(parts: Parts, form: Fields, name: str, tool: str, schema: Schema) -> str:
    """Write the arguments of one tool.

    Args:
        parts: The grammar.
        form: How arguments are written.
        name: A beginning for the names of rules.
        tool: The tool's name, to say what cannot be held.
        schema: Its compiled schema.

    Returns:
        The name of the rule.
    """
    return _Writer(parts, form, name, tool, schema).run()


class _Writer:
    def __init__(self, parts: Parts, form: Fields, name: str, tool: str, schema: Schema) -> None:
        self.parts, self.form, self.name, self.tool = parts, form, name, tool
        self.definitions = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
        self.objects = [one for one in self.flat(schema) if isinstance(one, Mapping)]

    def run(self) -> str:
        members: dict[str, list[Schema]] = {}
        for one in self.objects:
            for name, schema in one.get("properties", {}).items():
                if schema is not False:
                    members.setdefault(name, []).append(schema)
        required = [set(one.get("required", ())) for one in self.objects]
        always = set.intersection(*required) if required else set()
        if len(self.objects) > 1:
            self.parts.relax(self.tool, "which arguments may stand together")
        parts, form = self.parts, self.form
        # From the last to the first: what may follow each one, an argument being there or not.
        follow, begun = parts.rule(f"{self.name}_end", parts.literal(form.end)), ""
        begun = follow
        for number, (name, schemas) in reversed(list(enumerate(members.items()))):
            value = self.member(number, schemas)
            mark = form.name_begin + name + form.name_end
            optional = name not in always
            first = [f"{parts.literal(mark)} {value} {begun}"]
            # One text with what comes between: the end may begin like it.
            later = [f"{parts.literal(form.between + mark)} {value} {begun}"]
            follow = parts.rule(f"{self.name}_{number}", *first, *[follow] * optional)
            begun = parts.rule(f"{self.name}_{number}m", *later, *[begun] * optional)
        return parts.rule(self.name, f"{parts.literal(form.begin)} {follow}")

    def member(self, number: int, schemas: list[Schema]) -> str:
        """One argument, behind its name."""
        options = [one for schema in schemas for one in self.flat(schema)]
        return self.parts.rule(f"{self.name}_{number}v", *self.values(options))

    def values(self, options: list[Schema]) -> list[str]:
        """A value and what ends it, one alternative each."""
        parts, form = self.parts, self.form
        begin, end = parts.literal(form.value_begin), parts.literal(form.value_end)
        if form.strings == "json":
            return [f"{begin} {one} {end}" for one in self.plain(options)]
        texts: list[str] = []
        others: list[Schema] = []
        free = False
        for one in options:
            if isinstance(one, bool) or not one.keys() & {"type", "enum", "const"}:
                free = True
            elif one.get("type") == "string":
                free = True
                if one.keys() - {"type"}:
                    self.parts.relax(self.tool, "pattern and length of strings")
            else:
                listed = one.get("enum", [one["const"]] if "const" in one else [])
                texts += [value for value in listed if isinstance(value, str)]
                rest = [value for value in listed if not isinstance(value, str)]
                others += [{"enum": rest}] if rest else [] if listed else [one]
        if free and not form.string_begin.strip():
            return [self.raw()]  # which has all others in it
        found = [self.raw()] if free else []
        ends = form.string_end + form.value_end
        found += [parts.literal(form.string_begin + text + ends) for text in texts if not free]
        if any(option is True for option in options):
            others = [True]
        return found + [f"{begin} {one} {end}" for one in self.plain(others)]

    def raw(self) -> str:
        """Any text, and what ends it."""
        form = self.form
        begin, end = self.parts.literal(form.string_begin), form.string_end + form.value_end
        if end:
            return f"{begin} {self.parts.upto(end)}"
        stops = "".join(f"\\x{{{ord(text[0]):x}}}" for text in (form.between, form.end) if text)
        return f"{begin} ({self.parts.terminal(f'[^{stops}]+' if stops else '(?s:.+)')})?"

    def plain(self, options: list[Schema]) -> list[str]:
        """Values as JSON or Python writes them."""
        if not options:
            return []
        if self.form.deep:
            return [one for option in options for one in self.deep(option)]
        if self.form.values != "json":
            return [self.python(one) for one in options]
        whole: Schema = options[0] if len(options) == 1 else {"anyOf": options}
        if isinstance(whole, Mapping) and self.definitions:
            whole = {**whole, "$defs": self.definitions}
        return [self.parts.json(whole)]

    def python(self, schema: Schema) -> str:
        """A value as Python writes it; what is in dicts is not held."""
        if isinstance(schema, Mapping):
            listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
            if listed is not None:
                return "(" + " | ".join(self.parts.literal(python_text(v)) for v in listed) + ")"
            kind = schema.get("type")
            if kind == "boolean":
                return '("True" | "False")'
            if kind == "null":
                return '"None"'
            if kind == "string" and self.form.strings == "raw":
                return self.text()
            if kind in ("string", "number", "integer"):
                return self.parts.json(schema)
            if self.form.values == "mixed" and kind in ("array", "object"):
                return self.parts.json({**schema, "$defs": self.definitions})
            if kind == "array" and "prefixItems" not in schema:
                options = [self.python(one) for one in self.flat(schema.get("items", True))]
                item = f"({' | '.join(options)})"
                if schema.keys() & {"minItems", "maxItems"}:
                    self.parts.relax(self.tool, "lengths of lists")
                return f'("[" ({item} (", " {item})*)? "]")'
            self.parts.relax(self.tool, "what stands in dicts and tuples")
        return self.anything()

    def text(self) -> str:
        """A string in a list, as Python writes it."""
        single = self.parts.terminal(r"'([^'\\\n]|\\.)*'")
        return f"({single} | {self.parts.json({'type': 'string'})})"

    def deep(self, schema: Schema) -> list[str]:
        """A value in which all is written as outside of it; what stands inside is not held."""
        form, parts = self.form, self.parts
        if isinstance(schema, Mapping) and schema.get("type") not in ("array", "object", None):
            return [parts.json(schema)]
        if isinstance(schema, Mapping) and schema.keys() & {"enum", "const"}:
            return [parts.json(schema)]
        if isinstance(schema, Mapping):
            self.parts.relax(self.tool, "what stands in lists and objects")
        between, colon = parts.literal(form.between), parts.literal(form.name_end)
        text = f"{parts.literal(form.string_begin)} {parts.upto(form.string_end)}"
        name = parts.terminal(r"[^\x{0}-\x{20}:,{}\[\]<>]{1,64}")
        pair = f"{parts.literal(form.name_begin)} {name} {colon} deep"
        scalar = {"type": ["number", "boolean", "null"]}
        found = {
            "array": parts.rule("list", f'"[" (deep ({between} deep)*)? "]"'),
            "object": parts.rule("object", f'"{{" ({pair} ({between} {pair})*)? "}}"'),
        }
        parts.rule("deep", f"list | object | {text} | {parts.json(scalar)}")
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        return [found[kind]] if kind in found else ["deep"]

    def anything(self) -> str:
        parts = self.parts
        number, text = parts.json({"type": "number"}), self.text()
        pair = f'{text} ": " python'
        parts.rule(
            "python",
            f'"True" | "False" | "None" | {number} | {text}',
            '"[" (python (", " python)*)? "]"',
            f'"{{" ({pair} (", " {pair})*)? "}}"',
        )
        return "python"

    def flat(self, schema: Schema, depth: int = 0) -> list[Schema]:
        """The alternatives of a compiled schema, references resolved."""
        if isinstance(schema, Mapping) and depth < 20:
            if "$ref" in schema:
                target = self.definitions.get(schema["$ref"].rpartition("/")[2], True)
                return self.flat(target, depth + 1)
            if "anyOf" in schema:
                return [one for option in schema["anyOf"] for one in self.flat(option, depth + 1)]
        return [] if schema is False else [schema]


def python_text(value: Any) -> str:
    """A JSON value as Python writes it, its strings in double quotation marks."""
    if isinstance(value, list):
        return "[" + ", ".join(map(python_text, value)) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(k, ensure_ascii=False)}: {python_text(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
