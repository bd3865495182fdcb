"""What `GrammarPlayground` shows, made without any widget: checks, trials and traces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.engine import Completion
from helpers.errors import GrammarError, HelpersError
from helpers.grammars import Explanation, Grammar, TracedToken, trace_choices
from helpers.tables import Code, html_table

if TYPE_CHECKING:
    from helpers.llm import LlamaCpp


@dataclass(frozen=True)
class CheckedGrammar:
    """The result of reading a grammar: the grammar, or the error in it.

    Attributes:
        grammar: The grammar, or None if the text is not one.
        error: Why not, or None.
        message: The same in words; of an error, the place with the line and a caret under it.
    """

    grammar: Grammar | None
    error: GrammarError | None
    message: str


def check_grammar(source: str) -> CheckedGrammar:
    """Read a grammar; a mistake in it is a result here, not an exception.

    Args:
        source: GBNF.

    Returns:
        The grammar or the error.

    >>> print(check_grammar('root ::= "yes" | maybe').message)
    ✗ line 1, column 18: rule 'maybe' is not defined. Define it, or correct the name.
        root ::= "yes" | maybe
                         ^^^^^
    """
    try:
        grammar = Grammar.from_string(source)
    except GrammarError as error:
        return CheckedGrammar(None, error, f"✗ {error}")
    count = len(grammar.rules or {})
    lines = [f"✓ a grammar of {count} rule{'s' * (count != 1)}"]
    lines += [f"  note: {warning}" for warning in grammar.warnings]
    return CheckedGrammar(grammar, None, "\n".join(lines))


def try_texts(grammar: Grammar, texts: str) -> list[tuple[str, Explanation]]:
    r"""Check each line against a grammar.

    Args:
        grammar: The grammar.
        texts: One text a line; `\n` in a line stands for a line break, `\t` for a tab, `\\` for a
            backslash. Empty lines are left out.

    Returns:
        Each text and whether it matches; where not, the explanation says why.

    Raises:
        GrammarError: If the grammar names tokens, or is too ambiguous for a text this long.
    """
    given = [unescape(line) for line in texts.splitlines() if line]
    return [(text, grammar.explain(text)) for text in given]


def unescape(line: str) -> str:
    r"""Turn `\n`, `\t` and `\\` into what they stand for; other backslashes stay.

    >>> unescape(r'a\\n\n"\q')
    'a\\n\n"\\q'
    """
    meaning = {"n": "\n", "t": "\t", "\\": "\\"}
    result, chars = [], iter(line)
    for char in chars:
        if char != "\\":
            result.append(char)
            continue
        following = next(chars, "")
        result.append(meaning.get(following, "\\" + following))
    return "".join(result)


@dataclass(frozen=True)
class TracedText:
    """A generated text and the choices that led to it.

    Attributes:
        text: The text.
        finish_reason: `stop` if it is complete, `length` if `max_tokens` or the context cut it
            off, `cancelled` if it was stopped.
        tokens: Its tokens with the likeliest choices at each place.
        notes: What is wrong with the text.
    """

    text: str
    finish_reason: str
    tokens: tuple[TracedToken, ...]
    notes: tuple[str, ...] = ()

    @property
    def overruled(self) -> int:
        """How many tokens are not the model's first choice because the grammar refused that."""
        return sum(token.overruled for token in self.tokens)


def generate_traced(
    llm: LlamaCpp,
    prompt: str,
    grammar: Grammar,
    *,
    max_tokens: int = 48,
    logprobs: int = 5,
    show: Callable[[str], object] = lambda text: None,
    stop: threading.Event | None = None,
) -> TracedText:
    """Generate under a grammar, and tell at each token which likely choices were refused.

    Args:
        llm: The model, with its own sampling parameters.
        prompt: The prompt.
        grammar: The grammar.
        max_tokens: End the text after this many tokens.
        logprobs: How many of the likeliest choices to look at for each token.
        show: Called with the text so far after each token.
        stop: Set it, from any thread, to end the text after the current token.

    Returns:
        The text and its tokens; those so far if it was stopped.

    Raises:
        HelpersError: The model or the grammar cannot go on.
    """
    # The engine's own stream: `llm.stream` would warn of a cut-off text, and warnings of another
    # thread would turn up in whatever cell happens to run.
    settings = {"grammar": grammar, "max_tokens": max_tokens, "logprobs": logprobs}
    request = llm._request(prompt, None, settings)
    text, reason = "", "cancelled"
    said: dict[str, list[object]] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
    with closing(llm._engine.stream(request)) as items:
        for item in items:
            if isinstance(item, Completion):
                text, reason = item.text, item.finish_reason
                break
            if stop is not None and stop.is_set():
                break
            text += item.text
            for name, values in said.items():
                values.extend((item.logprobs or {}).get(name, []))
            show(text)
    tokens = trace_choices(grammar, said)
    return TracedText(text, reason, tuple(tokens), _notes(grammar, text, reason))


def _notes(grammar: Grammar, text: str, reason: str) -> tuple[str, ...]:
    if reason == "length" and not grammar.matches(text):
        return ("Give it more max_tokens, or a grammar that ends sooner.",)
    return tuple(grammar.problems(text)) if reason == "stop" and grammar.relaxed else ()


def texts_lines(tried: list[tuple[str, Explanation]]) -> str:
    """Tried texts as lines of text: a mark, the text, and where it goes wrong."""
    return "\n".join(
        f"✓ {text!r}" if found.matches else f"✗ {text!r}: {found.message.splitlines()[0]}"
        for text, found in tried
    )


def texts_table(tried: list[tuple[str, Explanation]]) -> str:
    """Tried texts as an HTML table: a mark, the text, and where it goes wrong."""
    rows = [
        (
            "✓ matches" if found.matches else "✗ does not",
            Code(repr(text) if "\n" in text else text),
            Code("" if found.matches else found.message),
        )
        for text, found in tried
    ]
    columns = dict.fromkeys((" ", "text", "why not"), "<")
    return html_table(columns, rows) if rows else "Write a text above, one a line."


def tokens_table(tokens: tuple[TracedToken, ...]) -> str:
    """Traced tokens as an HTML table: what was taken, and what was refused before it."""
    rows = []
    for number, token in enumerate(tokens, start=1):
        refused = [f"{_shown(one.text)} {_percent(one.probability)}" for one in token.refused]
        unknown = any(choice.allowed is None for choice in token.choices)
        first = "✗ overruled" if token.overruled else "? unknown" if unknown else "✓ allowed"
        # A choice and its number stay together: spaces at which a line cannot be broken.
        choices = Code(", ".join(one.replace(" ", "\u00a0") for one in refused))
        rows.append((number, Code(_shown(token.text)), _percent(token.probability), first, choices))
    heads = ("#", "token", "probability", "model's first choice", "likely choices refused")
    return html_table(dict.fromkeys(heads, "<"), rows)


def failure_text(error: BaseException) -> str:
    """A failure in words; what is not one of this package's own is named by its type, too."""
    if isinstance(error, HelpersError):
        return f"✗ {error}"
    return f"✗ {type(error).__name__}: {error}"


def _shown(text: str) -> str:
    return repr(text) if text else "(end)"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "< 0.1 %"
