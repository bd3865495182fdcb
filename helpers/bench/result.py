"""`SweepResult`: the rows of a sweep, the best of them, and the line of code to use it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from helpers.bench.rows import GOALS, Settings, SweepRow, goal_weight
from helpers.errors import HelpersError

TIE = 0.02
"""Rows within 2 % of the best are as fast as it: two trials of one setting differ by as much."""

Cell = tuple[str, str]  # text and alignment
_COLUMNS = ("layers", "batch", "threads", "KV", "prompt tokens/s", "eval tokens/s", "MiB", "")


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
        trials: Trials that were really made (a search may make one twice).
        goal: What `best()` and `code()` look for unless they are told.
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
        for place, other in enumerate(self.rows):
            if other.settings == row.settings:
                self.rows[place] = row
                return
        self.rows.append(row)

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

        columns: dict[str, Callable[[SweepRow], Any]] = {
            "n_gpu_layers": lambda row: row.n_gpu_layers,
            "n_batch": lambda row: row.n_batch,
            "n_threads": lambda row: row.n_threads,
            "type_kv": lambda row: row.type_kv,
            "prompt_per_second": lambda row: row.prompt_per_second,
            "prompt_low": lambda row: row.prompt_spread and row.prompt_spread[0],
            "prompt_high": lambda row: row.prompt_spread and row.prompt_spread[1],
            "eval_per_second": lambda row: row.eval_per_second,
            "eval_low": lambda row: row.eval_spread and row.eval_spread[0],
            "eval_high": lambda row: row.eval_spread and row.eval_spread[1],
            "repeats": lambda row: row.repeats,
            "load_ms": lambda row: row.load_ms,
            "total_mib": lambda row: row.total_mib or None,
            "seconds": lambda row: row.seconds,
            "reason": lambda row: row.reason,
        }
        texts = ("type_kv", "reason")
        whole = ("n_gpu_layers", "n_batch", "n_threads", "repeats")
        frame = pd.DataFrame(
            {name: [get(row) for row in self.rows] for name, get in columns.items()}
        )
        kinds = dict.fromkeys(columns, "float64")
        kinds |= dict.fromkeys(whole, "int64") | dict.fromkeys(texts, "object")
        return frame.astype(kinds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, all at once: the file is never half written.

        Raises:
            HelpersError: It cannot be written there.
        """
        from helpers.bench.store import write

        write(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SweepResult:
        """Read what `save` wrote.

        Raises:
            HelpersError: There is no such file, or it is damaged, or no sweep.
        """
        from helpers.bench.store import read

        return read(Path(path))

    # -- as a table -------------------------------------------------------------------------------

    def __str__(self) -> str:
        """A table for the terminal, below what it was measured on."""
        lines = [*self.facts(), "", header(), *(line(row) for row in self.rows)]
        lines += ["", *self.conclusions()] if self.conclusions() else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        done = sum(row.ok for row in self.rows)
        return f"<SweepResult: {done} of {len(self.rows)} trials with a result>"

    def _repr_html_(self) -> str:
        best = self._best_row()
        head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
        body = ""
        for row in self.rows:
            cells = _cells(row)
            if row is best:
                cells[-1] = "★ best"
            style = " style='font-weight:bold'" if row is best else ""
            body += f"<tr{style}>" + "".join(f"<td>{escape(text)}</td>" for text in cells) + "</tr>"
        facts = "<br>".join(escape(text) for text in self.facts())
        said = "<br>".join(escape(text) for text in self.conclusions())
        return (
            f"<table><caption style='text-align:left'>{facts}</caption><thead><tr>{head}</tr>"
            f"</thead><tbody>{body}</tbody></table>" + (f"<p>{said}</p>" if said else "")
        )

    def facts(self) -> list[str]:
        """What was measured, how, and on what: one line each."""
        setup = self.setup
        facts = [f"{self.model.get('file', 'model')}, {self._count()}"]
        if setup:
            facts[0] += (
                f": {setup['prompt_tokens']} prompt tokens, {setup['new_tokens']} new tokens, "
                f"{setup['repeats']} repeats, context {setup['n_ctx']}"
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
        if self._best_row() is not None:
            name = {weight: name for name, weight in GOALS.items()}.get(goal_weight(self.goal))
            said.append(f"best for {name or f'weight {self.goal}'}: {self.code()}")
        return said

    def _count(self) -> str:
        """How many rows there are; a resumed file may have more than the grid."""
        done = len(self.rows)
        of = f" of {self.planned}" if self.planned >= done else ""
        return f"{done}{of} settings"

    def _best_row(self) -> SweepRow | None:
        try:
            return self.best()
        except HelpersError:
            return None


def header() -> str:
    """The names of the columns, as wide as `line` writes them."""
    return _aligned(_COLUMNS)


def line(row: SweepRow) -> str:
    """One row of the table for a terminal."""
    return _aligned(_cells(row))


_REASON = 70
_WIDTHS = (6, 6, 8, 7, 24, 24, 9)


def _aligned(cells: Sequence[str]) -> str:
    *figures, last = cells
    padded = [text.rjust(width) for text, width in zip(figures, _WIDTHS, strict=True)]
    if last and not any(text.strip() for text in figures[4:]):
        padded = padded[:4]  # a reason stands where the figures would
    return "".join([*padded, f"  {last}" if last else ""])


def _cells(row: SweepRow) -> list[str]:
    return [
        str(row.n_gpu_layers),
        str(row.n_batch),
        str(row.n_threads),
        row.type_kv,
        speed(row.prompt_per_second, row.prompt_spread),
        speed(row.eval_per_second, row.eval_spread),
        f"{row.total_mib:.0f}" if row.total_mib else "",
        textwrap.shorten(row.reason, _REASON, placeholder=" …"),
    ]


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
