"""The gate of a cluster, without a cluster: its replicas are scripts that die where they are told.

That the real ones do as these is `test_cluster`'s to show.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.serve.keys import add_keys
from helpers.serve.settings import KeyLimits, ServeSettings

pytest.importorskip("ray.serve", reason="Ray is not installed")
from ray.exceptions import ActorDiedError

from helpers.serve.cluster_gate import gate_app, session_of

LOST = ActorDiedError()
START = {"type": "http.response.start", "status": 200, "headers": []}
BUSY = {**START, "status": 503}
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def body(text: str, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


def charged(tokens: int) -> dict[str, Any]:
    return {"type": "charged", "tokens": tokens}


WHOLE = [START, body("data: a\n\n"), body("data: [DONE]\n\n", False), charged(7)]


class Replicas:
    """What the gate asks: one script for each request, the last one for all that follow."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts, self.sessions, self.ended = list(scripts), [], 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, asked: Any, session: str) -> AsyncIterator[Any]:
        self.sessions.append(session)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            for message in script:
                if isinstance(message, Exception):
                    raise message
                if message is WAIT:
                    await self.go.wait()
                else:
                    yield message
        finally:
            self.ended += 1


WAIT = {"type": "wait"}


def client(replicas: Replicas, **settings: Any) -> httpx.AsyncClient:
    app = gate_app(ServeSettings(**settings), replicas, lambda: 1)
    app.state.gate.replicas = 1
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def test_an_answer_passes_as_it_is() -> None:
    replicas = Replicas(WHOLE)
    async with client(replicas) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.text == "data: a\n\ndata: [DONE]\n\n"
    assert replicas.ended == 1


@pytest.mark.parametrize("before", [[LOST], [START, LOST], [BUSY]])
async def test_what_died_before_it_told_anything_is_begun_again(before: list[Any]) -> None:
    replicas = Replicas(before, before, WHOLE)
    async with client(replicas) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.text == "data: a\n\ndata: [DONE]\n\n"
    assert len(replicas.sessions) == 3
    assert len(set(replicas.sessions)) == 1


async def test_what_died_after_it_told_something_is_an_error_and_never_done() -> None:
    replicas = Replicas([START, body("data: a\n\n"), LOST], WHOLE)
    async with client(replicas) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
        first, second = answer.text.strip().split("\n\n")
        assert first == "data: a"
        assert json.loads(second.removeprefix("data: "))["error"]["code"] == "engine_crashed"
        assert len(replicas.sessions) == 1
        assert "[DONE]" in (await http.post("/v1/chat/completions", json=CHAT)).text


async def test_who_meets_only_replicas_that_die_is_told_so() -> None:
    replicas = Replicas([LOST])
    async with client(replicas) as http:
        answer = await http.post("/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_crashed"
    assert answer.headers["retry-after"] == "1"
    assert len(replicas.sessions) == 4


async def test_limits_and_the_queue_are_those_of_the_whole_cluster(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    keys = add_keys(file, ["one", "two", "three"], limits=KeyLimits(in_flight=2))
    replicas = Replicas([WAIT, *WHOLE])
    replicas.go.clear()

    async with client(replicas, keys=str(file), n_parallel=1, queue=2) as http:

        async def ask(name: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {keys[name]}"}
            return await http.post("/v1/chat/completions", json=CHAT, headers=headers)

        asking = [asyncio.create_task(ask(name)) for name in ("one", "one", "two")]
        while len(replicas.sessions) < 3:
            await asyncio.sleep(0.01)
        limited, full = await ask("one"), await ask("three")
        assert (limited.status_code, full.status_code) == (429, 429)
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        assert full.json()["error"]["code"] == "queue_full"
        assert full.headers["retry-after"]
        replicas.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
        assert (await ask("three")).status_code == 200
        nobody = await http.post("/v1/chat/completions", json=CHAT)
        assert nobody.status_code == 401
    assert len(replicas.sessions) == 4


async def test_tokens_are_charged_to_the_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    keys = add_keys(file, ["one"], limits=KeyLimits(tokens_per_minute=20))
    replicas = Replicas([*WHOLE[:-1], charged(30)])
    async with client(replicas, keys=str(file)) as http:
        headers = {"authorization": f"Bearer {keys['one']}"}
        asked = [
            (await http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code
            for _ in range(2)
        ]
    assert asked == [200, 429]


async def test_a_client_that_hangs_up_ends_the_replicas_work() -> None:
    replicas = Replicas([START, body("data: a\n\n"), WAIT, *WHOLE])
    replicas.go.clear()
    async with client(replicas) as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        while not replicas.sessions:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while not replicas.ended:
            await asyncio.sleep(0.01)


async def test_what_a_model_is_need_not_wait_for_a_place() -> None:
    card = [START, body('{"data": []}', False), charged(0)]
    replicas = Replicas(card, [LOST])
    async with client(replicas) as http:
        for _ in range(3):
            assert (await http.get("/v1/models")).json() == {"data": []}
    assert len(replicas.sessions) == 1


async def test_how_the_cluster_is() -> None:
    async with client(Replicas(WHOLE)) as http:
        health, status = await http.get("/health"), (await http.get("/status")).json()
        assert health.json()["status"] == "ok"
        assert status["replicas"] == 1
        assert "llama_requests" in (await http.get("/metrics")).text
        assert "<title>" in (await http.get("/")).text


def test_a_conversation_keeps_its_name_while_it_grows() -> None:
    def chat(*contents: str, **more: Any) -> str:
        roles = ["system", "user", "assistant", "user"]
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        return session_of("/v1/chat/completions", {"messages": messages, **more}, "kim")

    assert chat("be kind", "hello") == chat("be kind", "hello", "hi", "more")
    assert chat("be kind", "hello") != chat("be kind", "goodbye")
    assert chat("a", "b", prompt_cache_key="x") == chat("c", "d", prompt_cache_key="x")
    long = "once upon a time " * 40
    texts = [session_of("/v1/completions", {"prompt": long + end}, "kim") for end in ("a", "b")]
    assert texts[0] == texts[1]
    for odd in ({"messages": [3]}, {"messages": []}, {"prompt": [1, 2]}, {"prompt": None}, {}):
        assert session_of("/v1/completions", odd, "kim")
