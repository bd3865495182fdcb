"""The search for the best point of a grid with a quarter of its trials: pure, without a model.

Layers first. The speed over the layer count rises, falls, sags in the middle (half a GPU can be
slower than none), has a plateau, or ends at a cliff where memory ends. So both ends are measured,
then the middle, and then always the gap that promises most: the curve is taken to be at most half
as steep again inside of a gap as it is around it, and a gap that cannot beat the best by that is
left alone. What could not be measured counts as the cliff's foot, and the edge is bisected.

Then the other parameters, one at a time from the best point, uphill as long as it goes up. When
one of them has changed, and trials are left, the layers are searched again. In the end the
winner is measured once more: a single lucky trial must not win on a noisy machine.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from helpers.bench.grid import DIMENSIONS, ORDERED, Grid
from helpers.bench.rows import Settings, SweepRow, goal_weight

Measure = Callable[[Settings], SweepRow]
Fits = Callable[[Settings], bool]

GAIN = 0.02
"""A gain below 2 % is not worth a trial: two trials of one point differ by as much."""

NOISE = 0.05
"""A difference below 5 % may be noise: a climb goes on, a winner is measured again.

Where the repeats of the trials themselves differ by more, that counts instead (`_noise`).
"""

_MOST_NOISE = 0.3

_OF_SMALL = 12
"""Trials up to which a third of a grid may be measured."""

MOST_TRIALS = 48
"""Most trials of a search that is not told how many it may make: some minutes."""

_FINALISTS = 3
_STEEPER = 1.5
_UNKNOWN_SLOPE = math.log(2)
"""Hope for a gap about which nothing is known: a doubling from one end of the line to the other."""


def trials_for(grid_size: int) -> int:
    """How many trials a search may make: a quarter of the grid.

    A small grid needs up to a third, as an edge among nine layer counts takes as many trials as one
    among seventeen; at least 2 where there is a choice. At most `MOST_TRIALS`: a trial takes
    seconds, and a grid of many settings is large.

    >>> trials_for(5), trials_for(27), trials_for(48), trials_for(100), trials_for(5000)
    (2, 9, 12, 25, 48)
    """
    small = min(grid_size // 3, _OF_SMALL)
    return min(max(min(2, grid_size), small, grid_size // 4), MOST_TRIALS)


def search(
    grid: Grid,
    measure: Measure,
    *,
    goal: str | float = "eval",
    fits: Fits | None = None,
    max_trials: int | None = None,
    start: Settings | None = None,
) -> list[SweepRow]:
    """Look for the best point of a grid.

    Args:
        grid: The values.
        measure: Makes a trial. Called at most `max_trials` times, at most twice for one point; the
            second row of a point takes the place of the first. What it raises ends the search.
        goal: "eval", "prompt", "both", or the weight of generation speed, 0 to 1.
        fits: Whether a point fits the memory, as far as can be predicted; None: all may.
        max_trials: Most trials; None for `trials_for(len(grid))`.
        start: Where to begin, the layers apart; None for the defaults nearest in the grid.

    Returns:
        The rows, in the order of their first trial.

    Raises:
        LookupError: No point of the grid fits.
    """
    budget = trials_for(len(grid)) if max_trials is None else max_trials
    return _Search(grid, measure, goal, fits, budget).run(start)


class _Spent(Exception):
    """The trials are used up."""


class _Search:
    def __init__(
        self, grid: Grid, measure: Measure, goal: str | float, fits: Fits | None, budget: int
    ) -> None:
        self.grid, self.goal, self.budget = grid, goal, budget
        self._measure, self._fits = measure, fits
        self._known_to_fit: dict[Settings, bool] = {}
        self.rows: dict[Settings, SweepRow] = {}
        self.spent = 0

    def run(self, start: Settings | None) -> list[SweepRow]:
        try:
            here = self._beginning(start)
            while True:
                here = self._along_layers(here, self._reserve())
                there = self._other_parameters(here)
                if _without_layers(there) == _without_layers(here):
                    break
                here = there
            self._along_layers(here, 0)
            self._confirm()
        except _Spent:
            pass
        return list(self.rows.values())

    # -- trials -----------------------------------------------------------------------------------

    def _score(self, point: Settings) -> float:
        """The score of a point, measured now if it was not before."""
        if point not in self.rows:
            self._trial(point)
        return self.rows[point].score(self.goal)

    def _trial(self, point: Settings) -> None:
        if self.spent >= self.budget:
            raise _Spent
        self.spent += 1
        self.rows[point] = self._measure(point)

    def _best(self) -> Settings:
        return max(self.rows, key=lambda point: self.rows[point].score(self.goal))

    def _noise(self) -> float:
        """By how much two trials of one point may differ, judged by the repeats within trials."""
        spreads = [
            math.log(spread[1] / spread[0]) / 2
            for row in self.rows.values()
            for spread in (row.eval_spread, row.prompt_spread)
            if spread is not None and spread[0] > 0
        ]
        typical = statistics.median(spreads) if spreads else 0.0
        return min(max(typical, NOISE), _MOST_NOISE)

    def _confirm(self) -> None:
        """Measure the winner again, and the few that come so close that chance may have decided."""
        again: set[Settings] = set()
        while len(self.rows) > 1 and len(again) < _FINALISTS:
            best = self._score(self._best())
            close = [
                (self._score(point), number, point)
                for number, point in enumerate(self.rows)
                if point not in again and self._score(point) > best - self._noise()
            ]
            if not close:
                return
            point = max(close)[2]
            again.add(point)
            self._trial(point)

    # -- memory -----------------------------------------------------------------------------------

    def _may_fit(self, point: Settings) -> bool:
        if self._fits is None:
            return True
        if point not in self._known_to_fit:
            self._known_to_fit[point] = self._fits(point)
        return self._known_to_fit[point]

    def _fitting_layers(self, point: Settings) -> list[int]:
        """Counts of layers that may fit with the other parameters of a point, rising."""
        layers = self.grid.n_gpu_layers
        return [n for n in layers if self._may_fit(replace(point, n_gpu_layers=n))]

    def _beginning(self, start: Settings | None) -> Settings:
        """A point that may fit: the defaults, or else what needs the least memory."""
        grid = self.grid
        wanted = start or Settings(n_batch=512, n_threads=grid.n_threads[-1], type_kv="f16")
        here = Settings(**{name: _nearest(grid, name, wanted) for name in DIMENSIONS})
        for kv in (here.type_kv, *grid.type_kv):
            for n_batch in (here.n_batch, *grid.n_batch):
                point = replace(here, n_batch=n_batch, type_kv=kv)
                if layers := self._fitting_layers(point):
                    return replace(point, n_gpu_layers=layers[-1])
        raise LookupError("no point of the grid fits the memory")

    # -- layers -----------------------------------------------------------------------------------

    def _along_layers(self, here: Settings, reserve: int) -> Settings:
        """The best point on the line of layers through `here`; keeps `reserve` trials unspent."""
        layers = self._fitting_layers(here)
        line = [replace(here, n_gpu_layers=n) for n in layers]
        ends = list(dict.fromkeys((len(line) - 1, 0, (len(line) - 1) // 2)))
        known = [place for place, point in enumerate(line) if point in self.rows]
        if here.n_gpu_layers in layers and len(known) >= 2:
            ends = [layers.index(here.n_gpu_layers)]  # a second time along: begin where we are
        for place in ends:
            if self.budget - self.spent > reserve or not self.rows:
                self._score(line[place])
        while self.budget - self.spent > reserve:
            middle = self._most_promising(line)
            if middle is None:
                break
            self._score(line[middle])
        measured = [point for point in line if point in self.rows]
        return max(measured or [here], key=self._score)

    def _most_promising(self, line: Sequence[Settings]) -> int | None:
        """The middle of the gap that could hold the highest score, or None if none is worth it."""
        places = [place for place, point in enumerate(line) if point in self.rows]
        scores = {place: self.rows[line[place]].score(self.goal) for place in places}
        best = max(scores.values())
        found: tuple[float, int] | None = None
        for low, high in itertools.pairwise(places):
            if high - low < 2:
                continue
            hope = self._hope(low, high, places, scores, len(line) - 1)
            if hope > best + GAIN and (found is None or hope > found[0]):
                found = hope, (low + high) // 2
        return None if found is None else found[1]

    def _hope(
        self, low: int, high: int, places: list[int], scores: dict[int, float], span: int
    ) -> float:
        """The highest score that a gap can hold, if it is not much steeper there than around."""
        one, other = scores[low], scores[high]
        if one == other == -math.inf:
            return -math.inf
        at = places.index(low)
        around = list(itertools.pairwise(places))[max(at - 1, 0) : at + 2]
        slopes = [
            abs(scores[b] - scores[a]) / (b - a)
            for a, b in around
            if math.isfinite(scores[a]) and math.isfinite(scores[b])
        ]
        slope = max(slopes, default=_UNKNOWN_SLOPE / max(span, 1)) * _STEEPER
        if math.isinf(one) or math.isinf(other):
            return max(one, other) + slope * (high - low - 1)
        return (one + other + slope * (high - low)) / 2

    # -- the others -------------------------------------------------------------------------------

    def _reserve(self) -> int:
        """Trials to keep for the other parameters: both neighbours of each, at most half."""
        sizes = [len(self.grid.values(name)) for name in self._others()]
        wanted = sum(min(size - 1, 2) for size in sizes)
        return min(wanted, (self.budget - self.spent) // 2)

    def _others(self) -> list[str]:
        """The other parameters, those first that matter most for the goal.

        What is of the prompt alone is not seen by generation.
        """
        both = ["n_threads", "n_cpu_moe", "type_kv", "flash_attn", "speculate"]
        prompt = ["n_batch", "n_ubatch", "n_threads_batch"]
        return both + prompt if goal_weight(self.goal) == 1 else prompt + both

    def _other_parameters(self, here: Settings) -> Settings:
        """Climb along each of the other parameters."""
        for name in self._others():
            values = self.grid.values(name)
            for step in (1, -1):
                for value in _onward(values, getattr(here, name), step):
                    there = self._moved(here, name, value)
                    if there is None:
                        break
                    gain = self._score(there) - self._score(here)
                    if gain > 0:
                        here = there
                    if gain < -self._noise() and name in ORDERED:  # where there is none: try each
                        break
        # These two depend on each other: a quantized cache is slow, or refused, without the other.
        for kind, attention in itertools.product(self.grid.type_kv, self.grid.flash_attn):
            if kind != here.type_kv and attention != here.flash_attn:
                there = self._moved(replace(here, flash_attn=attention), "type_kv", kind)
                if there is not None and self._score(there) > self._score(here):
                    here = there
        return here

    def _moved(self, here: Settings, name: str, value: Any) -> Settings | None:
        """`here` with another value; where memory was the limit, as many layers as then fit."""
        there: Settings = replace(here, **{name: value})
        layers = self._fitting_layers(there)
        if not layers:
            return None
        limit = self._fitting_layers(here)[-1]
        if here.n_gpu_layers == limit or here.n_gpu_layers not in layers:
            there = replace(there, n_gpu_layers=layers[-1])
        return there


def _onward(values: Sequence[Any], value: Any, step: int) -> Iterator[Any]:
    """The values from the one beside `value` to the end, in one direction."""
    place = values.index(value) + step
    while 0 <= place < len(values):
        yield values[place]
        place += step


def _nearest(grid: Grid, name: str, wanted: Settings) -> Any:
    """The value of a grid that is nearest to the wanted one; the first where there is no order."""
    values, value = grid.values(name), getattr(wanted, name)
    if value in values:
        return value
    if name not in ORDERED or value is None or None in values:
        return values[0]
    return min(values, key=lambda n: abs(math.log((n or 1) / (value or 1))))


def _without_layers(point: Settings) -> Settings:
    return replace(point, n_gpu_layers=0)
