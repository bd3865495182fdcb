"""The JSON Schema of TypeScript types: interfaces, aliases, enums, generics; by tree-sitter.

Objects hold the declared members only, as TypeScript's own check of object literals has it.
`Date` is a text in the form of RFC 3339. What has no meaning in JSON (functions, symbols) and what
would need a type checker (conditional and mapped types) is refused with its line and column.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..errors import GrammarError
from ._typescript_parts import Env, Members, Schema, comment_text, identifiers
from ._typescript_types import TypeReader

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_LENGTH = 200_000
MAX_TYPES = 2_000
_DECLARATIONS = ("interface_declaration", "type_alias_declaration", "enum_declaration")


def typescript_schema(source: str, root: str | None = None) -> Schema:
    """Read type declarations.

    Args:
        source: TypeScript source; only interfaces, type aliases and enums, comments are fine.
        root: Name of the type that the text has; default: the one that no other type uses.

    Returns:
        A JSON Schema; comments before members are its descriptions.

    Raises:
        GrammarError: With line and column, for faults of syntax and types that JSON cannot hold.

    >>> typescript_schema("type Answer = 'yes' | 'no'")["$defs"]["Answer"]
    {'enum': ['yes', 'no']}
    """
    import tree_sitter_typescript
    from tree_sitter import Language, Parser

    if not isinstance(source, str):
        raise GrammarError(f"TypeScript source is a str, not {type(source).__name__}.")
    if len(source) > MAX_LENGTH:
        raise GrammarError(f"The source has more than {MAX_LENGTH} characters.")
    data = source.encode("utf-8", "replace")
    tree = Parser(Language(tree_sitter_typescript.language_typescript())).parse(data)
    return _Reader(data).read(tree.root_node, root)


class _Reader(TypeReader):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.declared: dict[str, list[Node]] = {}
        self.descriptions: dict[str, str] = {}
        self.used: dict[str, set[str]] = {}
        self.made: dict[str, Schema] = {}
        self.depth = self.steps = 0

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
                raise self.fault(node, "expected an interface, a type or an enum")
            name = self.text(self.part(inner, "name"))
            known = self.declared.setdefault(name, [])
            if known and not known[0].type == inner.type == "interface_declaration":
                raise self.fault(inner, f"'{name}' is declared twice")
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
        raise GrammarError(f"Say which type the text has, root=…; declared are: {names}.")

    def check_syntax(self, tree: Node) -> None:
        if not tree.has_error:
            return
        todo = [tree]
        while todo:
            node = todo.pop()
            if node.is_missing:
                raise self.fault(node, f"expected {node.type!r}")
            if node.type == "ERROR":
                raise self.fault(node, f"cannot read {self.text(node)[:40]!r}")
            todo.extend(child for child in reversed(node.children) if child.has_error)
            todo.extend(child for child in reversed(node.children) if child.is_missing)
        raise self.fault(tree, "a fault of syntax")

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
                raise self.fault(at, "the type needs itself with ever new arguments")
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
                raise self.fault(at, f"the type needs {len(names)} type arguments")
        if len(args) > len(names):
            raise self.fault(at, f"the type takes {len(names)} type arguments, not {len(args)}")
        return env

    def interface(self, name: str, args: list[Schema], at: Node) -> Members:
        members = Members()
        for node in self.declared[name]:
            env = self.bind(node, args, at)
            for child in node.named_children:
                if child.type == "extends_type_clause":
                    for base in child.named_children:
                        self.join(members, self.members(base, env))
            self.join(members, self.body(self.part(node, "body"), env))
        return members
