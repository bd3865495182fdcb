"""Which choices a grammar refused while a text was generated, token by token.

The engine's log probabilities are taken before the mask: they are the model's own preferences.
Compared with the grammar once more, they show what it kept the model from writing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.errors import GrammarError
from helpers.grammars.guidance import compile_guidance
from helpers.grammars.mask.token_text import token_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from helpers.grammars.mask.vocabulary import Compiled


@dataclass(frozen=True)
class TokenChoice:
    """One token that might have come next.

    Attributes:
        text: Its text; empty for the end of the answer; `bytes:…` for a part of a character.
        probability: What the model gave it, before any mask.
        allowed: Whether the grammar allows it here. None where that cannot be told: the token is
            named by its number alone, as another one has its text.
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
    def kept(self) -> float:
        """How much of the probability the mask left: the sum over the allowed choices.

        Exact where log probabilities of the whole vocabulary were asked for; of fewer, a lower
        bound. Little left means that the model wanted to say something else: its answer then is
        the grammar's more than its own.
        """
        return math.fsum(choice.probability for choice in self.choices if choice.allowed)

    @property
    def overruled(self) -> bool:
        """Whether the model's first choice was refused."""
        return self.choices[0].allowed is False


def trace_choices(grammar: Compiled, logprobs: Mapping[str, Sequence[Any]]) -> list[TracedToken]:
    """Tell for each generated token which of the likeliest choices the grammar refused.

    Args:
        grammar: The grammar that the text was generated with.
        logprobs: `generation_info["logprobs"]` of a call with `logprobs=…` and `grammar=…`.

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
    state: LLMatcher | None = _byte_matcher(grammar)
    traced = []
    for piece, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        ranked = sorted(top.items(), key=lambda item: -item[1])
        choices = tuple(
            TokenChoice(name, math.exp(value), _allows(state, token_bytes(name)))
            for name, value in ranked
        )
        traced.append(TracedToken(piece, math.exp(logprob), choices))
        raw = token_bytes(piece)
        if state is not None and (raw is None or not _advance(state, raw)):
            state = None
    return traced


def _byte_matcher(grammar: Compiled) -> LLMatcher:
    try:
        return compile_guidance(grammar.guidance(None, forcing=False))
    except GrammarError as error:
        raise GrammarError(f"The choices of this grammar cannot be traced. {error}") from error


def _allows(state: LLMatcher | None, raw: bytes | None) -> bool | None:
    if state is None or raw is None:
        return None
    if not raw:
        return bool(state.is_accepting())
    return int(state.validate_tokens(list(raw))) == len(raw)


def _advance(state: LLMatcher, raw: bytes) -> bool:
    return not raw or bool(state.consume_tokens(list(raw)))
