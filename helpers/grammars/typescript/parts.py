"""What the readers of TypeScript share: members of objects, comments, quoted texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tree_sitter import Node

Schema = dict[str, Any]
Env = dict[str, Schema]

UNDEFINED = "x-undefined"
NOTHING: Schema = {"not": {}}


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
        return NOTHING, True
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


_ESCAPE = re.compile(
    r"\\(?:u\{([0-9A-Fa-f]+)\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(0[0-9]|\r\n|[\s\S]|$))"
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_ESCAPED |= dict.fromkeys(("\n", "\r", "\r\n", "\u2028", "\u2029"), "")  # a continued line


def string_value(literal: str) -> str:
    r"""The value of a string literal, as ECMAScript (12.9.4) has it.

    Args:
        literal: The literal with its quotes.

    Returns:
        The text.

    Raises:
        ValueError: If it has an escape that is none, or half of a surrogate pair.

    >>> string_value(r"'\x41\d\u{1F600}'") == "Ad\U0001f600"
    True
    """

    def unescape(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is not None:
            if int(code, 16) > 0x10FFFF:
                raise ValueError(f"{found[0][:20]} is beyond the last character, U+10FFFF")
            return chr(int(code, 16))
        char = found[4]
        if char[:1] in "ux123456789" or (len(char) == 2 and char not in _ESCAPED):  # "": the end
            raise ValueError(f"{found[0]} is not an escape")
        return _ESCAPED.get(char, char)

    text = _ESCAPE.sub(unescape, literal[1:-1])
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise ValueError("half of a surrogate pair is not a character")
    return text


def number_value(literal: str) -> int | float:
    """The value of a numeric literal, perhaps with a minus before it.

    Args:
        literal: The literal.

    Returns:
        The number; whole ones as int.

    Raises:
        ValueError: If it is none (`10n`, `017`), or too large for a float.

    >>> number_value("1_000"), number_value("-0x10"), number_value(".5")
    (1000, -16, 0.5)
    """
    text = re.sub(r"(?<=[0-9A-Fa-f])_(?=[0-9A-Fa-f])", "", literal)
    found = re.fullmatch(r"(-?)\s*(\S+)", text)
    sign, digits = (-1 if found[1] else 1, found[2]) if found else (1, "")
    if len(digits) > 300:
        raise ValueError(f"{digits[:20]}… is too large a number")
    if re.fullmatch(r"0[xX][0-9A-Fa-f]+|0[oO][0-7]+|0[bB][01]+|0|[1-9][0-9]*", digits):
        return sign * int(digits, 0)
    if re.fullmatch(r"((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", digits):
        number = float(digits)
        if number >= 1e300:  # near the end of the floats
            raise ValueError(f"{digits[:20]}… is too large a number")
        return sign * number
    raise ValueError(f"{literal[:40]!r} is not a number that JSON has")


def number_name(literal: str) -> str:
    """The name of a member that is written as a number: that number as JavaScript prints it.

    Args:
        literal: The literal.

    Returns:
        The name.

    Raises:
        ValueError: If it is none, or so small or large that it is printed with an exponent.
    """
    number = float(number_value(literal))
    if number.is_integer() and abs(number) < 1e21:
        return str(int(number))
    if "e" in repr(number):
        raise ValueError(f"{literal[:40]!r} as a name; write it as a string")
    return repr(number)


def quote_pattern(text: str) -> str:
    """A regular expression (ECMA 262) that matches exactly a text."""
    return re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\1", text)
