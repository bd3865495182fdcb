"""/v1/completions: texts to be continued, as OpenAI's protocol asks and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from helpers.engine import Chunk, Completion
from helpers.remote.codec import (
    REQUEST_FIELDS,
    chunk_to_json,
    completion_to_json,
    end_to_json,
    request_from_json,
)
from helpers.serve.answers import Asked, Item
from helpers.serve.fields import COMMON, choices_wanted, nth_seed
from helpers.serve.problems import Problem, refuse_unknown

FIELDS = (*COMMON, *sorted(REQUEST_FIELDS - {*COMMON}), "best_of")


def read_completions(body: Mapping[str, Any], most: int) -> list[Asked]:
    """What a body asks for.

    Args:
        body: The body.
        most: Most answers that it may ask for.

    Raises:
        Problem: A field is unknown, or there is no prompt, or too many.
        ValueError: A value has no meaning.
        TypeError: A value is of the wrong kind.
        GrammarError: The grammar cannot be used.
    """
    refuse_unknown(body, FIELDS)
    if body.get("best_of", 1) != 1:
        raise Problem(400, "invalid_value", "best_of can only be 1; use n.", param="best_of")
    fields = {name: body[name] for name in REQUEST_FIELDS - {"user"} if name in body}
    prompts = _prompts(fields)
    n = choices_wanted(body, len(prompts), most)
    asked = []
    for number, prompt in enumerate(prompts):
        first = request_from_json({**fields, **prompt})
        for copy in range(n):
            request = replace(first, seed=nth_seed(first.seed, copy))
            asked.append(Asked(request, TextWriter(), number))
    return asked


def _prompts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The prompts, each as the field that it is one of; they are taken out of the fields."""
    if "prompt_parts" in fields:
        if "prompt" in fields:
            raise Problem(
                400, "invalid_value", "Give prompt or prompt_parts, not both.", param="prompt"
            )
        return [{"prompt_parts": fields.pop("prompt_parts")}]
    prompt = fields.pop("prompt", None)
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return [{"prompt": one} for one in prompt]
    if not isinstance(prompt, str | list):
        raise Problem(
            400,
            "invalid_value",
            "prompt must be a text, a list of texts, or a list of token ids.",
            param="prompt",
        )
    return [{"prompt": prompt}]


class TextWriter:
    """Writes one continuation down."""

    def pieces(self, item: Item) -> Iterator[dict[str, Any]]:
        """The piece, or the end."""
        told = chunk_to_json(item) if isinstance(item, Chunk) else end_to_json(item)
        yield told["choices"][0]

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The whole text."""
        choice: dict[str, Any] = completion_to_json(completion)["choices"][0]
        return choice
