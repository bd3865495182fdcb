"""The body of a request: bounded in bytes, depth and time, and JSON without its loopholes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from helpers.serve.problems import Problem

_DEEPEST = 100
"""More nesting than any schema needs, and less than what recursive code trips over."""

_DRAINED = 8
"""How many times the largest body is read and thrown away, so that a client that sends all before
it reads still learns why it was refused."""

_BAD_VALUE = "invalid_value"


async def json_body(request: Request, most: int, seconds: float) -> dict[str, Any]:
    """The JSON object in a request's body.

    Args:
        request: The request.
        most: Most bytes.
        seconds: Longest time that the body may take.

    Raises:
        Problem: It is none, too large or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site can send a form or plain text without asking; this it cannot.
        raise Problem(
            415,
            "unsupported_media_type",
            f"The body must be JSON with the header Content-Type: application/json, not {kind!r}.",
        )
    raw = await _bounded(request, most, seconds)
    try:
        value = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        told = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, _BAD_VALUE, f"The body is not JSON: {told[:200]}.") from None
    if not isinstance(value, dict):
        raise Problem(
            400, _BAD_VALUE, f"The body must be a JSON object, not {type(value).__name__}."
        )
    _check_depth(value)
    return value


async def _bounded(request: Request, most: int, seconds: float) -> bytes:
    length = request.headers.get("content-length", "")
    too_large = length.isdecimal() and (len(length) > 15 or int(length) > most)
    raw, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                size += len(piece)
                too_large = too_large or size > most
                if not too_large:
                    raw += piece
                elif size > _DRAINED * most:
                    break
    except TimeoutError:
        raise Problem(
            408, "timeout", f"The body did not come within {seconds:g} seconds.", close=True
        ) from None
    except ClientDisconnect:
        raise Problem(499, "client_gone", "The client has hung up.") from None
    if too_large:
        raise Problem(
            413,
            "body_too_large",
            f"The body has more than {most:,} bytes, which is the most here.",
            close=True,
        )
    return bytes(raw)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return
    raise Problem(400, _BAD_VALUE, f"The body is nested more than {_DEEPEST} levels deep.")
