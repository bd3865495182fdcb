"""`plot_levers`: what each setting does here, with its spread, around the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.bench.levers import Levers
from helpers.plots.style import EVAL, INK, SAMPLE, TEXT_POINTS, finish, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = {
    "faster": (EVAL.colour, "^"),
    "slower": (SAMPLE.colour, "v"),
    "no difference": (INK, "o"),
}


def plot_levers(levers: Levers, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw how many times faster each setting is than the default, the best first.

    A mark is the median over the rounds and a line its spread: an upward triangle where all rounds
    were faster, a downward one where all were slower, a circle where they do not agree.

    Args:
        levers: What `what_helps` found.
        title: What the figure shows; default: the model's name.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on; 1 is the speed of the default.

    Raises:
        TypeError: It is something else.
        ValueError: Nothing was measured.

    >>> plot_levers(what_helps(rounds=1))  # doctest: +SKIP
    <Figure: What helps: ... n_threads=1, generation 0.71>
    """
    if not isinstance(levers, Levers):
        raise TypeError(f"levers={levers!r} must be what what_helps() returns.")
    rows = sorted((row for row in levers.rows if row.ratios), key=lambda row: -(row.ratio or 0))
    if not rows:
        raise ValueError("There is nothing to draw: no setting was measured.")
    if ax is None:
        ax = new_figure(8.5, 1.1 + 0.32 * len(rows)).subplots()
    ax.axvline(1.0, color=INK, linewidth=1.2)
    for place, row in enumerate(rows):
        colour, mark = _LOOKS[row.verdict]
        low, high = min(row.ratios), max(row.ratios)
        ax.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        ax.plot([row.ratio or 0.0], [place], mark, color=colour, markersize=8)
        text = f"{row.ratio:.2f}"
        ax.annotate(
            text, (high, place), (8, 0), textcoords="offset points", va="center", color=INK,
            fontsize=TEXT_POINTS,
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [f"{row.name}  ({row.what})" for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ends = [end for row in rows for end in (min(row.ratios), max(row.ratios))]
    ax.set_xlim(min(0.9, min(ends) - 0.05), max(1.1, max(ends) * 1.08))
    ax.set_xlabel("speed over that of the default (1)")
    heading = title or f"What helps {levers.model}?"
    style_axes(ax, heading, lines_under_title=0)
    told = ", ".join(f"{row.name} {row.what} {row.ratio:.2f}" for row in rows)
    return finish(ax, f"What helps: {told}")
