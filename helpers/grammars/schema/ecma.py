r"""Reads the regular expressions of JSON Schema (ECMA 262) into nodes, and writes them for others.

The dialects differ in what matters: `\d` is ten digits in ECMA 262 and some hundred in Python and
Rust, `$` also matches before a last newline in Python, `.` stops at other line ends. Everything
is therefore spelled out here as character ranges, with one meaning for all who read it.
Source: ECMA-262, section 22.2.1 (Patterns); the JSON Schema specification refers to it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from helpers.grammars.gbnf.syntax import (
    MAX_CODE_POINT,
    SHORT_BOUNDS,
    Chars,
    Literal,
    Node,
    Ranges,
    Repeat,
    choice,
    make_ranges,
    sequence,
)

MAX_LENGTH = 20_000
MAX_DEPTH = 60
MAX_COUNT = 100_000


class RegexError(ValueError):
    """A regular expression that cannot be read, or asks for what no automaton can do."""


class _Anchor:
    """`^` or `$`, while parsing; `search` takes them out."""

    def __init__(self, end: bool) -> None:
        self.end = end


def char_ranges(pairs: list[tuple[int, int]], *, negated: bool = False) -> Ranges:
    """Ranges of characters, or of all others; NUL is one."""
    return make_ranges(pairs, negated=negated, nul=True)


_DIGIT = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_BLANKS = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"
_SPACE = [*((ord(char), ord(char)) for char in _BLANKS), (0x2000, 0x200A)]
_LINE_ENDS = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CLASSES = {
    "d": char_ranges(_DIGIT),
    "D": char_ranges(_DIGIT, negated=True),
    "w": char_ranges(_WORD),
    "W": char_ranges(_WORD, negated=True),
    "s": char_ranges(_SPACE),
    "S": char_ranges(_SPACE, negated=True),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}

ANY = Chars(char_ranges([(0, MAX_CODE_POINT)]))
ANYTHING = Repeat(ANY, 0, None)


@lru_cache(maxsize=2000)
def search(pattern: str) -> Node:
    r"""Read a pattern as JSON Schema means it: found anywhere, unless anchored.

    Args:
        pattern: An ECMA 262 regular expression.

    Returns:
        A node that describes the whole texts in which the pattern is found.

    Raises:
        RegexError: If it is not a regular expression, or uses look-around, back references, word
            boundaries or anchors in the middle.

    >>> from helpers.grammars.schema.regex import show_regex
    >>> show_regex(search("^a"))
    '\\x{61}(?:[\\x{0}-\\x{d7ff}\\x{e000}-\\x{10ffff}])*'
    """
    if len(pattern) > MAX_LENGTH:
        raise RegexError(f"the pattern has more than {MAX_LENGTH} characters")
    parser = _Parser(pattern)
    tree = parser.alternatives(0)
    if parser.at < len(pattern):
        raise RegexError(f"unexpected {pattern[parser.at]!r} at character {parser.at + 1}")
    return choice([_whole(option) for option in _options(tree)])


_Tree = tuple[str, list["_Tree"]] | Node | _Anchor


def _options(tree: _Tree) -> list[list[_Tree]]:
    """A tree as alternatives of flat sequences, opening the groups in which anchors hide."""
    if isinstance(tree, tuple) and tree[0] == "|":
        return [option for branch in tree[1] for option in _options(branch)]
    items = list(tree[1]) if isinstance(tree, tuple) and tree[0] == "," else [tree]
    for at, item in enumerate(items):
        if isinstance(item, tuple) and _has_anchor(item):
            found = []
            for option in _options(item):
                found += _options((",", [*items[:at], *option, *items[at + 1 :]]))
                if len(found) > 200:
                    raise RegexError("too many alternatives with anchors")
            return found
    return [items]


def _has_anchor(tree: _Tree) -> bool:
    if isinstance(tree, tuple):
        return any(_has_anchor(child) for child in tree[1])
    return isinstance(tree, _Anchor)


def _whole(items: list[_Tree]) -> Node:
    start = end = False
    while items and isinstance(items[0], _Anchor) and not items[0].end:
        items, start = items[1:], True
    while items and isinstance(items[-1], _Anchor) and items[-1].end:
        items, end = items[:-1], True
    nodes = [_node(item) for item in items]
    return sequence([*([] if start else [ANYTHING]), *nodes, *([] if end else [ANYTHING])])


def _node(tree: _Tree) -> Node:
    if isinstance(tree, _Anchor):
        raise RegexError("'^' or '$' in the middle of a pattern")
    if isinstance(tree, tuple):
        kind, parts = tree
        if kind == "|":
            return choice([_node(part) for part in parts])
        return sequence([_node(part) for part in parts])
    return tree


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self, count: int = 1) -> str:
        return self.pattern[self.at : self.at + count]

    def alternatives(self, depth: int) -> _Tree:
        if depth > MAX_DEPTH:
            raise RegexError("groups are nested too deep")
        branches = [self.items(depth)]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.items(depth))
        return branches[0] if len(branches) == 1 else ("|", branches)

    def items(self, depth: int) -> _Tree:
        found: list[_Tree] = []
        while (char := self.peek()) and char not in "|)":
            item = self.atom(char, depth)
            found.append(self.quantified(item))
        return found[0] if len(found) == 1 else (",", found)

    def quantified(self, item: _Tree) -> _Tree:
        bounds = self.bounds()
        if bounds is None:
            return item
        low, high = bounds
        if self.peek() == "?":  # lazy: the same language
            self.at += 1
        if self.bounds() is not None:
            raise RegexError("a repetition of a repetition needs a group")
        if _has_anchor(item):
            raise RegexError("a repeated '^' or '$'")
        return Repeat(_node(item), low, high)

    def bounds(self) -> tuple[int, int | None] | None:
        char = self.peek()
        if char in SHORT_BOUNDS:
            self.at += 1
            return SHORT_BOUNDS[char]
        found = re.compile(r"\{(\d{1,9})(?:(,)(\d{1,9})?)?\}").match(self.pattern, self.at)
        if found is None:
            return None
        self.at = found.end()
        low = int(found[1])
        high = low if found[2] is None else int(found[3]) if found[3] else None
        if max(low, high or 0) > MAX_COUNT:
            raise RegexError(f"more than {MAX_COUNT} repetitions")
        if high is not None and high < low:
            raise RegexError("reversed bounds of a repetition")
        return low, high

    def atom(self, char: str, depth: int) -> _Tree:
        if char == "(":
            return self.group(depth)
        self.at += 1
        if char == "[":
            return self.char_class()
        if char == ".":
            return Chars(char_ranges(_LINE_ENDS, negated=True))
        if char == "^":
            return _Anchor(end=False)
        if char == "$":
            return _Anchor(end=True)
        if char in "*+?":
            raise RegexError(f"nothing to repeat before {char!r}")
        if char == "\\":
            code = self.escape(in_class=False)
            return Chars(code) if isinstance(code, tuple) else Literal(chr(code))
        if 0xD800 <= ord(char) <= 0xDFFF:
            raise RegexError("a lone surrogate")
        return Literal(char)

    def group(self, depth: int) -> _Tree:
        if found := re.compile(r"\((\?:|\?<[A-Za-z_]\w*>|(?!\?))").match(self.pattern, self.at):
            self.at = found.end()
            tree = self.alternatives(depth + 1)
            if self.peek() != ")":
                raise RegexError("a group without its ')'")
            self.at += 1
            return tree if isinstance(tree, tuple) else (",", [tree])
        if self.peek(3) in ("(?=", "(?!") or self.peek(4) in ("(?<=", "(?<!"):
            raise RegexError("look-ahead and look-behind cannot be part of a grammar")
        raise RegexError(f"unknown group {self.peek(4)!r}")

    def char_class(self) -> Node:
        negated = self.peek() == "^"
        self.at += negated
        pairs: list[tuple[int, int]] = []
        while self.peek() != "]":
            low = self.class_item()
            if self.peek() == "-" and self.peek(2) not in ("-]", "-"):
                self.at += 1
                high = self.class_item()
                if isinstance(low, int) and isinstance(high, int):
                    if high < low:
                        raise RegexError("a range that runs backwards")
                    pairs.append((low, high))
                    continue
                for item in (low, ord("-"), high):
                    pairs += item if isinstance(item, tuple) else [(item, item)]
                continue
            pairs += low if isinstance(low, tuple) else [(low, low)]
        self.at += 1
        return Chars(char_ranges(pairs, negated=negated))

    def class_item(self) -> int | Ranges:
        char = self.peek()
        if not char:
            raise RegexError("a character class without its ']'")
        self.at += 1
        if char != "\\":
            return ord(char)
        if self.peek() == "b":
            self.at += 1
            return 8
        return self.escape(in_class=True)

    def escape(self, *, in_class: bool) -> int | Ranges:
        char = self.peek()
        if not char:
            raise RegexError("a lone '\\' at the end")
        self.at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if char == "0" and self.peek().isdigit():
            raise RegexError("octal escapes")
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "c" and re.match(r"[A-Za-z]", self.peek()):
            self.at += 1
            return ord(self.pattern[self.at - 1]) % 32
        if char in "xu":
            return self.hexadecimal(char)
        if char in "pP":
            raise RegexError(f"Unicode properties such as \\{char}{{…}}")
        if char in "bB" and not in_class:
            raise RegexError("word boundaries such as \\b")
        if char in "123456789k":
            raise RegexError("back references")
        if char.isalpha() and char not in "aeghijlmoqyzAZ":
            raise RegexError(f"unknown escape \\{char}")
        if char in "AZz":
            raise RegexError(f"\\{char} is not an anchor of ECMA 262; use ^ and $")
        return ord(char)

    def hexadecimal(self, kind: str) -> int:
        braces = re.compile(r"\{([0-9A-Fa-f]{1,8})\}").match(self.pattern, self.at)
        if braces and kind == "u":
            self.at = braces.end()
            code = int(braces[1], 16)
        else:
            length = {"x": 2, "u": 4}[kind]
            digits = self.peek(length)
            if not re.fullmatch(f"[0-9A-Fa-f]{{{length}}}", digits):
                raise RegexError(f"\\{kind} without {length} hexadecimal digits")
            self.at += length
            code = int(digits, 16)
            pair = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self.pattern, self.at)
            if 0xD800 <= code < 0xDC00 and pair:
                self.at = pair.end()
                code = 0x10000 + ((code - 0xD800) << 10) + int(pair[1], 16) - 0xDC00
        if code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            raise RegexError(f"U+{code:04X} is not a character")
        return code
