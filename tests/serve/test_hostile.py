"""What nobody should do, and some will: the server goes on, and says what was wrong."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.serve.conftest import LONG, Running
from tests.support import wait_for


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a response, which must be in the protocol's form and tell nothing else."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"] and {"message", "type", "param", "code"} <= set(body["error"])
    assert body["error"]["code"] == code, body
    for secret in ("Traceback", "site-packages", "/home", "/root", "/tmp"):
        assert secret not in answer.text
    error: dict[str, Any] = body["error"]
    return error


@contextmanager
def streaming(server: Running, name: str = "learner") -> Iterator[Iterator[str]]:
    """The lines of an answer that goes on and on, of which the first has come."""
    with (
        server.http(name) as http,
        http.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True, **LONG}) as it,
    ):
        assert it.status_code == 200
        lines = it.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def raw(server: Running, data: bytes) -> socket.socket:
    """A connection over which something was sent."""
    address = urlsplit(server.url)
    assert address.hostname and address.port
    made = socket.create_connection((address.hostname, address.port), timeout=60)
    made.sendall(data)
    return made


def head(server: Running, more: str, path: str = "/v1/completions") -> bytes:
    key = server.keys["learner"]
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\n{more}\r\n\r\n"
    ).encode()


# -- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": NaN}',
        b'{"prompt": "\xff"}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "a", "grammar": ' + b'{"a":' * 150 + b"1" + b"}" * 151,
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
    ],
)
def test_garbage(server: Running, body: bytes) -> None:
    with server.http() as http:
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"):
            answer = http.post(path, content=body, headers={"content-type": "application/json"})
            refused(answer, 400, "invalid_value")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": {}}),
        ("/v1/completions", {"prompt": [["a"]]}),
        ("/v1/completions", {"prompt": [-1]}),
        ("/v1/completions", {"prompt": "a", "n": 0}),
        ("/v1/completions", {"prompt": "a", "n": "2"}),
        ("/v1/completions", {"prompt": "a", "stream": "yes"}),
        ("/v1/completions", {"prompt": "a", "stop": [""]}),
        ("/v1/completions", {"prompt": "a", "stop": ["x"] * 100}),
        ("/v1/completions", {"prompt": "a", "logprobs": 10_000}),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"x": 1}}),
        ("/v1/completions", {"prompt": "a", "temperature": 1e300}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1e9}),
        ("/v1/completions", {"prompt": "a", "grammar": "x" * 300_000}),
        ("/v1/completions", {"prompt": "a", "stream_options": 3}),
        ("/v1/completions", {"prompt": "a", "prompt_parts": [["a", True]]}),
        ("/v1/completions", {"prompt_parts": [["a", "yes"]]}),
        ("/v1/embeddings", {"input": []}),
        ("/v1/embeddings", {"input": [1.5]}),
        ("/v1/embeddings", {"input": [10**7]}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}),
        ("/v1/embeddings", {"input": "a", "kind": "poem"}),
        ("/v1/embeddings", {"input": "a", "normalize": "no"}),
        ("/tokenize", {"prompts": 3}),
        ("/tokenize", {"prompt": {}}),
    ],
)  # fmt: skip
def test_values_without_a_meaning(server: Running, path: str, body: dict[str, Any]) -> None:
    with server.http() as http:
        refused(http.post(path, json=body), 400, "invalid_value")


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": "Hi"},
        {"messages": [{"role": "root", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "tool", "content": "5"}]},
        {"tools": 3},
        {"tools": [{}]},
        {"tool_choice": "f"},
        {"response_format": 1},
        {"top_logprobs": 3},
        {"logit_bias": {"a": 1}},
        {"max_tokens": "9"},
        {"chat_template_kwargs": "x"},
        {"reasoning": "much"},
    ],
)
def test_chats_without_a_meaning(server: Running, changes: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **changes}
    with server.http() as http:
        refused(http.post("/v1/chat/completions", json=body), 400, "invalid_value")


def test_what_is_no_question(server: Running) -> None:
    with server.http() as http:
        refused(http.post("/v1/completions", data={"prompt": "a"}), 415, "unsupported_media_type")
        refused(http.get("/v1/completions"), 405, "method_not_allowed")
        refused(http.get("/v1/nothing"), 404, "not_found")
        refused(http.get("/../../etc/passwd"), 404, "not_found")
        refused(http.get("/v1/models/none/header"), 404, "model_not_found")
        refused(
            http.post("/v1/completions", json={"prompt": "a", "model": ["x"]}), 400, "invalid_value"
        )


def test_bodies_that_are_too_large(server: Running) -> None:
    large = json.dumps({"prompt": "a" * 2**20}).encode()

    def pieces() -> Iterator[bytes]:  # without a length
        for at in range(0, len(large), 50_000):
            yield large[at : at + 50_000]

    kind = {"content-type": "application/json"}
    with server.http() as http:
        for content in (large, pieces()):
            answer = http.post("/v1/completions", content=content, headers=kind)
            refused(answer, 413, "body_too_large")
    with raw(server, head(server, "Content-Length: 99999999999999999999")) as connection:
        connection.sendall(b"x" * 1000)
        connection.shutdown(socket.SHUT_WR)
        assert b"413" in connection.recv(4096) or True
    with server.http() as http:
        assert http.get("/health").json()["status"] == "ok"


# -- keys -----------------------------------------------------------------------------------------


def test_wrong_keys(server: Running) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, verify=False) as http:
        assert http.get("/health").status_code == 200
        assert "<html" in http.get("/").text
        for path in ("/v1/models", "/v1/models/x/header", "/status", "/metrics"):
            for given in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp5"}):
                answer = http.get(path, headers=given)
                refused(answer, 401, "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"):
            refused(http.post(path, json={"prompt": "a"}), 401, "invalid_api_key")
    with server.http("learner") as http:
        for path in ("/status", "/metrics"):
            refused(http.get(path), 403, "teacher_only")
    with server.http("teacher") as http:
        assert "llama_requests_total" in http.get("/metrics").text


def test_who_asks_is_what_the_key_says(server: Running) -> None:
    with server.http("other") as http:
        body = {"prompt": "a", "max_tokens": 2, "user": "learner"}
        assert http.post("/v1/completions", json=body).status_code == 200
    users: Any = server.status()["users"]
    assert users[0]["name"] == "other" and users[0]["tokens_today"] >= 3


def test_the_limits_of_a_key(server: Running) -> None:
    with server.http("poor") as http:
        body = {"prompt": "a " * 40, "max_tokens": 1}
        assert http.post("/v1/completions", json=body).status_code == 200
        answer = http.post("/v1/completions", json=body)
        refused(answer, 429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) > 1
    with streaming(server, "one"), server.http("one") as http:
        answer = http.post("/v1/completions", json={"prompt": "a"})
        refused(answer, 429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
    assert server.calm()


# -- places ---------------------------------------------------------------------------------------


def test_a_vanished_client_gives_its_place_back(server: Running) -> None:
    with streaming(server), streaming(server, "other"):
        assert server.status()["running"] == 2
    assert server.calm()
    with server.http() as http:  # not streamed: there is nothing to write to the one who has gone
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json={"prompt": "a", **LONG}, timeout=1)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/embeddings", json={"input": ["word " * 900] * 150}, timeout=1)
    assert server.calm()
    with server.http() as http:
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).is_success


def test_a_full_queue_says_when_to_come_again(server: Running) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(streaming(server))
        waiting = [raw(server, _long_body(server)) for _ in range(2)]
        assert wait_for(lambda: server.status()["waiting"] == 2)
        with server.http("other") as http:
            answer = http.post("/v1/completions", json={"prompt": "a"})
            refused(answer, 429, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
        for connection in waiting:
            connection.close()
        assert wait_for(lambda: server.status()["waiting"] == 0)
    assert server.calm()


def _long_body(server: Running) -> bytes:
    body = json.dumps({"prompt": "b", **LONG})
    return head(server, f"Content-Length: {len(body)}") + body.encode()


def test_a_client_that_does_not_read_holds_no_place(server: Running) -> None:
    body = json.dumps({"prompt": "a", "stream": True, **LONG, "max_tokens": 100})
    connection = raw(server, head(server, f"Content-Length: {len(body)}") + body.encode())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert wait_for(lambda: server.status()["running"] == 1)
    assert server.calm()  # it is computed to its end, or given up: never for ever
    connection.close()


def test_half_a_request_and_no_request(server: Running) -> None:
    open_ones = [
        raw(server, b""),
        raw(server, b"GET /health HTT"),
        raw(server, head(server, "Content-Length: 1000") + b'{"prompt"'),
    ]
    for garbage in (b"\x16\x03\x01" + b"\x00" * 50 + b"\r\n\r\n", b"nonsense\r\n\r\n"):
        with raw(server, garbage) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    with raw(server, b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
    with server.http() as http:
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).is_success
    for one in open_ones:
        one.close()
    assert wait_for(lambda: "client_gone" in str(server.status()["errors"]))
    assert "ClientDisconnect" not in server.process.log


# -- the engine dies ------------------------------------------------------------------------------


def test_the_engines_death_is_told_and_the_next_call_works(server: Running) -> None:
    def whole() -> httpx.Response:
        with server.http("other") as http:
            return http.post("/v1/completions", json={"prompt": "a", **LONG})

    with ThreadPoolExecutor(1) as pool, streaming(server) as lines:
        other = pool.submit(whole)
        assert wait_for(lambda: server.status()["running"] == 2)
        for engine in server.engines():
            engine.kill()
        events = [line for line in lines if line]
        assert "data: [DONE]" not in events
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == ("engine_crashed", "server_error")
        told = refused(other.result(), 503, "engine_crashed")
    assert "SIGKILL" in told["message"]
    with server.http() as http:
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).is_success
        assert http.post("/v1/embeddings", json={"input": "a"}).is_success
        assert http.get("/health").json()["status"] == "ok"


def test_many_at_once_leave_nothing_behind(server: Running) -> None:
    """A short storm: garbage, wrong keys, clients that vanish, and honest ones in between."""
    process = psutil.Process(server.process.pid)
    before = process.num_fds() if hasattr(process, "num_fds") else 0
    ended = threading.Event()

    def honest() -> int:
        with server.http() as http:
            answer = http.post("/v1/completions", json={"prompt": "1, 2,", "max_tokens": 3})
            return answer.status_code

    def vanishing() -> int:
        with raw(server, _long_body(server)):
            ended.wait(0.05)
        return 0

    def garbage() -> int:
        with raw(server, b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n") as one:
            one.recv(100)
        return 0

    def wrong() -> int:
        with httpx.Client(base_url=server.url, trust_env=False, verify=False) as http:
            return http.get("/v1/models", headers={"authorization": "Bearer no"}).status_code

    kinds: list[Callable[[], int]] = [honest, vanishing, garbage, wrong]
    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(kinds[n % 4]) for n in range(40)]]
    assert set(found[::4]) <= {200, 429} and set(found[3::4]) == {401}
    assert server.calm()
    assert wait_for(lambda: not before or process.num_fds() <= before + 2)
    assert honest() == 200
