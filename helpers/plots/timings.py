"""Where the time of a call went: `plot_timings`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator, NullLocator

from helpers.plots.style import (
    EVAL,
    INK,
    LOAD,
    OTHER,
    PROMPT,
    SAMPLE,
    STEPS,
    TEXT_POINTS,
    Step,
    add_legend,
    duration,
    finish,
    new_figure,
    paint,
    style_axes,
    swatch,
    write,
)
from helpers.timings import Timings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_timings(
    timings: Timings | Sequence[Timings],
    labels: str | Sequence[str] | None = None,
    *,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw where the time of one or more calls went, and the tokens per second beside it.

    Each call is a bar that begins at 0, the start of the call: prompt eval, sample, eval, and
    what is left of the total ("other": Python, callbacks). Loading happens once, before the
    call, so it is drawn to the left of 0. A step that was not measured is left out.

    Args:
        timings: The measured calls, first one on top.
        labels: One label for each call; default "call 1", "call 2", …. The label of a single call
            stands in the title.
        ax: Where to draw: one Axes for the times (the eval speed is then written behind the
            bar), or two for times and speeds. Default: a new figure.

    Returns:
        The figure that was drawn on. Bars are in milliseconds when every one is shorter than
        2 seconds, otherwise in seconds.

    Raises:
        ValueError: There is nothing to draw, or the number of labels is not that of the calls.

    >>> figure = plot_timings(Timings(prompt_ms=50.0, eval_ms=200.0))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['time since the call began (ms)', 'tokens per second']
    """
    calls = [timings] if isinstance(timings, Timings) else list(timings)
    if not calls:
        raise ValueError("There are no timings to draw: the list is empty.")
    names = _labels(labels, len(calls))
    durations = [_durations(call) for call in calls]
    if not any(ms for steps in durations for ms in steps.values()):
        raise ValueError("There is no time to draw: none of the steps was measured.")

    if ax is None:
        figure = new_figure(9.5, min(1.45 + 0.5 * len(calls), 14))
        # The legend of a single call tells its times, too.
        widths = [3.2 if len(calls) == 1 else 2.6, 1]
        time_ax, speed_ax = figure.subplots(1, 2, sharey=True, width_ratios=widths)
    else:
        given: list[Any] = list(ax) if hasattr(ax, "__iter__") else [ax]
        time_ax, speed_ax = given if len(given) == 2 else (*given, None)

    _draw_times(time_ax, calls, durations, behind=speed_ax is None)
    used = [step for step in STEPS if any(steps[step] for steps in durations)]
    # The caller's axes may have no room beside them for one long line.
    columns = len(used) if ax is None else 3
    title, beside = "Where the time went", names
    if ax is None and len(calls) == 1 and names[0]:
        # Beside the bar it would take the room that the legend needs.
        title, beside = f"{title}: {' '.join(names[0].split())}", [""]
    style_axes(time_ax, title, lines_under_title=-(-len(used) // columns))
    time_ax.set_yticks(range(len(calls)), beside)
    time_ax.set_ylim(len(calls) - 0.5, -0.5)
    time_ax.tick_params(axis="y", length=0)
    if speed_ax is not None:
        _draw_speeds(speed_ax, calls)
        style_axes(speed_ax, "Speed")
        speed_ax.tick_params(axis="y", length=0, labelleft=False)
        speed_ax.set_ylim(len(calls) - 0.5, -0.5)
    alone = durations[0] if len(calls) == 1 else {}
    handles = [swatch(step, _legend_text(step, alone.get(step))) for step in used]
    add_legend(time_ax, handles, columns)
    return finish(
        time_ax,
        f"{len(calls)} call{'s' * (len(calls) > 1)}: "
        + "; ".join(
            f"{name.replace(chr(10), ' ')} {duration(_total(call, steps))}".lstrip()
            for name, call, steps in zip(names, calls, durations, strict=True)
        ),
    )


def _labels(labels: str | Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        return [""] if count == 1 else [f"call {n}" for n in range(1, count + 1)]
    given = [labels] if isinstance(labels, str) else [str(label) for label in labels]
    if len(given) != count:
        raise ValueError(f"{len(given)} labels were given for {count} calls.")
    return ["\n".join(textwrap.wrap(label, 24, max_lines=2, placeholder=" …")) for label in given]


def _durations(call: Timings) -> dict[Step, float]:
    known = {
        LOAD: call.load_ms or 0.0,
        PROMPT: call.prompt_ms or 0.0,
        SAMPLE: call.sample_ms or 0.0,
        EVAL: call.eval_ms or 0.0,
    }
    rest = (call.total_ms or 0.0) - (known[PROMPT] + known[SAMPLE] + known[EVAL])
    # Less than 1/200 of the call is rounding and the cost of measuring, not a step.
    return {**known, OTHER: rest if rest > 0.005 * (call.total_ms or 0.0) else 0.0}


def _total(call: Timings, steps: dict[Step, float]) -> float:
    if call.total_ms is not None:
        return call.total_ms
    return sum(ms for step, ms in steps.items() if step is not LOAD)


def _draw_times(
    ax: Axes, calls: list[Timings], durations: list[dict[Step, float]], *, behind: bool
) -> None:
    longest = max(max(sum(steps.values()) - steps[LOAD], steps[LOAD]) for steps in durations)
    unit, scale = ("ms", 1.0) if longest < 2000 else ("s", 1e-3)
    rows = range(len(calls))
    starts = [0.0] * len(calls)
    for step in STEPS:
        widths = [steps[step] * scale for steps in durations]
        if not any(widths):
            continue
        lefts = [-width for width in widths] if step is LOAD else list(starts)
        bars = ax.barh(rows, widths, left=lefts, height=0.62, linewidth=0)
        paint(bars, step)
        if step is not LOAD:
            starts = [start + width for start, width in zip(starts, widths, strict=True)]
    loads = max(steps[LOAD] for steps in durations) * scale
    ends = max(starts)
    span = (loads + ends) or 1.0
    ax.set_xlim(-loads - 0.01 * span, ends + (0.46 if behind else 0.14) * span)
    if loads:
        ax.axvline(0, color=INK, linewidth=1.2)
    for row, call, steps, end in zip(rows, calls, durations, starts, strict=True):
        text = duration(_total(call, steps))
        if behind and call.eval_per_second is not None:
            text += f" · {call.eval_per_second:.1f} tokens/s"
        write(ax, text, end, row)
    ax.set_xlabel(f"time since the call began ({unit})")


def _draw_speeds(ax: Axes, calls: list[Timings]) -> None:
    height = 0.31
    fastest = 0.0
    pairs = [(call.prompt_per_second, call.eval_per_second) for call in calls]
    for step, side in ((PROMPT, 0), (EVAL, 1)):
        rows = [row + (side - 0.5) * height for row in range(len(calls))]
        speeds = [pair[side] for pair in pairs]
        paint(ax.barh(rows, [speed or 0.0 for speed in speeds], height=height), step)
        for row, (pair, speed) in enumerate(zip(pairs, speeds, strict=True)):
            place = rows[row]
            if pair == (None, None):  # one note, in the middle
                if side:
                    continue
                place = row
            text = "not measured" if speed is None else f"{speed:.{1 if speed < 99.95 else 0}f}"
            write(ax, text, speed or 0.0, place, right=4, fontsize=TEXT_POINTS - 1)
            fastest = max(fastest, speed or 0.0)
    ax.set_xlim(0, fastest * 1.35 or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4) if fastest else NullLocator())
    ax.set_xlabel("tokens per second")


def _legend_text(step: Step, ms: float | None) -> str:
    """A step in the legend: with its time where there is one call, or when it happens."""
    if ms is not None:
        return f"{step.name} {duration(ms)}"
    return step.name + (" (once, before)" if step is LOAD else "")
