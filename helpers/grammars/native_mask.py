"""Masks from llama.cpp's own grammar sampler, for comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import GrammarError
from . import syntax
from .mask import Matcher
from .vocabulary import Vocabulary


class NativeMatcher(Matcher):
    """A matcher on llama.cpp's own sampler: the same language, slower, for comparison.

    llama.cpp keeps every reading of a text as a stack of its own. A grammar whose readings double
    with each character would stop the machine, so their number is counted here beforehand.

    Args:
        vocabulary: The model's tokens.
        rules: Checked rules that name no tokens: llama.cpp ends the process where the text of one
            token reaches into the place of a named one.

    Raises:
        GrammarError: If the rules name tokens, or llama.cpp refuses them.
    """

    MAX_STACKS = 32

    def __init__(self, vocabulary: Vocabulary, rules: syntax.Rules) -> None:
        from ._native_sampler import NativeSampler, control_tokens
        from .recognizer import Program

        super().__init__(vocabulary)
        vocabulary.check_open()
        self._rules = rules
        self._program = Program(rules)
        if self._program.has_tokens:
            raise GrammarError("llama.cpp's sampler is not safe for grammars that name tokens.")
        self._tokens: list[int] = []
        self._restart()
        self._check_stacks()
        self._sampler = NativeSampler(vocabulary.vocab, syntax.show_rules(rules))
        # llama.cpp matches control tokens by their text, which nobody would ever see.
        self._hidden = control_tokens(vocabulary.vocab, vocabulary.size)

    def _restart(self) -> None:
        from codecs import getincrementaldecoder

        from .recognizer import Recognizer

        self._accepting: bool | None = None
        self._reader = Recognizer(self._program)
        self._decoder = getincrementaldecoder("utf-8")("replace")

    @property
    def is_accepting(self) -> bool:
        """Whether the text so far is complete: the generation may end here."""
        if self._accepting is None:
            self.vocabulary.check_open()
            eog = self.vocabulary.eog
            self._accepting = bool(eog) and self._sampler.allows(eog[0])
        return self._accepting

    @property
    def must_end(self) -> bool:
        """Whether the text so far is complete and nothing can follow but the end."""
        return self._reader.accepting and not self._reader.waiting and self.is_accepting

    def forced(self) -> list[int]:
        """Nothing: llama.cpp's sampler cannot tell what is forced."""
        return []

    def fork(self) -> NativeMatcher:
        """A copy that goes its own way; here by reading everything again."""
        copy = NativeMatcher(self.vocabulary, self._rules)
        for token in self._tokens:
            copy._accept(token)
        copy.finished = self.finished
        return copy

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens; here by reading the rest again."""
        count = self._unfinish(count, len(self._tokens))
        if count:
            self.vocabulary.check_open()
            kept, self._tokens = self._tokens[:-count], []
            self._sampler.restart()
            self._restart()
            for token in kept:
                self._accept(token)

    def _allows(self, token: int) -> bool:
        self.vocabulary.check_open()
        return not self._hidden[token] and self._sampler.allows(token)

    def _accept(self, token: int) -> None:
        for char in self._decoder.decode(self.vocabulary.tokenizer.decode_bytes([token])):
            self._reader.step(char)
            self._check_stacks()
        self._sampler.accept(token)
        self._tokens.append(token)
        self._accepting = None

    def _check_stacks(self) -> None:
        if self._reader.stack_count() > self.MAX_STACKS:
            raise GrammarError(
                "The grammar allows too many ways to read the same text for llama.cpp's "
                "sampler; use llguidance, or make its alternatives begin differently."
            )

    def _fill(self, words: NDArray[np.uint32]) -> None:
        self.vocabulary.check_open()
        allowed = self._sampler.allowed(self.vocabulary.size) & ~self._hidden
        bits = np.zeros(words.size * 32, dtype=np.uint8)
        bits[: allowed.size] = allowed
        words[:] = np.packbits(bits, bitorder="little").view("<u4")
