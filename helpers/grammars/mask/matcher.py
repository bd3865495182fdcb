"""The state of one sequence under a grammar.

A `Vocabulary` is prepared once per model. `Matcher` is the state of one sequence. Ask `allows` for
the token that the model would have chosen anyway (microseconds); only when it is refused is the
whole mask worth its cost (about two milliseconds).

>>> from helpers.grammars import Grammar
>>> matcher = Grammar.from_string('root ::= "yes" | "no"').matcher(vocabulary)  # doctest: +SKIP
>>> matcher.allows(token), matcher.forced()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from helpers.grammars.guidance import check_going
from helpers.grammars.mask.vocabulary import Compiled, Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Matcher:
    """The state of one sequence under a grammar.

    Args:
        vocabulary: The model's tokens.
        grammar: The grammar.

    Attributes:
        vocabulary: The vocabulary its tokens are from.
        finished: Whether an end-of-generation token has been accepted.

    Raises:
        GrammarError: If llguidance refuses the grammar.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Compiled) -> None:
        self.vocabulary = vocabulary
        self.finished = False
        self._grammar = grammar
        self._state = vocabulary.prototype(grammar, forcing=False).deep_copy()
        # A second state, made when `forced` is first asked: see `Vocabulary.prototype`.
        self._forcing: LLMatcher | None = None
        self._tokens: list[int] = []

    @property
    def is_accepting(self) -> bool:
        """Whether the text so far is complete: the generation may end here."""
        return bool(self._state.is_accepting())

    @property
    def must_end(self) -> bool:
        """Whether the text so far is complete and nothing can follow but the end."""
        check_going(self._state)
        return bool(self._state.is_stopped())

    @property
    def is_finished(self) -> bool:
        """Whether nothing can be accepted any more: ended, or nothing left but the end."""
        return self.finished or self.must_end

    def allows(self, token: int) -> bool:
        """Whether this one token may come next; microseconds.

        Args:
            token: Number of the token. End-of-generation tokens may come when `is_accepting`.

        Returns:
            True if `accept(token)` would work.

        Raises:
            GrammarError: If the grammar is too ambiguous to go on.
        """
        if self.finished or not 0 <= token < self.vocabulary.size:
            return False
        if self.vocabulary.is_eog(token):
            return self.is_accepting
        if self._state.validate_tokens([token]) == 1:
            return True
        check_going(self._state)
        return False

    def allowed(self, tokens: list[int]) -> int:
        """How many of some tokens, none of which ends a text, may come next one after the other."""
        return 0 if self.finished else int(self._state.validate_tokens(tokens))

    def accept(self, token: int) -> None:
        """Advance by one token.

        Args:
            token: Number of the token.

        Raises:
            ValueError: If the token may not come here; the state is unchanged.
            GrammarError: If the grammar is too ambiguous to go on.
        """
        if not self.allows(token):
            raise ValueError(f"Token {token} may not come here; ask allows() before accept().")
        if self.vocabulary.is_eog(token):
            self.finished = True
            return
        for state in filter(None, (self._state, self._forcing)):
            if not state.consume_token(token):
                check_going(state)
        self._tokens.append(token)

    def mask(self) -> NDArray[np.uint32]:
        """One bit per token, 1 where it may come next.

        Returns:
            uint32 array of `ceil(size / 32)` words; bit `i % 32` of word `i // 32` is token `i`.

        Raises:
            GrammarError: If the grammar is too ambiguous to go on.
        """
        words = np.zeros((self.vocabulary.size + 31) // 32, dtype="<u4")
        if self.finished:
            return words
        if not self.must_end:
            self.vocabulary.check_open()
            bits = np.frombuffer(self._state.compute_bitmask(), dtype="<u4")
            check_going(self._state)
            words[:] = bits[: words.size]
        accepting = self.is_accepting
        for token in self.vocabulary.eog:
            bit = np.uint32(1 << (token % 32))
            if accepting:
                words[token // 32] |= bit
            else:
                words[token // 32] &= ~bit
        return words

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all refused tokens to minus infinity, in place.

        Args:
            logits: One number per token.
        """
        bits = np.unpackbits(self.mask().view(np.uint8), bitorder="little")
        logits[bits[: self.vocabulary.size] == 0] = -np.inf
        logits[self.vocabulary.size :] = -np.inf

    def forced(self) -> list[int]:
        """Tokens that have to come next, whatever the model thinks; not yet accepted.

        Returns:
            Zero or more tokens, in order, as the model's tokenizer would split the forced text.
        """
        self.vocabulary.check_open()
        if self.is_finished:
            return []
        if self._forcing is None:
            self._forcing = self.vocabulary.prototype(self._grammar, forcing=True).deep_copy()
            self._forcing.consume_tokens(self._tokens)
        tokens = [int(token) for token in self._forcing.compute_ff_tokens()]
        check_going(self._forcing)
        # Where the text has to end after them, an end token may be among them; that is not text.
        for count, token in enumerate(tokens):
            if self.vocabulary.is_eog(token):
                return tokens[:count]
        return tokens

    def fork(self) -> Matcher:
        """A copy that goes its own way."""
        copy = Matcher(self.vocabulary, self._grammar)
        copy._state = self._state.deep_copy()
        copy._forcing = self._forcing and self._forcing.deep_copy()
        copy._tokens = list(self._tokens)
        copy.finished = self.finished
        return copy

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens, an end token included."""
        accepted = len(self._tokens)
        if not 0 <= count <= accepted + self.finished:
            raise ValueError(f"Cannot take back {count} tokens; {accepted} were accepted.")
        if count and self.finished:
            self.finished = False
            count -= 1
        if count:
            del self._tokens[-count:]
            for state in filter(None, (self._state, self._forcing)):
                state.rollback(count)
                check_going(state)
