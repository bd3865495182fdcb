"""How a server begins and ends: with a word, with its answers finished, and with its kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from helpers import LlamaCpp, default_model
from helpers.errors import ServerError
from helpers.serve import serve
from tests.serve.conftest import LONG
from tests.support import ROOT, gone, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def http_of(server: serve) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=120, trust_env=False, verify=False)


def events(lines: Iterator[str]) -> list[Any]:
    return [line.removeprefix("data: ") for line in lines if line]


def test_sigterm_lets_answers_finish_and_then_gives_them_up() -> None:
    """One answer ends within the grace, the other does not; both learn how it was."""
    body = {"prompt": "a", "stream": True, **LONG}
    with serve(parallel=2, n_ctx=1024, threads=2, grace=4) as server:
        with (
            http_of(server) as http,
            http.stream("POST", "/v1/completions", json=body | {"max_tokens": 12}) as short,
            http_of(server) as other,
            other.stream("POST", "/v1/completions", json=body | {"max_tokens": 900}) as long,
        ):
            first, second = short.iter_lines(), long.iter_lines()
            next(first), next(second)
            os.kill(server.pid, signal.SIGTERM)
            with http_of(server) as late:
                assert wait_for(lambda: late.get("/health").json()["status"] == "stopping")
                answer = late.post("/v1/completions", json={"prompt": "a"})
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "shutting_down"
            assert events(first)[-1] == "[DONE]"
            last = json.loads(events(second)[-1])
            assert last["error"]["code"] == "shutting_down"
        assert server._process.wait(timeout=60) == 0


def test_a_server_ends_with_its_kernel(tmp_path: Path) -> None:
    program = (
        "from helpers.serve import serve\n"
        "server = serve(parallel=1, n_ctx=512)\n"
        "print(server.pid, flush=True)\n"
        "input()\n"
    )
    kernel = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with kernel:
        assert kernel.stdout is not None
        pid = int(kernel.stdout.readline())
        children = psutil.Process(pid).children()
        assert any("helpers.isolation.child" in child.cmdline() for child in children)
        kernel.kill()
    assert gone(pid) and all(gone(child.pid) for child in children)


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ServerError, match=r"model\.gguf"):
        serve(damaged)
    with pytest.raises(ServerError, match="unrecognized arguments: --paralel"):
        serve(paralel=2)
    with pytest.raises(ServerError, match="n_gpu_layers='many' must be a number or 'auto'"):
        serve(n_gpu_layers="many")


def test_a_server_that_guesses_writes_what_it_would_without() -> None:
    text = "1, 2, 3, 4, 5, 6. 1, 2, 3, 4, 5, 6. 1, 2"
    with serve(parallel=2, n_ctx=512, speculate="lookup") as server:
        guessing = LlamaCpp(server=server.url, temperature=0, max_tokens=60, repeat_penalty=1.0)
        alone = [guessing.invoke(text)]
        timings = guessing.last_timings
        alone += [guessing.invoke(text) for _ in range(2)]
        together = guessing.batch([text, "Once upon a time", text])
    with LlamaCpp(
        model_path=default_model(), temperature=0, max_tokens=60, repeat_penalty=1.0, n_ctx=512
    ) as llm:
        assert alone == [llm.invoke(text)] * 3
        assert together == llm.batch([text, "Once upon a time", text])
    assert timings is not None and timings.guessed_tokens and timings.right_tokens
    with pytest.raises(ServerError, match="C interface"):
        serve(n_ctx=512, speculate="mtp")
