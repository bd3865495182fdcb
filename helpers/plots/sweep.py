"""Speed against settings: `plot_sweep`, as lines or as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from helpers.bench.rows import goal_weight
from helpers.plots.style import INK, LINES, SPEEDS, Speed, add_legend, finish, panels, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.bench import SweepResult, SweepRow

_COLUMNS = 2  # of the legends
_PARAMETERS = ("n_gpu_layers", "n_batch", "n_threads", "type_kv")


def plot_sweep(
    result: SweepResult,
    *,
    speed: Speed | None = None,
    x: str | None = None,
    heat: tuple[str, str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw tokens/s against a setting, one line for each value of the others.

    Points are medians; the bar through each goes from the slowest to the fastest repeat. Trials
    without a result are crosses at the bottom, named in the legend. The best point has a ring.

    Args:
        result: From `sweep` or `find_best`, in progress or done.
        speed: "eval", "prompt", or None for both, side by side.
        x: What to draw along: a name of a setting; None for the first that varies, `n_gpu_layers`
            before all.
        heat: Two settings for a heat map instead of lines: along and up.
        ax: Where to draw: one Axes for each speed. Default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: There are no rows, no such setting, more than six lines, or a heat map of two
            settings while a third varies.

    >>> plot_sweep(sweep(n_batch=(128, 512)))  # doctest: +SKIP
    <Figure: Prompt eval by n_batch: …>
    """
    rows = list(result.rows)
    if not rows:
        raise ValueError("There is nothing to draw yet: the sweep has no rows.")
    speeds: list[Speed] = [speed] if speed is not None else _measured(rows)
    for name in (x, *(heat or ())):
        if name is not None and name not in _PARAMETERS:
            raise ValueError(f"{name!r} is not a setting: use one of {', '.join(_PARAMETERS)}.")
    count = len(speeds)
    axes = panels(ax, count, 5.2 * count if count > 1 else 7.5, 3.6)
    if heat is not None:
        said = [_draw_heat(panel, rows, one, heat) for one, panel in zip(speeds, axes, strict=True)]
        return finish(axes[0], "; ".join(said))
    best, along = result.best_row(), x or _varying(rows)[0]
    drawn = [
        _draw_lines(panel, rows, one, along, best, result.goal)
        for one, panel in zip(speeds, axes, strict=True)
    ]
    # The same room under both titles, so that they stand at one height.
    lines = max(-(-len(handles) // _COLUMNS) for _, handles in drawn)
    for one, panel, (_, handles) in zip(speeds, axes, drawn, strict=True):
        style_axes(panel, SPEEDS[one][1], grid="both", lines_under_title=lines)
        if handles:
            add_legend(
                panel, handles, _COLUMNS, handlelength=2.4, handletextpad=0.8, markerscale=0.8
            )
    return finish(axes[0], "; ".join(said for said, _ in drawn))


def _measured(rows: Sequence[SweepRow]) -> list[Speed]:
    """The speeds that were measured; both where no trial has a result."""
    names: list[Speed] = ["prompt", "eval"]
    return [name for name in names if any(row.speed(name)[0] for row in rows)] or names


def _varying(rows: Sequence[SweepRow]) -> list[str]:
    """The settings that have several values, most important first; one at least."""
    found = [name for name in _PARAMETERS if len({getattr(row, name) for row in rows}) > 1]
    return found or ["n_gpu_layers"]


# -- lines ----------------------------------------------------------------------------------------


def _draw_lines(
    ax: Axes,
    rows: Sequence[SweepRow],
    speed: Speed,
    x: str,
    best: SweepRow | None,
    goal: str | float,
) -> tuple[str, list[Any]]:
    """Draw one panel; returns what it shows, in words, and the entries of its legend."""
    values = sorted({getattr(row, x) for row in rows})
    # Batches and threads are doubled from one to the next; layers are counted.
    places = {v: float(v) if x == "n_gpu_layers" else float(i) for i, v in enumerate(values)}
    others = [name for name in _varying(rows) if name != x]
    lines = sorted({tuple(getattr(row, name) for name in others) for row in rows})
    if len(lines) > len(LINES):
        raise ValueError(
            f"There are {len(lines)} lines to draw, and no more than {len(LINES)} can be told "
            f"apart. Sweep fewer values, or draw a heat map: heat=({x!r}, {others[0]!r})."
        )
    handles: list[Any] = []
    failures: dict[str, Any] = {}
    speeds: list[float] = []
    for number, (line, (colour, form)) in enumerate(zip(lines, LINES, strict=False)):
        mine = [row for row in rows if tuple(getattr(row, name) for name in others) == line]
        mine.sort(key=lambda row: places[getattr(row, x)])
        measured = [(places[getattr(row, x)], *row.speed(speed)) for row in mine]
        points = [(at, median, spread) for at, median, spread in measured if median and spread]
        name = ", ".join(f"{n} {value}" for n, value in zip(others, line, strict=True))
        drawn = ax.errorbar(
            [place for place, _, _ in points],
            [median for _, median, _ in points],
            yerr=[
                [median - low for _, median, (low, _) in points],
                [high - median for _, median, (_, high) in points],
            ],
            fmt=form,
            color=colour,
            label=name,
            linewidth=1.8,
            markersize=6,
            capsize=3,
            elinewidth=1.2,
        )
        handles += [drawn] if name else []
        for row in mine:
            if not row.ok:
                mark = _mark_failure(ax, row, places[getattr(row, x)], number, colour)
                failures.setdefault(why(row), mark)
        speeds += [median for _, median, _ in points]
    handles += [_like(mark, f"no result: {reason}") for reason, mark in failures.items()]
    weight = goal_weight(goal)
    if best is not None and (weight if speed == "eval" else 1 - weight):
        handles += ax.plot(
            [places[getattr(best, x)]],
            [best.speed(speed)[0] or 0.0],
            "o",
            label="best",
            linestyle="none",
            color=INK,
            markersize=15,
            markerfacecolor="none",
            markeredgewidth=1.6,
        )
    ax.set_ylim(0, 1.08 * max(ax.dataLim.y1, 1e-9))  # room for the ring around the best
    low, high = min(places.values()), max(places.values())
    edge = 0.06 * (high - low) or 0.5
    ax.set_xlim(low - edge, high + edge)
    _ticks(ax, places, x)
    ax.set_xlabel("type of the KV cache" if x == "type_kv" else x)
    ax.set_ylabel("tokens per second")
    about = f"{len(speeds)} of {len(rows)} trials, up to {max(speeds, default=0.0):.1f} tokens/s"
    return f"{SPEEDS[speed][1]} by {x}: {about}", handles


def _ticks(ax: Axes, places: dict[Any, float], x: str) -> None:
    shown: list[Any] = []
    span = (max(places.values()) - min(places.values())) or 1.0
    for value in sorted(places, reverse=True):  # the highest always, it means "all"
        if all(abs(places[value] - places[other]) > span / 14 for other in shown):
            shown.append(value)
    shown.reverse()
    ax.xaxis.set_major_locator(FixedLocator([places[value] for value in shown]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([places[value] for value in shown], [str(value) for value in shown])


_MARKS = {"out of memory": "X", "timed out": "P"}


def _mark_failure(ax: Axes, row: SweepRow, place: float, number: int, colour: str) -> Any:
    """A cross on the x axis in the colour of its line, above those of the lines before it."""
    mark = ax.plot(
        [place],
        [0],
        _MARKS.get(why(row), "*"),
        color=colour,
        markersize=9,
        markeredgecolor=INK,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=5,
        linestyle="none",
        gid=row.reason,
    )[0]
    lifted = ScaledTranslation(0, number * 10 / 72, ax.figure.dpi_scale_trans)
    mark.set_transform(mark.get_transform() + lifted)
    return mark


def _like(mark: Any, label: str) -> Line2D:
    """An entry of the legend that looks like a mark, in the colour of the text."""
    return Line2D(
        [], [], marker=mark.get_marker(), markersize=9, color=INK, linestyle="none", label=label
    )


def why(row: SweepRow) -> str:
    """The kind of a failure in two or three words."""
    reason = row.reason.lower()
    for words in ("out of memory", "timed out", "rpc server"):
        if words in reason:
            return "device lost" if words == "rpc server" else words
    return "process died" if "process ended" in reason else "no result"


# -- heat map -------------------------------------------------------------------------------------


def _draw_heat(ax: Axes, rows: Sequence[SweepRow], speed: Speed, heat: tuple[str, str]) -> str:
    across, up = heat
    third = [name for name in _varying(rows) if name not in heat]
    if len({tuple(getattr(row, name) for name in heat) for row in rows}) < len(rows):
        raise ValueError(
            f"A heat map of {across} and {up} has one trial a cell, but {', '.join(third)} varies "
            "too. Draw the rows of one value: SweepResult(rows=[row for row in result.rows if …])."
        )
    xs = sorted({getattr(row, across) for row in rows})
    ys = sorted({getattr(row, up) for row in rows})
    cells = {(getattr(row, across), getattr(row, up)): row for row in rows}
    grid = [
        [(cells[a, b].speed(speed)[0] if (a, b) in cells else None) or math.nan for a in xs]
        for b in ys
    ]
    known = [value for line in grid for value in line if not math.isnan(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    ax.imshow(grid, cmap="cividis", aspect="auto", origin="lower", vmin=low, vmax=high or 1.0)
    for column, a in enumerate(xs):
        for line, b in enumerate(ys):
            value = grid[line][column]
            if not math.isnan(value):
                bright = (value - low) / ((high - low) or 1.0) > 0.5
                text, colour = f"{value:.0f}", "#000000" if bright else "#FFFFFF"
            else:
                row = cells.get((a, b))
                text, colour = why(row) if row and not row.ok else "", INK
                if text:
                    box = Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, hatch="xxx")
                    box.set(edgecolor=INK, linewidth=0, alpha=0.35)
                    ax.add_patch(box)
                    text = "✗\n" + text.replace(" ", "\n")
            ax.annotate(text, xy=(column, line), ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(len(xs)), [str(value) for value in xs])
    ax.set_yticks(range(len(ys)), [str(value) for value in ys])
    style_axes(ax, f"{SPEEDS[speed][1]}, tokens/s", lines_under_title=0)
    ax.grid(visible=False)
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    return f"{SPEEDS[speed][1]} by {across} and {up}: {len(known)} cells, up to {high:.1f} tokens/s"
