"""Whose prompt is read next: what waits, and how much of the engine each user has had.

The order is that of fair queueing. Each user has a counter of the service that it had, as in the
Virtual Token Counter (Sheng et al. 2024, "Fairness in Serving Large Language Models"), and of those
who have a prompt to be read, the one goes first whose counter would be lowest once it was read:
counter + tokens still to be read. So

- a user with forty prompts is not served before one with two, who came later;
- a prompt is read to its end rather than in turns with others, as each piece of it goes from "still
  to be read" to the counter and changes nothing in the sum;
- a short prompt of another user overtakes a long one that is being read.

Ever new short prompts would keep a long one waiting for ever, so what was read of all prompts since
it was its turn counts for it: one of `n` tokens is overtaken by about `n` tokens of those that come
later, and no more. A user's own prompts are read in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from helpers.engine.sequence import Job

_GENERATED = 2
"""What a generated token counts, where one of a prompt counts 1: it takes about twice the time."""


class _User:
    """One user's waiting jobs, and its share of the engine."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.served = 0
        self.active = 0
        self.reading = False
        self.since = 0  # what had been read of all prompts when its next one could first be read

    @property
    def busy(self) -> bool:
        return bool(self.jobs) or self.active > 0


class Waiting:
    """The jobs that wait for a sequence, in the order that is fair.

    What changes it, or looks at all of it, is guarded by its owner's lock.
    """

    def __init__(self) -> None:
        self._users: dict[str, _User] = {}
        self._read = 0
        self._count = 0

    def __iter__(self) -> Iterator[Job]:
        return (job for user in self._users.values() for job in user.jobs)

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job) -> None:
        """Let a job wait, whose tokens are known.

        A user who had nothing to do here before is given the counter of the least served of the
        others: what was not used is not saved up.
        """
        name = job.request.user
        user = self._users.get(name)
        if user is None or not user.busy:
            busy = {other: one for other, one in self._users.items() if one.busy}
            least = min((one.served for one in busy.values()), default=0)
            if user is None or not busy:
                user = _User()
            user.served = max(user.served, least)
            user.since = self._read
            # Whoever is idle with less than that would be given as much on coming back: forgotten.
            idle = {o: u for o, u in self._users.items() if not u.busy and u.served > least}
            self._users = {**(idle if busy else {}), **busy, name: user}
        user.jobs.append(job)
        self._count += 1

    def remove(self, job: Job) -> bool:
        """Let a job wait no more; False if it did not."""
        user = self._users.get(job.request.user)
        if user is None or job not in user.jobs:
            return False
        user.jobs.remove(job)
        self._count -= 1
        return True

    def heads(self) -> Iterator[Job]:
        """The next job of each user who has no prompt being read."""
        for user in self._users.values():
            if user.jobs and not user.reading:
                yield user.jobs[0]

    def rank(self, job: Job, rest: int) -> tuple[int, float]:
        """What decides whose prompt is read next: the lowest.

        Args:
            job: A user's next job, or the one whose prompt is being read.
            rest: Tokens of its prompt that are still to be read.
        """
        user = self._users.get(job.request.user) or _User()  # none if it was cancelled just now
        return user.served + rest + user.since, job.submitted

    def begins(self, job: Job) -> None:
        """The prompt of a job that no longer waits is read from now on."""
        user = self._users[job.request.user]
        user.active += 1
        user.reading = True

    def has_read(self, job: Job, tokens: int) -> None:
        """So many tokens of a job's prompt were computed."""
        self._users[job.request.user].served += tokens
        self._read += tokens

    def has_written(self, job: Job, tokens: int) -> None:
        """So many tokens of a job's answer were computed."""
        self._users[job.request.user].served += _GENERATED * tokens

    def leaves_prompt(self, job: Job) -> None:
        """A job's prompt was read to its end, or will not be: the user's next one can be."""
        user = self._users[job.request.user]
        user.reading = False
        user.since = self._read

    def ends(self, job: Job) -> None:
        """A job is at work no more."""
        self._users[job.request.user].active -= 1

    def clear(self) -> list[Job]:
        """Let nothing wait any more; returns what did."""
        jobs = list(self)
        for user in self._users.values():
            user.jobs.clear()
        self._count = 0
        return jobs
