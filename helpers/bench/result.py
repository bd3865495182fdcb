"""`SweepResult`: the rows of a sweep, the best of them, and the line of code to use it."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.bench import store
from helpers.bench.rows import GOALS, RARER, Settings, SweepRow, goal_weight
from helpers.errors import HelpersError
from helpers.tables import Cells, html_table, text_lines

TIE = 0.02
"""Rows within 2 % of the best are as fast as it: two trials of one setting differ by as much."""

COLUMNS = {
    "layers": ">6",
    "batch": ">5",
    "threads": ">7",
    "KV": ">5",
    "prompt tokens/s": ">22",
    "eval tokens/s": ">22",
    "MiB": ">7.0f",
    "": "<",
}
_REASON = 70  # characters


@dataclass
class SweepResult:
    """The trials of a sweep or a search, in the order in which they were made.

    It prints as a table, in a notebook too. Speeds are medians over the repeats.

    Attributes:
        model: What identifies the model: `file` (its name), `bytes`, `fingerprint`, `n_layers`
            (those that can be offloaded), and `code` (how to name it in code).
        setup: How each trial was made: `prompt_tokens`, `new_tokens`, `repeats`, `n_ctx`,
            `default_threads`, `devices` (None for all).
        machine: What it was measured on; neither host nor user.
        rows: The trials.
        notes: What was changed or left out, in words.
        planned: Trials that the whole grid has.
        trials: Trials made (a search may repeat one).
        goal: What `best()` and `code()` look for by default.
        stopped: Why it ended early ("interrupted", "cancelled"), or empty.
    """

    model: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    rows: list[SweepRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    planned: int = 0
    trials: int = 0
    goal: str | float = "eval"
    stopped: str = ""

    def find(self, settings: Settings) -> SweepRow | None:
        """The row with these settings, or None."""
        return next((row for row in self.rows if row.settings == settings), None)

    def put(self, row: SweepRow) -> None:
        """Add a row; it takes the place of one with the same settings."""
        known = [other.settings for other in self.rows]
        place = known.index(row.settings) if row.settings in known else len(known)
        self.rows[place : place + 1] = [row]

    def best(self, goal: str | float | None = None) -> SweepRow:
        """The best row for a goal.

        Speeds wander from trial to trial, so rows within 2 % of the best count as equal: among
        those, the one that is fastest at what the goal leaves out is taken.

        Args:
            goal: "eval" (generation speed), "prompt" (prompt speed), "both", or the weight of
                generation speed from 0 to 1; None for `self.goal`.

        Raises:
            HelpersError: No trial has such a result.
            ValueError: There is no such goal.
        """
        goal = self.goal if goal is None else goal
        weight = goal_weight(goal)
        scored = [(row.score(goal), row) for row in self.rows]
        top = max((score for score, _ in scored), default=float("-inf"))
        if top == float("-inf"):
            raise HelpersError(self._no_best(goal))
        equal = [row for score, row in scored if score >= top - TIE]
        if weight in (0.0, 1.0):
            other = 1.0 - weight
            return max(equal, key=lambda row: (row.score(other), row.score(goal)))
        return max(equal, key=lambda row: row.score(goal))

    def _no_best(self, goal: str | float) -> str:
        if not self.rows:
            return "There is no best setting yet: no trial has been made. Run the sweep first."
        failed = next((row for row in self.rows if not row.ok), None)
        if failed is None:
            what = "new_tokens" if goal_weight(goal) else "prompt_tokens"
            return (
                f"No trial measured what the goal {goal!r} needs. Sweep with {what} above 0, or "
                "ask for another goal."
            )
        return (
            f"None of the {len(self.rows)} trials has a result for the goal {goal!r}. The first "
            f"({failed.settings}) says: {failed.reason}"
        )

    def code(self, goal: str | float | None = None) -> str:
        """The line that makes a model with the best settings, to paste into a cell.

        >>> result.code()  # doctest: +SKIP
        'llm = LlamaCpp(model_path=default_model(), n_gpu_layers=31, n_batch=512)'
        """
        row = self.best(goal)
        words = [f"model_path={self.model.get('code', 'default_model()')}"]
        words += [f"n_gpu_layers={row.n_gpu_layers}", f"n_batch={row.n_batch}"]
        if row.n_threads != self.setup.get("default_threads"):
            words.append(f"n_threads={row.n_threads}")
        if row.type_kv != "f16":
            words += [f'type_k="{row.type_kv}"', f'type_v="{row.type_kv}"']
        words += filter(None, [row.rarer()])
        if self.setup.get("n_ctx_given"):
            words.append(f"n_ctx={self.setup['n_ctx']}")
        named = self.setup.get("devices") if row.n_gpu_layers else None
        if named and any(device.startswith("RPC") for device in named):
            words.append("devices=[device]")  # its name changes each time it is started
        elif named:
            words.append(f"devices=[d for d in devices() if d.name in {named!r}]")
        return f"llm = LlamaCpp({', '.join(words)})"

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with one row for each trial: settings, medians, spread, memory."""
        import pandas as pd

        kinds = dict.fromkeys(("n_gpu_layers", "n_batch", "n_threads"), "int64")
        kinds["type_kv"] = "object"
        for name in ("prompt", "eval"):
            kinds |= dict.fromkeys((f"{name}_per_second", f"{name}_low", f"{name}_high"), "float64")
        kinds["repeats"] = "int64"
        kinds |= dict.fromkeys(("load_ms", "total_mib", "seconds"), "float64")
        kinds["reason"] = "object"
        kinds |= {name: "object" for name in RARER if any(_changed(r, name) for r in self.rows)}
        rows = []
        for row in self.rows:
            known = {name: getattr(row, name) for name in kinds if hasattr(row, name)}
            known["total_mib"] = row.total_mib or None
            for name in ("prompt", "eval"):
                known[f"{name}_low"], known[f"{name}_high"] = row.speed(name)[1] or (None, None)
            rows.append(known)
        return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, all at once: the file is never half written.

        Raises:
            HelpersError: It cannot be written there.
        """
        store.write(vars(self), Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SweepResult:
        """Read what `save` wrote.

        Raises:
            HelpersError: There is no such file, or it is damaged, or no sweep.
        """
        return cls(**store.read(Path(path)))

    # -- as a table -------------------------------------------------------------------------------

    def __str__(self) -> str:
        """A table for the terminal, below what it was measured on."""
        lines = [*self.facts(), "", *text_lines(COLUMNS, map(cells, self.rows))]
        lines += ["", *self.conclusions()] if self.conclusions() else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        done = sum(row.ok for row in self.rows)
        return f"<SweepResult: {done} of {len(self.rows)} trials with a result>"

    def _repr_html_(self) -> str:
        rows = [list(cells(row)) for row in self.rows]
        best = self.best_row()
        place = None if best is None else self.rows.index(best)
        if place is not None:
            rows[place][-1] = "★ best"
        return html_table(
            COLUMNS, rows, caption=self.facts(), notes=self.conclusions(), strong=place
        )

    def facts(self) -> list[str]:
        """What was measured, how, and on what: one line each."""
        setup = self.setup
        facts = [f"{self.model.get('file', 'model')}, {self._count()}"]
        if setup:
            facts[0] += (
                f": {setup['prompt_tokens']} prompt tokens, {setup['new_tokens']} new tokens, "
                f"{setup['repeats']} repeat{'s' * (setup['repeats'] != 1)}, "
                f"context {setup['n_ctx']}"
            )
        machine = [
            f"{name} {value}" if name == "llama-cpp-python" else value
            for name, value in self.machine.items()
            if name != "date"
        ]
        if machine:
            facts.append(f"measured {self.machine.get('date', '')} on {'; '.join(machine)}")
        return facts

    def conclusions(self) -> list[str]:
        """The notes, why it ended early, and the best settings: one line each."""
        said = [f"note: {note}" for note in self.notes]
        if self.stopped:
            said.append(f"{self.stopped} after {self._count()}")
        if self.best_row() is not None:
            name = {weight: name for name, weight in GOALS.items()}.get(goal_weight(self.goal))
            said.append(f"best for {name or f'weight {self.goal}'}: {self.code()}")
        return said

    def _count(self) -> str:
        """How many rows there are; a resumed file may have more than the grid."""
        done = len(self.rows)
        of = f" of {self.planned}" if self.planned >= done else ""
        return f"{done}{of} settings"

    def best_row(self) -> SweepRow | None:
        """As `best()`; None where no trial has such a result."""
        try:
            return self.best()
        except HelpersError:
            return None


def cells(row: SweepRow) -> Cells:
    """A row of the table; a reason stands where figures would, if there are none."""
    settings = (row.n_gpu_layers, row.n_batch, row.n_threads, row.type_kv)
    reason = textwrap.shorten(row.reason, _REASON, placeholder=" …")
    if reason and not row.memory:
        return (*settings, reason)
    speeds = [speed(*row.speed(name)) for name in ("prompt", "eval")]
    return (*settings, *speeds, row.total_mib or None, reason or row.rarer())


def _changed(row: SweepRow, name: str) -> bool:
    return bool(getattr(row, name) != getattr(Settings, name))


def speed(median: float | None, spread: tuple[float, float] | None) -> str:
    """A median with its spread.

    >>> speed(98.44, (90.0, 101.2)), speed(None, None)
    ('98.4 (90.0 to 101.2)', '')
    """
    if median is None or spread is None:
        return ""
    digits = 1 if median < 1000 else 0
    low, high = spread
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
