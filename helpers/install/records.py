"""The recorded table of backends: which of them were really built and run, where, and how fast.

`tests/backends/build_and_run.py` writes it; here it is only read and shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS
from helpers.install.paths import REPOSITORY, need_suite
from helpers.tables import html_table, text_lines

_TABLE = REPOSITORY / "notebooks" / "data" / "backends.json"
_COLUMNS = dict.fromkeys(
    ("backend", "on", "date", "outcome", "device", "build", "layers", "prompt tokens/s",
     "eval tokens/s"), "<"
)  # fmt: skip


@dataclass(frozen=True)
class RecordedSpeed:
    """One measured run: where the layers were, and tokens per second."""

    where: str
    layers: int
    prompt_per_second: float
    eval_per_second: float


@dataclass(frozen=True)
class RecordedBackend:
    """One row of the table.

    Attributes:
        backend: Name in `BACKENDS`.
        on: System: `linux`, `macos` or `windows`.
        date: Day of the record, `YYYY-MM-DD`.
        outcome: `built and run`, `compiled, not run` or `not run here`.
        reason: Why no more than that; may be empty.
        command: The line that a reader would type for the same build.
        device: What the work was done on.
        versions: What the build was made with.
        build_seconds: Seconds that the build took, or None.
        compiler_cache: True if ccache knew some of the files already.
        speeds: Measured runs, no layers on the device first; empty if none was measured.
        comparison: The same measured in turn with a plain build, where that was done.
        log: llama.cpp's lines that say where layers and buffers went.
        texts_equal: Whether all runs gave the same text; None without runs.
        text_sha256: SHA-256 of that text.
    """

    backend: str
    on: str
    date: str
    outcome: str
    command: str
    reason: str = ""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    build_seconds: int | None = None
    compiler_cache: bool = False
    speeds: tuple[RecordedSpeed, ...] = ()
    comparison: tuple[RecordedSpeed, ...] = ()
    log: tuple[str, ...] = ()
    texts_equal: bool | None = None
    text_sha256: str = ""

    @property
    def built(self) -> bool:
        """True if it was compiled at all."""
        return self.build_seconds is not None

    @property
    def ran(self) -> bool:
        """True if it was run, too."""
        return self.outcome == "built and run"

    def rows(self) -> list[tuple[str, ...]]:
        """The lines of the table for this backend, one for each measured run."""
        seconds = self.build_seconds
        build = "" if seconds is None else f"{seconds // 60}:{seconds % 60:02d} min"
        first = (self.backend, self.on, self.date, self.outcome, self.device, build)
        if not self.speeds:
            return [(*first, "", "not measured" if self.ran else "", "")]
        lines: list[tuple[str, ...]] = []
        for speed in self.speeds:
            figures = (f"{speed.prompt_per_second:,.1f}", f"{speed.eval_per_second:,.1f}")
            start = first if not lines else ("",) * len(first)
            lines.append((*start, str(speed.layers), *figures))
        return lines


class RecordedTable(tuple[RecordedBackend, ...]):
    """The rows, shown as a table; tokens per second for prompt eval and eval."""

    __slots__ = ()

    def of(self, *names: str) -> RecordedTable:
        """Return the rows of some backends.

        Raises:
            InstallError: If one has no row.
        """
        for name in names:
            if not any(row.backend == name for row in self):
                there = ", ".join(dict.fromkeys(row.backend for row in self))
                raise InstallError(
                    f"{name!r} has no row in backends.json (there are: {there}). "
                    f"Run: python tests/backends/build_and_run.py {name}"
                )
        return RecordedTable(row for row in self if row.backend in names)

    def on(self, system: str) -> RecordedTable:
        """Return the rows of one system."""
        return RecordedTable(row for row in self if row.on == system)

    def _lines(self) -> list[tuple[str, ...]]:
        return [line for row in self for line in row.rows()]

    def __str__(self) -> str:
        """Return lines of text."""
        return "\n".join(text_lines(_COLUMNS, self._lines()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for Jupyter."""
        return html_table(_COLUMNS, self._lines(), style="white-space:nowrap")


def recorded_backends(path: Path | None = None) -> RecordedTable:
    """Read the recorded table of backends.

    Args:
        path: Another file of that form; None for the suite's own.

    Raises:
        InstallError: If it is missing or damaged.

    >>> recorded_backends().of("openblas")[0].outcome
    'built and run'
    """
    if path is None:
        need_suite("the recorded table of backends")
    where = path or _TABLE
    try:
        rows = json.loads(where.read_text(encoding="utf-8"))
        return RecordedTable(_row(row) for row in rows)
    except OSError as error:
        raise InstallError(
            f"{where.name} cannot be read ({error.strerror}): git restore notebooks/data, or run "
            "tests/backends/build_and_run.py"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InstallError(
            f"{where.name} is not the table of backends ({error!r}): git restore notebooks/data"
        ) from None


def _row(row: Mapping[str, Any]) -> RecordedBackend:
    if row["backend"] not in BACKENDS:
        raise ValueError(f"unknown backend {row['backend']!r}")
    known = {field.name: row[field.name] for field in fields(RecordedBackend) if field.name in row}
    speeds = {name: _speeds(row.get(name, [])) for name in ("speeds", "comparison")}
    return RecordedBackend(**{**known, **speeds, "log": tuple(row.get("log", []))})


def _speeds(rows: list[Mapping[str, Any]]) -> tuple[RecordedSpeed, ...]:
    names = [field.name for field in fields(RecordedSpeed)]
    return tuple(RecordedSpeed(**{name: row[name] for name in names}) for row in rows)
