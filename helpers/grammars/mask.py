"""Which tokens may come next: a grammar held against one model's vocabulary.

A `Vocabulary` is prepared once per model. `Matcher` is the state of one sequence. Ask `allows` for
the token that the model would have chosen anyway (microseconds); only when it is refused is the
whole mask worth its price (about two milliseconds).

>>> from helpers.grammars import Grammar
>>> matcher = Grammar.from_string('root ::= "yes" | "no"').matcher(vocabulary)  # doctest: +SKIP
>>> matcher.allows(token), matcher.forced()  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import GrammarError
from . import syntax

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Backend = Literal["auto", "llguidance", "native"]


class Compiled(Protocol):
    """What a matcher needs to know of a grammar."""

    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str:
        """The grammar as llguidance reads it."""

    @property
    def rules(self) -> syntax.Rules | None:
        """The grammar as GBNF rules, or None where it has none."""


def parser_limits() -> Any:
    """Bounds on what llguidance may spend; beyond them it reports an error instead of hanging."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=2_000,  # each new item is compared with all others of its row
        initial_lexer_fuel=5_000_000,
        step_lexer_fuel=1_000_000,
        step_max_items=3_000_000,
        max_lexer_states=50_000,  # about 100 MB
        verbose_errors=False,
    )


def model_vocab(model: Any) -> Any:
    """The vocabulary pointer of a `llama_cpp.Llama`."""
    import llama_cpp

    return llama_cpp.llama_model_get_vocab(model.model)


class Vocabulary:
    """The tokens of one model, prepared for llguidance; takes about a quarter of a second.

    Args:
        model: A `llama_cpp.Llama`, or whatever owns the model that `vocab` belongs to. It is kept
            alive: llguidance calls the model's tokenizer.
        vocab: Pointer to the vocabulary (`llama_vocab_p`); default: that of `model`.

    Attributes:
        size: Number of tokens.
        eog: Numbers of the tokens that end a generation, the model's end-of-text token first.
    """

    _of_model: weakref.WeakKeyDictionary[Any, Vocabulary] = weakref.WeakKeyDictionary()

    def __init__(self, model: Any, vocab: Any = None) -> None:
        import llama_cpp
        from llguidance.llamacpp import lltokenizer_from_vocab

        self.vocab = vocab if vocab is not None else model_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        ends = [t for t in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, t)]
        main: int = llama_cpp.llama_vocab_eos(self.vocab)
        if main in ends:
            ends.remove(main)
        self.eog: tuple[int, ...] = ((main,) if main >= 0 else ()) + tuple(ends)
        # A vocabulary without an end (-1 from llama.cpp) still needs a number for llguidance.
        with warnings.catch_warnings():
            # llguidance calls llama-cpp-python by names that have newer ones by now.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.tokenizer: LLTokenizer = lltokenizer_from_vocab(
                self.vocab,
                eos_token=list(self.eog) or [self.size],
                n_vocab=self.size + (not self.eog),
            )
        self.closed = False
        self._eog_set = frozenset(self.eog)
        self._owner = model
        self._prototypes: weakref.WeakKeyDictionary[Any, dict[bool, LLMatcher]] = (
            weakref.WeakKeyDictionary()
        )

    @classmethod
    def for_model(cls, model: Any) -> Vocabulary:
        """The vocabulary of a `llama_cpp.Llama`, prepared at the first call and then kept with it.

        Args:
            model: The loaded model.

        Returns:
            Always the same object for the same model.
        """
        found = cls._of_model.get(model)
        if found is None:
            # The cache must not keep its own key alive, so the owner is held weakly here.
            found = cls._of_model[model] = cls(weakref.proxy(model), model_vocab(model))
            weakref.finalize(model, found.close)
        return found

    def close(self) -> None:
        """Say that the model is gone: its tokenizer must not be called any more."""
        self.closed = True

    def check_open(self) -> None:
        """Raise if the model is gone.

        Raises:
            ValueError: After `close`.
        """
        if self.closed:
            raise ValueError("The model of this matcher has been closed; make a new matcher.")

    def is_eog(self, token: int) -> bool:
        """Whether a token ends a generation."""
        return token in self._eog_set

    def token_number(self, text: str) -> int:
        """The one token that a text such as `<think>` stands for.

        Args:
            text: The text, with its angle brackets.

        Returns:
            The token's number.

        Raises:
            GrammarError: If the text is several tokens in this vocabulary.
        """
        numbers = self.tokenizer.tokenize_str(text, parse_special=True)
        if len(numbers) != 1:
            raise GrammarError(
                f"{text} is not a single token of this model but {len(numbers)}; "
                f'write the text "{text}" as a literal instead.'
            )
        return int(numbers[0])

    def prototype(self, grammar: Compiled, *, forcing: bool) -> LLMatcher:
        """A fresh llguidance matcher, to be copied; compiled once per grammar and model.

        Args:
            grammar: The grammar.
            forcing: Whether forced texts are cut into tokens as the tokenizer would do it; such a
                matcher's masks leave out the other ways to cut them.

        Returns:
            The matcher; do not change it.

        Raises:
            GrammarError: If llguidance refuses the grammar.
        """
        from llguidance import LLMatcher

        self.check_open()
        made = self._prototypes.setdefault(grammar, {})
        if forcing not in made:
            text = grammar.guidance(self, forcing=forcing)
            matcher = LLMatcher(self.tokenizer, text, log_level=0, limits=parser_limits())
            if matcher.is_error():
                raise GrammarError(
                    f"llguidance cannot use this grammar: {matcher.get_error()[:500]}"
                )
            made[forcing] = matcher
        return made[forcing]


class Matcher(ABC):
    """The state of one sequence under a grammar.

    Attributes:
        vocabulary: The vocabulary its tokens are from.
        finished: Whether an end-of-generation token has been accepted.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.finished = False

    @property
    @abstractmethod
    def is_accepting(self) -> bool:
        """Whether the text so far is complete: the generation may end here."""

    @property
    @abstractmethod
    def must_end(self) -> bool:
        """Whether the text so far is complete and nothing can follow but the end."""

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
        return self.is_accepting if self.vocabulary.is_eog(token) else self._allows(token)

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
        else:
            self._accept(token)

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
            self._fill(words)
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

    @abstractmethod
    def forced(self) -> list[int]:
        """Tokens that have to come next, whatever the model thinks; not yet accepted.

        Returns:
            Zero or more tokens, in order, as the model's tokenizer would cut the forced text.
        """

    @abstractmethod
    def fork(self) -> Matcher:
        """A copy that goes its own way."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""

    def _unfinish(self, count: int, accepted: int) -> int:
        """Take back an end token if there is one; give back how many others to take back."""
        if not 0 <= count <= accepted + self.finished:
            raise ValueError(f"Cannot take back {count} tokens; {accepted} were accepted.")
        if count and self.finished:
            self.finished = False
            count -= 1
        return count

    @abstractmethod
    def _allows(self, token: int) -> bool: ...

    @abstractmethod
    def _accept(self, token: int) -> None: ...

    @abstractmethod
    def _fill(self, words: NDArray[np.uint32]) -> None: ...


class GuidanceMatcher(Matcher):
    """A matcher on llguidance: fast, and the default.

    Args:
        vocabulary: The model's tokens.
        grammar: The grammar.

    Raises:
        GrammarError: If llguidance refuses the grammar.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Compiled) -> None:
        super().__init__(vocabulary)
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
        self._check(self._state)
        return bool(self._state.is_stopped())

    def forced(self) -> list[int]:
        """Tokens that have to come next, whatever the model thinks; not yet accepted."""
        self.vocabulary.check_open()
        if self.is_finished:
            return []
        if self._forcing is None:
            self._forcing = self.vocabulary.prototype(self._grammar, forcing=True).deep_copy()
            self._forcing.consume_tokens(self._tokens)
        tokens = [int(token) for token in self._forcing.compute_ff_tokens()]
        self._check(self._forcing)
        # Where the text has to end after them, an end token may be among them; that is not text.
        for count, token in enumerate(tokens):
            if self.vocabulary.is_eog(token):
                return tokens[:count]
        return tokens

    def fork(self) -> GuidanceMatcher:
        """A copy that goes its own way."""
        copy = GuidanceMatcher(self.vocabulary, self._grammar)
        copy._state = self._state.deep_copy()
        copy._forcing = self._forcing and self._forcing.deep_copy()
        copy._tokens = list(self._tokens)
        copy.finished = self.finished
        return copy

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        count = self._unfinish(count, len(self._tokens))
        if count:
            del self._tokens[-count:]
            for state in filter(None, (self._state, self._forcing)):
                state.rollback(count)
                self._check(state)

    def _allows(self, token: int) -> bool:
        if self._state.validate_tokens([token]) == 1:
            return True
        self._check(self._state)
        return False

    def _accept(self, token: int) -> None:
        for state in filter(None, (self._state, self._forcing)):
            if not state.consume_token(token):
                self._check(state)
        self._tokens.append(token)

    def _fill(self, words: NDArray[np.uint32]) -> None:
        self.vocabulary.check_open()
        bits = np.frombuffer(self._state.compute_bitmask(), dtype="<u4")
        self._check(self._state)
        words[:] = bits[: words.size]

    def _check(self, state: LLMatcher) -> None:
        if state.is_error():
            raise GrammarError(
                "The grammar cannot be followed any further: "
                f"{state.get_error().splitlines()[0][:300]}. It probably allows too many "
                "ways to read the same text; make its alternatives begin differently."
            )


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


def byte_tokenizer() -> LLTokenizer:
    """A tokenizer whose tokens are the 256 bytes: judges texts without a model."""
    global _byte_tokenizer
    if _byte_tokenizer is None:
        from llguidance import LLTokenizer

        _byte_tokenizer = LLTokenizer("byte")
    return _byte_tokenizer


def check_guidance(text: str) -> LLMatcher:
    """Let llguidance read a grammar, and give back a matcher over bytes.

    Args:
        text: The grammar, as `Grammar.guidance` writes it.

    Returns:
        A fresh matcher on `byte_tokenizer`.

    Raises:
        GrammarError: If llguidance refuses the grammar.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(byte_tokenizer(), text, log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise GrammarError(f"llguidance cannot use this grammar: {matcher.get_error()[:500]}")
    return matcher


_byte_tokenizer: LLTokenizer | None = None
