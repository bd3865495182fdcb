"""The table of a comparison: ratios with their spread, and the machine they were taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from helpers.models import default_model
from helpers.native import usable_cores


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was compared.
        ratio: Median over the rounds; above 1 means better than what it is compared with.
        target: What the ratio should reach, or None.
        low: Smallest ratio of a round.
        high: Largest ratio of a round.
        detail: The medians behind it, with units.
    """

    what: str
    ratio: float
    target: float | None
    low: float
    high: float
    detail: str


@dataclass
class Comparison:
    """The table that `python -m helpers bench` prints.

    Attributes:
        machine: What it was measured on.
        rows: The lines.
    """

    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        """A Markdown table, so that it can be pasted as it is."""
        lines = [f"{name}: {value}  " for name, value in self.machine.items()]
        lines += ["", "| what | ratio | target | spread | measured |", "|---|---|---|---|---|"]
        for row in self.rows:
            target = f"{row.target:g}" if row.target is not None else ""
            lines.append(
                f"| {row.what} | {row.ratio:.3g} | {target} | {row.low:.3g} to {row.high:.3g} "
                f"| {row.detail} |"
            )
        return "\n".join(lines)

    def add(
        self,
        what: str,
        pairs: list[tuple[float, float]],
        *,
        target: float | None,
        unit: str,
        more: str = "",
    ) -> None:
        """Add a line from `(ours, theirs)` pairs.

        Args:
            what: What was compared, as a fraction.
            pairs: Two measurements taken next to each other, for each round.
            target: What the ratio should reach, or None.
            unit: Unit of the measurements; times and sizes count as better when smaller.
            more: What else there is to say of them.
        """
        higher = unit == "tokens/s"
        ratios = [(a / b if higher else b / a) for a, b in pairs]
        ours = statistics.median(a for a, _ in pairs)
        theirs = statistics.median(b for _, b in pairs)
        detail = f"{ours:.1f} against {theirs:.1f} {unit}{more}"
        self.rows.append(
            Row(what, statistics.median(ratios), target, min(ratios), max(ratios), detail)
        )


def describe_machine() -> dict[str, str]:
    """What a reader needs to know to compare the figures with theirs; no names, no paths."""
    from importlib.metadata import version

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "date": date.today().isoformat(),
        "processor": f"{processor}, {usable_cores()} cores used of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "llama-cpp-python": version("llama-cpp-python"),
        "model": default_model().name,
    }
