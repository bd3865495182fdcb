"""`find_best`: the memory plan says what fits, a search measures a few of the points that do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

from helpers.bench.grid import default_layers
from helpers.bench.result import SweepResult
from helpers.bench.rows import Settings, SweepRow, goal_weight
from helpers.bench.search import Fits, search
from helpers.bench.sweep import Sweep, SweepSettings
from helpers.bench.trial import Cancelled, is_cancelled
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
    max_trials: int | None = None,
    fits: Fits | None = None,
    on_row: Callable[[SweepRow], None] | None = None,
    **settings: Unpack[SweepSettings],
) -> SweepResult:
    """Search a grid for its best settings with at most a quarter of its trials.

    What the memory plan says does not fit is never tried. The rest is searched: layers first, from
    both ends into the gaps that promise most, then the other parameters uphill; the winner is
    measured again. `sweep` explains how a trial is made, and the parameters not named here.

    Args:
        model: A path, or any name that `find_model` knows; None for `default_model()`.
        goal: "eval" (generation speed), "prompt", "both", or the weight of generation, 0 to 1.
        max_trials: Most trials; None for a quarter of the grid, 2 at least and 48 at most.
        fits: Says whether settings fit the memory; None asks `predict_memory`.
        on_row: Called with each new row; a second one of the same settings replaces the first.
        settings: As in `sweep`; those of the grid are the values to choose from. Where they are
            not given: for `n_gpu_layers` 17 counts or so from 0 to all (0 alone without a GPU),
            for `n_batch` 128 to 1024, for `n_threads` all usable cores, three quarters, and half,
            for `n_threads_batch` as many and all, for `flash_attn` the backend's choice and False;
            where the prompt counts, for `n_ubatch` 128 and 512; for a mixture of experts on a
            device, `n_cpu_moe` by quarters. What changes the answers (`type_kv`), and what depends
            on what is asked (`speculate`), are searched where they are given.
            A row that the file to `resume` has costs no trial.

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
    devices, cancel = settings.get("devices"), settings.get("cancel")
    seen = native_devices() if devices is None else devices
    offloads = any(device.offloads for device in seen)
    info = inspect_model(find_model(model), check=False)
    if settings.get("n_gpu_layers") is None:
        layers = info.n_layers + 1
        settings["n_gpu_layers"] = default_layers(layers, _MOST_LAYERS) if offloads else (0,)
    settings.setdefault("n_batch", (128, 256, 512, 1024))
    if settings.get("n_threads") is None:
        settings["n_threads"] = (cores, -(-cores * 3 // 4), -(-cores // 2))
        settings.setdefault("n_threads_batch", (None, cores))
    settings.setdefault("flash_attn", (None, False))
    if goal_weight(goal) < 1:
        settings.setdefault("n_ubatch", (128, 512))
    if offloads and info.n_experts:
        quarters = (round(info.n_layers * part / 4) for part in range(5))
        settings.setdefault("n_cpu_moe", tuple(quarters))
    running = Sweep(model, goal=goal, **settings)
    result = running.result
    asked: set[Settings] = set()

    def measure(settings: Settings) -> SweepRow:
        if is_cancelled(cancel):
            raise Cancelled
        row = None if settings in asked else result.find(settings)
        asked.add(settings)
        if row is None:
            row = running.measure(settings)
            if on_row is not None:
                on_row(row)
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
    """The memory plan as a yes or no; without a plan, only a trial can tell."""

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
        n_ubatch=settings.n_ubatch,
        n_gpu_layers=settings.n_gpu_layers,
        n_cpu_moe=settings.n_cpu_moe,
        type_k=settings.type_kv,
        type_v=settings.type_kv,
        flash_attn=settings.flash_attn,
        speculate=settings.speculate,
        devices=devices if settings.n_gpu_layers else [],
    )


def _smallest(running: Sweep, devices: Sequence[Device] | None) -> float:
    """MiB of the point of a grid that needs least."""
    points = running.grid.points()
    return min(_predicted(running, point, devices).total_mib for point in points)
