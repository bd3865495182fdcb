"""llguidance as grammars use it: compiling under limits, and matching bytes without a model."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from helpers.errors import GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


@cache
def byte_tokenizer() -> LLTokenizer:
    """A tokenizer whose tokens are the 256 bytes: judges texts without a model."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def compile_guidance(text: str, tokenizer: LLTokenizer | None = None) -> LLMatcher:
    """Let llguidance compile a grammar, within limits beyond which it reports an error.

    Args:
        text: The grammar, as `Grammar.guidance` writes it.
        tokenizer: The tokens to match; default: `byte_tokenizer`.

    Returns:
        A fresh matcher.

    Raises:
        GrammarError: If llguidance refuses the grammar.
    """
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_items_in_row=2_000,  # each new item is compared with all others of its row
        initial_lexer_fuel=5_000_000,
        step_lexer_fuel=1_000_000,
        step_max_items=3_000_000,
        max_lexer_states=50_000,  # about 100 MB
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer or byte_tokenizer(), text, log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError(f"llguidance cannot use this grammar: {matcher.get_error()[:500]}")
    return matcher


def consume(matcher: LLMatcher, data: bytes) -> int:
    """Let a matcher of bytes read a text.

    Args:
        matcher: The matcher; it is advanced.
        data: The text.

    Returns:
        How many bytes of it match.

    Raises:
        GrammarError: If the matcher came to one of its limits, which says nothing about the text.
    """
    count = int(matcher.try_consume_tokens(byte_tokenizer().tokenize_bytes(data)))
    check_going(matcher)
    return count


def check_going(matcher: LLMatcher) -> None:
    """Refuse a matcher that came to one of its limits.

    Raises:
        GrammarError: With what llguidance says about it.
    """
    if matcher.is_error():
        raise GrammarError(
            "The grammar cannot be followed any further: "
            f"{matcher.get_error().splitlines()[0][:300]}. It probably allows too many "
            "ways to read the same text; make its alternatives begin differently."
        )
