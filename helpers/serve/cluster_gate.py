"""The one door of a cluster: keys, limits, the queue, and whose conversation goes where.

It runs once, on the head node, whose end is the cluster's end in any case. So limits and the queue
are exact for the whole cluster, without anything that replicas would have to agree on. What it
lets in goes to a replica; while nothing has been told to the client, another replica can begin
again when that one dies, and once something has, the client gets the protocol's error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from starlette.responses import HTMLResponse, Response
from starlette.types import Message, Receive, Scope, Send

from helpers.serve.app import PAGE, PAGE_HEADERS
from helpers.serve.bodies import json_body
from helpers.serve.cluster_replica import Asked
from helpers.serve.guard import SameSite, check_teacher, key_of
from helpers.serve.keys import Key, KeyFile
from helpers.serve.limits import Admission, Ticket
from helpers.serve.metrics import Metrics
from helpers.serve.problems import JsonResponse, Problem, described, log, problem_response
from helpers.serve.sending import Wire
from helpers.serve.settings import ServeSettings

_TRIES = 4
"""Replicas that one request may lose before it is an error."""
_LOOK_S = 2.0
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_PASSED_ON = {b"accept", b"content-type", b"if-none-match"}
_ANSWERED = {"/v1/completions", "/v1/chat/completions", "/v1/embeddings"}
_CHARACTERS_PER_TOKEN = 4

Ask = Callable[[Asked, str], Any]
"""Sends a request of a session to a replica; gives an asynchronous iterator of messages."""


class Gate:
    """What the door knows.

    Args:
        settings: Those of the cluster.
        ask: How replicas are asked.
        count: How many replicas are there to be asked now.
    """

    def __init__(self, settings: ServeSettings, ask: Ask, count: Callable[[], int]) -> None:
        self.settings, self._ask, self._count = settings, ask, count
        self.keys = None if settings.keys is None else KeyFile(settings.keys, settings.limits)
        self.metrics = Metrics()
        self.admission = Admission(
            settings.n_parallel, settings.queue, settings.limits, limited=self.keys is not None
        )
        self.replicas = 0
        self.kept: dict[str, list[Message]] = {}
        self.began = time.time()

    async def look(self) -> None:
        """Keep the number of places that of the replicas that there are."""
        while True:
            with suppress(RayError, RayServeException):
                self.replicas = await asyncio.to_thread(self._count)
                self.admission.n_parallel = self.settings.n_parallel * max(1, self.replicas)
            await asyncio.sleep(_LOOK_S)

    async def relay(self, request: Request) -> Response:
        """Whatever a replica answers."""
        try:
            key = await key_of(request, self.keys)
            body: dict[str, Any] = {}
            if request.method == "POST":
                settings = self.settings
                body = await json_body(request, settings.body_bytes, settings.stall_s)
            return _Relayed(self, request, key, body)
        except Exception as error:
            return problem_response(error)

    async def health(self) -> Response:
        """GET /health."""
        return JsonResponse(self._health(), 200 if self.replicas else 503)

    def _health(self) -> dict[str, Any]:
        running = min(self.admission.in_flight, self.admission.n_parallel)
        return {
            "status": "ok" if self.replicas else "loading",
            "model": self.settings.model,
            "replicas": self.replicas,
            "running": running,
            "waiting": self.admission.in_flight - running,
            "n_parallel": self.admission.n_parallel,
            "queue": self.settings.queue,
            "keys": self.keys is not None,
        }

    async def status(self, request: Request) -> Response:
        """GET /status."""
        try:
            check_teacher(await key_of(request, self.keys))
        except Problem as problem:
            return problem_response(problem)
        users = [
            {
                "name": name,
                "in_flight": usage.in_flight,
                "tokens_today": usage.today,
                "requests": usage.requests,
                "errors": usage.errors,
                "last_seen": usage.last_seen,
            }
            for name, usage in self.admission.users.items()
        ]
        return JsonResponse(
            {
                **self._health(),
                "now": time.time(),
                "began": self.began,
                "description": f"{self.replicas} replicas on Ray Serve",
                "users": sorted(users, key=lambda user: -float(str(user["last_seen"]))),
                "tokens_per_second": self.metrics.history(),
                "generated": self.metrics.generated,
                "memory": {"by_device": {}, "model_mib": 0, "used_mib": 0, "total_mib": 0},
                "errors": [
                    {"time": at, "key": name, "status": status, "code": code}
                    for at, name, status, code in reversed(self.metrics.errors)
                ],
            },
            headers={"cache-control": "no-store"},
        )

    async def metrics_text(self, request: Request) -> Response:
        """GET /metrics: what passed the gate; Ray exports what each replica does."""
        try:
            check_teacher(await key_of(request, self.keys))
        except Problem as problem:
            return problem_response(problem)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self) -> Response:
        """GET /: the teacher's page."""
        return HTMLResponse(PAGE.read_text("utf-8"), headers=PAGE_HEADERS)


class _Relayed(Response):
    """The answer of whichever replica has one."""

    def __init__(self, gate: Gate, request: Request, key: Key, body: dict[str, Any]) -> None:
        super().__init__()  # FastAPI asks whether it is a response; it is sent by `__call__`
        self._gate, self._key, self._body = gate, key, body
        self._session = session_of(request.url.path, body, key.name)
        self._asked = Asked(
            request.method,
            request.url.path,
            request.scope["query_string"],
            [(name, value) for name, value in request.headers.raw if name in _PASSED_ON],
            json.dumps(body).encode() if body else b"",
            key.name,
        )
        # What a model is stays the same: that need not wait for a place.
        self._keep = request.method == "GET" and self._asked.path.startswith("/v1/models")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay; Serve cancels this as soon as the client has gone, and so the replica's work."""
        gate, wire = self._gate, _Passed(send)
        code = "client_gone"
        try:
            async with asyncio.timeout(gate.settings.request_s + gate.settings.grace_s):
                if self._asked.path in _ANSWERED:
                    with gate.admission.admit(self._key, _answers(self._body)) as ticket:
                        await self._relay(wire, ticket)
                elif self._keep and (kept := gate.kept.get(self._asked.path)):
                    for message in kept:
                        await send(message)
                else:
                    await self._relay(wire, Ticket(self._key, 0, 0.0))
            code = "ok"
        except Exception as error:
            status, told, headers = described(_known(error))
            code = str(told["error"]["code"])
            gate.metrics.problem(self._key.name, status, code)
            if wire.began:
                # Without [DONE]: what was told so far is no whole answer.
                await wire.event(json.dumps(told).encode(), more=False)
            else:
                await wire.whole(told, status, headers)
        finally:
            gate.metrics.requests.labels(self._asked.path, code).inc()

    async def _relay(self, wire: _Passed, ticket: Ticket) -> None:
        for left in reversed(range(_TRIES)):
            try:
                if await self._try(wire, ticket, last=not left):
                    return
            except RayError as error:
                if wire.began or not left or not _lost(error):
                    raise
                log.warning("a replica was lost, another begins again: %s", type(error).__name__)

    async def _try(self, wire: _Passed, ticket: Ticket, *, last: bool) -> bool:
        """Pass one replica's answer on; False if there was none and another may be asked."""
        start: Message | None = None
        passed: list[Message] = []
        ticket.tokens = len(self._asked.body) // _CHARACTERS_PER_TOKEN
        stream = self._gate._ask(self._asked, self._session)
        async for message in stream:
            kind = message["type"]
            if self._keep and kind.startswith("http."):
                passed.append(message)
            if kind == "http.response.start":
                # Held back until there is something to tell: until then another may begin again.
                if message["status"] == 503 and not last:
                    return False
                start = message
            elif kind == "http.response.body":
                if start is not None:
                    await wire.begin(start)
                    start = None
                await wire.body(message)
                ticket.tokens += 1
                self._gate.metrics.piece(time.monotonic(), None, None)
            elif kind == "charged":
                ticket.tokens = message["tokens"]
        if passed and passed[0]["status"] == 200:
            self._gate.kept[self._asked.path] = passed
        return True


class _Passed(Wire):
    """A response whose messages somebody else has made."""

    async def begin(self, start: Message) -> None:
        """Pass the status and the headers on."""
        self.began = True
        await self._send(start)

    async def body(self, message: Message) -> None:
        """Pass a piece on."""
        await self._send(message)


def _lost(error: Exception) -> bool:
    """Whether a replica has gone, and not its application raised something."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError | TaskCancelledError)


def _known(error: Exception) -> Exception:
    """An exception of Ray's as the protocol's."""
    if _lost(error):
        return Problem(
            503,
            "engine_crashed",
            "The machine that computed this answer was lost. Others go on: ask once more.",
            retry_after=1,
        )
    if isinstance(error, RayTaskError):  # its text is a traceback of the replica's
        log.error("a replica failed: %s", error)
        return RuntimeError("a replica failed")
    return error


def _answers(body: Mapping[str, Any]) -> int:
    """How many answers a body asks for; whether it may, the replica says."""
    n, prompt = body.get("n"), body.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompts = len(prompt)
    return prompts * (max(1, n) if isinstance(n, int) else 1)


def session_of(path: str, body: Mapping[str, Any], user: str) -> str:
    """The name of a conversation: what stays the same of it while it grows.

    A chat begins with its first messages up to the user's first one, a text with its first tokens.
    Learners who begin alike are different conversations, or a whole class would go to one machine.

    >>> first = {"messages": [{"role": "user", "content": "Hello"}]}
    >>> later = {"messages": [*first["messages"], {"role": "assistant", "content": "Hi"}]}
    >>> session_of("/v1/chat/completions", first, "kim") == session_of(
    ...     "/v1/chat/completions", later, "kim")
    True
    >>> session_of("/v1/chat/completions", first, "kim") == session_of(
    ...     "/v1/chat/completions", first, "lee")
    False
    """
    begin: Any = body.get("prompt_cache_key")
    messages = body.get("messages")
    if begin is None and isinstance(messages, list):
        roles = [one.get("role") if isinstance(one, dict) else None for one in messages]
        begin = messages[: roles.index("user") + 1] if "user" in roles else messages[:1]
    elif begin is None:
        prompt = body.get("prompt_parts", body.get("prompt", body.get("input", "")))
        begin = prompt[:200] if isinstance(prompt, str) else json.dumps(prompt)[:400]
    return hashlib.sha256(json.dumps([user, path, begin]).encode()).hexdigest()


def gate_app(settings: ServeSettings, ask: Ask, count: Callable[[], int]) -> FastAPI:
    """The application of the gate.

    Args:
        settings: Those of the cluster.
        ask: How replicas are asked.
        count: How many replicas are there to be asked now.
    """
    gate = Gate(settings, ask, count)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(gate.look())
        yield
        looking.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.gate = gate
    app.add_api_route("/health", gate.health)
    app.add_api_route("/status", gate.status)
    app.add_api_route("/metrics", gate.metrics_text)
    app.add_api_route("/", gate.page)
    app.add_api_route("/{path:path}", gate.relay, methods=_METHODS)
    if gate.keys is None:
        app.add_middleware(SameSite, host=settings.host)
    return app
