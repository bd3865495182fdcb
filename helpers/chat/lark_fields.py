"""Writes arguments that are not one JSON object: each by itself, in the schema's order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helpers.chat.format import Fields
from helpers.chat.lark_parts import Parts

Schema = Mapping[str, Any] | bool
_MAX_DEPTH = 6
"""Values inside each other that are held: a schema may refer to itself."""
_MAX_INNER = 200
"""Lists and objects inside of arguments that are held."""


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
        self.inner = self.depth = 0

    def run(self) -> str:
        begin, end = self.parts.literal(self.form.begin), self.parts.literal(self.form.end)
        return self.fields(self.name, self.objects, begin, end)

    def fields(self, rule: str, objects: list[Mapping[str, Any]], begin: str, end: str) -> str:
        """All arguments, or what an object among them holds."""
        members: dict[str, list[Schema]] = {}
        for one in objects:
            for name, schema in one.get("properties", {}).items():
                if schema is not False:
                    members.setdefault(name, []).append(schema)
        required = [set(one.get("required", ())) for one in objects]
        always = set.intersection(*required) if required else set()
        if len(objects) > 1:
            self.parts.relax(self.tool, "which arguments may stand together")
        form = self.form
        found = []
        for number, (name, schemas) in enumerate(members.items()):
            options = [one for schema in schemas for one in self.flat(schema)]
            value = self.parts.rule(f"{rule}_{number}v", *self.values(options))
            found.append((form.name_begin + name + form.name_end, value, name not in always))
        return self.row(rule, found, begin, end, form.between)

    def row(
        self, rule: str, found: list[tuple[str, str, bool]], begin: str, end: str, between: str
    ) -> str:
        """Members in their order: what stands before each, its value, whether it may be missing."""
        parts = self.parts
        # From the last to the first: what may follow each one, an argument being there or not.
        follow = begun = parts.rule(f"{rule}_end", end)
        for number, (mark, value, optional) in reversed(list(enumerate(found))):
            first = [f"{parts.literal(mark)} {value} {begun}"]
            # One text with what comes between: the end may begin like it.
            later = [f"{parts.literal(between + mark)} {value} {begun}"]
            follow = parts.rule(f"{rule}_{number}", *first, *[follow] * optional)
            begun = parts.rule(f"{rule}_{number}m", *later, *[begun] * optional)
        return parts.rule(rule, f"{begin} {follow}")

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
            return [self.deep(option) for option in options]
        if self.form.values != "json":
            return [self.python(one) for one in options]
        whole: Schema = options[0] if len(options) == 1 else {"anyOf": options}
        if isinstance(whole, Mapping) and self.definitions:
            whole = {**whole, "$defs": self.definitions}
        return [self.parts.json(whole)]

    def python(self, schema: Schema) -> str:
        """A value as Python writes it."""
        if isinstance(schema, Mapping):
            listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
            if listed is not None:
                ways = [python_text(v) for v in listed]
                if self.depth:  # where Python's own way is usual
                    ways = list(dict.fromkeys([*ways, *map(repr, listed)]))
                return "(" + " | ".join(map(self.parts.literal, ways)) + ")"
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
            if self.depth < _MAX_DEPTH and self.inner < _MAX_INNER:
                rule = f"{self.name}_py{self.inner}"
                self.depth, self.inner = self.depth + 1, self.inner + 1
                try:
                    if kind == "array" and "prefixItems" not in schema:
                        return self.python_list(schema)
                    if kind == "object" and not schema.keys() & {"minProperties", "maxProperties"}:
                        return self.python_dict(rule, schema)
                finally:
                    self.depth -= 1
            self.parts.relax(self.tool, "tuples, numbers of names, and what stands far inside")
        return self.anything()

    def python_list(self, schema: Mapping[str, Any]) -> str:
        if schema.keys() & {"minItems", "maxItems"}:
            self.parts.relax(self.tool, "lengths of lists")
        item = " | ".join(map(self.python, self.flat(schema.get("items", True))))
        return f'("[" (({item}) (", " ({item}))*)? "]")'

    def python_dict(self, rule: str, schema: Mapping[str, Any]) -> str:
        """A dict of the known names, or of any."""
        members, required = schema.get("properties", {}), schema.get("required", ())
        if not members:
            options = self.flat(schema.get("additionalProperties", True))
            pair = f'{self.text()} ": " ({" | ".join(map(self.python, options))})'
            return f'("{{" ({pair} (", " {pair})*)? "}}")' if options else '"{}"'
        found = []
        for number, (name, one) in enumerate(members.items()):
            if one is not False:
                value = self.parts.rule(f"{rule}_{number}v", *map(self.python, self.flat(one)))
                found.append((f"{name!r}: ", value, name not in required))
        return self.row(rule, found, '"{"', '"}"', ", ")

    def text(self) -> str:
        """A string in a list, as Python writes it."""
        single = self.parts.terminal(r"'([^'\\\x{0}-\x{1f}]|\\(['\"\\bfnrt]|u[0-9a-fA-F]{4}))*'")
        return f"({single} | {self.parts.json({'type': 'string'})})"

    def deep(self, schema: Schema) -> str:
        """A value in which all is written as outside of it."""
        if isinstance(schema, bool):
            return self.deep_anything("deep")
        kind = schema.get("type")
        if schema.keys() & {"enum", "const"} or kind not in ("array", "object"):
            return self.parts.json(schema)
        rule, self.inner = f"{self.name}_in{self.inner}", self.inner + 1
        self.depth += 1
        try:
            if self.depth > _MAX_DEPTH or self.inner > _MAX_INNER:
                self.parts.relax(self.tool, f"what stands more than {_MAX_DEPTH} deep, or is more")
            elif kind == "object" and schema.get("properties"):
                return self.fields(rule, [schema], '"{"', '"}"')
            elif kind == "array" and "prefixItems" not in schema:
                if schema.keys() & {"minItems", "maxItems"}:
                    self.parts.relax(self.tool, "lengths of lists")
                self.parts.rule(rule, *self.values(self.flat(schema.get("items", True))))
                return f'("[" ({rule} ({self.parts.literal(self.form.between)} {rule})*)? "]")'
            elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
                self.parts.rule(rule, *self.values(self.flat(schema["additionalProperties"])))
                return self.deep_pairs(rule)
            elif schema.keys() - {"type"}:
                self.parts.relax(self.tool, "lists with a first part, objects of any names")
        finally:
            self.depth -= 1
        return self.deep_anything(f"deep_{kind}")

    def deep_pairs(self, value: str) -> str:
        """An object of any names, and of values by a rule."""
        form, parts = self.form, self.parts
        name = parts.terminal(r"[^\x{0}-\x{20}:,{}\[\]<>]{1,64}")
        pair = f"{parts.literal(form.name_begin)} {name} {parts.literal(form.name_end)} {value}"
        return f'("{{" ({pair} ({parts.literal(form.between)} {pair})*)? "}}")'

    def deep_anything(self, rule: str) -> str:
        """Any such value: the rules for it, and the name of one."""
        form, parts = self.form, self.parts
        between = parts.literal(form.between)
        text = f"{parts.literal(form.string_begin)} {parts.upto(form.string_end)}"
        scalar = parts.json({"type": ["number", "boolean", "null"]})
        parts.rule("deep_array", f'"[" (deep ({between} deep)*)? "]"')
        parts.rule("deep_object", self.deep_pairs("deep"))
        parts.rule("deep", f"deep_array | deep_object | {text} | {scalar}")
        return rule

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

    def flat(self, schema: Schema, seen: set[str] | None = None) -> list[Schema]:
        """The alternatives of a compiled schema, references resolved, each once."""
        seen = set() if seen is None else seen
        if isinstance(schema, Mapping) and "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            known = name in seen
            seen.add(name)
            return [] if known else self.flat(self.definitions.get(name, True), seen)
        if isinstance(schema, Mapping) and "anyOf" in schema:
            return [one for option in schema["anyOf"] for one in self.flat(option, seen)]
        return [] if schema is False else [schema]


def python_text(value: Any) -> str:
    """A JSON value as Python writes it, its strings in double quotation marks."""
    if isinstance(value, list):
        return "[" + ", ".join(map(python_text, value)) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(k, ensure_ascii=False)}: {python_text(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
