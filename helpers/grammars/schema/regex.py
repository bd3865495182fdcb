"""Regular expressions as nodes: written for others, matched, and turned around.

The nodes come from `ecma` (patterns of JSON Schema) and `formats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import (
    Chars,
    Choice,
    Literal,
    Node,
    Repeat,
    Sequence,
    children,
    choice,
    sequence,
    show_bounds,
    walk,
)
from helpers.grammars.guidance import byte_tokenizer, compile_guidance
from helpers.grammars.schema.ecma import ANY, ANYTHING, RegexError, char_ranges, search

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_TEXTS = 200
"""Texts that a negative look-ahead may list."""


def search_all(pattern: str) -> list[Node]:
    """Read a pattern that may begin with look-aheads, as in rules for passwords.

    Args:
        pattern: An ECMA 262 regular expression.

    Returns:
        Nodes that all have to describe the whole text.

    Raises:
        RegexError: As `search` does; a negative look-ahead has to list what it refuses.

    >>> password = search_all("^(?=.*[0-9])(?!admin).{4,}$")
    >>> [all(fits(node, text) for node in password) for text in ("abc1", "abcd", "admin1")]
    [True, False, False]
    """
    nodes: list[Node] = []
    while pattern[:4] in ("^(?=", "^(?!") and (end := _closing(pattern, 1)):
        inner, rest = pattern[4:end], pattern[end + 1 :]
        if rest[:1] in ("*", "+", "?", "{", "|"):
            break
        if pattern[3] == "=":
            nodes.append(search(f"^(?:{inner})"))
        else:
            whole = inner.endswith("$") and not inner.endswith("\\$")
            texts = _texts(search(f"^(?:{inner[:-1] if whole else inner})$"))
            if texts is None:
                raise RegexError("a negative look-ahead that does not list a few texts")
            nodes.append(_avoiding(frozenset(texts), beginnings=not whole))
        pattern = "^" + rest
    if pattern != "^":
        nodes.append(search(pattern))
    return nodes


def _closing(pattern: str, start: int) -> int | None:
    """The index of the parenthesis that closes the one at `start`.

    None if there is none, or an alternative follows: `^(?=a)b|c` is a choice of which only the
    first part looks ahead.
    """
    depth, in_class, at, end = 0, False, start, None
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
            end = at if depth == 0 and end is None else end
        elif char == "|" and depth == 0:
            return None
        at += 1
    return end


def _texts(node: Node) -> list[str] | None:
    """All texts of a node, if they are few."""
    if isinstance(node, Literal):
        return [node.text]
    if isinstance(node, Chars):
        if sum(high - low + 1 for low, high in node.ranges) > 64:
            return None
        return [chr(code) for low, high in node.ranges for code in range(low, high + 1)]
    if isinstance(node, Repeat):
        inner = _texts(node.item)
        if inner is None or node.high is None or node.high > 4:
            return None
        counts = range(node.low, node.high + 1)
        parts = [_joined([inner] * count) for count in counts]
        return _all_of(parts)
    below = [_texts(child) for child in children(node)]
    return _all_of(below) if isinstance(node, Choice) else _joined(below)


def _all_of(parts: list[list[str] | None]) -> list[str] | None:
    texts: list[str] = []
    for part in parts:
        if part is None or len(texts) + len(part) > MAX_TEXTS:
            return None
        texts += part
    return texts


def _joined(parts: Iterable[list[str] | None]) -> list[str] | None:
    texts = [""]
    for part in parts:
        if part is None or len(texts) * len(part) > MAX_TEXTS:
            return None
        texts = [text + more for text in texts for more in part]
    return texts


def _avoiding(texts: frozenset[str], *, beginnings: bool) -> Node:
    """All texts that are none of some, or begin with none: the complement of a prefix tree."""
    if beginnings and "" in texts:
        return Chars(())
    options: list[Node] = [] if "" in texts else [Literal("")]
    heads: dict[str, set[str]] = {}
    for text in texts - {""}:
        heads.setdefault(text[0], set()).add(text[1:])
    known = [(ord(char), ord(char)) for char in heads]
    options.append(sequence([Chars(char_ranges(known, negated=True)), ANYTHING]))
    for char, rest in sorted(heads.items()):
        if not (beginnings and "" in rest):
            options.append(
                sequence([Literal(char), _avoiding(frozenset(rest), beginnings=beginnings)])
            )
    return choice(options)


def show_regex(node: Node, *, python: bool = False) -> str:
    """Write a node as a regular expression for Rust's (and llguidance's) syntax, or Python's.

    Args:
        node: A node without references and tokens.
        python: Whether Python's `re` will read it.

    Returns:
        The expression; it is meant to match whole texts.
    """
    if isinstance(node, Literal):
        return "".join(_code(ord(char), python) for char in node.text)
    if isinstance(node, Chars):
        if not node.ranges:
            return r"[^\x00-\U0010ffff]" if python else r"[^\x{0}-\x{10ffff}]"
        body = "".join(
            _code(low, python) + (f"-{_code(high, python)}" if high > low else "")
            for low, high in node.ranges
        )
        return f"[{body}]"
    if isinstance(node, Sequence):
        return "".join(_closed(item, python) for item in node.items)
    if isinstance(node, Choice):
        return "|".join(show_regex(option, python=python) for option in node.options)
    assert isinstance(node, Repeat), node
    # `(?:…)` around all, as Python refuses `a*{2}` and Rust reads it.
    return f"(?:{show_regex(node.item, python=python)})" + show_bounds(node.low, node.high)


def _closed(node: Node, python: bool) -> str:
    text = show_regex(node, python=python)
    return f"(?:{text})" if isinstance(node, Choice) else text


def _code(code: int, python: bool) -> str:
    if python:
        return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
    return f"\\x{{{code:x}}}"


def fits(node: Node, text: str) -> bool:
    """Whether a node describes a whole text, in a time that grows with its length alone.

    Python's `re` tries one way after the other, and some patterns have exponentially many, even for
    a text of 20 characters: all but the plainest go to llguidance, which follows all ways at once.

    Raises:
        RegexError: If that takes too many states.
    """
    if len(text) < 20 and _has_few_ways(node):
        return compiled(node).fullmatch(text) is not None
    try:
        matcher = _matcher(node).deep_copy()
    except GrammarError as error:
        raise RegexError(f"a pattern is too complex ({str(error)[-150:]})") from error
    data = byte_tokenizer().tokenize_bytes(b"x" + text.encode("utf-8", "surrogatepass"))
    count = matcher.try_consume_tokens(data)
    if matcher.is_error():
        raise RegexError(f"a pattern is too complex for a text of {len(text)} characters")
    return count == len(data) and bool(matcher.is_accepting())


@lru_cache(maxsize=5000)
def _has_few_ways(node: Node) -> bool:
    """Whether there are few ways to read a short text: few loops, with no choice inside."""
    parts = [part for part in walk(node) if isinstance(part, Repeat | Choice)]
    inside = (inner for part in parts if isinstance(part, Repeat) for inner in walk(part.item))
    return len(parts) <= 3 and not any(isinstance(inner, Repeat | Choice) for inner in inside)


@lru_cache(maxsize=500)
def _matcher(node: Node) -> LLMatcher:
    return matcher_of([node])


def matcher_of(nodes: list[Node]) -> LLMatcher:
    """A matcher for an x and then a text that all nodes describe: a lexeme cannot be empty."""
    terms = " & ".join(f"/{show_regex(node)}/" for node in nodes)
    return compile_guidance(f'start: T\nT: "x" R\nR: {terms}\n')


@lru_cache(maxsize=5000)
def compiled(node: Node) -> re.Pattern[str]:
    """The node as a compiled Python pattern; use `fullmatch`."""
    return re.compile(show_regex(node, python=True))


def of_length(low: int, high: int | None) -> Node:
    """All texts of `low` to `high` characters."""
    return Repeat(ANY, low, high) if high is None or high >= low else Chars(())


def all_but(texts: frozenset[str]) -> Node:
    """All texts except a few."""
    return _avoiding(texts, beginnings=False)
