"""`python -m helpers serve` against `llama-server`: the same model, machine, clients and requests.

Both are programs of their own, started one after the other on the embedded model and asked through
`/v1/chat/completions`, so that what is measured is what a class would get. Neither server is at
work while the other is measured; which goes first changes from round to round.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from helpers.bench.table import Comparison, describe_machine
from helpers.models import default_model, inspect_model
from helpers.native import usable_cores

SLOTS = 8
CONTEXT = 2048
ANSWER = 64
SHORTEST, LONGEST = 50, 1500
REQUESTS = {1: 6, 8: 16, 30: 30}
"""Requests of a round, by the number of clients that send them one after the other."""

SCHEMA = {
    "type": "array",
    "minItems": 8,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 12},
            "age": {"type": "integer"},
            "city": {"type": "string", "minLength": 12},
        },
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    },
}
"""No answer of 64 tokens is complete, so that all have the same length, as without a schema."""

_START_SECONDS = 120.0
_WORDS = ["river", "stone", "lamp", "garden", "winter", "table", "bridge", "music", "paper"]


@dataclass(frozen=True)
class Answer:
    """What a client saw of one answer.

    Attributes:
        first_ms: From sending the request to the first piece of text.
        longest_gap_ms: The longest wait between two pieces of the text.
        tokens: Tokens of the answer, as the server counted them.
    """

    first_ms: float
    longest_gap_ms: float
    tokens: int


@dataclass(frozen=True)
class Run:
    """A round of one server.

    Attributes:
        tokens_per_second: Tokens of all answers, by the time in which they were made.
        p95_first_ms: 95 of 100 answers began earlier.
        longest_gap_ms: The longest wait between two pieces of any one answer.
    """

    tokens_per_second: float
    p95_first_ms: float
    longest_gap_ms: float


def compare_servers(
    llama_server: str,
    *,
    rounds: int = 1,
    clients: Sequence[int] = tuple(REQUESTS),
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Measure the server of this package against `llama-server`.

    Args:
        llama_server: Path of the program, best built from the source and with the flags of the
            installed llama-cpp-python.
        rounds: Times that each pair is measured.
        clients: How many clients ask at once; of 1, 8 and 30.
        say: Told what is going on.

    Returns:
        The table. A ratio above 1 is better than `llama-server`.
    """
    commands = {"ours": _our_command, "llama-server": _their_command(llama_server)}
    pairs: dict[tuple[int, bool], list[dict[str, Run]]] = {}
    for index in range(rounds):
        for number in clients:
            for schema in (False, True):
                runs = {}
                for name in sorted(commands, reverse=index % 2 == 1):
                    say(f"round {index + 1}: {name}, {number} clients{', schema' * schema}")
                    with _serving(commands[name]) as url:
                        runs[name] = asyncio.run(_round(url, number, schema))
                pairs.setdefault((number, schema), []).append(runs)
    result = Comparison(describe_machine())
    for (number, schema), found in pairs.items():
        who = f"{number} client{'s' * (number > 1)}, {'JSON Schema' if schema else 'plain'}"
        for what, attribute, unit, target in (
            ("throughput", "tokens_per_second", "tokens/s", 1.5 if schema else 1.0),
            ("p95 time to first token", "p95_first_ms", "ms", 1.0),
            ("longest gap", "longest_gap_ms", "ms", 2.0),
        ):
            both = [
                (getattr(one["ours"], attribute), getattr(one["llama-server"], attribute))
                for one in found
            ]
            result.add(f"{who}: {what}", both, target=target, unit=unit)
    return result


def prompts(number: int, seed: int = 0) -> list[str]:
    """Prompts of 50 to 1,500 tokens, evenly spread by their logarithm; no two begin alike.

    Args:
        number: How many.
        seed: Same seed, same prompts.
    """
    draw = random.Random(seed)
    made = []
    for index in range(number):
        share = (index + 0.5) / number
        length = round(SHORTEST * (LONGEST / SHORTEST) ** share)
        words = [f"Text {draw.randrange(10**6)}:", *(draw.choice(_WORDS) for _ in range(length))]
        made.append(" ".join(words[: max(1, length - 45)]) + ". Tell a story about it.")
    draw.shuffle(made)
    return made


async def _round(url: str, clients: int, schema: bool) -> Run:
    """Let clients send their requests, each the next one when the last was answered."""
    waiting = prompts(REQUESTS[clients])
    banned = _end_tokens()
    answers: list[Answer] = []

    async def client(web: httpx.AsyncClient) -> None:
        while waiting:
            answers.append(await ask(web, waiting.pop(), schema=schema, banned=banned))

    # A connection for each request: llama-server may close one that httpx would use again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=1800, limits=limits) as web:
        await ask(web, "Hi!", schema=schema, banned=banned)  # compiles the grammar, wakes threads
        started = time.perf_counter()
        await asyncio.gather(*(client(web) for _ in range(clients)))
        seconds = time.perf_counter() - started
    firsts = sorted(answer.first_ms for answer in answers)
    return Run(
        tokens_per_second=sum(answer.tokens for answer in answers) / seconds,
        p95_first_ms=firsts[math.ceil(0.95 * len(firsts)) - 1],
        longest_gap_ms=max(answer.longest_gap_ms for answer in answers),
    )


async def ask(
    web: httpx.AsyncClient, prompt: str, *, schema: bool = False, banned: Sequence[int] = ()
) -> Answer:
    """Send one request and note when the pieces of its answer come.

    Args:
        web: The connection, with the server's address.
        prompt: What the user says.
        schema: Hold the answer to `SCHEMA`.
        banned: Tokens that must not come: those that end an answer.

    Raises:
        RuntimeError: The server refused, or the answer was broken off.
    """
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": ANSWER,
        "temperature": 0,
        "repeat_penalty": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {str(token): -100 for token in banned},
    }
    if schema:
        form = {"name": "people", "schema": SCHEMA, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    times = [time.perf_counter()]
    tokens, done = 0, False
    async with web.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                done = True
                continue
            event = json.loads(data)
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if any(choice["delta"].get("content") for choice in event.get("choices", ())):
                times.append(time.perf_counter())
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    if not done or len(times) < 2:
        raise RuntimeError(f"The answer was broken off after {len(times) - 1} pieces.")
    gaps = [b - a for a, b in itertools.pairwise(times[1:])]
    return Answer((times[1] - times[0]) * 1000, max(gaps, default=0.0) * 1000, tokens)


def _end_tokens() -> list[int]:
    """The tokens that end an answer of the embedded model."""
    metadata = inspect_model(default_model()).metadata
    names = ("eos", "eot", "bos")
    found = {metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
    tokens: list[Any] = list(metadata["tokenizer.ggml.tokens"])
    found |= {tokens.index(text) for text in ("<|endoftext|>", "<|im_end|>") if text in tokens}
    return sorted(token for token in found if isinstance(token, int))


def _our_command(port: int) -> list[str]:
    arguments = ["--port", str(port), "--parallel", str(SLOTS), "--n-ctx", str(CONTEXT)]
    return [sys.executable, "-m", "helpers.serve.command", *arguments]


def _their_command(program: str) -> Callable[[int], list[str]]:
    def command(port: int) -> list[str]:
        return [
            program, "--model", str(default_model()), "--port", str(port), "--host", "127.0.0.1",
            "--parallel", str(SLOTS), "--ctx-size", str(SLOTS * CONTEXT),
            "--threads", str(usable_cores()), "--threads-http", str(max(32, SLOTS)),
        ]  # fmt: skip

    return command


@contextmanager
def _serving(command: Callable[[int], list[str]]) -> Iterator[str]:
    """Run a server for the time of a block, and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(port), stdout=log, stderr=log)
        try:
            begin = time.monotonic()
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() - begin > _START_SECONDS:
                    log.seek(0)
                    words = log.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{Path(command(port)[0]).name} did not start: {words}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
