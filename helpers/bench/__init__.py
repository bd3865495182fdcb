"""Measured comparisons and sweeps: what this machine does, side by side, in one run.

`python -m helpers bench` compares; `python -m helpers bench --sweep` sweeps.
"""

from helpers.bench.best import find_best
from helpers.bench.command import main
from helpers.bench.compare import compare
from helpers.bench.levers import Levers, what_helps
from helpers.bench.result import SweepResult
from helpers.bench.rows import Settings, SweepRow
from helpers.bench.sweep import Sweep, sweep
from helpers.bench.table import Comparison
from helpers.bench.trial import Cancelled

__all__ = [
    "Cancelled",
    "Comparison",
    "Levers",
    "Settings",
    "Sweep",
    "SweepResult",
    "SweepRow",
    "compare",
    "find_best",
    "main",
    "sweep",
    "what_helps",
]
