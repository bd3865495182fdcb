"""Soak of `python -m helpers serve`: good clients among bad ones, and what the server becomes.

    python -m tests.serve.soak --minutes 10 --clients 30

Every third client behaves; the others vanish in the middle, send garbage, read slowly, send bodies
that are too large, or have no right to ask. Each request must get an answer or an error in the
protocol's form; a good client's answer must be, to the letter, that of a lone engine; and memory,
threads and descriptors of the server's processes must end where they were after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from helpers import LlamaCpp, default_model
from helpers.serve.keys import add_keys
from helpers.serve.settings import KeyLimits

PROMPTS = [
    "The capital of France is",
    "1, 2, 3, 4,",
    "Water boils at",
    "My favourite animal is the",
    "The river runs through the old town and " * 12 + "then it",
    "List three colours: red,",
]
TOKENS = 16
_MIB = 1024 * 1024


@dataclass
class Record:
    """What happened.

    Attributes:
        outcomes: How requests ended, by kind of client.
        faults: What must not happen, in words.
        samples: Per look: RSS in MiB, threads, descriptors of the server and its child together.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)


def expected() -> dict[str, str]:
    """The answers of a lone engine in this process."""
    with LlamaCpp(model_path=default_model(), temperature=0, max_tokens=TOKENS) as llm:
        return {prompt: llm.invoke(prompt) for prompt in PROMPTS}


class Soak:
    """The clients of one server.

    Args:
        url: Its address.
        key: A key that it knows.
        answers: What it should say to each prompt.
        record: Where outcomes go.
    """

    def __init__(self, url: str, key: str, answers: dict[str, str], record: Record) -> None:
        self._url, self._key, self._answers, self._record = url, key, answers, record

    async def run(self, clients: int, seconds: float) -> None:
        """Let clients ask until the time is over; all of them come to an end."""
        kinds = [self.vanish, self.garbage, self.slow, self.oversize, self.wrong_key]
        end = time.monotonic() + seconds
        jobs = []
        for number in range(clients):
            kind = self.good if number % 3 == 0 else kinds[number % len(kinds)]
            jobs.append(self._repeat(kind, end, random.Random(number)))
        await asyncio.gather(*jobs)

    async def _repeat(
        self,
        kind: Callable[[httpx.AsyncClient, random.Random], Coroutine[Any, Any, str]],
        end: float,
        draw: random.Random,
    ) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        while time.monotonic() < end:
            async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=300) as web:
                for _ in range(draw.randrange(1, 6)):
                    try:
                        outcome = await kind(web, draw)
                    except Exception as error:
                        outcome = f"no answer: {type(error).__name__}"
                        self._record.faults.append(f"{kind.__name__}: {error!r}")
                    self._record.outcomes[f"{kind.__name__}: {outcome}"] += 1
                    await asyncio.sleep(draw.random() * 0.2)

    def _body(self, draw: random.Random, **more: Any) -> dict[str, Any]:
        prompt = draw.choice(PROMPTS)
        return {"prompt": prompt, "temperature": 0, "max_tokens": TOKENS, **more}

    async def good(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client that behaves, streaming or not."""
        body = self._body(draw)
        if draw.random() < 0.5:
            response = await web.post("/v1/completions", json=body)
            if response.status_code != 200:
                return self._refused(response.status_code, response.content)
            text = response.json()["choices"][0]["text"]
        else:
            text, whole = "", False
            async with web.stream("POST", "/v1/completions", json={**body, "stream": True}) as r:
                if r.status_code != 200:
                    return self._refused(r.status_code, await r.aread())
                async for line in r.aiter_lines():
                    if line == "data: [DONE]":
                        whole = True
                    elif line.startswith("data: "):
                        for choice in json.loads(line[6:]).get("choices", ()):
                            text += choice["text"]
            if not whole:
                self._record.faults.append("good: a stream without an end")
        if text != self._answers[body["prompt"]]:
            self._record.faults.append(f"good: {body['prompt'][:20]!r} was answered {text!r}")
        return "answered"

    async def vanish(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client that is gone after a few pieces, or before the first."""
        body = self._body(draw, stream=True, max_tokens=400)
        async with web.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                return self._refused(response.status_code, await response.aread())
            left = draw.randrange(4)
            async for _ in response.aiter_lines():
                left -= 1
                if left < 0:
                    break
        return "vanished"

    async def garbage(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client that sends what is no request."""
        content = draw.choice(
            [b"", b"{", b"\xff\xfe\x00", b"[" * 5000, b'{"prompt": 7}', b'{"prompt": "a", "x": 1}',
             b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "max_tokens": 1e99}',
             b'{"prompt": "a", "grammar": "root ::= ("}', b"null", draw.randbytes(200)]
        )  # fmt: skip
        headers = {"Content-Type": "application/json"}
        response = await web.post("/v1/completions", content=content, headers=headers)
        if response.status_code == 200:
            self._record.faults.append(f"garbage: {content[:40]!r} was answered")
        return self._refused(response.status_code, response.content)

    async def slow(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client that takes its time to read."""
        body = self._body(draw, stream=True)
        text = ""
        async with web.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                return self._refused(response.status_code, await response.aread())
            async for line in response.aiter_lines():
                await asyncio.sleep(draw.random() * 0.1)
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:]).get("choices", ()):
                        text += choice["text"]
        if text != self._answers[body["prompt"]]:
            self._record.faults.append(f"slow: {body['prompt'][:20]!r} was answered {text!r}")
        return "answered"

    async def oversize(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client whose body is too large, with its length announced or not."""
        content = b'{"prompt": "' + b"a" * (4 * _MIB) + b'"}'

        async def pieces() -> Any:
            for start in range(0, len(content), 65536):
                yield content[start : start + 65536]

        given = content if draw.random() < 0.5 else pieces()
        headers = {"Content-Type": "application/json"}
        try:
            response = await web.post("/v1/completions", content=given, headers=headers)
        except httpx.TransportError:  # the server may close before it has read it all
            return "closed"
        if response.status_code != 413:
            self._record.faults.append(f"oversize: {response.status_code}")
        return self._refused(response.status_code, response.content)

    async def wrong_key(self, web: httpx.AsyncClient, draw: random.Random) -> str:
        """A client that the server does not know."""
        headers = {"Authorization": draw.choice(["", "Bearer x", "Basic YQ==", "Bearer"])}
        response = await web.post("/v1/completions", json=self._body(draw), headers=headers)
        if response.status_code != 401:
            self._record.faults.append(f"wrong_key: {response.status_code}")
        return self._refused(response.status_code, response.content)

    def _refused(self, status: int, content: bytes) -> str:
        """The code of a refusal, which must have the protocol's form."""
        try:
            error = json.loads(content)["error"]
            return f"{status} {error['code']}, {bool(error['message'])}"
        except (ValueError, KeyError, TypeError):
            self._record.faults.append(f"{status} without the protocol's form: {content[:80]!r}")
            return f"{status}"


def look(process: psutil.Process) -> tuple[float, int, int]:
    """Memory in MiB, threads and descriptors of a process and its children."""
    family = [process, *process.children(recursive=True)]
    return (
        sum(one.memory_info().rss for one in family) / _MIB,
        sum(one.num_threads() for one in family),
        sum(one.num_fds() for one in family if hasattr(one, "num_fds")),
    )


def soak(clients: int, seconds: float, say: Callable[[str], None] = print) -> Record:
    """Start a server, let the clients at it, and watch it.

    Args:
        clients: How many, at least 6 for one of each kind.
        seconds: How long they ask.
        say: Told each look at the server.
    """
    record = Record()
    answers = expected()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        keys = Path(folder) / "keys"
        key = _add_key(keys)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "helpers.serve.command",
                "--port",
                str(port),
                "--keys",
                str(keys),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process)
            asyncio.run(_watched(Soak(url, key, answers, record), clients, seconds, process.pid,
                                 record, say))  # fmt: skip
            process.terminate()
            status = process.wait(60)
            if status != 0:
                record.faults.append(f"the server ended with status {status}")
        finally:
            process.kill()
            process.wait()
    return record


async def _watched(
    clients: Soak, number: int, seconds: float, pid: int, record: Record,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    process = psutil.Process(pid)

    async def watch() -> None:
        while True:
            await asyncio.sleep(seconds / 20)
            record.samples.append(look(process))
            mib, threads, descriptors = record.samples[-1]
            done = sum(record.outcomes.values())
            say(f"{done} requests: {mib:.0f} MiB, {threads} threads, {descriptors} descriptors")

    watching = asyncio.create_task(watch())
    await clients.run(number, seconds)
    watching.cancel()
    for _ in range(50):  # the last clients' connections close
        await asyncio.sleep(0.2)
        if not (await _in_flight(clients)):
            break
    record.samples.append(look(process))


async def _in_flight(clients: Soak) -> int:
    async with httpx.AsyncClient(base_url=clients._url) as web:
        status = (await web.get("/health")).json()
    return int(status.get("in_flight", 0))


def _add_key(keys: Path) -> str:
    """A key whose limits are out of the way."""
    limits = KeyLimits(in_flight=1000, tokens_per_minute=10**9)
    return add_keys(keys, ["soak"], limits=limits)["soak"]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with status {process.returncode}.")
        time.sleep(0.1)
    raise RuntimeError("The server did not get ready in two minutes.")


def main() -> int:
    """Run the soak that the arguments describe, and say what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.serve.soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=30)
    options = parser.parse_args()
    record = soak(options.clients, options.minutes * 60, lambda line: print(line, flush=True))
    for outcome, number in sorted(record.outcomes.items()):
        print(f"{number:6} {outcome}")
    first, last = record.samples[len(record.samples) // 10], record.samples[-1]
    print(f"after a tenth: {first}, at the end: {last}")
    print("\n".join(record.faults) or "nothing was wrong")
    return 1 if record.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
