"""`sweep`: every point of a grid measured, row by row, and nothing lost on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from helpers.bench.grid import Grid, Setup, make_grid, make_setup
from helpers.bench.result import SweepResult
from helpers.bench.rows import Settings, SweepRow, goal_weight
from helpers.bench.table import describe_machine
from helpers.bench.trial import Cancel, Cancelled, Step, is_cancelled, run_trial
from helpers.errors import HelpersError
from helpers.native import Device, devices

TIMEOUT_S = 300.0


class SweepSettings(TypedDict, total=False):
    """The parameters of `Sweep` that `sweep` and `find_best` hand on; `sweep` explains them."""

    n_gpu_layers: Iterable[int] | None
    n_batch: Iterable[int]
    n_threads: Iterable[int | None]
    type_kv: Iterable[str]
    n_threads_batch: Iterable[int | None]
    n_ubatch: Iterable[int]
    flash_attn: Iterable[bool | None]
    n_cpu_moe: Iterable[int]
    speculate: Iterable[str | None]
    prompt_tokens: int
    new_tokens: int
    repeats: int
    n_ctx: int | None
    devices: Sequence[Device] | None
    timeout_s: float
    resume: str | os.PathLike[str] | None
    cancel: Cancel
    on_step: Step | None


class Sweep:
    """A sweep in progress: iterate over it for the rows, as they come.

    Everything is checked when it is made; a trial starts when its row is asked for. `result` holds
    the rows so far at any time, so leaving the loop early, or Ctrl-C in it, loses nothing. The
    parameters are those of `sweep`.

    Attributes:
        setup: What all trials share.
        grid: The values.
        result: What was measured, including what a resumed file already had.

    >>> for row in Sweep(n_batch=(128, 512)):  # doctest: +SKIP
    ...     print(row.n_batch, row.prompt_per_second)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        n_gpu_layers: Iterable[int] | None = None,
        n_batch: Iterable[int] = (512,),
        n_threads: Iterable[int | None] = (None,),
        type_kv: Iterable[str] = ("f16",),
        n_threads_batch: Iterable[int | None] = (None,),
        n_ubatch: Iterable[int] = (Settings.n_ubatch,),
        flash_attn: Iterable[bool | None] = (None,),
        n_cpu_moe: Iterable[int] = (0,),
        speculate: Iterable[str | None] = (None,),
        prompt_tokens: int = 256,
        new_tokens: int = 32,
        repeats: int = 3,
        n_ctx: int | None = None,
        devices: Sequence[Device] | None = None,
        timeout_s: float = TIMEOUT_S,
        resume: str | os.PathLike[str] | None = None,
        goal: str | float = "eval",
        cancel: Cancel = None,
        on_step: Step | None = None,
    ) -> None:
        goal_weight(goal)
        self.setup: Setup = make_setup(
            model,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            repeats=repeats,
            n_ctx=n_ctx,
            chosen=devices,
            timeout_s=timeout_s,
        )
        self.grid: Grid = make_grid(
            self.setup,
            n_gpu_layers=n_gpu_layers,
            n_batch=n_batch,
            n_threads=n_threads,
            type_kv=type_kv,
            n_threads_batch=n_threads_batch,
            n_ubatch=n_ubatch,
            flash_attn=flash_attn,
            n_cpu_moe=n_cpu_moe,
            speculate=speculate,
        )
        if any(self.grid.speculate):
            self.setup = replace(self.setup, quoting=True)
        self.cancel = cancel
        self.on_step = on_step
        self.result = SweepResult(
            model=self.setup.describe_model(),
            setup=self.setup.describe(),
            machine=measured_on(devices),
            notes=list(self.grid.notes),
            planned=len(self.grid),
            goal=goal,
        )
        self._file = None if resume is None else Path(resume).expanduser()
        if self._file is not None:
            self._resume(self._file)

    @property
    def missing(self) -> list[Settings]:
        """The points that have no row yet."""
        return [point for point in self.grid.points() if self.result.find(point) is None]

    def __iter__(self) -> Iterator[SweepRow]:
        """Measure what is missing.

        Yields:
            Each row when its trial is done.

        Raises:
            KeyboardInterrupt: The process of the trial in progress is gone; `result` stays.
            HelpersError: The file to resume from cannot be written.
        """
        self.result.stopped = ""
        for settings in self.missing:
            try:
                if is_cancelled(self.cancel):
                    raise Cancelled
                row = self.measure(settings)
            except Cancelled:
                self.stop("cancelled")
                return
            except KeyboardInterrupt:
                self.stop("interrupted")
                raise
            yield row

    def measure(self, settings: Settings) -> SweepRow:
        """Make one trial, of a point that need not be in the grid, and keep its row.

        A second trial of the same settings is pooled with the first.

        Raises:
            Cancelled: The sweep's `cancel` said so.
        """
        row = run_trial(self.setup, settings, cancel=self.cancel, on_step=self.on_step)
        self.result.trials += 1
        before = self.result.find(settings)
        if before is not None:
            row = before.pooled(row)
        self.result.put(row)
        self._write()
        return row

    def stop(self, why: str) -> None:
        """Note why the sweep ended early."""
        self.result.stopped = why
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            self.result.save(self._file)

    def _resume(self, file: Path) -> None:
        """Take over the rows of a file of the same model, setup and machine.

        Raises:
            HelpersError: The file is of another model, setup or machine, damaged, or cannot be
                written.
        """
        if file.exists():
            old = SweepResult.load(file)
            new = self.result
            for what in ("model", "setup", "machine"):
                theirs, ours = getattr(old, what), getattr(new, what)
                for name in ours:
                    if name in ("code", "code_elsewhere", "date", "n_ctx_given"):
                        continue
                    if theirs.get(name) != ours[name]:
                        raise HelpersError(
                            f"{file.name} is a sweep of another {what}: there {name} is "
                            f"{theirs.get(name)!r}, here {ours[name]!r}. Speeds of both cannot be "
                            "mixed: give another file, or delete this one to start over."
                        )
            new.rows, new.trials = list(old.rows), old.trials
            new.machine["date"] = old.machine.get("date", new.machine["date"])
        self._write()  # a place that cannot be written shows now, not after the first trial


def sweep(
    model: str | os.PathLike[str] | None = None,
    *,
    goal: str | float = "eval",
    on_row: Callable[[SweepRow], None] | None = None,
    **settings: Unpack[SweepSettings],
) -> SweepResult:
    """Measure every combination of settings, each in a process of its own.

    Speeds mean what they mean in llama.cpp's own `llama-bench`: prompt eval of random tokens that
    no cache knows, and generation from an empty context, measured apart, after a warm-up that does
    not count. A trial that runs out of memory, dies or takes too long is a row with its reason, and
    the rest goes on. Ctrl-C ends the sweep and gives what there is.

    Args:
        model: A path, or any name that `find_model` knows; None for `default_model()`.
        goal: What `best()` of the result looks for: "eval", "prompt", "both", or a weight.
        on_row: Called with each new row.
        settings: Any of those that follow.
        n_gpu_layers: Layers on devices; -1 is all. None: none, quarters and all where there is a
            GPU, else 0. More than the model has means all, with a note.
        n_batch: Tokens per decode (512), 1 to the context.
        n_threads: Compute threads; None is the physical cores that this process may use.
        type_kv: Types of the KV cache, such as "f16" and "q8_0".
        n_threads_batch: Compute threads for prompts; None for `n_threads`.
        n_ubatch: Tokens computed at once (512).
        flash_attn: True, False, or None to use it where the backend has it.
        n_cpu_moe: Blocks whose experts stay on the CPU, for mixtures of experts.
        speculate: None, "lookup", or the path of a draft model. Where there is more than None, all
            trials generate what their prompt has said several times: the best that guesses can do.
        prompt_tokens: Tokens of each prompt (256); 0 measures no prompt eval.
        new_tokens: Tokens generated each time (32); 0 measures no generation.
        repeats: Times that both are measured in each trial (3); speeds are the medians.
        n_ctx: Tokens of context; None for what `LlamaCpp` takes (4096 or the model's own).
        devices: Devices to use; None for all.
        timeout_s: Most seconds for one trial (300), loading included.
        resume: A JSON file that gets every row at once; if it exists, its rows are kept.
        on_step: Called with what a trial is doing and the share of it that is done.
        cancel: A `threading.Event`, or a function that returns True to stop; checked ten times a
            second, and the process in progress is ended.

    Returns:
        The rows; `stopped` says if it ended early.

    Raises:
        ModelFileError: There is no such model.
        TypeError: A value is of the wrong kind.
        ValueError: A value has no meaning; no trial has started then.
        HelpersError: The file to resume from is another sweep's, damaged, or cannot be written.

    >>> sweep(n_batch=(128, 512), repeats=3)  # doctest: +SKIP
    <SweepResult: 2 of 2 trials with a result>
    """
    running = Sweep(model, goal=goal, **settings)
    try:
        for row in running:
            if on_row is not None:
                on_row(row)
    except KeyboardInterrupt:
        running.stop("interrupted")
    return running.result


def measured_on(chosen: Sequence[Device] | None) -> dict[str, str]:
    """What speeds depend on besides the settings: processor, devices, versions; no names."""
    machine = {name: value for name, value in describe_machine().items() if name != "model"}
    seen = devices() if chosen is None else chosen
    for device in seen:
        if device.offloads:
            label = device.description
            if device.endpoint is not None and device.endpoint in label:
                label = "an RPC server"
            machine[f"device {len(machine)}"] = f"{label}, {device.total_mib:.0f} MiB"
    driver = _driver()
    if driver and any(device.backend == "CUDA" for device in seen):
        machine["driver"] = driver
    return machine


def _driver() -> str:
    """Version of NVIDIA's driver, or an empty text."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return f"NVIDIA driver {lines[0].strip()}" if done.returncode == 0 and lines else ""
