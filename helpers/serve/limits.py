"""Who is let in: limits of a key, room in the queue, and what each has used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from helpers.serve.keys import Key
from helpers.serve.problems import Problem
from helpers.serve.settings import KeyLimits

_MINUTE = 60.0
_FIRST_GUESS_S = 5.0
"""How long an answer takes, its wait included, before one was seen."""


@dataclass
class Usage:
    """What one key uses and has used.

    Attributes:
        in_flight: Answers that are computed or wait.
        level: Tokens that may be used now; an answer is paid when it has ended, so that this may
            be less than nothing for a while.
        requests: Requests since the server started.
        errors: Those of them that were refused or failed.
        today: Tokens of prompts and answers since midnight.
        last_seen: Unix time of the last request.
    """

    level: float
    filled_at: float
    in_flight: int = 0
    requests: int = 0
    errors: int = 0
    today: int = 0
    day: str = ""
    last_seen: float = 0.0


@dataclass
class Ticket:
    """The right to have answers computed: what is told about them while they are.

    Attributes:
        key: Who asks.
        answers: How many they are.
        began: When they were let in, by the limits' clock.
    """

    key: Key
    answers: int
    began: float
    tokens: int = 0


@dataclass
class Admission:
    """Lets requests in, as long as their key and the queue have room.

    Attributes:
        n_parallel: Answers computed side by side.
        queue: Answers that may wait beside them.
        limits: What a key may use that has no limits of its own.
        limited: Whether keys are limited at all: without keys, there is only one user.
        clock: Seconds that only grow.
        users: What each key uses.
        in_flight: Answers that are computed or wait.
        busy_since: When the last request came that found none.
        stopping: Whether nobody is let in any more.
    """

    n_parallel: int
    queue: int
    limits: KeyLimits
    limited: bool = True
    clock: Callable[[], float] = time.monotonic
    users: dict[str, Usage] = field(default_factory=dict)
    in_flight: int = 0
    busy_since: float = 0.0
    stopping: bool = False
    _stay_s: float = _FIRST_GUESS_S

    def user(self, key: Key) -> Usage:
        """What a key uses, its tokens of the last seconds given back."""
        limits, now = key.limits or self.limits, self.clock()
        most = float(limits.tokens_per_minute)
        usage = self.users.get(key.name)
        if usage is None:
            usage = self.users[key.name] = Usage(most, now)
        usage.level = min(most, usage.level + (now - usage.filled_at) * most / _MINUTE)
        usage.filled_at = now
        if usage.day != (today := time.strftime("%Y-%m-%d")):
            usage.day, usage.today = today, 0
        return usage

    @contextmanager
    def admit(self, key: Key, answers: int) -> Iterator[Ticket]:
        """Let a request in until the block ends; the ticket's tokens are then charged.

        Raises:
            Problem: The server is stopping, or the key or the queue has no room.
        """
        usage = self.user(key)
        usage.requests += 1
        usage.last_seen = time.time()
        try:
            self._check(key, usage, answers)
        except Problem:
            usage.errors += 1
            raise
        ticket = Ticket(key, answers, self.clock())
        if not self.in_flight:
            self.busy_since = ticket.began
        usage.in_flight += answers
        self.in_flight += answers
        try:
            yield ticket
        except BaseException:
            usage.errors += 1
            raise
        else:
            took = self.clock() - ticket.began
            self._stay_s += 0.2 * (took - self._stay_s)
        finally:
            self.in_flight -= answers
            usage = self.user(key)
            usage.in_flight -= answers
            usage.level -= ticket.tokens
            usage.today += ticket.tokens

    def _check(self, key: Key, usage: Usage, answers: int) -> None:
        if self.stopping:
            raise Problem(503, "shutting_down", "The server is being stopped.", retry_after=10)
        limits = key.limits or self.limits
        if self.limited:
            if answers > limits.in_flight:
                raise Problem(
                    400,
                    "invalid_value",
                    f"The key of {key.name} may have {limits.in_flight} answers at a time; this "
                    f"request asks for {answers}.",
                    param="n",
                )
            if usage.in_flight + answers > limits.in_flight:
                raise Problem(
                    429,
                    "rate_limit_exceeded",
                    f"The key of {key.name} may have {limits.in_flight} answers in flight and has "
                    f"{usage.in_flight}; this request asks for {answers} more. Wait for one to "
                    "end.",
                    retry_after=self._next_end(usage.in_flight),
                )
            if usage.level <= 0:
                raise Problem(
                    429,
                    "rate_limit_exceeded",
                    f"The key of {key.name} may use {limits.tokens_per_minute:,} tokens in a "
                    "minute, prompts and answers together, and has used them.",
                    retry_after=(1 - usage.level) * _MINUTE / limits.tokens_per_minute,
                )
        if answers > self.n_parallel + self.queue:
            raise Problem(
                400,
                "invalid_value",
                f"{answers} answers are more than this server computes and lets wait together.",
                param="n",
            )
        if self.in_flight + answers > self.n_parallel + self.queue:
            raise Problem(
                429,
                "queue_full",
                f"{max(0, self.in_flight - self.n_parallel)} answers wait already and the queue "
                f"has room for {self.queue}. Try again later.",
                retry_after=self._next_end(self.in_flight),
            )

    def _next_end(self, in_flight: int) -> float:
        """In how many seconds one of so many answers ends, as far as the last ones tell.

        What stays for T seconds and is L at a time leaves every T / L seconds (Little's law); the
        wait in the queue is a part of T.
        """
        return max(1.0, self._stay_s / max(1, in_flight))
