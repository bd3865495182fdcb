"""What an engine is asked (`Request`) and what it answers (`Chunk`, `Completion`)."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from helpers.checks import check_range, check_switch, check_text
from helpers.prompt import check_prompt
from helpers.timings import Timings

if TYPE_CHECKING:
    from helpers.grammars import Grammar

_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (-1, 2**31 - 1),
    "temperature": (0.0, 1e6),
    "top_k": (-(2**31), 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (1e-6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "last_n": (-1, 2**31 - 1),
    "seed": (-1, 2**32 - 1),
    "logprobs": (0, 100_000),
}
_MAY_BE_NONE = ("max_tokens", "seed", "logprobs")


@dataclass(frozen=True)
class ReasoningBudget:
    """How many tokens a reply's reasoning may have.

    Attributes:
        begin: Text with which a reply that begins with reasoning begins.
        end: Text that ends the reasoning; when the tokens are used up, it is written as it stands.
            Without the whitespace around it, it is what the model ends its reasoning with.
        tokens: Most tokens of reasoning; 0: none.
        open: Whether the prompt has begun the reasoning.
    """

    begin: str
    end: str
    tokens: int
    open: bool = False

    def __post_init__(self) -> None:
        if not check_text("end", self.end).strip():
            raise ValueError(f"end={self.end!r} must be a text that ends reasoning.")
        plain = {
            "begin": str.__str__(check_text("begin", self.begin)),
            "end": str.__str__(self.end),
            "tokens": check_range("tokens", self.tokens, 0, 2**31 - 1),
            "open": check_switch("open", self.open),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to generate, as plain data.

    What is given in a subclass of `str` other than `Prompt`, as a string enum, or as a number of
    NumPy, is kept as the `str`, `int` or `float` that it stands for.

    Attributes:
        prompt: The text to continue, control tokens such as `<|im_start|>` read as such, in a
            `Prompt` only where a template wrote them; or token ids, taken as they are.
        max_tokens: Most tokens to generate; None, 0 or -1: until the context is full.
        temperature: 0 takes the likeliest token; above, draws.
        top_k: Draw from the k likeliest tokens; 0 or less: from all.
        top_p: Draw from the likeliest tokens that make up this probability, 0 to 1.
        min_p: Leave out tokens below this share of the likeliest one's probability, 0 to 1.
        typical_p: Locally typical sampling, 0 to 1; 1 is off.
        repeat_penalty: Above 1 makes tokens of the answer's last `last_n` less likely; 1 is off.
        frequency_penalty: Subtracted from a token's logit for each time it occurred there.
        presence_penalty: Subtracted once from the logit of each token that occurred there.
        last_n: Tokens of the answer that the penalties look at; 0 for none, -1 for all.
        seed: Same seed, same text; None or -1 for a random one.
        stop: Strings that end the text, or one.
        grammar: What the text must match, or None. A token is chosen as without a grammar; if the
            grammar refuses it, once more by the same settings from what the grammar allows. With a
            temperature alone that is exactly the model's distribution among the allowed tokens.
        fast_forward: Decode tokens that the grammar leaves no choice for together; such a text is
            then cut into tokens as the tokenizer does it, where the model might have chosen others.
        logprobs: Give the log probabilities of this many likeliest tokens, or None.
        logit_bias: `(token, value)` pairs added to logits; minus infinity bans a token.
        echo: Begin the text with the prompt.
        suffix: End the text with this, or None.
        shown_tokens: Control tokens are no part of the text, but for those that these texts name.
        reasoning: Most tokens of reasoning, after which the engine ends it, or None.
        user: Whose request it is: users who wait for one engine are served in turn.
        speculate: Guess tokens as the engine was loaded to do, if it was.
    """

    prompt: str | tuple[int, ...]
    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    last_n: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    fast_forward: bool = True
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    echo: bool = False
    suffix: str | None = None
    shown_tokens: tuple[str, ...] = ()
    reasoning: ReasoningBudget | None = None
    user: str = ""
    speculate: bool = True

    def __post_init__(self) -> None:
        plain = {
            "prompt": _prompt(self.prompt),
            "stop": stop_strings(self.stop),
            "logit_bias": tuple(_bias(token, value) for token, value in self.logit_bias),
            "echo": check_switch("echo", self.echo),
            "fast_forward": check_switch("fast_forward", self.fast_forward),
            "speculate": check_switch("speculate", self.speculate),
            "suffix": None if self.suffix is None else check_text("suffix", self.suffix),
            "user": check_text("user", self.user),
            "shown_tokens": tuple(check_text("shown_tokens", one) for one in self.shown_tokens),
        }
        if self.reasoning is not None and not isinstance(self.reasoning, ReasoningBudget):
            raise TypeError(f"reasoning={self.reasoning!r} must be a ReasoningBudget or None.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                plain[name] = check_range(name, value, low, high)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def seed_or_random(self) -> int:
        """The seed, or a random one where none was given."""
        if self.seed is None or self.seed < 0:
            return secrets.randbelow(2**32 - 1)
        return self.seed

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {
            name: getattr(self, name)
            for name, default in defaults.items()
            if getattr(self, name) != default
        }


def stop_strings(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """Stop strings as plain data, each once.

    Args:
        stop: One string, or several, or None for none.

    Raises:
        TypeError: It is neither.
        ValueError: One is empty, or not a string.

    >>> stop_strings("the end"), stop_strings(None)
    (('the end',), ())
    """
    if stop is None or isinstance(stop, str):
        given: list[Any] = [] if stop is None else [stop]
    elif isinstance(stop, Iterable) and not isinstance(stop, bytes | bytearray):
        given = list(stop)
    else:
        raise TypeError(f"stop={stop!r} must be a string or a list of strings.")
    if any(not isinstance(one, str) or not one for one in given):
        raise ValueError(f"stop={given!r} must be a list of strings, none empty.")
    return tuple(dict.fromkeys(str.__str__(one) for one in given))


def _prompt(prompt: Any) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return check_prompt("prompt", prompt)
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | bytearray):
        raise TypeError(f"prompt must be a text or token ids, not {type(prompt).__name__}.")
    return tuple(
        one if type(one) is int else check_range("a token of the prompt", one, 0, 2**31 - 1)
        for one in prompt
    )


def _bias(token: Any, value: Any) -> tuple[int, float]:
    token = check_range("a token of logit_bias", token, 0, 2**31 - 1)
    if value == -math.inf:  # which bans the token
        return token, -math.inf
    return token, check_range(f"logit_bias[{token}]", value, -1e6, 1e6)


@dataclass(frozen=True)
class Chunk:
    """A piece of a text while it is generated: at least one whole character, or log probabilities.

    Attributes:
        text: The new text.
        logprobs: One entry for each token since the last chunk, where asked for.
    """

    text: str
    logprobs: dict[str, list[Any]] | None = None


@dataclass(frozen=True)
class Completion:
    """A generated text and what it took.

    Attributes:
        text: The text, without stop strings.
        finish_reason: "stop" (end of text, or a stop string), "length" (`max_tokens` or the
            context was reached) or "cancelled".
        timings: What the call took.
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens of the answer.
        logprobs: Log probabilities of the whole answer, where asked for.
        notes: What the user should know; the engine warns of it.
    """

    text: str
    finish_reason: str
    timings: Timings
    prompt_tokens: int
    generated_tokens: int
    logprobs: dict[str, list[Any]] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
