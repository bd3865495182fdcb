"""The server as an application: one model behind OpenAI's protocol, for whoever runs ASGI."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from helpers.serve.answers import Answer
from helpers.serve.bodies import json_body
from helpers.serve.chats import read_chat
from helpers.serve.completions import read_completions
from helpers.serve.fields import check_bounds, envelope, given_fields
from helpers.serve.guard import SameSite, Under, check_teacher, key_of
from helpers.serve.house import House
from helpers.serve.keys import KeyStore
from helpers.serve.problems import JsonResponse, Problem, described, problem_response
from helpers.serve.sending import unless_gone
from helpers.serve.settings import ServeSettings
from helpers.serve.status import health_of, status_of
from helpers.serve.vectors import embed, read_texts, tokenize

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def make_app(settings: ServeSettings, keys: KeyStore | None = None) -> FastAPI:
    """Load a model and make the application that serves it.

    Args:
        settings: What is served to whom.
        keys: Who has which key, where that is not in the file that the settings name.

    Returns:
        The application. `app.state.house` has what it consists of; its `drain()` refuses new
        requests and waits for the running answers.

    Raises:
        ModelFileError: The model cannot be used.
        DeviceError: It does not fit.
    """
    house = House(settings, keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(house.served.close)

    app = FastAPI(
        title="llama-notebooks", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    app.state.house = house
    paths = Paths(house)
    app.add_api_route("/v1/completions", paths.completions, methods=["POST"])
    app.add_api_route("/v1/chat/completions", paths.chat, methods=["POST"])
    app.add_api_route("/v1/embeddings", paths.embeddings, methods=["POST"])
    app.add_api_route("/tokenize", paths.tokenize, methods=["POST"])
    app.add_api_route("/v1/models", paths.models)
    app.add_api_route("/v1/models/{name}", paths.model)
    app.add_api_route("/v1/models/{name}/header", paths.header)
    app.add_api_route("/health", paths.health)
    app.add_api_route("/metrics", paths.metrics_text)
    app.add_api_route("/status", paths.status)
    app.add_api_route("/", paths.page)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _failed)
    if house.keys is None:
        app.add_middleware(SameSite, host=settings.host)
    if settings.prefix:
        app.add_middleware(Under, prefix=settings.prefix)
    return app


async def _not_found(request: Request, error: Exception) -> Response:
    """What the router refuses, in the protocol's form."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = Problem(
            405, "method_not_allowed", f"{request.url.path} cannot be asked with {request.method}."
        )
    else:
        problem = Problem(
            404,
            "not_found",
            f"There is no {request.url.path[:100]!r} here; OpenAI's paths begin with /v1.",
        )
    return problem_response(problem)


async def _failed(request: Request, error: Exception) -> Response:
    return problem_response(error)


class Paths:
    """What the server answers on each path.

    Args:
        house: The server.
    """

    def __init__(self, house: House) -> None:
        self.house = house
        self.keys, self.settings, self.served = house.keys, house.settings, house.served
        self.metrics, self.desk = house.metrics, house.desk

    async def _body(self, request: Request) -> dict[str, Any]:
        body = await json_body(request, self.settings.body_bytes, self.settings.stall_s)
        return given_fields(body)

    # -- answers ----------------------------------------------------------------------------------

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        began = time.monotonic()

        async def answer() -> Response:
            key = await key_of(request, self.keys)
            body = await self._body(request)
            self.served.check_name(body.get("model"), self.served.name)
            check_bounds(body, self.served.n_ctx)
            asked = await asyncio.to_thread(read_completions, body, self.settings.n_choices)
            wrapped = envelope(body, "text_completion", "text_completion", "cmpl", self.served.name)
            return Answer(self.desk, key, asked, wrapped, began)

        return await self._told(request, answer)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        began = time.monotonic()

        async def answer() -> Response:
            key = await key_of(request, self.keys)
            body = await self._body(request)
            self.served.check_name(body.get("model"), self.served.name)
            check_bounds(body, self.served.n_ctx)
            asked = await read_chat(body, self.served.chat, self.settings.n_choices)
            wrapped = envelope(
                body, "chat.completion", "chat.completion.chunk", "chatcmpl", self.served.name
            )
            return Answer(self.desk, key, asked, wrapped, began)

        return await self._told(request, answer)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""

        async def answer() -> Response:
            key = await key_of(request, self.keys)
            body = await self._body(request)
            self.served.check_name(body.get("model"), self.served.vectors_name)
            texts = read_texts(body)
            with self.house.admission.admit(key, 1) as ticket:
                stop = threading.Event()

                def alive() -> bool:
                    self.metrics.last_token = time.monotonic()
                    return not stop.is_set()

                try:
                    async with asyncio.timeout(self.settings.request_s):
                        model = await self.served.embedder()
                        data, count = await unless_gone(
                            request.receive, asyncio.to_thread(embed, model, body, texts, alive)
                        )
                finally:
                    stop.set()
                ticket.tokens = count
            self.metrics.requests.labels(request.url.path, "ok").inc()
            usage = {"prompt_tokens": count, "total_tokens": count}
            name = self.served.vectors_name
            return JsonResponse({"object": "list", "data": data, "model": name, "usage": usage})

        return await self._told(request, answer)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""

        async def answer() -> Response:
            await key_of(request, self.keys)
            body = await self._body(request)
            engine = await self.served.engine_of(body.get("model"))
            return JsonResponse(await asyncio.to_thread(tokenize, engine, body))

        return await self._told(request, answer)

    async def _told(self, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
        """An answer, or why there is none."""
        try:
            return await answer()
        except Exception as error:
            status, body, headers = described(error)
            code = str(body["error"]["code"])
            self.metrics.requests.labels(request.scope["route"].path, code).inc()
            self.metrics.problem(getattr(request.state, "key", ""), status, code)
            return JsonResponse(body, status, headers)

    # -- what there is to know --------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""

        async def answer() -> Response:
            await key_of(request, self.keys)
            cards = [await asyncio.to_thread(self.served.card, n) for n in self.served.names()]
            return JsonResponse({"object": "list", "data": cards})

        return await self._told(request, answer)

    async def model(self, request: Request, name: str) -> Response:
        """GET /v1/models/{name}."""

        async def answer() -> Response:
            await key_of(request, self.keys)
            return JsonResponse(await asyncio.to_thread(self.served.card, name))

        return await self._told(request, answer)

    async def header(self, request: Request, name: str) -> Response:
        """GET /v1/models/{name}/header."""

        async def answer() -> Response:
            await key_of(request, self.keys)
            raw, tag = await asyncio.to_thread(self.served.header_of, name)
            headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache"}
            if request.headers.get("if-none-match") == headers["etag"]:
                return Response(status_code=304, headers=headers)
            return Response(raw, media_type="application/octet-stream", headers=headers)

        return await self._told(request, answer)

    async def health(self) -> Response:
        """GET /health."""
        health = health_of(self.house)
        return JsonResponse(health, 200 if health["status"] == "ok" else 503)

    async def metrics_text(self, request: Request) -> Response:
        """GET /metrics."""

        async def answer() -> Response:
            check_teacher(await key_of(request, self.keys))
            self.metrics.running.set(self.desk.running)
            self.metrics.waiting.set(self.desk.waiting)
            return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

        return await self._told(request, answer)

    async def status(self, request: Request) -> Response:
        """GET /status."""

        async def answer() -> Response:
            check_teacher(await key_of(request, self.keys))
            return JsonResponse(status_of(self.house), headers={"cache-control": "no-store"})

        return await self._told(request, answer)

    async def page(self) -> Response:
        """GET /: the page itself holds nothing; it asks for /status with the teacher's key."""
        return HTMLResponse(PAGE.read_text("utf-8"), headers=PAGE_HEADERS)
