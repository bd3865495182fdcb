"""The time of each generated token: `plot_tokens`."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from helpers.plots.style import (
    EVAL,
    PROMPT,
    duration,
    finish,
    new_figure,
    paint,
    style_axes,
    write,
)
from helpers.timings import Timings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_tokens(timings: Timings, *, ax: Axes | None = None) -> Figure:
    """Draw the time of each generated token, the first one and the median marked.

    The first token waits for the whole prompt eval. When it took much longer than the others its
    bar is cut off at the top, and its time is written beside it.

    Args:
        timings: A measured call that has `token_ms`.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on; times are in milliseconds.

    Raises:
        ValueError: The call has no times per token (one that was parsed from a log never has).

    >>> figure = plot_tokens(Timings(token_ms=[80.0, 10.0, 12.0, 11.0]))
    >>> figure.axes[0].get_ylabel()
    'time of the token (ms)'
    """
    times = timings.token_ms
    if not times:
        raise ValueError(
            "These timings have no times per token (token_ms is empty). A call through LlamaCpp "
            "measures them; a log that was parsed does not have them."
        )
    if ax is None:
        ax = new_figure(9.5, 3.2).subplots()
    first, rest = times[0], times[1:]
    median = statistics.median(rest) if rest else None
    top = max(max(rest) * 1.15, (median or 0.0) * 2) if rest else first * 1.15
    cut = first > top
    if not cut:
        top = max(top, first * 1.15)
    # Hatches are noise in bars as thin as hairs.
    thin = len(times) > 60
    shape: dict[str, Any] = {"width": 1.0 if thin else 0.8, "linewidth": 0}
    paint(ax.bar([1], [first], **shape), PROMPT, hatch=False)
    if rest:
        paint(ax.bar(range(2, len(times) + 1), rest, **shape), EVAL, hatch=not thin)
    ax.set_ylim(0, top if top > 0 else 1.0)
    ax.set_xlim(0.3, max(len(times), 5) + 0.7 + 0.01 * len(times))
    if len(times) <= 12:
        ax.set_xticks(range(1, len(times) + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    style_axes(ax, "Time of each generated token", grid="y")
    ax.set_xlabel("number of the token")
    ax.set_ylabel("time of the token (ms)")
    text = f"first token {duration(first)}" + (" (bar cut off)" if cut else "")
    looks: dict[str, Any] = {"va": "bottom", "annotation_clip": False}
    write(ax, text, 0.6, min(first, top), right=0, up=6, **looks)
    if median is not None:
        # In two tones, to stand out from the bars and from a light or dark page alike.
        ax.axhline(median, color="#FFFFFF", linewidth=2.6)
        ax.axhline(median, color="#1A1A1A", linewidth=1.4, linestyle=(0, (4, 2.5)), label="median")
        speed = f"\n{1e3 / median:.0f} tokens/s" if median > 0 else ""
        text = f"median\n{duration(median)}{speed}"
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
        write(ax, text, 1, median, right=6, **place)
    return finish(
        ax,
        f"{len(times)} tokens: first {duration(first)}"
        + (f", median of the others {duration(median)}" if median is not None else ""),
    )
