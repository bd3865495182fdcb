"""What goes between `helpers.remote` and `helpers.serve`, as JSON in the form of OpenAI's protocol.

Both sides use it. What is read may have been written by anybody: it becomes one of our objects, or
a `ValueError`, `TypeError` or `GrammarError` that says what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from helpers.engine.options import Chunk, Completion, ReasoningBudget, Request
from helpers.engine.report import LoadReport
from helpers.prompt import Prompt
from helpers.remote.errors import InvalidField, error_from_json, error_to_json, shown, unknown_field
from helpers.remote.grammars import grammar_from_json, grammar_to_json
from helpers.timings import Timings

__all__ = [
    "REQUEST_FIELDS",
    "InvalidField",
    "chunk_from_json",
    "chunk_to_json",
    "completion_from_json",
    "completion_to_json",
    "end_to_json",
    "error_from_json",
    "error_to_json",
    "grammar_from_json",
    "grammar_to_json",
    "parse_json",
    "prompt_from_json",
    "prompt_to_json",
    "report_from_json",
    "report_to_json",
    "request_from_json",
    "request_to_json",
    "timings_from_json",
    "timings_to_json",
    "write_json",
]

DEFAULT_MAX_TOKENS = 256
"""What a request has that does not say: as `LlamaCpp`, whose other defaults are `Request`'s."""

_RENAMED = {"last_n": "last_n_tokens_size"}
"""Fields of `Request` that the protocol calls as `LlamaCpp` does."""

_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(Request)
    if field.name
    not in {"prompt", "stop", "grammar", "logit_bias", "shown_tokens", "reasoning", "speculate"}
)
_OTHERS = ("prompt", "prompt_parts", "stop", "grammar", "logit_bias", "shown_tokens", "reasoning")

REQUEST_FIELDS = frozenset(_OTHERS) | {_RENAMED.get(name, name) for name in _PLAIN}
"""What `request_from_json` knows; the rest of a body is the server's."""

_BAN = "-inf"
"""The bias that bans a token; JSON has no infinity."""

_LOGPROBS = ("tokens", "text_offset", "token_logprobs", "top_logprobs")
_NEVER = -9999.0
"""What OpenAI's protocol says for the log probability of what cannot be."""

_REASONS = ("stop", "length", "cancelled")


# -- JSON itself ----------------------------------------------------------------------------------


def parse_json(raw: bytes | str) -> Any:
    """Read JSON as the standard has it: without NaN, and no deeper than Python's reader goes.

    Raises:
        ValueError: It is not JSON, or nests too deeply.

    >>> parse_json(b'{"seed": 7}')
    {'seed': 7}
    """
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidField("The JSON nests too deeply.") from None
    except InvalidField:
        raise
    except ValueError as error:  # also bytes that are no text, and numbers of thousands of digits
        raise InvalidField(f"The body is not JSON: {error}.") from None


def write_json(value: Any) -> bytes:
    """Write JSON in ASCII, so that half a surrogate pair in a text comes through as it is."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidField(f"The body is not JSON: {name} is no JSON number.")


# -- requests -------------------------------------------------------------------------------------


def request_to_json(request: Request) -> dict[str, Any]:
    """The body of `POST /v1/completions` for a request, without what is about the transport.

    >>> request_to_json(Request(prompt="Hi!", max_tokens=3, seed=7))
    {'prompt': 'Hi!', 'max_tokens': 3, 'seed': 7}
    """
    body = prompt_to_json(request.prompt)
    body["max_tokens"] = request.max_tokens  # the protocol's own default is another
    changed = request.to_dict()
    body |= {_RENAMED.get(name, name): changed[name] for name in _PLAIN if name in changed}
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logit_bias:
        sums: dict[str, float] = {}
        for token, value in request.logit_bias:
            sums[str(token)] = sums.get(str(token), 0) + value
        body["logit_bias"] = {
            token: _BAN if value == -math.inf else value for token, value in sums.items()
        }
    if request.shown_tokens:
        body["shown_tokens"] = list(request.shown_tokens)
    if request.reasoning is not None:
        body["reasoning"] = dataclasses.asdict(request.reasoning)
    if request.grammar is not None:
        body["grammar"] = grammar_to_json(request.grammar)
    return body


def request_from_json(body: Any) -> Request:
    """A request from a body; what is not given, or null, is as `LlamaCpp` has it.

    Args:
        body: The fields of `REQUEST_FIELDS`, and no others.

    Raises:
        GrammarError: Its grammar is wrong.
        ValueError: A field is unknown, or has no meaning; `InvalidField` where it is known which.
        TypeError: One is of the wrong kind.

    >>> request_from_json({"prompt": "Hi!", "temperature": 0}).max_tokens
    256
    """
    if not isinstance(body, dict):
        raise TypeError(f"A request must be a JSON object, not {shown(body)}.")
    for name in body:
        if name not in REQUEST_FIELDS:
            raise unknown_field(name, REQUEST_FIELDS, "A request")
    given: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS}
    for name in _PLAIN:
        value = body.get(_RENAMED.get(name, name))
        if value is not None or (name == "max_tokens" and name in body):
            given[name] = value
    stop = body.get("stop")
    if stop is not None and not isinstance(stop, str | list):
        raise TypeError(f"stop={shown(stop)} must be a string or a list of strings.")
    given["stop"] = () if stop is None else stop
    if body.get("shown_tokens") is not None:
        given["shown_tokens"] = tuple(_list("shown_tokens", body["shown_tokens"]))
    if body.get("logit_bias") is not None:
        given["logit_bias"] = _bias(body["logit_bias"])
    if body.get("reasoning") is not None:
        given["reasoning"] = _reasoning(body["reasoning"])
    if body.get("grammar") is not None:
        given["grammar"] = grammar_from_json(body["grammar"])
    prompt = prompt_from_json(body)
    try:
        return Request(prompt=prompt, **given)
    except (OverflowError, RecursionError):
        raise InvalidField(
            "A number is too large for any use, or a list nests too deeply."
        ) from None
    except ValueError as error:
        named = re.match(r"[a-z_]+", str(error))
        name = _RENAMED.get(named[0], named[0]) if named else None
        raise InvalidField(str(error), name if name in REQUEST_FIELDS else None) from None


def prompt_to_json(prompt: str | Sequence[int]) -> dict[str, Any]:
    """A prompt as the fields that say it: `prompt`, or `prompt_parts` where its parts are known."""
    if isinstance(prompt, Prompt):
        return {"prompt_parts": [list(part) for part in prompt.parts]}
    return {"prompt": prompt if isinstance(prompt, str) else list(prompt)}


def prompt_from_json(body: Mapping[str, Any]) -> str | tuple[int, ...]:
    """The prompt of a body, from `prompt` or `prompt_parts`.

    Raises:
        ValueError: There is none, or both are given, or a token is no number of a token.
        TypeError: It is of the wrong kind.
    """
    prompt, parts = body.get("prompt"), body.get("prompt_parts")
    if (prompt is None) == (parts is None):
        raise InvalidField("Give prompt, or prompt_parts: one of the two.", "prompt")
    if parts is not None:
        pairs = []
        for part in _list("prompt_parts", parts):
            if not isinstance(part, list) or [type(one) for one in part] != [str, bool]:
                raise TypeError(
                    f"prompt_parts: {shown(part)} must be a text, and whether a template wrote it."
                )
            pairs.append((part[0], part[1]))
        return Prompt(pairs)
    if isinstance(prompt, str):
        return prompt
    tokens = _list("prompt", prompt)
    for token in tokens:
        if type(token) is not int or not 0 <= token < 2**31:
            raise InvalidField(f"prompt: {shown(token)} is no number of a token.", "prompt")
    return tuple(tokens)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name}={shown(value)} must be a list.")
    return value


def _bias(value: Any) -> list[tuple[int, float]]:
    if not isinstance(value, dict):
        raise TypeError(f"logit_bias={shown(value)} must be an object from tokens to numbers.")
    for token in value:
        if not re.fullmatch("[0-9]{1,10}", token):
            raise InvalidField(f"logit_bias: {shown(token)} is no token's number.", "logit_bias")
    return [
        (int(token), -math.inf if amount == _BAN else amount) for token, amount in value.items()
    ]


def _reasoning(value: Any) -> ReasoningBudget:
    names = [field.name for field in dataclasses.fields(ReasoningBudget)]
    if not isinstance(value, dict) or not {"begin", "end", "tokens"} <= set(value) <= set(names):
        raise TypeError(f"reasoning={shown(value)} must be an object of {', '.join(names)}.")
    try:
        return ReasoningBudget(**value)
    except (OverflowError, RecursionError):
        raise InvalidField("reasoning: its tokens are no number of use.", "reasoning") from None


# -- answers --------------------------------------------------------------------------------------


def chunk_to_json(chunk: Chunk, index: int = 0) -> dict[str, Any]:
    """A piece of a streamed answer; the server adds `id`, `created` and `model`."""
    choice = {
        "text": chunk.text,
        "index": index,
        "finish_reason": None,
        "logprobs": _logprobs_to_json(chunk.logprobs),
    }
    return {"object": "text_completion", "choices": [choice]}


def chunk_from_json(body: Any) -> Chunk:
    """The inverse of `chunk_to_json`.

    Raises:
        ValueError: It is no piece of an answer.
    """
    choice = _choice(body)
    return Chunk(choice["text"], _logprobs_from_json(choice.get("logprobs")))


def end_to_json(completion: Completion, index: int = 0) -> dict[str, Any]:
    """The last piece of a streamed answer: why it ended, and what it took."""
    choice = {
        "text": "",
        "index": index,
        "finish_reason": completion.finish_reason,
        "logprobs": None,
    }
    return {"object": "text_completion", "choices": [choice], **_facts(completion)}


def completion_to_json(completion: Completion, index: int = 0) -> dict[str, Any]:
    """A whole answer; the server adds `id`, `created` and `model`."""
    body = end_to_json(completion, index)
    text = {"text": completion.text, "logprobs": _logprobs_to_json(completion.logprobs)}
    return {**body, "choices": [body["choices"][0] | text]}


def completion_from_json(body: Any, chunks: Iterable[Chunk] = ()) -> Completion:
    """A whole answer, from one body, or from the last piece of a stream and those before it.

    Args:
        body: As `completion_to_json` or `end_to_json` made it.
        chunks: The pieces before it.

    Raises:
        ValueError: It is none.
    """
    choice = _choice(body)
    reason, usage, notes = choice.get("finish_reason"), body.get("usage"), body.get("notes", [])
    if reason not in _REASONS:
        raise ValueError(f"finish_reason={shown(reason)} is none.")
    if not isinstance(usage, dict):
        raise ValueError(f"usage={shown(usage)} says nothing.")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if any(type(count) is not int for count in counts):
        raise ValueError(f"usage={shown(usage)} has no numbers of tokens.")
    if not isinstance(notes, list) or any(not isinstance(note, str) for note in notes):
        raise ValueError(f"notes={shown(notes)} are no texts.")
    pieces = [*chunks, Chunk(choice["text"], _logprobs_from_json(choice.get("logprobs")))]
    told = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    joined = {name: [one for part in told for one in part[name]] for name in _LOGPROBS}
    return Completion(
        text="".join(piece.text for piece in pieces),
        finish_reason=reason,
        timings=timings_from_json(body.get("timings")),
        prompt_tokens=counts[0],  # type: ignore[arg-type]
        generated_tokens=counts[1],  # type: ignore[arg-type]
        logprobs=joined if told else None,
        notes=tuple(notes),
    )


def timings_to_json(timings: Timings) -> dict[str, Any]:
    """Timings as a dict of their figures."""
    return timings.to_dict()


def timings_from_json(body: Any) -> Timings:
    """The inverse of `timings_to_json`; figures that this version does not know are left out.

    Raises:
        ValueError: They are none.
    """
    if not isinstance(body, dict):
        raise ValueError(f"timings={shown(body)} are none.")
    known = {field.name for field in dataclasses.fields(Timings)}
    try:
        return Timings(**{name: value for name, value in body.items() if name in known})
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"timings={shown(body)} are none: {error}.") from None


def report_to_json(report: LoadReport) -> dict[str, Any]:
    """What a load did, as a dict of its fields."""
    return dataclasses.asdict(report)


def report_from_json(body: Any) -> LoadReport:
    """The inverse of `report_to_json`; what this version does not know is left out.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(body, dict):
        raise ValueError(f"load_report={shown(body)} is none.")
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(LoadReport):
        if field.name in body:
            value = body[field.name]
            if not _suits(str(field.type), value):
                raise ValueError(f"load_report: {field.name}={shown(value)} has no meaning.")
            plain[field.name] = value
    try:
        return LoadReport(**plain)
    except TypeError as error:  # one is missing
        raise ValueError(f"load_report: {error}.") from None


def _suits(kind: str, value: Any) -> bool:
    """Whether a value is of the type of a field of `LoadReport`."""
    if kind.startswith("dict"):
        return isinstance(value, dict) and all(
            isinstance(kinds, dict)
            and {"weights", "kv", "compute"} <= set(kinds)
            and all(type(mib) in (int, float) for mib in kinds.values())
            for kinds in value.values()
        )
    accepted = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    plain, _, optional = kind.partition(" | ")
    return type(value) in accepted[plain] or (bool(optional) and value is None)


def _facts(completion: Completion) -> dict[str, Any]:
    prompt, answer = completion.prompt_tokens, completion.generated_tokens
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": completion.timings.cached_tokens or 0},
    }
    return {
        "usage": usage,
        "timings": timings_to_json(completion.timings),
        "notes": list(completion.notes),
    }


def _choice(body: Any) -> dict[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        raise ValueError(f"{shown(body)} is no answer, nor a piece of one.")
    return choice


def _logprobs_to_json(logprobs: dict[str, list[Any]] | None) -> dict[str, list[Any]] | None:
    if logprobs is None:
        return None
    return {
        **logprobs,
        "token_logprobs": [_finite(one) for one in logprobs["token_logprobs"]],
        "top_logprobs": [
            {text: _finite(one) for text, one in top.items()} for top in logprobs["top_logprobs"]
        ],
    }


def _logprobs_from_json(value: Any) -> dict[str, list[Any]] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or any(not isinstance(value.get(n), list) for n in _LOGPROBS):
        raise ValueError(f"logprobs={shown(value)} are none.")
    return {name: value[name] for name in _LOGPROBS}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _NEVER
