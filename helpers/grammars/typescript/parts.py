"""What the readers of TypeScript share: members of objects, comments, quoted texts."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tree_sitter import Node

Schema = dict[str, Any]
Env = dict[str, Schema]

UNDEFINED = "x-undefined"


@dataclass
class Members:
    """What is in an object: named members in order, and what other names may hold."""

    named: dict[str, tuple[Schema, bool]] = field(default_factory=dict)  # schema, optional
    index: Schema | None = None
    patterns: dict[str, Schema] = field(default_factory=dict)

    def schema(self) -> Schema:
        """The object as a JSON Schema."""
        made: Schema = {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in self.named.items()},
            "required": [name for name, (_, optional) in self.named.items() if not optional],
            "additionalProperties": False if self.index is None else self.index,
        }
        if self.patterns:
            made["patternProperties"] = self.patterns
        return made


def without_undefined(schema: Schema) -> tuple[Schema, bool]:
    """A member's schema without `undefined`, which in JSON means that the member is not there."""
    if UNDEFINED in schema:
        return {"not": {}}, True
    options = schema.get("anyOf")
    if options and any(UNDEFINED in option for option in options):
        kept = [option for option in options if UNDEFINED not in option]
        return (kept[0] if len(kept) == 1 else {"anyOf": kept}), True
    return schema, False


def children(node: Node) -> list[Node]:
    """The named parts of a node, without comments."""
    return [child for child in node.named_children if child.type != "comment"]


def operands(node: Node) -> list[Node]:
    """What a union joins: `a | b | c` is read as `(a | b) | c`, as deep as it is long."""
    found: list[Node] = []
    todo = [node]
    while todo:
        part = todo.pop()
        if part.type == node.type:
            todo += reversed(children(part))
        else:
            found.append(part)
    return found


def identifiers(node: Node, text: Callable[[Node], str]) -> set[str]:
    """The names of types that are used in a declaration."""
    found: set[str] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node.type == "type_identifier":
            found.add(text(node))
        elif node.type == "nested_type_identifier":
            found.add(text(node).partition(".")[0])
        todo.extend(node.named_children)
        if node.type == "extends_type_clause":
            found |= {text(child) for child in node.named_children}
    return found


def comment_text(text: str) -> str:
    """What a comment says, without its marks and line breaks."""
    body = text[2:].removesuffix("*/") if text.startswith("/*") else text[2:]
    lines = [line.strip().lstrip("*").strip() for line in body.splitlines()]
    return " ".join(line for line in lines if line)


def unquote(text: str) -> str:
    """The value of a string literal; other texts as they are."""
    if text[:1] not in ("'", '"'):
        return text
    # JavaScript and Python agree on these escapes, but for \u{…} and \/.
    text = re.sub(r"\\u\{([0-9A-Fa-f]+)\}", lambda m: f"\\U{int(m[1], 16):08x}", text)
    try:
        return str(ast.literal_eval(text.replace("\\/", "/")))
    except (ValueError, SyntaxError):
        return text[1:-1]


def quote_pattern(text: str) -> str:
    """A regular expression (ECMA 262) that matches exactly a text."""
    return re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\1", text)
