"""The parts that Lark grammars of replies are made of: texts, lexemes, rules, JSON.

Lexemes of prose are free of prefixes: none that matches can be continued to another match. So
llguidance, which takes the longest one, has nothing to choose. Control tokens cannot stand in a
lexeme; they end it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.grammars.gbnf.lark import to_lark

if TYPE_CHECKING:
    from helpers.grammars import Grammar
    from helpers.grammars.mask.vocabulary import Vocabulary


class Parts:
    """A grammar in the making.

    Args:
        vocabulary: The model's tokens; None to write control tokens as their texts.
        compact: Whether JSON has no blanks after `,` and `:`, or one after each. Where a small
            model may write more, it may write nothing else.

    Attributes:
        relaxed: What the grammar does not hold of the tools' schemas.
    """

    def __init__(self, vocabulary: Vocabulary | None, *, compact: bool = False) -> None:
        blank = "" if compact else " "
        self._layout = {
            "item_separator": f",{blank}",
            "key_separator": f":{blank}",
            "whitespace_flexible": False,
        }
        self.relaxed: list[str] = []
        self._vocabulary = vocabulary
        self._lines: dict[str, None] = {}  # an ordered set
        self._terminals: dict[str, str] = {}

    def text(self) -> str:
        """The whole grammar."""
        terminals = [f"{name}: {body}\n" for body, name in self._terminals.items()]
        return "".join([*self._lines, *terminals])

    def relax(self, tool: str, reason: str) -> None:
        """Note what is not held."""
        line = f"{tool}: {reason}"
        if line not in self.relaxed:
            self.relaxed.append(line)

    def split(self, text: str) -> list[str | int]:
        """Texts and control tokens; up to the first that ends a reply, which is never written."""
        if self._vocabulary is None:
            return [text] if text else []
        found: list[str | int] = []
        for part in self._vocabulary.split_special(text):
            if isinstance(part, int) and self._vocabulary.is_eog(part):
                break
            found.append(part)
        return found

    def is_text(self, text: str) -> bool:
        """Whether a text has no control token."""
        return self.split(text) == ([text] if text else [])

    def literal(self, text: str) -> str:
        """A text that has to come as it is."""
        parts = self.split(text)
        return " ".join(json.dumps(p) if isinstance(p, str) else f"<[{p}]>" for p in parts)

    def terminal(self, regex: str, *excluded: str) -> str:
        """A lexeme: what a regular expression matches, and no other of those given does."""
        body = " & ~".join(
            f"/{one.replace('/', chr(92) + '/')}/" for one in (regex, *excluded) if one
        )
        return self._terminals.setdefault(body, f"T{len(self._terminals)}")

    def upto(self, text: str, *excluded: str) -> str:
        """Anything, to the end of the first occurrence of a text."""
        parts = self.split(text)
        at = next((at for at, part in enumerate(parts) if isinstance(part, int)), len(parts))
        if at == len(parts) and parts:
            # A reader looks at no whitespace around it.
            bare, blanks = text.rstrip() or text, len(text) - len(text.rstrip() or text)
            again = f"(?s:.*){regex_of(bare.lstrip() or bare)}(?s:.{{{blanks + 1},}})"
            return self.terminal(f"(?s:.*){regex_of(text)}", again, *excluded)
        anything = f"({self.terminal('(?s:.+)', *excluded)})?"
        rest = " ".join(json.dumps(p) if isinstance(p, str) else f"<[{p}]>" for p in parts[at:])
        return f"{anything} {rest}"

    def without(self, text: str, *excluded: str) -> str:
        """Anything in which a text does not occur, or nothing."""
        return self.terminal("(?s:.*)", f"(?s:.*){regex_of(text)}(?s:.*)", *excluded)

    def rule(self, name: str, *options: str) -> str:
        """Define a rule, of parts that were made here; the same name twice is the same rule."""
        line = f"{name}: " + " | ".join(option.strip() or '""' for option in options) + "\n"
        self._lines[line] = None
        return name

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """JSON that a compiled schema allows."""
        whole = dict(schema) if isinstance(schema, Mapping) else {}
        return "%json " + json.dumps({**whole, "x-guidance": self._layout})

    def embed(self, grammar: Grammar, name: str) -> str:
        """A rule that is another grammar."""
        if grammar.rules is not None:
            number = self._vocabulary.token_number if self._vocabulary is not None else None
            self._lines[to_lark(grammar.rules, number, name)] = None
        else:
            text = grammar.guidance(self._vocabulary, forcing=True)
            self._lines[f"{name}:" + text.removeprefix("start:")] = None
        return name


def regex_of(text: str) -> str:
    """A regular expression that matches a text alone."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)
