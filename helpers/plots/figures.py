"""Any measured numbers in the shared look: `plot_bars` for a few, `plot_lines` for series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from helpers.plots.style import LINES, PROMPT, finish, new_figure, paint, style_axes, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = LINES[:4]


def plot_bars(
    values: Mapping[str, float],
    *,
    unit: str,
    title: str,
    notes: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a few numbers of one kind as horizontal bars.

    Args:
        values: Length of each bar by its name, first on top; 0 or more.
        unit: Unit of the values, for the axis and the numbers.
        title: What the figure shows.
        notes: Words to write behind each number; default: none.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: There is nothing to draw, or not one note for each bar.

    >>> plot_bars({"1 thread": 60.1, "2 threads": 98.7}, unit="tokens/s", title="Speed")
    <Figure: Speed: 1 thread 60.1 tokens/s, 2 threads 98.7 tokens/s>
    """
    if not values:
        raise ValueError("There is nothing to draw: values is empty.")
    if notes is not None and len(notes) != len(values):
        raise ValueError(f"There are {len(values)} bars, but {len(notes)} notes.")
    if ax is None:
        ax = new_figure(8.0, 1.1 + 0.42 * len(values)).subplots()
    names = list(values)
    bars = ax.barh(range(len(names)), list(values.values()), height=0.68)
    paint(bars, PROMPT)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    longest = max(values.values()) or 1.0
    behind = notes or [""] * len(names)
    for place, (value, note) in enumerate(zip(values.values(), behind, strict=True)):
        write(ax, f"{_short(value)}{'  ' + note if note else ''}", value, place)
    ax.set_xlim(0, longest * (1.45 if notes else 1.15))
    ax.set_xlabel(unit)
    style_axes(ax, title, lines_under_title=0)
    shown = ", ".join(f"{name} {_short(value)} {unit}" for name, value in values.items())
    return finish(ax, f"{title}: {shown}")


def plot_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    ax: Axes | None = None,
) -> Figure:
    """Draw one to four measured series as lines with a mark at each measurement.

    Args:
        lines: `(x values, y values)` of each line by its name.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        title: What the figure shows.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on; both axes begin at 0.

    Raises:
        ValueError: There are no lines or more than four, or x and y differ in length.

    >>> plot_lines({"eval": ([1, 2], [9, 18])}, xlabel="tokens", ylabel="ms", title="Time")
    <Figure: Time: eval 2 points>
    """
    if not 1 <= len(lines) <= len(_LOOKS):
        raise ValueError(f"Give 1 to {len(_LOOKS)} lines, not {len(lines)}.")
    if ax is None:
        ax = new_figure(8.0, 3.2).subplots()
    for (name, (x, y)), (colour, form) in zip(lines.items(), _LOOKS, strict=False):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"The line {name!r} has {len(x)} x values and {len(y)} y values.")
        ax.plot(x, y, form, color=colour, label=name, linewidth=1.8, markersize=6)
        write(ax, name, x[-1], y[-1], right=8, annotation_clip=False)
    ax.set_xlim(0, None)
    ax.set_ylim(0, None)
    if all(place == int(place) for x, _ in lines.values() for place in x):
        ax.xaxis.set_major_locator(
            MaxNLocator("auto", integer=True)
        )  # no half turns, no half token
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    style_axes(ax, title, grid="both", lines_under_title=0)
    return finish(
        ax, f"{title}: " + ", ".join(f"{n} {len(x)} points" for n, (x, _) in lines.items())
    )


def _short(value: float) -> str:
    """Three digits are enough to compare bars; a count is told as it is.

    >>> _short(1234.5), _short(98.72), _short(0.0213), _short(9)
    ('1234', '98.7', '0.021', '9')
    """
    if isinstance(value, int):
        return str(value)
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
