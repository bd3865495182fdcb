"""Who may come in at all: the right host, no other site's pages, and a key where keys are used."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers.serve.keys import Key, KeyStore
from helpers.serve.problems import Problem, problem_response
from helpers.serve.settings import is_loopback

NOBODY = Key("everybody", teacher=True)
"""Who asks a server without keys: whoever can log in to this machine."""


class SameSite:
    """Refuses what a page of another site has sent from a browser on this machine.

    Only for a server without keys: a browser would reach it on loopback from any page that is open.
    A name that was made to mean 127.0.0.1 (DNS rebinding) is known by the `Host`, a page of another
    site by its `Origin`; and no answer ever allows one (CORS).

    Args:
        app: The application.
        host: The address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is from here."""
        if scope["type"] == "http":
            problem = self._problem(Headers(scope=scope))
            if problem is not None:
                await problem_response(problem)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not is_loopback(name) and name != self._host:
            return Problem(
                403,
                "foreign_host",
                "Without keys this server answers to localhost alone. To reach it by another "
                "name, serve with --keys.",
            )
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if (origin is not None and urlsplit(origin).netloc != host) or site not in (
            "none",
            "same-origin",
        ):
            return Problem(403, "foreign_origin", "A page of another site may not ask this server.")
        return None


class Under:
    """Cuts off the path under which a proxy leads here; what comes without it is served as well.

    Args:
        app: The application.
        prefix: The path, such as "/services/llm".
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the rest of the path."""
        path = scope.get("path", "")
        if path == self._prefix:  # the page's own paths are relative to a folder
            await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
            return
        if path.startswith(f"{self._prefix}/"):
            scope = {**scope, "path": path.removeprefix(self._prefix), "raw_path": None}
        await self._app(scope, receive, send)


async def key_of(request: Request, store: KeyStore | None) -> Key:
    """Whose request it is.

    Args:
        request: The request.
        store: The keys; None where there are none.

    Raises:
        Problem: There is no key, or nobody's.
    """
    if store is None:
        return NOBODY
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Problem(
            401,
            "invalid_api_key",
            "This server needs a key, in the header `Authorization: Bearer KEY` (api_key=… in "
            "OpenAI's client, key=… in ChatLlamaCpp). The teacher makes one with `python -m "
            "helpers serve keys add NAME`.",
        )
    key = await store.find(secret)
    if key is None:
        raise Problem(
            401,
            "invalid_api_key",
            "Nobody here has this key. It may have been removed, or cut off while it was copied.",
        )
    request.state.key = key.name  # whose request it was, should anything go wrong with it
    return key


def check_teacher(key: Key) -> None:
    """Refuse a learner what is the teacher's.

    Raises:
        Problem: It is a learner's key.
    """
    if not key.teacher:
        raise Problem(403, "teacher_only", f"The key of {key.name} is not a teacher's.")
