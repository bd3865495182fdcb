"""`find_best`: the memory plan says what fits, a search measures a few of the points that do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from helpers.bench.grid import default_layers
from helpers.bench.result import SweepResult
from helpers.bench.rows import Settings, SweepRow
from helpers.bench.search import Fits, search
from helpers.bench.sweep import TIMEOUT_S, Sweep
from helpers.bench.trial import Cancel, Cancelled, Step, is_cancelled
from helpers.checks import check_range
from helpers.errors import DeviceError, HelpersError
from helpers.models import find_model, inspect_model
from helpers.native import Device, usable_cores
from helpers.native import devices as native_devices

if TYPE_CHECKING:
    from helpers.memory import MemoryPlan

_MOST_LAYERS = 17
"""Layer counts in a grid of our own making: more would differ by less than trials do."""


def find_best(
    model: str | os.PathLike[str] | None = None,
    goal: str | float = "eval",
    *,
    devices: Sequence[Device] | None = None,
    n_gpu_layers: Iterable[int] | None = None,
    n_batch: Iterable[int] = (128, 256, 512, 1024),
    n_threads: Iterable[int | None] | None = None,
    type_kv: Iterable[str] = ("f16",),
    prompt_tokens: int = 256,
    new_tokens: int = 32,
    repeats: int = 3,
    n_ctx: int | None = None,
    max_trials: int | None = None,
    timeout_s: float = TIMEOUT_S,
    fits: Fits | None = None,
    resume: str | os.PathLike[str] | None = None,
    on_row: Callable[[SweepRow], None] | None = None,
    on_step: Step | None = None,
    cancel: Cancel = None,
) -> SweepResult:
    """Search a grid for its best settings with at most a third of its trials.

    What the memory plan says does not fit is never tried. The rest is searched: layers first, from
    both ends into the gaps that promise most, then the other parameters uphill; the winner is
    measured again. `sweep` explains how a trial is made, and the parameters not named here.

    Args:
        model: A path, or any name that `find_model` knows; None for `default_model()`.
        goal: "eval" (generation speed), "prompt", "both", or the weight of generation, 0 to 1.
        devices: Devices to use; None for all.
        n_gpu_layers: Layers to choose from; None for 17 counts or so from 0 to all (0 alone
            without a GPU).
        n_batch: Batches to choose from.
        n_threads: Threads to choose from; None for all usable cores, three quarters, and half.
        type_kv: Types of the KV cache to choose from.
        prompt_tokens: As in `sweep`.
        new_tokens: As in `sweep`.
        repeats: As in `sweep`.
        n_ctx: As in `sweep`.
        max_trials: Most trials; None for a third of the grid (2 at least).
        timeout_s: As in `sweep`.
        fits: Says whether settings fit the memory; None asks `predict_memory`.
        resume: As in `sweep`; a row that the file has costs no trial.
        on_row: Called with each new row; a second one of the same settings replaces the first.
        on_step: As in `sweep`.
        cancel: As in `sweep`.

    Returns:
        The rows of the trials; `best()` and `code()` know the goal, `planned` is the whole grid.

    Raises:
        DeviceError: Nothing in the grid fits the memory.
        ModelFileError: There is no such model.
        TypeError: A value is of the wrong kind.
        ValueError: A value has no meaning; no trial has started then.

    >>> find_best(goal="prompt").code()  # doctest: +SKIP
    'llm = LlamaCpp(model_path=default_model(), n_gpu_layers=31, n_batch=512)'
    """
    if max_trials is not None:
        check_range("max_trials", max_trials, 1, 1_000_000)
    cores = usable_cores()
    if n_gpu_layers is None:
        seen = native_devices() if devices is None else devices
        layers = inspect_model(find_model(model), check=False).n_layers + 1
        offloads = any(device.offloads for device in seen)
        n_gpu_layers = default_layers(layers, _MOST_LAYERS) if offloads else (0,)
    running = Sweep(
        model,
        n_gpu_layers=n_gpu_layers,
        n_batch=n_batch,
        n_threads=(cores, -(-cores * 3 // 4), -(-cores // 2)) if n_threads is None else n_threads,
        type_kv=type_kv,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        n_ctx=n_ctx,
        devices=devices,
        timeout_s=timeout_s,
        resume=resume,
        goal=goal,
        cancel=cancel,
        on_step=on_step,
    )
    result = running.result
    asked: set[Settings] = set()

    def measure(settings: Settings) -> SweepRow:
        if is_cancelled(cancel):
            raise Cancelled
        known = result.find(settings)
        if known is not None and settings not in asked:
            row = known
        else:
            row = running.measure(settings)
            if on_row is not None:
                on_row(row)
        asked.add(settings)
        return row

    may_fit = _plan(running, devices) if fits is None else fits
    start = Settings(n_batch=512, n_threads=cores)
    try:
        search(running.grid, measure, goal=goal, fits=may_fit, max_trials=max_trials, start=start)
    except Cancelled:
        running.stop("cancelled")
    except KeyboardInterrupt:
        running.stop("interrupted")
    except LookupError:
        raise DeviceError(
            f"None of the {len(running.grid)} settings fits the memory: even the smallest needs "
            f"{_smallest(running, devices):,.0f} MiB in all. Use a smaller n_ctx than "
            f"{running.setup.n_ctx}, fewer n_gpu_layers, type_kv=['q8_0'], or a smaller model."
        ) from None
    return result


def _plan(running: Sweep, devices: Sequence[Device] | None) -> Fits:
    """The memory plan as a yes or no; where there can be no plan, a trial will tell."""

    def may_fit(settings: Settings) -> bool:
        try:
            return _predicted(running, settings, devices).fits
        except HelpersError:
            return True

    return may_fit


def _predicted(running: Sweep, settings: Settings, devices: Sequence[Device] | None) -> MemoryPlan:
    from helpers.memory import predict_memory

    return predict_memory(
        running.setup.path,
        n_ctx=running.setup.n_ctx,
        n_batch=settings.n_batch,
        n_gpu_layers=settings.n_gpu_layers,
        type_k=settings.type_kv,
        type_v=settings.type_kv,
        devices=devices if settings.n_gpu_layers else [],
    )


def _smallest(running: Sweep, devices: Sequence[Device] | None) -> float:
    """MiB of the point of a grid that needs least."""
    points = running.grid.points()
    return min(_predicted(running, point, devices).total_mib for point in points)
