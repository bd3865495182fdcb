"""What is counted and timed: for Prometheus, and for the teacher's page."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from helpers.engine import Completion

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_HISTORY = 60
"""Seconds that the page's line of tokens per second shows."""
_ERRORS_KEPT = 20


@dataclass
class Metrics:
    """The figures of one server, in a registry of its own.

    Attributes:
        registry: What Prometheus reads.
        generated: Tokens generated since the start.
        last_token: When the last one came, by the monotonic clock.
        stuck: Whether a request has waited its whole time, and nobody has got a token since.
        errors: The last problems, newest last: time, key, status, code.
    """

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    generated: int = 0
    last_token: float = field(default_factory=time.monotonic)
    stuck: bool = False
    errors: deque[tuple[float, str, int, str]] = field(
        default_factory=lambda: deque(maxlen=_ERRORS_KEPT)
    )
    _seconds: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_HISTORY + 1))

    def __post_init__(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "llama_requests", "Requests by path and outcome.", ["path", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "llama_first_token_seconds", "From a request to its first token.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.gap = Histogram(
            "llama_token_gap_seconds", "Between two pieces of an answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.duration = Histogram(
            "llama_request_seconds", "From a request to the end of its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("llama_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.cached_tokens = Counter(
            "llama_cached_tokens", "Tokens of prompts that need not be computed.",
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("llama_generated_tokens", "Tokens of answers.", registry=registry)
        self.running = Gauge("llama_answers_running", "Answers computed now.", registry=registry)
        self.waiting = Gauge("llama_answers_waiting", "Answers in the queue.", registry=registry)
        self.crashes = Counter(
            "llama_crashed_requests", "Requests that the death of the model's process ended.",
            registry=registry,
        )  # fmt: skip

    def piece(self, now: float, began: float | None, last: float | None) -> None:
        """Note a piece of an answer, which is a token but for rare ones.

        Args:
            now: The monotonic clock.
            began: When its request came, if it is the first piece.
            last: When the piece before it came.
        """
        if began is not None:
            self.first_token.observe(now - began)
        elif last is not None:
            self.gap.observe(now - last)
        self._generated(now, 1)

    def completed(self, completion: Completion, pieces: int) -> None:
        """Note an answer that has ended, of which so many pieces were noted."""
        self.prompt_tokens.inc(completion.prompt_tokens)
        self.cached_tokens.inc(completion.timings.cached_tokens or 0)
        self.tokens.inc(completion.generated_tokens)
        self._generated(time.monotonic(), max(0, completion.generated_tokens - pieces))

    def _generated(self, now: float, count: int) -> None:
        self.generated += count
        self.last_token, self.stuck = now, False
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + count)
        else:
            self._seconds.append((second, count))

    def history(self) -> list[int]:
        """Tokens generated in each of the last seconds, the one that is running left out."""
        now = int(time.monotonic())
        counts = dict(self._seconds)
        return [counts.get(second, 0) for second in range(now - _HISTORY, now)]

    def problem(self, key: str, status: int, code: str) -> None:
        """Note a request that was refused or failed."""
        self.errors.append((time.time(), key, status, code))

    def text(self) -> bytes:
        """The figures in Prometheus' form."""
        return generate_latest(self.registry)
