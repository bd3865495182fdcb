"""A server without keys: whoever is on this machine may ask, and no page of another site."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from helpers.serve import ServeSettings, make_app, running
from helpers.serve.problems import without_paths
from helpers.serve.settings import is_loopback
from tests.support import wait_for

SETTINGS = ServeSettings(n_parallel=2, n_ctx=512, n_threads=2, isolate=False, stall_s=0.5)


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    made = make_app(SETTINGS)
    yield made
    made.state.house.served.close()


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as made:
        yield made


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
async def test_this_machine_may_ask(http: httpx.AsyncClient, host: str) -> None:
    headers = {"host": host}
    for path in ("/v1/models", "/status", "/metrics", "/"):
        assert (await http.get(path, headers=headers)).status_code == 200
    same = headers | {"origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    body = {"prompt": "1, 2,", "max_tokens": 2}
    assert (await http.post("/v1/completions", json=body, headers=same)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "https://localhost.evil.example:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_page_of_another_site_may_not(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
        answer = await http.post(path, json={"prompt": "a"}, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] in ("foreign_host", "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
    assert (await http.get("/status", headers=headers)).status_code == 403
    preflight = {"access-control-request-method": "POST", **headers}
    assert (await http.options("/v1/completions", headers=preflight)).status_code == 403


async def test_what_a_form_can_send_is_no_question(http: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = await http.post(
            "/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": kind}
        )
        assert answer.status_code == 415


async def test_the_page_may_load_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    answer = await http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "://" not in answer.text and "innerHTML" not in answer.text


async def test_an_answer_that_takes_too_long(app: FastAPI, http: httpx.AsyncClient) -> None:
    desk = app.state.house.desk
    before, desk.request_s = desk.request_s, 0.3
    try:
        body = {"prompt": "a", "max_tokens": 400, "logit_bias": {"0": "-inf", "2": "-inf"}}
        answer = await http.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
        streamed = await http.post("/v1/completions", json=body | {"stream": True})
        assert '"code": "timeout"' in streamed.text and "[DONE]" not in streamed.text
    finally:
        desk.request_s = before
    assert app.state.house.admission.in_flight == 0


async def test_a_model_that_hangs_is_noticed(app: FastAPI, http: httpx.AsyncClient) -> None:
    house = app.state.house
    house.admission.in_flight += 1
    house.admission.busy_since = house.metrics.last_token = time.monotonic() - 1000
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failing")
    house.admission.in_flight -= 1
    assert (await http.get("/health")).json()["status"] == "ok"
    house.metrics.stuck = True  # a request has waited for nothing until its time was over
    assert (await http.get("/health")).status_code == 503
    await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert (await http.get("/health")).json()["status"] == "ok"


@pytest.fixture
def servers(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[uvicorn.Server]]:
    """The application on a port, by `running.run`, in a thread; it waits for nothing long."""
    monkeypatch.setattr(running, "_HEADER_S", 0.5)
    servers: list[uvicorn.Server] = []
    ready = threading.Event()
    begin = running.GracefulServer.startup

    async def startup(self: running.GracefulServer, sockets: list[socket.socket]) -> None:
        servers.append(self)
        await begin(self, sockets)

    monkeypatch.setattr(running.GracefulServer, "startup", startup)
    monkeypatch.setattr(app.router, "lifespan_context", _no_lifespan)
    settings = ServeSettings(port=0, stall_s=0.5)
    bound = running.bound_socket(settings)
    thread = threading.Thread(target=running.run, args=(app, settings, bound, ready.set))
    thread.start()
    assert ready.wait(60)
    yield servers
    servers[0].should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@asynccontextmanager
async def _no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Without the end that frees the model: other tests go on with it."""
    yield


@pytest.fixture
def listening(servers: list[uvicorn.Server]) -> tuple[str, int]:
    address: tuple[str, int] = servers[0].servers[0].sockets[0].getsockname()
    return address


def test_connections_that_come_to_nothing_are_ended(listening: tuple[str, int]) -> None:
    for begun in (b"", b"GET /health HTTP/1.1\r\nHost: local"):
        with socket.create_connection(listening, timeout=60) as connection:
            connection.sendall(begun)
            assert _read(connection) == b""
    body = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(listening, timeout=60) as connection:
        connection.sendall(body + b"Content-Length: 900\r\n\r\n{")
        assert _read(connection).startswith(b"HTTP/1.1 408")


def test_who_does_not_read_is_not_waited_for(
    app: FastAPI, servers: list[uvicorn.Server], listening: tuple[str, int]
) -> None:
    name = app.state.house.served.name
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(listening)
        asked = f"GET /v1/models/{name}/header HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(asked.encode() * 8)
        assert wait_for(lambda: servers[0].server_state.connections)  # else it is yet to come
        assert wait_for(lambda: not servers[0].server_state.connections)
        assert len(_read(connection)) < 8 * len(app.state.house.served.header_of(name)[0])


def _read(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def test_words_without_paths() -> None:
    told = without_paths("'/srv/models/my models/a.gguf' and C:\\Users\\me\\b.gguf are damaged")
    assert "/home" not in told and "Users" not in told and "b.gguf" in told
    assert without_paths("see https://example.org/a/b, 3/4, and/or") == (
        "see https://example.org/a/b, 3/4, and/or"
    )


def test_loopback() -> None:
    assert is_loopback("127.9.9.9") and is_loopback("[::1]") and is_loopback("Localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("localhost.example")
    with pytest.raises(ValueError, match="keys"):
        ServeSettings(host="192.168.1.2")
