"""When each token of several answers came, one row for each answer: `plot_streams`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from helpers.plots.style import (
    EVAL,
    OTHER,
    SAMPLE,
    add_legend,
    duration,
    finish,
    new_figure,
    paint,
    style_axes,
    swatch,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WAIT = OTHER._replace(name="waits for the first token")
_GAP = SAMPLE._replace(name="longest gap")
_TOKEN = EVAL._replace(name="a token", hatch="")
_FLAT, _TALL = 0.22, 0.62  # heights of bars; a row is 1 high


def plot_streams(
    streams: Mapping[str, Sequence[float]],
    *,
    title: str = "When each token came",
    ax: Axes | None = None,
) -> Figure:
    """Draw when each token of several answers came, one row for each answer.

    Args:
        streams: For each name the moments of one answer, in seconds of any one clock: first when
            it was asked for, then when each token came.
        title: What the figure shows.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on. Its times begin with the first question. A row has its wait
        for the first token, a stroke for each token, and its longest gap between two of them.

    Raises:
        ValueError: There is nothing to draw, or moments that are out of order.

    >>> plot_streams({"a": [5.0, 5.5, 5.6], "b": [5.0, 5.2, 6.0]})
    <Figure: When each token came: a first 500 ms, gap 100 ms; b first 200 ms, gap 800 ms>
    """
    if not streams or not all(streams.values()):
        raise ValueError(
            "There is nothing to draw: each answer needs the moment when it was asked."
        )
    for name, moments in streams.items():
        if any(later < earlier for earlier, later in pairwise(moments)):
            raise ValueError(f"The moments of {name!r} are out of order.")
    if ax is None:
        ax = new_figure(9.5, 1.35 + 0.42 * len(streams)).subplots()
    begin = min(moments[0] for moments in streams.values())
    told = []
    for row, (name, moments) in enumerate(streams.items()):
        asked, *tokens = [moment - begin for moment in moments]
        first = tokens[0] if tokens else asked
        paint(ax.barh(row, first - asked, left=asked, height=_FLAT), _WAIT)
        gap = max(pairwise(tokens), key=lambda pair: pair[1] - pair[0], default=None)
        if gap is not None:
            paint(ax.barh(row, gap[1] - gap[0], left=gap[0], height=_FLAT), _GAP)
        # Strokes, not bars: a token takes no time to come, and must be seen at any width.
        ax.vlines(tokens, row - _TALL / 2, row + _TALL / 2, color=_TOKEN.colour, linewidth=1.3)
        said = _said(first - asked if tokens else None, gap)
        write(ax, said, tokens[-1] if tokens else asked, row, right=8, annotation_clip=False)
        told.append(f"{name} {said}")
    ax.set_xlim(0, max(moments[-1] for moments in streams.values()) - begin or 1.0)
    ax.set_xlabel("seconds since the first question")
    style_axes(ax, title)
    ax.set_yticks(range(len(streams)), list(streams))
    ax.set_ylim(len(streams) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    add_legend(ax, [swatch(step) for step in (_WAIT, _TOKEN, _GAP)], 3)
    return finish(ax, f"{title}: {'; '.join(told)}")


def _said(wait: float | None, gap: tuple[float, float] | None) -> str:
    """A row's two figures in words."""
    if wait is None:
        return "no token"
    said = f"first {duration(wait * 1000)}"
    return said if gap is None else f"{said}, gap {duration((gap[1] - gap[0]) * 1000)}"
