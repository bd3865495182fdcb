"""One lane for many: gaps while a long prompt joins, a common beginning, two unequal users.

    python -m tests.benchmarks.bench_serving [ROUNDS [MODEL]]

The first table compares prompts read in pieces with prompts read to their end at once, in turns on
the same model, so that other work on the machine meets both. Throughput is the time for the same
work: 8 answers, and a prompt of 3,000 tokens that joins them.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import threading
import time
from typing import Any

from helpers.engine import Chunk, Completion, Engine, LoadOptions, Request
from helpers.engine.lane import Lane
from helpers.engine.sequence import Job
from helpers.models import default_model

STREAMS, PROMPT, ANSWER = 8, 3000, 160
NO_END = tuple((token, -1e5) for token in range(3))


class Call:
    """A job, the times of its tokens, and its end."""

    def __init__(
        self, length: int, answer: int, salt: int, user: str = "", prefix: int = 0
    ) -> None:
        draw = random.Random(salt)
        tokens = [3 + n % 240 for n in range(prefix)]  # every vocabulary has these
        tokens += [draw.randrange(3, 243) for _ in range(length)]
        request = Request(
            prompt=tuple(tokens), max_tokens=answer, temperature=0, logit_bias=NO_END, user=user
        )
        self.job = Job(request, self._note)
        self.times: list[float] = []
        self.done: Any = None
        self.ended = 0.0
        self._began, self._end = threading.Event(), threading.Event()

    def _note(self, event: Any) -> None:
        if isinstance(event, Chunk):
            self.times.append(time.perf_counter())
            self._began.set()
        else:
            self.done, self.ended = event, time.perf_counter()
            self._end.set()

    def begin(self) -> None:
        """Wait for the first token."""
        self._began.wait()

    def result(self) -> Completion:
        """Wait for the end."""
        self._end.wait()
        assert isinstance(self.done, Completion), self.done
        return self.done


def submit(engine: Engine, calls: list[Call]) -> list[Call]:
    """Hand jobs to the engine together."""
    engine._core.submit([call.job for call in calls])
    return calls


def join(engine: Engine, salt: int) -> dict[str, float]:
    """Let a long prompt join running streams; milliseconds."""
    started = time.perf_counter()
    streams = submit(engine, [Call(12, ANSWER, salt + n, f"u{n}") for n in range(STREAMS)])
    for call in streams:
        call.begin()
    joined = time.perf_counter()
    (long,) = submit(engine, [Call(PROMPT, 8, salt + STREAMS, "long")])
    first = joined + (long.result().timings.first_token_ms or 0) / 1000
    for call in streams:
        call.result()
    gaps = [
        (after - before) * 1000
        for call in streams
        for before, after in itertools.pairwise(call.times)
        if joined <= after and before <= first
    ]
    return {
        "longest": max(gaps),
        "median": statistics.median(gaps),
        "prompt": long.done.timings.prompt_ms or 0.0,
        "first": (first - joined) * 1000,
        "total": (max(call.ended for call in [*streams, long]) - started) * 1000,
    }


def compare(model: str, rounds: int) -> None:
    """Print gaps and throughput, in pieces and at once."""
    options = LoadOptions(
        model_path=model, n_ctx=4096, n_parallel=STREAMS + 1, continuous_batching=True
    )
    with Engine(options) as engine:
        lane: Lane = engine._core._scheduler._lane  # type: ignore[attr-defined]
        piece, micro = lane.piece, lane.context.n_ubatch
        found: dict[int, list[dict[str, float]]] = {piece: [], 2**31: []}
        for number in range(rounds):
            for index, (lane.piece, rows) in enumerate(found.items()):
                rows.append(join(engine, 1000 * number + 100 * index))  # no prompt is known
    print(f"{STREAMS} streams, a prompt of {PROMPT:,} tokens joins; medians of {rounds} rounds, ms")
    print(f"{'read':>14}{'longest gap':>13}{'median gap':>12}{'first token':>13}{'in all':>10}")
    middle = {
        size: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for size, rows in found.items()
    }
    for size, row in middle.items():
        name = f"by {size}" if size == piece else "at once"
        print(
            f"{name:>14}{row['longest']:13,.0f}{row['median']:12,.1f}{row['first']:13,.0f}"
            f"{row['total']:10,.0f}"
        )
    decode = middle[2**31]["prompt"] / (PROMPT / micro)
    ratios = [
        at_once["total"] / row["total"]
        for row, at_once in zip(found[piece], found[2**31], strict=True)
    ]
    print(
        f"a decode of {micro} tokens: {decode:,.0f} ms; the longest gap is "
        f"{middle[piece]['longest'] / decode:.2f} of it (target: 2 at most)"
    )
    print(
        f"throughput in pieces / at once: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}; target 0.95)"
    )


def common(model: str) -> None:
    """Print how often a common beginning is computed."""
    options = LoadOptions(model_path=model, n_ctx=1536, continuous_batching=True)
    with Engine(options) as engine:
        calls = submit(engine, [Call(30, 8, n, f"u{n}", prefix=1000) for n in range(8)])
        computed = sum(call.result().timings.prompt_tokens or 0 for call in calls)
    print(
        f"\n8 prompts of 1,030 tokens with the same first 1,000: {computed:,} computed "
        f"(each by itself: {8 * 1030:,}; 1,000 once: {1000 + 8 * 30:,})"
    )


def fairness(model: str) -> None:
    """Print when a user with two jobs has them, who comes after one with forty."""
    options = LoadOptions(model_path=model, n_ctx=512, n_parallel=4, continuous_batching=True)
    with Engine(options) as engine:
        many = submit(engine, [Call(40, 16, n, "forty") for n in range(40)])
        many[3].begin()
        came = time.perf_counter()
        few = submit(engine, [Call(40, 16, 50 + n, "two") for n in range(2)])
        for call in [*many, *few]:
            call.result()
    last = max(call.ended for call in many)
    mine = max(call.ended for call in few)
    before = sum(call.ended < mine for call in many)
    print(
        f"\n4 sequences, 40 jobs of one user, then 2 of another: those end after "
        f"{mine - came:.1f} s, {before} of the 40 before them; all after {last - came:.1f} s"
    )


def main(rounds: int = 3, model: str = "") -> None:
    """Measure, and print."""
    model = model or str(default_model())
    compare(model, rounds)
    common(model)
    fairness(model)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3, *sys.argv[2:3])
