"""Measured comparisons: what this machine does, side by side, in one run.

>>> python -m helpers bench            # doctest: +SKIP
"""

from helpers.bench.command import main
from helpers.bench.compare import compare
from helpers.bench.table import Comparison

__all__ = ["Comparison", "compare", "main"]
