"""One trial of a sweep: its settings, and what was measured with them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from helpers.load_options import LoadOptions

GOALS = {"eval": 1.0, "prompt": 0.0, "both": 0.5}
"""Names of goals, and the weight of generation speed in each."""

RARER = ("n_threads_batch", "n_ubatch", "flash_attn", "n_cpu_moe", "speculate")
"""Settings that are shown where they were changed alone."""

_IN_KWARGS = ("n_threads_batch", "n_ubatch")
"""Which of them are no fields of `LlamaCpp`."""

_ADDRESS = re.compile(r"\[[^\]\s]*:\d+\]")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One point of the grid; the names are those of `LlamaCpp`.

    Attributes:
        n_gpu_layers: Layers on devices, 0 to all of the model's.
        n_batch: Tokens handed to llama.cpp in one decode.
        n_threads: Compute threads.
        type_kv: Type of the K cache and of the V cache.
        n_threads_batch: Compute threads for prompts; None for `n_threads`.
        n_ubatch: Tokens computed at once, at most `n_batch`.
        flash_attn: True, False, or None to use it where the backend has it.
        n_cpu_moe: Blocks whose experts stay on the CPU, of a mixture of experts.
        speculate: "lookup", a draft model, or None.
    """

    n_gpu_layers: int = 0
    n_batch: int = LoadOptions.n_batch
    n_threads: int = 1
    type_kv: str = "f16"
    n_threads_batch: int | None = None
    n_ubatch: int = LoadOptions.n_ubatch
    flash_attn: bool | None = None
    n_cpu_moe: int = 0
    speculate: str | None = None

    def __str__(self) -> str:
        """The settings as they are written in code; of the rarer ones, what was changed."""
        return ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name, default in vars(Settings()).items()
            if name not in RARER or getattr(self, name) != default
        )

    def rarer(self) -> str:
        """What was changed of the rarer settings, as it is written in `LlamaCpp`."""
        changed = {
            name: getattr(self, name)
            for name in RARER
            if getattr(self, name) != getattr(Settings, name)
        }
        extra = {name: changed.pop(name) for name in _IN_KWARGS if name in changed}
        words = [f"{name}={value!r}" for name, value in changed.items()]
        return ", ".join([*words, *([f"model_kwargs={extra!r}"] if extra else [])])


@dataclass(frozen=True, kw_only=True)
class SweepRow(Settings):
    """What a trial measured, or why it did not.

    Attributes:
        prompt_runs: Tokens/s of prompt eval, one for each repeat; the warm-up is not among them.
        eval_runs: Tokens/s of generation, likewise.
        load_ms: Loading the model, in ms; None if it did not load.
        memory: MiB by device and kind (`weights`, `kv`, `compute`) as llama.cpp reported them.
        reason: Why there is no result; empty if there is one.
        seconds: The whole trial, the start of its process included.

    >>> SweepRow(eval_runs=(90.0, 100.0, 98.0)).eval_per_second
    98.0
    """

    prompt_runs: tuple[float, ...] = ()
    eval_runs: tuple[float, ...] = ()
    load_ms: float | None = None
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """The settings and the speeds, or why there are none."""
        speeds = [
            f"{name} {speed:.1f} tokens/s"
            for name, speed in (("prompt", self.prompt_per_second), ("eval", self.eval_per_second))
            if speed is not None
        ]
        return f"{super().__str__()}: {self.reason or ', '.join(speeds)}"

    @property
    def settings(self) -> Settings:
        """The settings alone: what two trials of the same point share."""
        return Settings(**{name: getattr(self, name) for name in vars(Settings())})

    @property
    def ok(self) -> bool:
        """Whether the trial has a result."""
        return not self.reason

    @property
    def repeats(self) -> int:
        """Times that it was measured."""
        return max(len(self.prompt_runs), len(self.eval_runs))

    def speed(self, name: str) -> tuple[float | None, tuple[float, float] | None]:
        """Median and spread (slowest and fastest repeat) of "prompt" or "eval", in tokens/s."""
        runs: tuple[float, ...] = getattr(self, f"{name}_runs")
        return (statistics.median(runs), (min(runs), max(runs))) if runs else (None, None)

    @property
    def prompt_per_second(self) -> float | None:
        """Median tokens/s of prompt eval; None where it was not measured."""
        return self.speed("prompt")[0]

    @property
    def eval_per_second(self) -> float | None:
        """Median tokens/s of generation; None where it was not measured."""
        return self.speed("eval")[0]

    @property
    def prompt_spread(self) -> tuple[float, float] | None:
        """Slowest and fastest repeat of prompt eval, in tokens/s."""
        return self.speed("prompt")[1]

    @property
    def eval_spread(self) -> tuple[float, float] | None:
        """Slowest and fastest repeat of generation, in tokens/s."""
        return self.speed("eval")[1]

    @property
    def total_mib(self) -> float:
        """All buffers together, in MiB; 0 if the trial did not load."""
        return sum(sum(kinds.values()) for kinds in self.memory.values())

    def score(self, goal: str | float = "eval") -> float:
        """How good the row is for a goal: a logarithm, so that a difference of 0.01 is 1 %.

        A weighted goal is the weighted geometric mean of both speeds: a doubling counts the same
        at 100 tokens/s of generation as at 10,000 of prompt eval.

        Args:
            goal: "eval", "prompt", "both", or the weight of generation from 0 to 1.

        Returns:
            Minus infinity for a trial without a result, or without one that the goal needs.
        """
        weight = goal_weight(goal)
        score = 0.0
        for share, speed in (
            (weight, self.eval_per_second),
            (1 - weight, self.prompt_per_second),
        ):
            if share and (not self.ok or not speed):
                return -math.inf
            if share and speed:
                score += share * math.log(speed)
        return score

    def pooled(self, again: SweepRow) -> SweepRow:
        """This row with the repeats of another trial of the same settings."""
        if not (self.ok and again.ok):
            return again
        return replace(
            self,
            prompt_runs=self.prompt_runs + again.prompt_runs,
            eval_runs=self.eval_runs + again.eval_runs,
            seconds=self.seconds + again.seconds,
        )


def goal_weight(goal: str | float) -> float:
    """The weight of generation speed in a goal, 0 to 1.

    Raises:
        ValueError: There is no such goal.
    """
    if isinstance(goal, str) and goal in GOALS:
        return GOALS[goal]
    if isinstance(goal, int | float) and not isinstance(goal, bool) and 0 <= goal <= 1:
        return float(goal)
    names = ", ".join(repr(name) for name in GOALS)
    raise ValueError(
        f"goal={goal!r} is not a goal. Use one of {names}, or the weight of generation speed, "
        "0 to 1."
    )


def without_address(device: str) -> str:
    """A device's name as it may be kept: without the address of the machine behind it.

    >>> without_address("RPC0[127.0.0.1:50052]")
    'RPC0'
    """
    return _ADDRESS.sub("", device)
