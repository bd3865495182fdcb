"""A grammar written in GBNF: what `Grammar` asks of it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from helpers.grammars.explain import Explanation, matching, mismatch
from helpers.grammars.gbnf.checks import check
from helpers.grammars.gbnf.lark import to_lark
from helpers.grammars.gbnf.parser import parse
from helpers.grammars.gbnf.recognizer import Program, Recognizer
from helpers.grammars.gbnf.syntax import Token, walk
from helpers.grammars.guidance import compile_guidance

if TYPE_CHECKING:
    from helpers.grammars.mask.vocabulary import Vocabulary


class GbnfSource:
    """Reads and checks GBNF.

    Args:
        text: The grammar; its rule `root` describes the whole text.

    Raises:
        GrammarError: With line, column and what was expected, if anything is wrong with it.
    """

    kind = "GBNF"
    schema = None
    relaxed: tuple[str, ...] = ()

    def __init__(self, text: str) -> None:
        parsed = parse(text)
        self.warnings = tuple(check(parsed))
        self.gbnf = text
        self.rules = parsed.rules
        # Token numbers mean something only to a model. All else llguidance compiles once now, so
        # that nothing is left to fail at generation.
        nodes = (node for rule in self.rules.values() for node in walk(rule))
        if not any(isinstance(node, Token) for node in nodes):
            compile_guidance(self.guidance(None, forcing=False))

    @cached_property
    def _program(self) -> Program:
        return Program(self.rules)

    def content(self) -> str:
        """What defines the grammar."""
        return self.gbnf

    def matches(self, text: str, *, any_order: bool) -> bool:
        """Whether a text is a complete text of this grammar."""
        return self.explain(text).matches

    def explain(self, text: str) -> Explanation:
        """Where a text stops matching."""
        reader = Recognizer(self._program)
        for position, char in enumerate(text):
            if not reader.step(char):
                expected = (*reader.expected(), *(["the end"] if reader.accepting else []))
                return mismatch(text, position, expected)
        return matching(text) if reader.accepting else mismatch(text, len(text), reader.expected())

    def problems(self, text: str) -> list[str]:
        """What `explain` finds: a GBNF grammar enforces everything."""
        found = self.explain(text)
        return [] if found.matches else [found.message]

    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str:
        """A Lark grammar for llguidance."""
        head = "" if forcing else '%llguidance {"no_forcing": true}\n'
        return head + to_lark(self.rules, vocabulary.token_number if vocabulary else None)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as its text, which is read again."""
        return GbnfSource, (self.gbnf,)
