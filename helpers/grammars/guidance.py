"""llguidance as grammars use it: compiling under limits, and matching bytes without a model."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import quote

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_T = TypeVar("_T")
_STACK = 256 * 2**20
"""Bytes of address space, not of memory: llguidance compiles by recursion, some five kilobytes for
each rule or schema in another, and a stack that overflows ends the process."""
MAX_TEXT = 600_000
"""Characters of a text that is judged: some microseconds each."""
_starting = threading.Lock()


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
    tokens = tokenizer or byte_tokenizer()
    matcher = _on_large_stack(lambda: LLMatcher(tokens, text, log_level=0, limits=limits))
    if matcher.is_error():
        # Below its message it shows a part of the text that it was given, or a trace.
        reason = re.split(r"\n<backtrace>|\n +\d+ \| ", matcher.get_error())[0]
        if "symbols.len()" in reason:
            reason = "it has more than 65,000 symbols; write fewer rules, options or characters"
        raise GrammarError(f"llguidance cannot use this grammar: {reason[:500]}")
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


def end_of_match(matcher: LLMatcher, text: str) -> tuple[int, bool, LLMatcher]:
    """Match a text without a model.

    Args:
        matcher: A fresh matcher of bytes; it is left as it is.
        text: The text.

    Returns:
        How many characters match, whether the text is complete, and the matcher after them.

    Raises:
        GrammarError: If the text is too long, or the grammar too ambiguous for it.
    """
    if len(text) > MAX_TEXT:
        raise GrammarError(
            f"The text has {len(text):,} characters, numbers written out; at most {MAX_TEXT:,} "
            "are judged."
        )
    state = matcher.deep_copy()
    data = text.encode("utf-8", "surrogatepass")
    count = consume(state, data)
    end = len(data[:count].decode("utf-8", "ignore"))
    return end, count == len(data) and state.is_accepting(), state


def expected_next(matcher: LLMatcher) -> tuple[str, ...]:
    """The bytes that may come next, as characters; a forced text as a whole."""
    import numpy as np

    forced = matcher.compute_ff_bytes()
    if len(forced) > 1:
        return (quote(forced.decode("utf-8", "replace")),)
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    codes = [int(code) for code in np.nonzero(bits[:256])[0]]
    shown = tuple(quote(chr(code)) for code in codes if 0x21 <= code < 0x7F)
    others = ("any other character",) if any(code >= 0x80 for code in codes) else ()
    return shown + others + (("the end",) if matcher.is_accepting() else ())


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


def _on_large_stack(work: Callable[[], _T]) -> _T:
    """What `work` returns, called in a thread with a stack of `_STACK` bytes."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="compile a grammar")
    with _starting:  # the size is the process's; threads started meanwhile get it, too
        before = threading.stack_size(_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
