"""Writes a GBNF grammar in llguidance's Lark dialect without changing its language.

llguidance splits a grammar into lexemes and matches each of them greedily. Its own converter
makes lexemes of whole terminal rules, and thereby another language: `[a-z]+ "x"` then matches
nothing, because the loop takes every x. Here a lexeme is always a single character. Whatever
overlaps at one place then has the same length, so greed has nothing to choose, and the parser,
which keeps every reading, decides alone. Checking a token costs microseconds that way too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from os.path import commonprefix

from helpers.errors import GrammarError
from helpers.grammars.gbnf.checks import reachable
from helpers.grammars.gbnf.syntax import (
    ANY_CHAR,
    Chars,
    Choice,
    Literal,
    Node,
    Ref,
    Rules,
    Sequence,
    Token,
    show_bounds,
)

MAX_CLASSES = 20_000
"""Different characters and classes: llguidance's time for them grows faster than their number."""


def to_lark(
    rules: Rules, token_number: Callable[[str], int] | None = None, start: str = "start"
) -> str:
    r"""Write checked rules as a Lark grammar for llguidance.

    Args:
        rules: Rules in which every reference is defined; only those that `root` reaches are used.
        token_number: Finds the token that a text such as `<think>` stands for; needed only by
            grammars that name tokens.
        start: What `root` is called there; other names are `r` or `C` and a number.

    Returns:
        The grammar's text.

    >>> from helpers.grammars.gbnf.parser import parse
    >>> print(to_lark(parse('root ::= [ab] "c"').rules))
    start: C0 C1
    C0: /[\x{61}-\x{62}]/
    C1: /[\x{63}-\x{63}]/
    <BLANKLINE>
    """
    writer = _Writer(rules, token_number, start)
    used = reachable(rules)
    lines = [
        f"{writer.names[name]}: {writer.write(node)}"
        for name, node in rules.items()
        if name in used
    ]
    lines += [f"{name}: /{_class(ranges)}/" for ranges, name in writer.classes.items()]
    return "\n".join(lines) + "\n"


class _Writer:
    def __init__(self, rules: Rules, token_number: Callable[[str], int] | None, start: str) -> None:
        self.token_number = token_number
        self.names = {name: f"r{number}" for number, name in enumerate(rules)}
        self.names["root"] = start
        self.classes: dict[tuple[tuple[int, int], ...], str] = {}

    def write(self, node: Node) -> str:
        if isinstance(node, Literal):
            names = [self.terminal(((ord(char), ord(char)),)) for char in node.text]
            return " ".join(names) if names else '""'
        if isinstance(node, Chars):
            return self.terminal(node.ranges)
        if isinstance(node, Token):
            return self.token(node)
        if isinstance(node, Ref):
            return self.names[node.name]
        if isinstance(node, Sequence):
            return " ".join(self.grouped(item) for item in node.items)
        if isinstance(node, Choice):
            options = node.options if isinstance(node, _Tree) else _share_beginnings(node)
            return " | ".join(self.grouped(option) for option in options)
        return f"({self.write(node.item)}){show_bounds(node.low, node.high)}"

    def token(self, node: Token) -> str:
        number = node.number
        if node.text is not None:
            if self.token_number is None:
                raise GrammarError(f"The token {node.text} means something only to a model.")
            number = self.token_number(node.text)
        return f"<[{'^' if node.negated else ''}{number}]>"

    def grouped(self, node: Node) -> str:
        text = self.write(node)
        return f"({text})" if isinstance(node, Choice) else text

    def terminal(self, ranges: tuple[tuple[int, int], ...]) -> str:
        if len(self.classes) > MAX_CLASSES:
            raise GrammarError(
                f"The grammar has more than {MAX_CLASSES:,} different characters and classes."
            )
        return self.classes.setdefault(ranges, f"C{len(self.classes)}")


class _Tree(Choice):
    """A choice whose options begin differently already."""


def _share_beginnings(node: Choice) -> tuple[Node, ...]:
    """Write `"one" | "only"` as `"on" ("e" | "ly")`: llguidance follows each option separately."""
    texts = {option.text for option in node.options if isinstance(option, Literal)}
    if len(texts) < 20:
        return node.options
    others = [option for option in node.options if not isinstance(option, Literal)]
    return (*others, *_tree(sorted(texts), 0))


def _tree(texts: list[str], depth: int) -> list[Node]:
    """Sorted texts as options that begin differently."""
    # Parentheses nest here, and llguidance reads them by recursion.
    if depth > 20:
        return [Literal(text) for text in texts]
    options: list[Node] = []
    for _, group in groupby(texts, key=lambda text: text[:1]):
        words = list(group)
        shared = commonprefix(words)  # noqa: RUF071 (characters are meant)
        if len(words) == 1:
            options.append(Literal(shared))
        else:
            rest = _Tree(tuple(_tree([word[len(shared) :] for word in words], depth + 1)))
            options.append(Sequence((Literal(shared), rest)))
    return options


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    if ranges == ANY_CHAR.ranges:
        return r"[^\x{0}]"
    if not ranges:
        return r"[^\x{0}-\x{10ffff}]"
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges) + "]"
