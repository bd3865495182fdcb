"""The JSON Schema of TypeScript types: interfaces, aliases, enums, generics; by tree-sitter.

Objects hold the declared members only, as TypeScript's own check of object literals has it.
`Date` is a text in the form of RFC 3339. What has no meaning in JSON (functions, symbols) and what
would need a type checker (conditional and mapped types) is refused with its line and column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from helpers.errors import GrammarError
from helpers.grammars.places import error_at
from helpers.grammars.typescript.parts import (
    NOTHING,
    UNDEFINED,
    Env,
    Members,
    Schema,
    children,
    comment_text,
    identifiers,
    number_name,
    number_value,
    operands,
    quote_pattern,
    string_value,
    without_undefined,
)

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_LENGTH = 200_000
MAX_TYPES = 2_000
MAX_DEPTH, MAX_STEPS = 80, 20_000
"""Bounds on types in types, and in all: what refers to itself twice may double at each depth."""
_DECLARATIONS = ("interface_declaration", "type_alias_declaration", "enum_declaration")
_NUMBER_TEXT = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"


def typescript_schema(source: str, root: str | None = None) -> Schema:
    """Read type declarations.

    Args:
        source: TypeScript source; only interfaces, type aliases and enums, comments are fine.
        root: Name of the type that the text has; default: the one that no other type uses.

    Returns:
        A JSON Schema; comments before members are its descriptions.

    Raises:
        GrammarError: With line and column, for syntax errors and types that JSON cannot hold.

    >>> typescript_schema("type Answer = 'yes' | 'no'")["$defs"]["Answer"]
    {'enum': ['yes', 'no']}
    """
    import tree_sitter_typescript
    from tree_sitter import Language, Parser

    if not isinstance(source, str):
        raise GrammarError(f"TypeScript source is a str, not {type(source).__name__}.")
    if len(source) > MAX_LENGTH:
        raise GrammarError(f"The source has more than {MAX_LENGTH} characters.")
    try:
        data = source.encode()
    except UnicodeEncodeError as error:
        message = "half of a surrogate pair is not a character."
        shown = source.encode("utf-8", "replace").decode()
        raise error_at(shown, error.start, message) from error
    tree = Parser(Language(tree_sitter_typescript.language_typescript())).parse(data)
    return _Reader(data).read(tree.root_node, root)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data  # valid UTF-8
        self.declared: dict[str, list[Node]] = {}
        self.descriptions: dict[str, str] = {}
        self.used: dict[str, set[str]] = {}
        self.made: dict[str, Schema] = {}
        self.depth = self.steps = 0

    def text(self, node: Node) -> str:
        return self.data[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def part(self, node: Node, name: str) -> Node:
        found = node.child_by_field_name(name)
        if found is None:
            raise self.error(node, f"'{node.type}' without {name}")
        return found

    def error(self, node: Node, message: str) -> GrammarError:
        """An error at the place of a node; to be raised."""
        offset = len(self.data[: node.start_byte].decode())
        return error_at(self.data.decode(), offset, f"{message}.")

    def inexpressible(self, node: Node, what: str) -> GrammarError:
        """An error for what has no meaning in JSON, or would need a type checker."""
        return self.error(node, f"{what} cannot be written as JSON or needs a type checker")

    def name(self, node: Node) -> str:
        """The name of a member."""
        text = self.text(node)
        if node.type == "computed_property_name":
            inner = children(node)
            if len(inner) != 1 or inner[0].type not in ("string", "number"):
                raise self.error(node, f"the name {text[:40]} is not a string or a number")
            return self.name(inner[0])
        try:
            if node.type == "number":
                return number_name(text)
            if node.type == "string":
                return string_value(text)
        except ValueError as error:
            raise self.error(node, str(error)) from error
        if node.type != "property_identifier" or "\\" in text:
            raise self.error(node, f"the name {text[:40]} is not supported; write it as a string")
        return text

    def join(self, members: Members, more: Members) -> None:
        members.named.update(more.named)
        members.patterns.update(more.patterns)
        members.index = members.index if more.index is None else more.index

    def enum(self, node: Node) -> dict[str, Any]:
        values: dict[str, Any] = {}
        counter: int | None = 0
        for item in children(self.part(node, "body")):
            if item.type == "enum_assignment":
                name = self.name(self.part(item, "name"))
                value = self.literal(self.part(item, "value"))
                counter = value + 1 if isinstance(value, int) else None
            else:
                name, value = self.name(item), counter
                if counter is None:
                    raise self.error(item, "a member after a non-integer needs a value")
                counter += 1
            values[name] = value
        if not values:
            raise self.error(node, "an enum without members")
        return values

    def literal(self, node: Node) -> Any:
        text = self.text(node)
        try:
            if node.type == "string":
                return string_value(text)
            if re.match(r"-?\s*[.0-9]", text):
                return number_value(text)
        except ValueError as error:
            raise self.error(node, str(error)) from error
        if node.type in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[node.type]
        raise self.inexpressible(node, f"{text[:40]!r}")

    @contextmanager
    def deeper(self, node: Node, too_deep: str) -> Iterator[None]:
        """One level further down; bounds how deep that goes and how much is looked at in all."""
        self.depth, self.steps = self.depth + 1, self.steps + 1
        try:
            if self.depth > MAX_DEPTH:
                raise self.error(node, too_deep)
            if self.steps > MAX_STEPS:
                raise self.error(node, "the types refer to each other in too many ways")
            yield
        finally:
            self.depth -= 1

    # -- declarations -----------------------------------------------------------------------

    def read(self, tree: Node, root: str | None) -> Schema:
        self.check_syntax(tree)
        comment = ""
        for node in tree.named_children:
            if node.type == "comment":
                comment = comment_text(self.text(node))
                continue
            inner = node
            while inner.type in ("export_statement", "ambient_declaration"):
                found = [child for child in inner.named_children if child.type in _DECLARATIONS]
                nested = [c for c in inner.named_children if c.type == "ambient_declaration"]
                if not found and not nested:
                    break
                inner = (found or nested)[0]
            if inner.type not in _DECLARATIONS:
                raise self.error(node, "expected an interface, a type or an enum")
            name = self.text(self.part(inner, "name"))
            known = self.declared.setdefault(name, [])
            if known and not known[0].type == inner.type == "interface_declaration":
                raise self.error(inner, f"'{name}' is declared twice")
            known.append(inner)
            if comment:
                self.descriptions[name] = comment
            comment = ""
        name = self.root(root)
        schema = self.named(name, [], self.declared[name][0])
        return {**schema, "$defs": self.made}

    def root(self, name: str | None) -> str:
        names = ", ".join(self.declared) or "none"
        if name is not None:
            if name not in self.declared:
                raise GrammarError(f"There is no type '{name}'; declared are: {names}.")
            return name
        if not self.declared:
            raise GrammarError("The source declares no type.", line=1, column=1)
        used = set()
        for own, nodes in self.declared.items():
            for node in nodes:
                used |= {n for n in identifiers(node, self.text) if n != own}
        free = [own for own in self.declared if own not in used]
        if len(free) == 1 or len(self.declared) == 1:
            return (free or list(self.declared))[0]
        raise GrammarError(f"Name the type of the text with root=…; declared are: {names}.")

    def check_syntax(self, tree: Node) -> None:
        if not tree.has_error:
            return
        todo = [tree]
        while todo:
            node = todo.pop()
            if node.is_missing:
                raise self.error(node, f"expected {node.type!r}")
            if node.type == "ERROR":
                raise self.error(node, f"cannot read {self.text(node)[:40]!r}")
            todo.extend(child for child in reversed(node.children) if child.has_error)
            todo.extend(child for child in reversed(node.children) if child.is_missing)
        raise self.error(tree, "a syntax error")

    # -- types by name ----------------------------------------------------------------------

    def named(self, name: str, args: list[Schema], at: Node) -> Schema:
        """A reference to a declared type, made when first needed."""
        key = name if not args else f"{name}<{','.join(json.dumps(arg) for arg in args)}>"
        safe = re.sub(r"[^A-Za-z0-9_$]", "_", key)[:80]
        if key != name:
            safe += f"_{len(self.made)}" if key not in self.used else ""
        if key not in self.used:
            self.used[key] = {safe}
            if len(self.used) > MAX_TYPES:
                raise self.error(at, "the type needs itself with ever new arguments")
            self.made[safe] = {}
            schema = self.declaration(name, args, at)
            if name in self.descriptions:
                schema = {**schema, "description": self.descriptions[name]}
            self.made[safe] = schema
        (safe,) = self.used[key]
        return {"$ref": f"#/$defs/{safe}"}

    def declaration(self, name: str, args: list[Schema], at: Node) -> Schema:
        node = self.declared[name][0]
        if node.type == "enum_declaration":
            return {"enum": list(self.enum(node).values())}
        if node.type == "interface_declaration":
            return self.interface(name, args, at).schema()
        return self.type(self.part(node, "value"), self.bind(node, args, at))

    def bind(self, node: Node, args: list[Schema], at: Node) -> Env:
        """The arguments of a generic type under the names of its parameters."""
        params = node.child_by_field_name("type_parameters")
        names = params.named_children if params is not None else []
        env: Env = {}
        for position, param in enumerate(names):
            default = param.child_by_field_name("value")
            name = self.text(self.part(param, "name"))
            if position < len(args):
                env[name] = args[position]
            elif default is not None:
                inner = default.named_children[0] if default.type == "default_type" else default
                env[name] = self.type(inner, env)
            else:
                raise self.error(at, f"the type needs {len(names)} type arguments")
        if len(args) > len(names):
            raise self.error(at, f"the type takes {len(names)} type arguments, not {len(args)}")
        return env

    def interface(self, name: str, args: list[Schema], at: Node) -> Members:
        members = Members()
        own: dict[str, tuple[Schema, bool]] = {}
        for node in self.declared[name]:
            env = self.bind(node, args, at)
            for child in node.named_children:
                if child.type == "extends_type_clause":
                    for base in child.named_children:
                        self.join(members, self.members(base, env))
            body = self.body(self.part(node, "body"), env)
            for member in body.named.keys() & own.keys():
                if body.named[member] != own[member]:
                    raise self.error(node, f"'{member}' is declared twice, differently")
            own |= body.named
            self.join(members, body)
        return members

    # -- type expressions -------------------------------------------------------------------

    def type(self, node: Node, env: Env) -> Schema:
        with self.deeper(node, f"types nest more than {MAX_DEPTH} deep"):
            return self.type_now(node, env)

    def type_now(self, node: Node, env: Env) -> Schema:
        kind = node.type
        makers: dict[str, Callable[[Node, Env], Schema]] = {
            "predefined_type": self.predefined,
            "literal_type": self.literal_type,
            "type_identifier": self.identifier,
            "generic_type": self.generic,
            "union_type": self.union,
            "intersection_type": self.intersection,
            "object_type": lambda n, e: self.body(n, e).schema(),
            "tuple_type": self.tuple,
            "template_literal_type": self.template,
            "nested_type_identifier": self.enum_member,
            "index_type_query": self.keys,
        }
        if kind in makers:
            return makers[kind](node, env)
        inner = children(node)
        if kind in ("parenthesized_type", "readonly_type") and inner:
            return self.type(inner[0], env)
        if kind == "array_type":
            return {"type": "array", "items": self.type(inner[0], env)}
        raise self.inexpressible(node, f"'{self.text(node)[:40]}' ({kind.replace('_', ' ')})")

    def predefined(self, node: Node, env: Env) -> Schema:
        name = self.text(node)
        simple: dict[str, Schema] = {
            "string": {"type": "string"},
            "number": {"type": "number"},
            "boolean": {"type": "boolean"},
            "any": {},
            "unknown": {},
            "object": {"type": "object"},
            "never": NOTHING,
            "void": {UNDEFINED: True, **NOTHING},
        }
        if name not in simple:
            raise self.inexpressible(node, f"'{name}'")
        return simple[name]

    def literal_type(self, node: Node, env: Env) -> Schema:
        inner = node.named_children[0] if node.named_children else node.children[0]
        if inner.type == "undefined":
            return {UNDEFINED: True, **NOTHING}
        return {"const": self.literal(inner)}

    def identifier(self, node: Node, env: Env) -> Schema:
        name = self.text(node)
        if name in env:
            return env[name]
        if name in self.declared:
            return self.named(name, [], node)
        if name == "Date":
            return {"type": "string", "format": "date-time"}
        known = ", ".join([*self.declared][:8])
        raise self.error(node, f"'{name}' is not declared here; declared are: {known}")

    def generic(self, node: Node, env: Env) -> Schema:
        name = self.text(self.part(node, "name"))
        nodes = children(self.part(node, "type_arguments"))
        if name in self.declared:
            return self.named(name, [self.type(arg, env) for arg in nodes], node)
        if name in ("Array", "ReadonlyArray", "Set", "ReadonlySet") and len(nodes) == 1:
            return {"type": "array", "items": self.type(nodes[0], env)}
        if name in ("Record", "Map") and len(nodes) == 2:
            return self.record(nodes[0], self.type(nodes[1], env), env).schema()
        if name in ("Partial", "Required", "Readonly", "Pick", "Omit"):
            return self.members(node, env).schema()
        if name == "NonNullable" and len(nodes) == 1:
            return {"allOf": [self.type(nodes[0], env), {"not": {"type": "null"}}]}
        if name in ("Exclude", "Extract") and len(nodes) == 2:
            mine, other = (self.texts(arg, env) for arg in nodes)
            wanted = name == "Extract"
            return {"enum": [text for text in mine if (text in other) == wanted]}
        raise self.inexpressible(node, f"'{name}<…>'")

    def union(self, node: Node, env: Env) -> Schema:
        options: list[Schema] = []
        for child in operands(node):
            schema = self.type(child, env)
            options += schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
        if options and all(set(option) <= {"const", "enum"} for option in options):
            values = [v for o in options for v in (o["enum"] if "enum" in o else [o["const"]])]
            return {"enum": values}
        return {"anyOf": options}

    def intersection(self, node: Node, env: Env) -> Schema:
        parts = children(node)
        try:
            return self.members(node, env).schema()
        except GrammarError:
            # No objects with known members on both sides, such as string & {…}: both must hold.
            if any(part.type in ("object_type", "intersection_type") for part in parts):
                raise
        return {"allOf": [self.type(part, env) for part in parts]}

    def tuple(self, node: Node, env: Env) -> Schema:
        first: list[Schema] = []
        needed = 0
        rest: Schema | bool = False
        for child in children(node):
            kind, inner = child.type, child
            if kind in ("required_parameter", "optional_parameter"):  # a labelled element
                name = child.child_by_field_name("name")
                inner = self.part(child, "type").named_children[0]
                kind = "optional_type" if kind == "optional_parameter" else inner.type
                if name is not None and name.type == "rest_pattern":
                    kind = "rest_type"
            elif kind in ("optional_type", "rest_type"):
                inner = child.named_children[0]
            if rest is not False:
                raise self.inexpressible(child, "an element after the rest")
            schema = self.type(inner, env)
            if kind == "rest_type":
                if schema.get("type") != "array":
                    raise self.inexpressible(child, "a rest that is not an array")
                rest = schema.get("items", {})
            else:
                if kind != "optional_type" and needed < len(first):
                    raise self.error(child, "a required element follows an optional one")
                first.append(schema)
                needed = needed if kind == "optional_type" else len(first)
        made: Schema = {"type": "array", "prefixItems": first, "items": rest, "minItems": needed}
        return made if first else {"type": "array", "items": rest}

    def template(self, node: Node, env: Env) -> Schema:
        """A template literal type such as `${number}px`, as a pattern."""
        pattern = ""
        at = node.start_byte + 1
        for child in [*node.named_children, None]:
            end = child.start_byte if child is not None else node.end_byte - 1
            between = self.data[at:end].decode().replace("\r\n", "\n").replace("\r", "\n")
            if child is not None and child.type not in ("template_type",):
                continue
            pattern += quote_pattern(between)
            if child is None:
                break
            inner = child.named_children[0]
            name = self.text(inner)
            if name == "string":
                pattern += r"[\s\S]*"
            elif name == "number":
                pattern += f"({_NUMBER_TEXT})"
            elif name == "boolean":
                pattern += "(true|false)"
            else:
                options = [quote_pattern(text) for text in self.texts(inner, env)]
                pattern += "(" + "|".join(options) + ")"
            at = child.end_byte
        return {"type": "string", "pattern": f"^{pattern}$"}

    def enum_member(self, node: Node, env: Env) -> Schema:
        name, _, member = self.text(node).partition(".")
        found = self.declared.get(name, [])
        if found and found[0].type == "enum_declaration":
            values = self.enum(found[0])
            if member in values:
                return {"const": values[member]}
        raise self.error(node, f"'{self.text(node)}' is not a member of an enum declared here")

    def keys(self, node: Node, env: Env) -> Schema:
        """`keyof` an object type."""
        members = self.members(node.named_children[0], env)
        numbers = [name for name in members.named if re.fullmatch(_NUMBER_TEXT, name)]
        if numbers or members.index is not None or members.patterns:
            what = f"the keys of a type with {'numbers' if numbers else 'any names'} as names"
            raise self.inexpressible(node, what)
        return {"enum": list(members.named)}

    def texts(self, node: Node, env: Env) -> list[str]:
        """The texts of a type that is a choice between strings."""
        schema = self.opened(self.type(node, env))
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is None or not all(isinstance(value, str) for value in values):
            what = f"'{self.text(node)[:40]}' is not a choice between strings; it"
            raise self.inexpressible(node, what)
        return list(values)

    def opened(self, schema: Schema) -> Schema:
        """What a schema refers to."""
        seen = 0
        while "$ref" in schema and seen < MAX_DEPTH:
            schema, seen = self.made[schema["$ref"].rsplit("/", 1)[1]], seen + 1
        return schema

    # -- objects ----------------------------------------------------------------------------

    def members(self, node: Node, env: Env) -> Members:
        """The members of a type that is an object."""
        with self.deeper(node, "the type extends itself"):
            return self.members_now(node, env)

    def members_now(self, node: Node, env: Env) -> Members:
        if node.type == "object_type":
            return self.body(node, env)
        if node.type in ("parenthesized_type", "readonly_type"):
            return self.members(node.named_children[0], env)
        if node.type == "intersection_type":
            joined = Members()
            for child in children(node):
                more = self.members(child, env)
                for name, (schema, optional) in more.named.items():
                    old, was = joined.named.get(name, (schema, optional))
                    if old != schema:
                        more.named[name] = {"allOf": [old, schema]}, was and optional
                self.join(joined, more)
            return joined
        name = self.text(node.child_by_field_name("name") or node)
        arguments = node.child_by_field_name("type_arguments")
        nodes = children(arguments) if arguments else []
        if name in self.declared and name not in env:
            args = [self.type(arg, env) for arg in nodes]
            declared = self.declared[name][0]
            if declared.type == "interface_declaration":
                return self.interface(name, args, node)
            if declared.type == "type_alias_declaration":
                return self.members(self.part(declared, "value"), self.bind(declared, args, node))
        if name == "Record" and len(nodes) == 2:
            return self.record(nodes[0], self.type(nodes[1], env), env)
        if name in ("Partial", "Required", "Readonly") and len(nodes) == 1:
            base = self.members(nodes[0], env)
            if name != "Readonly":
                optional = name == "Partial"
                base.named = {key: (schema, optional) for key, (schema, _) in base.named.items()}
            return base
        if name in ("Pick", "Omit") and len(nodes) == 2:
            base, wanted = self.members(nodes[0], env), set(self.texts(nodes[1], env))
            base.named = {k: v for k, v in base.named.items() if (k in wanted) == (name == "Pick")}
            return base
        what = f"'{self.text(node)[:40]}' is not an object with known members; it"
        raise self.inexpressible(node, what)

    def record(self, key: Node, value: Schema, env: Env) -> Members:
        if key.type == "predefined_type" and self.text(key) == "string":
            return Members(index=value)
        if key.type == "predefined_type" and self.text(key) == "number":
            return Members(patterns={f"^{_NUMBER_TEXT}$": value})
        return Members(dict.fromkeys(self.texts(key, env), (value, False)))

    def body(self, node: Node, env: Env) -> Members:
        members = Members()
        # Where the last member ended: a comment behind it is about that member.
        comment, row = "", -1
        for child in node.named_children:
            if child.type == "comment":
                comment = comment_text(self.text(child))
                if child.start_point.row == row and members.named:
                    name, (schema, optional) = list(members.named.items())[-1]
                    members.named[name] = {"description": comment, **schema}, optional
                    comment = ""
                continue
            row = child.end_point.row
            if child.type == "property_signature":
                name = self.name(self.part(child, "name"))
                if name in members.named:
                    raise self.error(child, f"'{name}' is declared twice")
                if any(part.type.endswith("_modifier") for part in child.children):
                    raise self.error(child, "a member of a type has no modifier but readonly")
                annotation = child.child_by_field_name("type")
                schema = {} if annotation is None else self.type(annotation.named_children[0], env)
                optional = any(part.type == "?" for part in child.children)
                inner, absent = without_undefined(self.opened(schema))
                schema = inner if absent else schema
                if comment:
                    schema = {**schema, "description": comment}
                members.named[name] = schema, optional or absent
            elif child.type == "index_signature":
                self.index(child, members, env)
            else:
                raise self.inexpressible(child, f"'{self.text(child)[:40]}' ({child.type})")
            comment = ""
        return members

    def index(self, node: Node, members: Members, env: Env) -> None:
        key = node.child_by_field_name("index_type")
        annotation = self.part(node, "type")
        if key is None or annotation.type != "type_annotation":
            raise self.inexpressible(node, "a mapped type")
        self.join(members, self.record(key, self.type(annotation.named_children[0], env), env))
