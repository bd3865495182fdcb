"""What a client is told when something is wrong: the protocol's form, and nothing of the server."""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from helpers.errors import EngineCrashed
from helpers.remote.codec import error_to_json

log = logging.getLogger("helpers.serve")

_PATH = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:)?(?:[\\/][^\\/\s'\":;,()]+)+[\\/]([^\\/\s'\":;,()]+)")
"""An absolute path; what stays of it is the name of the file."""


class Problem(Exception):
    """A request that is refused, as the protocol says it.

    Args:
        status: HTTP status.
        code: The protocol's word for the cause.
        message: What happened and what to do.
        param: Field of the body that it is about.
        retry_after: Seconds after which it may be tried again.
        close: Whether the connection ends with it: there may be more to come that nobody reads.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after, self.close = retry_after, close

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        error = {
            "message": str(self),
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def described(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of the answer to a request that ended with an exception.

    What a client did is told as it is. Of what happened to the server, a client learns the kind;
    paths and last words go to the log.
    """
    if isinstance(error, Problem):
        headers = {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        if error.close:
            headers["connection"] = "close"
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return error.status, error.body, headers
    if isinstance(error, TimeoutError):
        return described(Problem(408, "timeout", "The answer took longer than the server allows."))
    status, body = error_to_json(error)
    told = body["error"]
    if status >= 500:
        log.error("a request failed", exc_info=error)
    if isinstance(error, EngineCrashed):
        cause = str(error).splitlines()[0].partition(". ")[0]
        told["message"] = f"{cause}. It is started again: ask once more."
    told["message"] = without_paths(told["message"])
    return status, body, {"retry-after": "1"} if status == 503 else {}


def without_paths(text: str) -> str:
    """A text with the names of files in place of their paths.

    >>> without_paths("/srv/models/a.gguf is damaged")
    'a.gguf is damaged'
    """
    return _PATH.sub(r"\1", text)


def problem_response(error: BaseException) -> Response:
    """The answer to a request that ended with an exception."""
    status, body, headers = described(error)
    return JsonResponse(body, status, headers)


class JsonResponse(Response):
    """JSON with everything escaped that a client's decoder could choke on."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(json.dumps(content), status, headers)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first field that is not known; a typo must not go unnoticed.

    Raises:
        Problem: The message names the nearest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."
            raise Problem(
                400, "unknown_field", f"There is no field {name[:100]!r}. {hint}", param=name[:100]
            )
