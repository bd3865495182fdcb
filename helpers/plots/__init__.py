"""Matplotlib figures from measurements.

Every figure is made without pyplot (nothing is kept in global state, so Jupyter shows it exactly
once), has a transparent background, and reads well on light and dark pages and without colour.
`style.py` holds that look, once, for every figure.
"""

from helpers.plots.choices import plot_choices
from helpers.plots.compare import SEED_FIGURES, plot_compare
from helpers.plots.figures import plot_bars, plot_lines
from helpers.plots.levers import plot_levers
from helpers.plots.memory import plot_memory
from helpers.plots.overview import plot_overview
from helpers.plots.passages import plot_passages
from helpers.plots.rules import RulesDrawing, plot_rules
from helpers.plots.serving import plot_serving
from helpers.plots.split import plot_split
from helpers.plots.streams import plot_streams
from helpers.plots.sweep import plot_sweep
from helpers.plots.timings import plot_timings
from helpers.plots.tokens import plot_tokens

__all__ = [
    "SEED_FIGURES",
    "RulesDrawing",
    "plot_bars",
    "plot_choices",
    "plot_compare",
    "plot_levers",
    "plot_lines",
    "plot_memory",
    "plot_overview",
    "plot_passages",
    "plot_rules",
    "plot_serving",
    "plot_split",
    "plot_streams",
    "plot_sweep",
    "plot_timings",
    "plot_tokens",
]
