"""The search against whole grids: recorded ones from real machines, and made ones of every shape.

At most a quarter of a grid's trials (a third of a small one), and at least 95 % of its best speed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import DeviceError, SweepResult, find_best
from helpers.bench import Settings, Sweep, SweepRow
from helpers.bench.grid import Grid
from helpers.bench.rows import goal_weight
from helpers.bench.search import MOST_TRIALS, search, trials_for

DATA = Path(__file__).parents[1] / "data"
RECORDED = sorted(DATA.glob("sweep_*.json"))
LAYERS = 31
Curve = Callable[[float], float | None]
"""ms per token by the share of layers on the device; None where it does not fit."""

MADE: dict[str, Curve] = {
    "gpu, half slower than none": lambda f: 10 - 8.5 * f + (6 if 0 < f < 1 else 0),
    "gpu, each layer helps": lambda f: 10 - 9 * f,
    "cliff where memory ends": lambda f: 10 - 6 * f if f <= 0.7 else None,
    "slow beyond the memory": lambda f: 10 - 6 * f if f <= 0.6 else 40 + 10 * f,
    "early cliff": lambda f: 10 - 6 * f if f <= 0.2 else None,
    "plateau": lambda f: 10 - 8 * min(f, 0.4),
    "dip in the middle": lambda f: (10 - 5 * f) * (2 if 0.35 < f < 0.65 else 1),
    "dip before the end": lambda f: (10 - 5 * f) * (1.6 if 0.75 < f < 0.95 else 1),
    "no help at all": lambda f: 10 + 7 * f,
    "all the same": lambda f: 10.0,
    "nothing fits but the CPU": lambda f: 10.0 if f == 0 else None,
}


def made(curve: Curve, *, counts: int, batches: tuple[int, ...]) -> dict[Settings, SweepRow]:
    """A whole grid: generation by layers alone, prompt eval by the batch too."""
    rows = {}
    for step in range(counts):
        layers = round(LAYERS * step / (counts - 1))
        for batch in batches:
            point = Settings(n_gpu_layers=layers, n_batch=batch, n_threads=2)
            ms = curve(layers / LAYERS)
            speeds = {}
            if ms is not None:
                prompt = 20_000 / ms / (1 + 0.3 * abs(math.log2(batch / 1024)))
                speeds = {"eval_runs": (1000 / ms,), "prompt_runs": (prompt,)}
            reason = "" if speeds else "out of memory: made so"
            rows[point] = SweepRow(**vars(point), **speeds, reason=reason)
    return rows


def grid_of(rows: dict[Settings, SweepRow]) -> Grid:
    def values(name: str) -> tuple[int, ...]:
        return tuple(sorted({getattr(point, name) for point in rows}))

    kinds = tuple(dict.fromkeys(point.type_kv for point in rows))
    grid = Grid(values("n_gpu_layers"), values("n_batch"), values("n_threads"), kinds)
    assert len(grid) == len(rows)
    return grid


def share_found(
    rows: dict[Settings, SweepRow], goal: str | float, *, planned: bool = False
) -> tuple[float, int]:
    """What the search finds, as a share of the grid's best, and its trials."""
    trials: list[Settings] = []

    def measure(point: Settings) -> SweepRow:
        trials.append(point)
        return rows[point]

    fits = (lambda point: rows[point].ok) if planned else None
    found = search(grid_of(rows), measure, goal=goal, fits=fits)
    assert max(map(trials.count, trials)) <= 2
    if planned:
        assert all(rows[point].ok for point in trials)
    top = max(row.score(goal) for row in rows.values())
    return math.exp(max(row.score(goal) for row in found) - top), len(trials)


@pytest.mark.parametrize("goal", ["eval", "prompt", "both", 0.8])
@pytest.mark.parametrize("shape", MADE)
@pytest.mark.parametrize(("counts", "batches"), [(9, (256, 512, 1024)), (17, (128, 512, 2048))])
def test_made_grids(shape: str, counts: int, batches: tuple[int, ...], goal: str | float) -> None:
    rows = made(MADE[shape], counts=counts, batches=batches)
    share, trials = share_found(rows, goal)
    assert trials <= trials_for(len(rows))
    assert share >= 0.95


@pytest.mark.parametrize("shape", MADE)
@pytest.mark.parametrize(("counts", "batches"), [(9, (512,)), (5, (256, 512)), (32, (512,))])
def test_small_grids_with_a_memory_plan(shape: str, counts: int, batches: tuple[int, ...]) -> None:
    rows = made(MADE[shape], counts=counts, batches=batches)
    if shape == "slow beyond the memory":  # what the plan is for: such points do not fit
        rows = {
            point: SweepRow(**vars(point), reason="out of memory: planned")
            if point.n_gpu_layers > 0.6 * LAYERS
            else row
            for point, row in rows.items()
        }
    share, trials = share_found(rows, "eval", planned=True)
    assert trials <= trials_for(len(rows))
    assert share >= 0.95


def test_grids_of_many_settings() -> None:
    """Nearly always 95 % of the best of 1,440 points, with 48 trials."""
    shares = [
        share_of_many(seed, goal) for seed in range(12) for goal in ("eval", "prompt", "both")
    ]
    assert sum(share >= 0.95 for share in shares) >= 33
    assert min(shares) > 0.75


def share_of_many(seed: int, goal: str) -> float:
    """Eight settings, each better or worse by chance, some only together with another."""
    draw = random.Random(seed)
    values: dict[str, tuple[Any, ...]] = {
        "n_gpu_layers": (0, 8, 16, 24, 31),
        "n_batch": (128, 512, 1024),
        "n_threads": (2, 4, 8),
        "type_kv": ("f16", "q8_0"),
        "n_threads_batch": (None, 8),
        "n_ubatch": (128, 512),
        "flash_attn": (None, False),
        "speculate": (None, "lookup"),
    }
    factor = {
        name: {value: draw.uniform(0.7, 1.3) for value in given} for name, given in values.items()
    }
    gain = draw.uniform(-0.5, 3)  # of all layers on the device
    factor["n_gpu_layers"] = {n: 1 + gain * n / 31 for n in values["n_gpu_layers"]}
    best_threads = draw.choice(values["n_threads"])
    rows = {}
    grid = Grid(**values)
    for point in grid.points():
        speed = 100 * math.prod(factor[name][getattr(point, name)] for name in values)
        speed /= 1 + abs(math.log2(point.n_threads / best_threads)) / 4
        if point.type_kv != "f16" and point.flash_attn is False:
            speed *= 0.6
        prompt = speed * 5 / (1 + abs(math.log2(point.n_batch / 512)) / 3)
        rows[point] = SweepRow(**vars(point), eval_runs=(speed,), prompt_runs=(prompt,))
    tried: list[Settings] = []

    def measure(point: Settings) -> SweepRow:
        tried.append(point)
        return rows[point]

    found = search(grid, measure, goal=goal)
    top = max(row.score(goal) for row in rows.values())
    assert len(tried) <= MOST_TRIALS < len(rows) // 4
    return math.exp(max(row.score(goal) for row in found) - top)


def test_there_are_recorded_grids() -> None:
    assert len(RECORDED) >= 2


@pytest.mark.parametrize("goal", ["eval", "prompt", "both"])
@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_recorded_grids(file: Path, goal: str) -> None:
    rows = {row.settings: row for row in SweepResult.load(file).rows}
    share, trials = share_found(rows, goal)
    assert trials <= trials_for(len(rows))
    assert share >= 0.95


def test_chance_rarely_decides() -> None:
    """With 3 % noise on every trial, 95 % of the true best are found almost always."""
    missed = 0
    for seed in range(200):
        chance = random.Random(seed)
        shape = list(MADE)[seed % len(MADE)]
        true = made(MADE[shape], counts=9, batches=(256, 512, 1024))
        seen: dict[Settings, SweepRow] = {}

        def measure(
            point: Settings,
            true: dict[Settings, SweepRow] = true,
            seen: dict[Settings, SweepRow] = seen,
            chance: random.Random = chance,
        ) -> SweepRow:
            luck = math.exp(chance.gauss(0, 0.03))
            row = true[point]
            noisy = SweepRow(
                **vars(point),
                eval_runs=tuple(v * luck * math.exp(chance.gauss(0, 0.03)) for v in row.eval_runs),
                reason=row.reason,
            )
            seen[point] = seen[point].pooled(noisy) if point in seen else noisy
            return seen[point]

        found = search(grid_of(true), measure, goal="eval")
        best = max(found, key=lambda row: row.score("eval"))
        top = max(row.score("eval") for row in true.values())
        missed += math.exp(true[best.settings].score("eval") - top) < 0.95
    assert missed <= 6


def test_an_unlucky_winner_is_found_out() -> None:
    rows = made(MADE["all the same"], counts=9, batches=(512,))
    liar = Settings(n_gpu_layers=LAYERS, n_batch=512, n_threads=2)
    asked: list[Settings] = []

    def measure(point: Settings) -> SweepRow:
        asked.append(point)
        if point == liar and asked.count(liar) == 1:
            return SweepRow(**vars(point), eval_runs=(130.0,))
        return rows[point]

    found = search(grid_of(rows), measure, max_trials=9)
    assert asked.count(liar) == 2
    assert next(row for row in found if row.settings == liar).eval_per_second == 100.0


def test_what_does_not_fit_is_never_tried() -> None:
    rows = made(MADE["cliff where memory ends"], counts=17, batches=(128, 512, 2048))
    share, _ = share_found(rows, "both", planned=True)
    assert share >= 0.95
    with pytest.raises(LookupError):
        search(grid_of(rows), rows.__getitem__, fits=lambda point: False)


def test_where_the_memory_is_full_another_cache_type_takes_more_layers() -> None:
    """q8_0 makes room for six more layers, which is worth more than it costs."""
    rows = {}
    for layers in range(32):
        for kind, limit, cost in (("f16", 20, 1.0), ("q8_0", 26, 1.05)):
            point = Settings(n_gpu_layers=layers, n_threads=2, type_kv=kind)
            fits = layers <= limit
            speed = (1000 / (10 - 0.28 * layers) / cost,) if fits else ()
            rows[point] = SweepRow(**vars(point), eval_runs=speed, reason="" if fits else "no")
    tried: list[Settings] = []

    def measure(point: Settings) -> SweepRow:
        tried.append(point)
        return rows[point]

    found = search(grid_of(rows), measure, fits=lambda point: rows[point].ok)
    best = max(found, key=lambda row: row.score("eval"))
    assert (best.n_gpu_layers, best.type_kv) == (26, "q8_0")
    assert len(tried) <= len(rows) // 3


@pytest.mark.parametrize(
    ("size", "trials"),
    [(1, 1), (2, 2), (3, 2), (6, 2), (9, 3), (48, 12), (100, 25), (9999, MOST_TRIALS)],
)
def test_trials_for_a_grid(size: int, trials: int) -> None:
    assert trials_for(size) == trials


def test_the_weight_of_a_goal() -> None:
    assert [goal_weight(goal) for goal in ("eval", "prompt", "both", 0.25, 1)] == [
        1.0, 0.0, 0.5, 0.25, 1.0,
    ]  # fmt: skip


# --- find_best, with the model -------------------------------------------------------------------

TINY = {"prompt_tokens": 8, "new_tokens": 3, "repeats": 1, "n_ctx": 256}


def test_a_live_search_makes_a_third_of_a_small_grids_trials(tmp_path: Path) -> None:
    seen: list[SweepRow] = []
    grid: dict[str, Any] = {"n_batch": (16, 32, 64, 128), "n_threads": (1, 2)}
    grid |= {"type_kv": ("f16", "q8_0"), "flash_attn": (None,), "n_ubatch": (512,)}
    result = find_best(goal="both", **grid, **TINY, on_row=seen.append, resume=tmp_path / "b.json")
    assert result.planned == 16
    assert result.trials == len(seen) <= 5
    assert result.goal == "both" and result.best().ok
    assert SweepResult.load(tmp_path / "b.json").trials == result.trials
    again = find_best(goal="both", **grid, **TINY, max_trials=2, resume=tmp_path / "b.json")
    assert len(again.rows) >= len(result.rows)


def test_a_search_can_be_cancelled() -> None:
    result = find_best(n_batch=(16, 64, 128), **TINY, cancel=lambda: True)
    assert result.rows == [] and result.stopped == "cancelled"


def test_a_search_asks_the_plan_and_says_when_nothing_fits() -> None:
    asked: list[Settings] = []

    def fits(point: Settings) -> bool:
        asked.append(point)
        return point.n_batch == 16

    result = find_best(n_batch=(16, 64, 128), n_threads=[1], **TINY, fits=fits)
    assert {row.n_batch for row in result.rows} == {16}
    assert {point.n_batch for point in asked} == {16, 64, 128}
    with pytest.raises(DeviceError, match="None of the 6 settings fits the memory"):
        find_best(n_batch=(16, 64, 128), n_threads=[1], **TINY, fits=lambda point: False)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="max_trials=0 is out of range"):
        find_best(max_trials=0)
    with pytest.raises(ValueError, match="is not a goal"):
        find_best(goal="fast")


def test_the_plan_of_a_practice_accelerator_keeps_the_search_within_its_memory() -> None:
    from helpers.native import practice_accelerator

    with practice_accelerator(memory_mib=60) as device:
        layers = (0, 6, 12, 18, 24, 31)
        running = Sweep(n_gpu_layers=layers, devices=[device], **TINY)
        result = find_best(n_gpu_layers=layers, n_batch=(16, 64, 128), devices=[device], **TINY)
        assert all(row.ok for row in result.rows), [row.reason for row in result.rows]
        assert max(row.n_gpu_layers for row in result.rows) < 31
        top = running.measure(Settings(n_gpu_layers=31, n_batch=64, n_threads=2))
    # A full device refuses, or its server gives up and takes the trial's process along.
    assert not top.ok and top.reason.startswith(("out of memory: ", "the process ended (SIGABRT)"))
    assert device.endpoint is not None and device.endpoint.split(":")[-1] not in top.reason
