"""How many machines a class needs: a simulation of the queue, from recorded service times.

Learners think, ask, and wait for their whole answer. A machine works in decodes: each gives every
running answer one token, and what room its batch has left reads waiting prompts, as the engine
does. Who finds no free slot waits in one queue, first come, first served. Between two events
nothing changes, so that a run of equal decodes is one step of the simulation.
"""

from __future__ import annotations

import csv
import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MOST_MACHINES = 4096


class Amount(NamedTuple):
    """A number that differs from one question to the next: gamma distributed.

    `spread` is the standard deviation as a share of the mean: 0 is always the mean, 1 is the
    exponential distribution.
    """

    mean: float
    spread: float = 0.0

    def draw(self, source: random.Random) -> float:
        """One of the numbers."""
        if not self.spread or not self.mean:
            return self.mean
        shape = 1 / self.spread**2
        return source.gammavariate(shape, self.mean / shape)


@dataclass(frozen=True)
class Lesson:
    """What the learners of a class do.

    Attributes:
        think_s: Seconds from an answer to the same learner's next question.
        prompt_tokens: Tokens of a question that have to be read: those that the prefix cache has
            are not among them.
        answer_tokens: Tokens of an answer.
        minutes: How long questions are asked.
    """

    think_s: Amount = field(default=Amount(60, 1.0))
    prompt_tokens: Amount = field(default=Amount(300, 1.0))
    answer_tokens: Amount = field(default=Amount(120, 0.7))
    minutes: float = 20


@dataclass(frozen=True)
class ServiceTimes:
    """What one machine needs for one decode.

    Attributes:
        prompt_ms: Milliseconds for each token of a prompt.
        decode_ms: Milliseconds of a decode with 1, 2, 3, … running answers; its length is the
            number of slots.
    """

    prompt_ms: float
    decode_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.decode_ms or min(self.decode_ms) <= 0 or self.prompt_ms < 0:
            raise ValueError(f"A decode takes some time: {self} cannot be.")

    @classmethod
    def read(cls, path: str | PathLike[str], *, threads: int | None = None) -> ServiceTimes:
        """Read what `python -m tests.serve.record_times` wrote.

        Args:
            path: `notebooks/data/serving_times.csv`, or another file of that form.
            threads: Threads of the engine; default: the most that were recorded.

        Raises:
            ValueError: Nothing was recorded with so many threads.
        """
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        known = sorted({int(row["threads"]) for row in rows if row["what"] == "decode"})
        if not known or threads not in {None, *known}:
            raise ValueError(
                f"{path} has service times with {known or 'no'} threads, not with {threads}."
            )
        chosen = str(known[-1] if threads is None else threads)
        found: dict[str, dict[int, float]] = {"decode": {}, "prompt": {}}
        for row in rows:
            if row["threads"] == chosen and row["what"] in found:
                found[row["what"]][int(row["count"])] = float(row["ms"])
        counts, tokens = sorted(found["decode"]), max(found["prompt"])
        # Between the recorded numbers of sequences: a straight line.
        times = [found["decode"][count] for count in counts]
        decode = np.interp(range(1, counts[-1] + 1), counts, times)
        return cls(found["prompt"][tokens] / tokens, tuple(float(ms) for ms in decode))

    @property
    def slots(self) -> int:
        """Answers that one machine writes side by side."""
        return len(self.decode_ms)


@dataclass(frozen=True)
class ClassLoad:
    """What a simulated class met with.

    Attributes:
        learners: How many there were.
        machines: How many machines answered them.
        requests: Questions that were asked; all of them were answered.
        waiting_s: Seconds in the queue, of each question.
        first_token_s: Seconds until the first token of the answer, of each question.
        queue: `(minutes, length)` at each change of the queue's length.
        tokens_per_second: Tokens of all answers by the time until the last.
    """

    learners: int
    machines: int
    requests: int
    waiting_s: tuple[float, ...] = field(repr=False)
    first_token_s: tuple[float, ...] = field(repr=False)
    queue: tuple[tuple[float, int], ...] = field(repr=False)
    tokens_per_second: float

    def waiting(self, percent: float = 95) -> float:
        """The time in the queue, in seconds, that so many percent of the questions kept to."""
        return _percentile(self.waiting_s, percent)

    def first_token(self, percent: float = 95) -> float:
        """The time to the first token, in seconds, that so many percent kept to."""
        return _percentile(self.first_token_s, percent)

    @property
    def longest_queue(self) -> int:
        """The most questions that waited at once."""
        return max((length for _, length in self.queue), default=0)


@dataclass(eq=False, slots=True)
class _Ask:
    learner: int
    at: float
    unread: float
    answer: int


class _Machine:
    """Slots that share decodes. All times are seconds."""

    def __init__(self, times: ServiceTimes, micro_batch: int) -> None:
        self._times, self._micro_batch = times, micro_batch
        self._reading: deque[_Ask] = deque()
        self._running: list[_Ask] = []
        self.busy = 0  # slots that are taken
        self.version = 0  # an event of an older version is void
        self._began = self._step = 0.0
        self._steps = self._shares = 0

    def take(self, ask: _Ask, now: float) -> float | None:
        """Give a free slot to a question; return when the decode that is under way ends."""
        self.busy += 1
        self._reading.append(ask)
        if self._steps > 1 and self._step:  # a run of decodes ends with the one under way
            done = int((now - self._began) / self._step)
            self._steps = min(done + 1, self._steps)
            self.version += 1
            return self._began + self._steps * self._step
        return self.begin(now) if not self._steps else None

    def begin(self, now: float) -> float | None:
        """Begin the next run of equal decodes; return when it ends, None where there is none."""
        self.version += 1
        self._began, self._steps, self._shares = now, 0, len(self._reading)
        if not self.busy:
            return None
        room = float(self._micro_batch - len(self._running))
        read = 0.0
        for ask in self._reading:
            read += min(ask.unread, room - read)
        self._steps = 1 if self._reading else min(ask.answer for ask in self._running)
        decode = self._times.decode_ms[len(self._running) - 1] if self._running else 0.0
        self._step = (decode + read * self._times.prompt_ms) / 1000
        return now + self._steps * self._step

    def end(self) -> tuple[list[_Ask], list[_Ask]]:
        """End the run; return whose first token it gave, and whose last."""
        for ask in self._running:
            ask.answer -= self._steps
        room = float(self._micro_batch - len(self._running))
        first = []
        for _ in range(self._shares):  # who came during the decode has no share in it
            ask = self._reading[0]
            read = min(ask.unread, room)
            ask.unread -= read
            room -= read
            if ask.unread > 0:
                break
            ask.answer -= 1  # the last token of the prompt gives the first one of the answer
            first.append(self._reading.popleft())
        self._running += first
        last = [ask for ask in self._running if ask.answer <= 0]
        if last:
            self._running = [ask for ask in self._running if ask.answer > 0]
            self.busy -= len(last)
        self._steps = 0
        return first, last


def simulate(
    times: ServiceTimes,
    learners: int,
    machines: int = 1,
    *,
    lesson: Lesson | None = None,
    micro_batch: int = 512,
    seed: int = 0,
) -> ClassLoad:
    """Let a class ask, and see how long it waits.

    A question goes to the machine with the most free slots. That conversations stay with the
    machine that has their prefix is only in the tokens that `lesson` lets a machine read.

    Args:
        times: What one machine needs; each has as many slots.
        learners: How many ask.
        machines: How many machines answer.
        lesson: What the learners do; default: `Lesson()`.
        micro_batch: Most tokens of one decode.
        seed: The same seed gives the same class, whatever the machines.

    Returns:
        What they met with.

    Raises:
        ValueError: There are no learners or no machines, or a decode has no room for the slots.

    >>> times = ServiceTimes(prompt_ms=2.0, decode_ms=(10.0, 15.0))
    >>> load = simulate(times, learners=10, lesson=Lesson(minutes=10))
    >>> load.requests, load.longest_queue >= 1, load.waiting(50) <= load.waiting(95)
    (105, True, True)
    """
    if learners < 1 or machines < 1:
        raise ValueError(f"{learners} learners and {machines} machines: at least one of each.")
    if micro_batch <= times.slots:
        raise ValueError(f"A decode of {micro_batch} tokens has no room for {times.slots} slots.")
    lesson = lesson or Lesson()
    sources = [random.Random(seed * 1_000_003 + number) for number in range(learners)]
    pool = [_Machine(times, micro_batch) for _ in range(machines)]
    waiting: deque[_Ask] = deque()
    waited, first_token, queue = [], [], [(0.0, 0)]
    tokens = 0
    now = 0.0
    # (when, order of equal times, machine or None, its version or the learner)
    events: list[tuple[float, int, int | None, int]] = []
    order = iter(range(2**62))

    def think(learner: int) -> None:
        at = now + lesson.think_s.draw(sources[learner])
        if at < lesson.minutes * 60:
            heapq.heappush(events, (at, next(order), None, learner))

    def plan(number: int, end: float | None) -> None:
        if end is not None:
            heapq.heappush(events, (end, next(order), number, pool[number].version))

    def assign(number: int) -> None:
        ask = waiting.popleft()
        waited.append(now - ask.at)
        plan(number, pool[number].take(ask, now))

    def free() -> int:
        busy = [machine.busy for machine in pool]
        return busy.index(min(busy))

    for learner in range(learners):
        think(learner)
    while events:
        now, _, number, detail = heapq.heappop(events)
        before = len(waiting)
        if number is None:
            source = sources[detail]
            unread = max(1.0, lesson.prompt_tokens.draw(source))
            answer = max(1, round(lesson.answer_tokens.draw(source)))
            tokens += answer
            waiting.append(_Ask(detail, now, unread, answer))
            if before == 0:  # else all slots are taken
                number = free()
                if pool[number].busy < times.slots:
                    assign(number)
        elif pool[number].version == detail:
            first, last = pool[number].end()
            first_token += [now - ask.at for ask in first]
            for ask in last:
                think(ask.learner)
            plan(number, pool[number].begin(now))
            while waiting and pool[number].busy < times.slots:
                assign(number)
        if len(waiting) != before:
            queue.append((now / 60, len(waiting)))
    return ClassLoad(
        learners,
        machines,
        len(first_token),
        tuple(waited),
        tuple(first_token),
        tuple(queue),
        tokens / now if now else 0.0,
    )


def machines_needed(
    times: ServiceTimes,
    learners: int,
    *,
    first_token_s: float = 5.0,
    percent: float = 95,
    lesson: Lesson | None = None,
    seed: int = 0,
) -> ClassLoad:
    """The simulated class with the fewest machines that keep to a time to the first token.

    Args:
        times: What one machine needs.
        learners: How many ask.
        first_token_s: Seconds until the first token.
        percent: How many percent of the questions have to keep to it.
        lesson: What the learners do; default: `Lesson()`.
        seed: Which class.

    Returns:
        Its load; `.machines` is their number.

    Raises:
        ValueError: No number of machines can keep to it: reading a prompt alone takes longer.
    """
    lesson = lesson or Lesson()
    # Where every slot is busy: what a question costs its machine, and how often one can come.
    prompt_ms = lesson.prompt_tokens.mean * times.prompt_ms
    cost_s = (prompt_ms + lesson.answer_tokens.mean * times.decode_ms[-1] / times.slots) / 1000
    few, many = 0, max(1, int(learners * cost_s / (lesson.think_s.mean + cost_s)))
    step = max(1, many // 8)
    loads: dict[int, ClassLoad] = {}

    def keeps(machines: int) -> bool:
        loads[machines] = simulate(times, learners, machines, lesson=lesson, seed=seed)
        return loads[machines].first_token(percent) <= first_token_s

    # With a machine for each learner nobody waits for anybody: more cannot help.
    most = min(learners, _MOST_MACHINES)
    while not keeps(many):
        if many >= most:
            raise ValueError(
                f"No number of machines gives {percent:g} % of {learners} learners a first token "
                f"in {first_token_s:g} s: one alone needs {loads[many].first_token(percent):.1f} s."
            )
        few, many = many, min(many + step, most)
    while many - step > few and keeps(many - step):
        many -= step
    few = max(few, many - step)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if keeps(middle) else (middle, many)
    return loads[many]


def _percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank, so that it is a time that somebody met with; 0 where nobody asked."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]
