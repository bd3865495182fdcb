"""Record what `helpers.serve.simulate` reckons with, and what a small class really met with.

`python -m tests.serve.record_times [THREADS [THREADS ...]]` (default: 1 2) starts the server with
so many threads each time and writes `notebooks/data/serving_times.csv`. Run it on a calm machine.
"""

from __future__ import annotations

import asyncio
import csv
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from helpers.bench.table import describe_machine
from helpers.serve import serve
from helpers.serve.simulate import Amount, Lesson
from tests.support import ROOT

FILE = ROOT / "notebooks" / "data" / "serving_times.csv"
SLOTS = 8
CHECK = Lesson(
    think_s=Amount(4, 1.0), prompt_tokens=Amount(150, 0.5), answer_tokens=Amount(40, 0.5), minutes=2
)
"""The small class that is both measured and simulated."""
LEARNERS = 10
NO_END = {"0": -100, "1": -100, "2": -100}


class Client:
    """Asks for answers of a certain length to prompts that no cache has."""

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self._http, self._random = http, random.Random(seed)

    async def ask(self, prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
        """One answer; what the server says of it, and the seconds until its first token."""
        prompt = [self._random.randrange(1000, 40_000) for _ in range(prompt_tokens)]
        body = {"prompt": prompt, "max_tokens": answer_tokens, "logit_bias": NO_END}
        answer = await self._http.post("/v1/completions", json=body | {"temperature": 0})
        answer.raise_for_status()
        return dict(answer.json()["timings"])


async def decode_ms(http: httpx.AsyncClient, count: int) -> float:
    """The median time of a token while so many answers run."""
    clients = [Client(http, 100 * count + number) for number in range(count)]
    found = await asyncio.gather(*(client.ask(8, 96) for client in clients))
    return statistics.median(ms for timings in found for ms in timings["token_ms"][32:64])


async def prompt_ms(http: httpx.AsyncClient, tokens: int) -> float:
    """The median time of a prompt's reading, of three."""
    found = [await Client(http, seed).ask(tokens, 2) for seed in range(3)]
    return statistics.median(timings["prompt_ms"] for timings in found)


async def small_class(http: httpx.AsyncClient) -> list[float]:
    """Let a class ask as `simulate` does; the seconds to the first token, of each question."""
    began, found = time.monotonic(), []

    async def learner(number: int) -> None:
        source, client = random.Random(number), Client(http, 10_000 + number)
        while True:
            await asyncio.sleep(CHECK.think_s.draw(source))
            asked = time.monotonic()
            if asked - began > CHECK.minutes * 60:
                return
            unread = max(1, round(CHECK.prompt_tokens.draw(source)))
            timings = await client.ask(unread, max(1, round(CHECK.answer_tokens.draw(source))))
            took = time.monotonic() - asked
            # Of the whole time, what came after the first token; the rest is the wait for it.
            found.append(took - sum(timings["token_ms"][1:]) / 1000)

    await asyncio.gather(*map(learner, range(LEARNERS)))
    return found


async def record(url: str, threads: int) -> Iterator[dict[str, Any]]:
    """The rows of one server."""
    rows: list[dict[str, Any]] = []

    def row(what: str, count: int, ms: float) -> None:
        rows.append({"threads": threads, "what": what, "count": count, "ms": round(ms, 3)})
        print(f"{threads} threads: {what} {count}: {ms:.1f} ms", flush=True)

    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as http:
        await Client(http, 0).ask(64, 16)  # the first one touches memory
        for count in (1, 2, 4, 8):
            row("decode", count, await decode_ms(http, count))
        row("prompt", 512, await prompt_ms(http, 512))
        waits = sorted(await small_class(http))
        for percent in (50, 95):
            rank = max(0, -(-percent * len(waits) // 100) - 1)
            row(f"check p{percent}", len(waits), waits[rank] * 1000)
    return iter(rows)


@contextmanager
def _table(path: Path) -> Iterator[csv.DictWriter[str]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        facts = "; ".join(f"{name}: {value}" for name, value in describe_machine().items())
        file.write(f"# python -m tests.serve.record_times; {facts}\n")
        writer = csv.DictWriter(file, ["threads", "what", "count", "ms"], lineterminator="\n")
        writer.writeheader()
        yield writer


def main(threads: list[int]) -> None:
    """Write the table."""
    rows: list[dict[str, Any]] = []
    for number in threads:
        with serve(threads=number, parallel=SLOTS) as server:
            rows += asyncio.run(record(server.url, number))
    with _table(FILE) as writer:
        writer.writerows(rows)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 2])
