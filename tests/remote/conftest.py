"""Servers for the tests of their client: real ones, and one that says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from helpers import ChatLlamaCpp, LlamaCpp, LlamaCppEmbeddings, default_model
from helpers.remote.address import KEY_VARIABLE, SERVER_VARIABLE
from helpers.serve.background import serve

N_CTX = 1024


@pytest.fixture(scope="package", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(SERVER_VARIABLE, raising=False)
        patch.delenv(KEY_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="package")
def server(_own_cache: None) -> Iterator[serve]:
    """A server for all tests that leave it as it is."""
    with serve(n_ctx=N_CTX, parallel=4) as started:
        yield started


@pytest.fixture(scope="package")
def here() -> Iterator[LlamaCpp]:
    """The same model in this process."""
    with LlamaCpp(model_path=default_model(), n_ctx=N_CTX, temperature=0, max_tokens=12) as llm:
        yield llm


@pytest.fixture(scope="package")
def chat_here(here: LlamaCpp) -> Iterator[ChatLlamaCpp]:
    with ChatLlamaCpp(
        model_path=default_model(), n_ctx=N_CTX, temperature=0, max_tokens=48
    ) as chat:
        yield chat


@pytest.fixture(scope="package")
def vectors_here() -> Iterator[LlamaCppEmbeddings]:
    with LlamaCppEmbeddings(model_path=default_model(), show_progress=False) as vectors:
        yield vectors


@pytest.fixture
def there(server: serve) -> Iterator[LlamaCpp]:
    """The server's model."""
    with LlamaCpp(server=server.url, temperature=0, max_tokens=12) as llm:
        yield llm


@pytest.fixture
def chat_there(server: serve) -> Iterator[ChatLlamaCpp]:
    with ChatLlamaCpp(server=server.url, temperature=0, max_tokens=48) as chat:
        yield chat


Answers = dict[str, Callable[["Handler"], None]]


class Handler(BaseHTTPRequestHandler):
    """Answers a path as the test says."""

    protocol_version = "HTTP/1.1"
    answers: Answers
    seen: list[tuple[str, dict[str, str]]]
    body: Any = None

    def do_GET(self) -> None:
        self.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        size = int(self.headers.get("content-length", 0))
        self.body = json.loads(self.rfile.read(size)) if size else None
        answer = self.answers.get(self.path)
        if answer is None:
            self.say(404, b"<html>nothing here</html>", kind="text/html")
        else:
            answer(self)

    do_POST = do_GET

    def say(
        self, status: int, body: Any, *, kind: str = "application/json", **headers: Any
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, *lines: Any, whole: bool = True) -> None:
        """Send lines of a stream; a connection that is closed without its last chunk is broken."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for line in lines:
            said = line if isinstance(line, bytes) else b"data: " + json.dumps(line).encode()
            said += b"\n\n"
            self.wfile.write(f"{len(said):x}\r\n".encode() + said + b"\r\n")
            self.wfile.flush()
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Scripted:
    """A server whose answers a test writes."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        handler = type("_Handler", (Handler,), {"answers": self.answers, "seen": self.seen})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def pretender(scripted: Scripted, _own_cache: None) -> Scripted:
    """One that says it is a server of ours, with the embedded model."""
    import hashlib

    from helpers.models.header import header_bytes

    raw = header_bytes(default_model())
    meta = {
        "embeddings": False,
        "fingerprint": hashlib.sha256(raw).hexdigest(),
        "load_report": {
            "model": default_model().name,
            "description": "pretended",
            "n_ctx": N_CTX,
            "n_batch": 512,
            "n_gpu_layers": 0,
            "n_layers": 31,
        },
    }
    scripted.answers["/v1/models"] = lambda handler: handler.say(
        200, {"object": "list", "data": [{"id": "it", "meta": meta}]}
    )
    scripted.answers["/v1/models/it/header"] = lambda handler: handler.say(200, raw)
    return scripted
