"""A model's tokens as llguidance needs them."""

from __future__ import annotations

import ctypes
import re
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from helpers.errors import GrammarError
from helpers.grammars.guidance import compile_guidance

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


class Compiled(Protocol):
    """What a matcher needs to know of a grammar."""

    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str:
        """The grammar as llguidance reads it."""


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
        from llguidance import LLTokenizer

        self.vocab = vocab if vocab is not None else model_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        ends = [t for t in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, t)]
        main: int = llama_cpp.llama_vocab_eos(self.vocab)
        if main in ends:
            ends.remove(main)
        self.eog: tuple[int, ...] = ((main,) if main >= 0 else ()) + tuple(ends)
        pieces, self._control = self._read_tokens()
        with warnings.catch_warnings():
            # llama-cpp-python warns of its own names.
            warnings.simplefilter("ignore", DeprecationWarning)
            tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        self.tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=pieces,
            vocab_ptr=self.vocab,
            tokenize_fptr=tokenize,
            # A vocabulary without an end (-1 from llama.cpp) still needs a number for llguidance.
            eos_token=list(self.eog) or [self.size],
            slices=None,
        )
        self.closed = False
        self._eog_set = frozenset(self.eog)
        self._control_pattern: re.Pattern[str] | None = None
        self._owner = model  # kept alive: llguidance calls its tokenizer
        self._prototypes: weakref.WeakKeyDictionary[Any, dict[bool, LLMatcher]] = (
            weakref.WeakKeyDictionary()
        )

    def _read_tokens(self) -> tuple[list[bytes], dict[str, int]]:
        """All tokens as llguidance takes them, and those that are control tokens by their text.

        llguidance's own reader takes what a vocabulary's author added, such as `<b>`, for control
        tokens, too, so that no text could have them.
        """
        import llama_cpp

        size = 16 * 1024
        buffer = ctypes.create_string_buffer(size)
        pieces, control = [], {}
        for token in range(self.size):
            count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, size, 0, True)
            piece = ctypes.string_at(buffer, max(count, 0))
            if llama_cpp.llama_vocab_is_control(self.vocab, token):
                control[piece.decode("utf-8", "replace")] = token
                piece = b"\xff" + piece
            pieces.append(piece)
        control.pop("", None)
        return pieces + [b""] * (not self.eog), control

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
        """Mark the model as gone: its tokenizer must not be called any more."""
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

    def split_special(self, text: str) -> list[str | int]:
        """Take a text apart where it names control tokens.

        Args:
            text: Any text. What the vocabulary has as an ordinary token stays text.

        Returns:
            Texts, none empty, and numbers of control tokens, in their order.
        """
        if self._control_pattern is None:
            names = sorted(self._control, key=len, reverse=True)
            self._control_pattern = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")
        parts = self._control_pattern.split(text)
        return [self._control.get(part, part) for part in parts if part]

    def prototype(self, grammar: Compiled, *, forcing: bool) -> LLMatcher:
        """A fresh llguidance matcher, to be copied; compiled once per grammar and model.

        Args:
            grammar: The grammar.
            forcing: Whether forced text is split into tokens as the tokenizer would; such a
                matcher's masks leave out the other ways to split it.

        Returns:
            The matcher; do not change it.

        Raises:
            GrammarError: If llguidance refuses the grammar.
        """
        self.check_open()
        made = self._prototypes.setdefault(grammar, {})
        if forcing not in made:
            text = grammar.guidance(self, forcing=forcing)
            made[forcing] = compile_guidance(text, self.tokenizer)
        return made[forcing]
