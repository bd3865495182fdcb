"""The parts that a GBNF grammar is made of, as values, and how they are written down again.

A grammar is a dictionary from rule names to one of the nodes below. Every maker of grammars ends
here, and every user of them (recogniser, llguidance) starts here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_CODE_POINT = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
"""Code points as inclusive ranges: sorted, apart from each other, without NUL and surrogates."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A text that has to appear exactly; the empty text is allowed."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point out of some ranges, such as `[a-z_]`, `[^"]` or `.`."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the vocabulary, by number (`<[12]>`) or by text (`<think>`)."""

    number: int | None
    text: str | None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of another rule."""

    name: str
    offset: int = field(default=-1, compare=False)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One node after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several nodes."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node `low` to `high` times; `high` None means without end."""

    item: Node
    low: int
    high: int | None


Node = Literal | Chars | Token | Ref | Sequence | Choice | Repeat
Rules = dict[str, Node]

EMPTY = Literal("")
SHORT_BOUNDS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def sequence(items: list[Node]) -> Node:
    """Join nodes, without a wrapper around a single one."""
    if not items:
        return EMPTY
    return items[0] if len(items) == 1 else Sequence(tuple(items))


def choice(options: list[Node]) -> Node:
    """Offer nodes, without a wrapper around a single one."""
    return options[0] if len(options) == 1 else Choice(tuple(options))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside `node`."""
    if isinstance(node, Sequence):
        return node.items
    if isinstance(node, Choice):
        return node.options
    if isinstance(node, Repeat):
        return (node.item,)
    return ()


def make_ranges(
    pairs: list[tuple[int, int]], *, negated: bool = False, nul: bool = False
) -> Ranges:
    """Sort and join ranges, complement them if asked, and drop what no text can hold.

    Surrogates are not characters. NUL ends a C string, so llama.cpp can never produce it; a JSON
    string can hold it.
    """
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    if negated:
        starts = [0, *(high + 1 for _, high in joined)]
        ends = [*(low - 1 for low, _ in joined), MAX_CODE_POINT]
        joined = [pair for pair in zip(starts, ends, strict=True) if pair[0] <= pair[1]]
    return tuple(
        (max(low, first), min(high, last))
        for low, high in joined
        for first, last in ((0 if nul else 1, 0xD7FF), (0xE000, MAX_CODE_POINT))
        if low <= last and high >= first
    )


ANY_CHAR = Chars(make_ranges([(0, MAX_CODE_POINT)]))

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def _escape(code: int, special: str) -> str:
    char = chr(code)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char in special:
        # Only these have a backslash form in llama.cpp; anything else goes by number.
        return "\\" + char if char in '"[]-' else f"\\x{code:02x}"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    if code > 0x7E or code < 0x20:
        return f"\\u{code:04x}"
    return char


def quote(text: str) -> str:
    """Write a text as a GBNF literal, all of it printable ASCII."""
    return '"' + "".join(_escape(ord(char), '"') for char in text) + '"'


def show_ranges(ranges: Ranges) -> str:
    """Write ranges as a GBNF character class, the shorter of `[…]` and `[^…]`."""
    if ranges == ANY_CHAR.ranges:
        return "."
    outside = make_ranges(list(ranges), negated=True)
    negate = len(outside) < len(ranges)
    parts = []
    for low, high in outside if negate else ranges:
        first, last = _escape(low, "[]-^"), _escape(high, "[]-^")
        parts.append(
            first if low == high else f"{first}-{last}" if high > low + 1 else first + last
        )
    return ("[^" if negate else "[") + "".join(parts) + "]"


def show(node: Node) -> str:
    """Write a node as GBNF, on one line."""
    if isinstance(node, Literal):
        return quote(node.text)
    if isinstance(node, Chars):
        return show_ranges(node.ranges)
    if isinstance(node, Token):
        body = f"<[{node.number}]>" if node.text is None else node.text
        return "!" + body if node.negated else body
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Sequence):
        return " ".join(_grouped(item, inside=Sequence) for item in node.items)
    if isinstance(node, Choice):
        return " | ".join(show(option) for option in node.options)
    return _grouped(node.item, inside=Repeat) + show_bounds(node.low, node.high)


def _grouped(node: Node, *, inside: type[Sequence] | type[Repeat]) -> str:
    loose = isinstance(node, Choice) or (
        inside is Repeat
        # llama.cpp repeats nothing but the last symbol, and an empty literal is not a symbol.
        and (isinstance(node, Sequence | Repeat) or node == EMPTY)
    )
    return f"({show(node)})" if loose else show(node)


def show_bounds(low: int, high: int | None) -> str:
    """Write how often something repeats, in the notation that grammars and regexes share."""
    for short, bounds in SHORT_BOUNDS.items():
        if bounds == (low, high):
            return short
    if high is None:
        return f"{{{low},}}"
    return f"{{{low}}}" if low == high else f"{{{low},{high}}}"


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes inside it, in order."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(reversed(children(node)))
