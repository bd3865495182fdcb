"""Which choices a grammar refused while a text was generated, token by token.

The engine's log probabilities are taken before the mask: they are the model's own preferences.
Compared with the grammar once more, they show what it kept the model from writing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from helpers.errors import GrammarError
from helpers.grammars.guidance import compile_guidance

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from helpers.grammars.mask.vocabulary import Compiled

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TokenChoice:
    """One token that might have come next.

    Attributes:
        text: Its text; empty for the end of the answer.
        probability: What the model gave it, before any mask.
        allowed: Whether the grammar allows it here. None where that cannot be told from the text:
            the token is a part of a character.
    """

    text: str
    probability: float
    allowed: bool | None


@dataclass(frozen=True)
class TracedToken:
    """One generated token and the likeliest choices at its place.

    Attributes:
        text: The token's text.
        probability: What the model gave it, before any mask.
        choices: The choices whose log probabilities were asked for, likeliest first; the
            generated token is always among them.
    """

    text: str
    probability: float
    choices: tuple[TokenChoice, ...]

    @property
    def refused(self) -> tuple[TokenChoice, ...]:
        """The choices that the grammar refused."""
        return tuple(choice for choice in self.choices if choice.allowed is False)

    @property
    def overruled(self) -> bool:
        """Whether the model's first choice was refused."""
        return self.choices[0].allowed is False


def trace_choices(
    grammar: Compiled, logprobs: Mapping[str, Sequence[Any]], text: str | None = None
) -> list[TracedToken]:
    """Tell for each generated token which of the likeliest choices the grammar refused.

    Args:
        grammar: The grammar that the text was generated with.
        logprobs: `generation_info["logprobs"]` of a call with `logprobs=…` and `grammar=…`.
        text: The generated text. Needed only where characters were made of several tokens; without
            it, `allowed` is None from the first such token on.

    Returns:
        One entry for each token.

    Raises:
        GrammarError: If the grammar names tokens of a model by number or text.

    >>> from helpers.grammars import Grammar
    >>> said = {"tokens": ["no"], "token_logprobs": [-2.3],
    ...         "top_logprobs": [{"maybe": -0.2, "no": -2.3}]}
    >>> (token,) = trace_choices(Grammar.from_string('root ::= "yes" | "no"'), said)
    >>> token.overruled, [choice.text for choice in token.refused]
    (True, ['maybe'])
    """
    pieces = [str(piece) for piece in logprobs["tokens"]]
    whole = _whole_pieces(pieces, text)
    state: LLMatcher | None = _byte_matcher(grammar)
    traced = []
    for piece, logprob, top, chars in zip(
        pieces, logprobs["token_logprobs"], logprobs["top_logprobs"], whole, strict=True
    ):
        ranked = sorted(top.items(), key=lambda item: -item[1])
        choices = tuple(
            TokenChoice(name, math.exp(value), _allows(state, name)) for name, value in ranked
        )
        traced.append(TracedToken(piece, math.exp(logprob), choices))
        # The characters of a token that holds only a part of one come with the next whole token.
        if state is not None and (chars is None or not _advance(state, chars)):
            state = None
    return _unknown_inside_characters(traced)


def _byte_matcher(grammar: Compiled) -> LLMatcher:
    try:
        return compile_guidance(grammar.guidance(None, forcing=False))
    except GrammarError as error:
        raise GrammarError(f"The choices of this grammar cannot be traced. {error}") from error


def _allows(state: LLMatcher | None, piece: str) -> bool | None:
    if state is None or _UNKNOWN in piece:
        return None
    if not piece:
        return bool(state.is_accepting())
    data = list(piece.encode())
    return int(state.validate_tokens(data)) == len(data)


def _advance(state: LLMatcher, chars: str) -> bool:
    return not chars or bool(state.consume_tokens(list(chars.encode())))


def _unknown_inside_characters(traced: list[TracedToken]) -> list[TracedToken]:
    """After part of a character, other choices are judged from the wrong place: unknown."""
    result = []
    inside = False
    for token in traced:
        if inside and _UNKNOWN in token.text:
            choices = tuple(replace(choice, allowed=None) for choice in token.choices)
            token = replace(token, choices=choices)
        inside = _UNKNOWN in token.text
        result.append(token)
    return result


def _whole_pieces(pieces: list[str], text: str | None) -> list[str | None]:
    """The characters by which each token moves the text on; None where that cannot be told.

    A character made of several tokens is counted with the last of them.
    """
    whole: list[str | None] = list(pieces)
    place = index = 0
    while index < len(pieces):
        if _UNKNOWN not in pieces[index]:
            place += len(pieces[index])
            index += 1
            continue
        end = index
        while end < len(pieces) and _UNKNOWN in pieces[end]:
            whole[end] = ""
            end += 1
        length = _characters(pieces, end, text, place)
        if text is None or length is None:
            return [*whole[:index], *[None] * (len(pieces) - index)]
        whole[end - 1] = text[place : place + length]
        place += length
        index = end
    return whole


def _characters(pieces: list[str], end: int, text: str | None, place: int) -> int | None:
    """How many characters of the text belong to the run of partial tokens that ends at `end`."""
    if text is None:
        return None
    following = []
    for piece in pieces[end:]:
        if _UNKNOWN in piece:
            break
        following.append(piece)
    tail = "".join(following)
    rest = text[place:]
    if end + len(following) == len(pieces):  # nothing but the tail comes after the run
        return len(rest) - len(tail) if rest.endswith(tail) else None
    found = rest.find(tail, 1) if tail else -1
    return found if found > 0 else None
