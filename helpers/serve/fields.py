"""Fields that both kinds of answers have: which there are, and what bounds them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from helpers.checks import check_range, check_switch
from helpers.serve.answers import Envelope
from helpers.serve.problems import Problem

SAMPLING = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "last_n_tokens_size",
    "seed",
    "stop",
    "logit_bias",
)
"""What decides how tokens are drawn; the names are those of `LlamaCpp`'s fields."""

COMMON = (
    *SAMPLING,
    "model",
    "n",
    "stream",
    "stream_options",
    "user",
    "grammar",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
)
"""Fields of every answer. The last ones are the clients' bookkeeping and change nothing here."""

_MOST_STOPS, _LONGEST_STOP = 16, 500
_MOST_LOGPROBS = 20
_ALL_LOGPROBS = 5_000_000
"""Log probabilities that a whole answer may tell, where it is asked for more at a token: a lesson
looks at the whole vocabulary for a few tokens."""
_LONGEST_GRAMMAR = 200_000
_MOST_BIASES = 1024


def given_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a body gives: null is how clients write that they do not.

    `max_tokens` has a null of its own: until the context is full.
    """
    return {k: v for k, v in body.items() if v is not None or k == "max_tokens"}


def check_bounds(body: Mapping[str, Any], n_ctx: int) -> None:
    """Refuse what is larger than anybody needs.

    Raises:
        Problem: The message names the field and its bound.
    """
    for name in ("max_tokens", "max_completion_tokens"):
        most = body.get(name)
        if isinstance(most, int) and most > n_ctx:
            raise _bad(name, f"{name}={most} is more than the context of {n_ctx} tokens holds.")
    stops = body.get("stop")
    texts = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    if len(texts) > _MOST_STOPS or any(len(str(one)) > _LONGEST_STOP for one in texts):
        raise _bad(
            "stop",
            f"stop may have {_MOST_STOPS} strings of up to {_LONGEST_STOP} characters each.",
        )
    count = body.get("top_logprobs")
    if isinstance(count, int) and count > _MOST_LOGPROBS:
        raise _bad("top_logprobs", f"top_logprobs={count} is more than {_MOST_LOGPROBS}.")
    count, tokens = body.get("logprobs"), most if isinstance(most, int) and most > 0 else n_ctx
    if isinstance(count, int) and count > _MOST_LOGPROBS and count * tokens > _ALL_LOGPROBS:
        raise _bad(
            "logprobs",
            f"logprobs={count} for {tokens} tokens is too much: give max_tokens of at most "
            f"{_ALL_LOGPROBS // count}, or logprobs of at most {_MOST_LOGPROBS}.",
        )
    bias = body.get("logit_bias")
    if isinstance(bias, Mapping) and len(bias) > _MOST_BIASES:
        raise _bad("logit_bias", f"logit_bias may have {_MOST_BIASES} tokens.")
    for name in ("grammar", "response_format", "tools"):
        if name in body and _size(body[name]) > _LONGEST_GRAMMAR:
            raise _bad(name, f"{name} may have {_LONGEST_GRAMMAR:,} characters.")


def _size(value: Any) -> int:
    """Characters of a value's texts, and one for each other part."""
    size, layer = 0, [value]
    while layer:
        one = layer.pop()
        if isinstance(one, Mapping):
            layer += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            layer += one
        size += len(one) if isinstance(one, str) else 1
    return size


def _bad(param: str, message: str) -> Problem:
    return Problem(400, "invalid_value", message, param=param)


def choices_wanted(body: Mapping[str, Any], prompts: int, most: int) -> int:
    """`n`: how many answers each prompt gets.

    Raises:
        Problem: They are too many together.
    """
    n: int = check_range("n", body.get("n", 1), 1, 2**31 - 1)
    if n * prompts > most:
        raise _bad("n", f"{n * prompts} answers are wanted; one request may ask for {most}.")
    return n


def nth_seed(seed: int | None, number: int) -> int | None:
    """The seed of one of several answers to a prompt: equal ones would be one answer, `n` times."""
    return seed if seed is None or seed < 0 or number == 0 else (seed + number) % 2**32


def envelope(body: Mapping[str, Any], kind: str, chunk_kind: str, id: str, model: str) -> Envelope:
    """How the answer to a body is wrapped."""
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise _bad("stream_options", "stream_options must be an object.")
    if unknown := set(options) - {"include_usage", "include_obfuscation"}:
        raise Problem(
            400,
            "unknown_field",
            f"stream_options has no {min(unknown)[:100]!r}; there is include_usage.",
            param="stream_options",
        )
    return Envelope(
        id=f"{id}-{uuid.uuid4().hex[:24]}",
        kind=kind,
        chunk_kind=chunk_kind,
        model=model,
        stream=check_switch("stream", body.get("stream", False)),
        include_usage=check_switch("include_usage", options.get("include_usage", False)),
        usage_with_end=kind == "text_completion",
    )
