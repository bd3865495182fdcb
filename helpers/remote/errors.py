"""Exceptions in the form of OpenAI's protocol, and back: the cause is the same on both sides."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from helpers.errors import (
    ContextOverflowError,
    DeviceError,
    EngineCrashed,
    GrammarError,
    HelpersError,
    ModelFileError,
    ServerError,
)

_PLACES = ("line", "column", "keyword", "pointer")
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_SHOWN = 300
"""Characters of a foreign answer that a message shows."""


class InvalidField(ValueError):
    """A field of a request has no meaning.

    Attributes:
        param: Name of the field, or None.
        code: "invalid_value", or "unknown_field".
    """

    def __init__(
        self, message: str, param: str | None = None, *, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def error_to_json(error: BaseException) -> tuple[int, dict[str, Any]]:
    """An exception as an answer of the server.

    What only a bug raises is told by its kind alone: its message may hold what is nobody's business
    but the server's.

    Returns:
        The HTTP status and the body.

    >>> error_to_json(ValueError("top_p=2 is out of range: 0 to 1."))[0]
    400
    """
    status, code, extra = _described(error)
    known = isinstance(error, HelpersError | ValueError | TypeError)
    message = (
        str(error) if known else f"The server failed ({type(error).__name__}). Its log says more."
    )
    param = getattr(error, "param", None)
    told = {
        "message": message,
        "type": _TYPES.get(status, "server_error"),
        "param": param if isinstance(param, str) else None,
        "code": code,
        **extra,
    }
    return status, {"error": told}


def _described(error: BaseException) -> tuple[int, str, dict[str, Any]]:
    """Status, code, and what the protocol adds for this kind."""
    if isinstance(error, ServerError):
        return error.status or 500, error.code or "internal_error", {}
    if isinstance(error, ContextOverflowError):
        extra: dict[str, Any] = {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
        return 400, "context_length_exceeded", extra
    if isinstance(error, GrammarError):
        return 400, "invalid_grammar", {place: getattr(error, place) for place in _PLACES}
    if isinstance(error, EngineCrashed):
        return 503, "engine_crashed", {}
    if isinstance(error, DeviceError):
        return 500, "device_error", {}
    if isinstance(error, ModelFileError):
        return 500, "model_error", {}
    if isinstance(error, ValueError | TypeError):
        kind = "TypeError" if isinstance(error, TypeError) else "ValueError"
        code = getattr(error, "code", None)  # InvalidField
        return 400, code if isinstance(code, str) else "invalid_value", {"exception": kind}
    return 500, "internal_error", {}


def error_from_json(
    status: int | None, body: Any, headers: Mapping[str, str] | None = None
) -> Exception:
    """The exception that an answer of a server stands for.

    Args:
        status: Its HTTP status; None for an error in the midst of a stream.
        body: What came, read as JSON; a text where it was none.
        headers: Its headers, names in lower case.

    >>> error_from_json(*error_to_json(TypeError("stop=7 must be a string.")))
    TypeError('stop=7 must be a string.')
    """
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        shown = body if isinstance(body, str) else repr(body)
        shown = " ".join(shown[: 4 * _SHOWN].split())[:_SHOWN]
        answer = "broke off with" if status is None else f"answered {status} and"
        return ServerError(
            f"The server {answer} what is no error of ours: {shown!r}.", status=status
        )
    message, code = told["message"], told.get("code")
    if code == "context_length_exceeded":
        counts = (told.get("n_prompt_tokens"), told.get("n_ctx"))
        n_prompt_tokens, n_ctx = (count if type(count) is int else 0 for count in counts)
        message = (
            f"The prompt has {n_prompt_tokens} tokens, but the server's context holds {n_ctx} "
            "(prompt and answer together). Shorten the prompt; who runs the server can give it "
            "more with --n-ctx."
        )
        return ContextOverflowError(n_prompt_tokens, n_ctx, message)
    if code == "invalid_grammar":
        kinds = (int, int, str, str)
        places = {
            place: told[place]
            for place, kind in zip(_PLACES, kinds, strict=True)
            if type(told.get(place)) is kind
        }
        return GrammarError(message, **places)
    if code in ("invalid_value", "unknown_field"):
        return TypeError(message) if told.get("exception") == "TypeError" else ValueError(message)
    if code == "engine_crashed":
        return EngineCrashed(message)
    if code == "device_error":
        return DeviceError(message)
    if code == "model_error":
        return ModelFileError(message)
    return ServerError(
        message,
        status=status,
        code=code if isinstance(code, str) else None,
        retry_after=_seconds((headers or {}).get("retry-after")),
    )


def unknown_field(
    name: str, known: Iterable[str], what: str, param: str | None = None
) -> InvalidField:
    """The exception for a field that nobody knows; it suggests the nearest one.

    Args:
        name: The field.
        known: Those that there are.
        what: What it was given to.
        param: The field of the request that this is about; None: `name` itself.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(known)}."
    return InvalidField(
        f"{what} has no field {shown(name)}. {hint}", param or name[:80], code="unknown_field"
    )


def shown(value: Any) -> str:
    """The beginning of a value for a message, however large it is, or deep."""
    try:
        text = repr(value[:_SHOWN] if isinstance(value, str | list) else value)
    except (RecursionError, ValueError):  # ValueError: a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _seconds(value: str | None) -> float | None:
    """What `Retry-After` says, in seconds; of its two forms the one that the server uses."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
