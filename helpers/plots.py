"""Matplotlib figures from measurements.

Every figure is made without pyplot (nothing is kept in global state, so Jupyter shows it exactly
once), has a transparent ground, and can be read on a light and on a dark page and without
colours: text and lines are a grey with the same contrast against both, colours come from the
Okabe-Ito palette, and each colour has its own hatch.
"""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from helpers.timings import Timings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

__all__ = ["plot_timings", "plot_tokens"]

# Contrast 4.2:1 or more on white and on the #111 of JupyterLab's dark theme. 4.35:1 is the most
# that one colour can have on both at once.
_INK = "#787878"
_BLUE, _VERMILLION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#B5628F"
_TEXT = 9.5  # points


class _Step(NamedTuple):
    name: str
    colour: str
    hatch: str


_LOAD = _Step("load", _PURPLE, "////")
_PROMPT = _Step("prompt eval", _BLUE, "")
_SAMPLE = _Step("sample", _VERMILLION, "xxxx")
_EVAL = _Step("eval", _GREEN, "....")
_OTHER = _Step("other", _INK, "----")
_STEPS = (_LOAD, _PROMPT, _SAMPLE, _EVAL, _OTHER)


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
        labels: One label for each call; default "call 1", "call 2", ….
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
        figure = _new_figure(9.5, min(1.45 + 0.5 * len(calls), 14))
        time_ax, speed_ax = figure.subplots(1, 2, sharey=True, width_ratios=[2.6, 1])
    else:
        given: list[Any] = list(ax) if hasattr(ax, "__iter__") else [ax]
        time_ax, speed_ax = given if len(given) == 2 else (*given, None)

    _draw_times(time_ax, calls, durations, behind=speed_ax is None)
    used = [step for step in _STEPS if any(steps[step] for steps in durations)]
    # In axes of the caller's there may be no room beside them for one long line.
    columns = len(used) if ax is None else 3
    _style(time_ax, "Where the time went", lines_under_title=-(-len(used) // columns))
    time_ax.set_yticks(range(len(calls)), names)
    time_ax.set_ylim(len(calls) - 0.5, -0.5)
    time_ax.tick_params(axis="y", length=0)
    if speed_ax is not None:
        _draw_speeds(speed_ax, calls)
        _style(speed_ax, "Speed")
        speed_ax.tick_params(axis="y", length=0, labelleft=False)
        speed_ax.set_ylim(len(calls) - 0.5, -0.5)
    _legend(time_ax, used, columns, durations[0] if len(calls) == 1 else None)
    return _finish(
        time_ax,
        f"{len(calls)} call{'s' * (len(calls) > 1)}: "
        + "; ".join(
            f"{name.replace(chr(10), ' ')} {_duration(_total(call, steps))}".lstrip()
            for name, call, steps in zip(names, calls, durations, strict=True)
        ),
    )


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
        ax = _new_figure(9.5, 3.2).subplots()
    first, rest = times[0], times[1:]
    median = statistics.median(rest) if rest else None
    top = max(max(rest) * 1.15, (median or 0.0) * 2) if rest else first * 1.15
    cut = first > top
    if not cut:
        top = max(top, first * 1.15)
    # Hatches are noise in bars as thin as hairs.
    thin = len(times) > 60
    style: dict[str, Any] = {"width": 1.0 if thin else 0.8, "linewidth": 0}
    _bars(ax.bar([1], [first], **style), _PROMPT, hatch=False)
    if rest:
        _bars(ax.bar(range(2, len(times) + 1), rest, **style), _EVAL, hatch=not thin)
    ax.set_ylim(0, top if top > 0 else 1.0)
    ax.set_xlim(0.3, max(len(times), 5) + 0.7 + 0.01 * len(times))
    if len(times) <= 12:
        ax.set_xticks(range(1, len(times) + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    _style(ax, "Time of each generated token", grid="y")
    ax.set_xlabel("number of the token")
    ax.set_ylabel("time of the token (ms)")
    ax.annotate(
        f"first token {_duration(first)}" + (" (bar cut off)" if cut else ""),
        xy=(0.6, min(first, top)),
        xytext=(0, 6),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=_TEXT,
        color=_INK,
        annotation_clip=False,
    )
    if median is not None:
        # In two tones, to stand out from the bars and from a light or dark page alike.
        ax.axhline(median, color="#FFFFFF", linewidth=2.6)
        ax.axhline(median, color="#1A1A1A", linewidth=1.4, linestyle=(0, (4, 2.5)), label="median")
        speed = f"\n{1e3 / median:.0f} tokens/s" if median > 0 else ""
        ax.annotate(
            f"median\n{_duration(median)}{speed}",
            xy=(1, median),
            xytext=(6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            color=_INK,
            annotation_clip=False,
        )
    return _finish(
        ax,
        f"{len(times)} tokens: first {_duration(first)}"
        + (f", median of the others {_duration(median)}" if median is not None else ""),
    )


# --- one look for every figure of this module --------------------------------------------------


class _NotebookFigure(Figure):
    """A figure that Jupyter shows by itself, sharp, with its numbers as the text beside it."""

    description = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        # Twice the points: sharp on the screens of today. Jupyter is told the size to show.
        dpi = 2 * _DPI
        self.savefig(buffer, format="png", dpi=dpi, transparent=True, bbox_inches="tight")
        png = buffer.getvalue()
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))  # the IHDR chunk
        return png, {"width": width // 2, "height": height // 2}

    def __repr__(self) -> str:
        return f"<Figure: {self.description}>"


_DPI = 80


def _new_figure(width: float, height: float) -> Figure:
    figure = _NotebookFigure(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def _style(
    ax: Axes, title: str, *, grid: Literal["x", "y", "both"] = "x", lines_under_title: int = 1
) -> None:
    pad = 11 + 15 * lines_under_title  # points
    ax.set_title(title, color=_INK, fontsize=11, fontweight="bold", loc="left", pad=pad)
    ax.patch.set_alpha(0.0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    ax.tick_params(colors=_INK, labelsize=_TEXT)
    ax.xaxis.label.set(color=_INK, fontsize=_TEXT)
    ax.yaxis.label.set(color=_INK, fontsize=_TEXT)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=_INK, alpha=0.25, linewidth=0.8)


def _bars(bars: BarContainer, step: _Step, *, hatch: bool = True) -> None:
    for bar in bars:
        bar.set_facecolor(step.colour)
        bar.set_label(step.name)
        if hatch and step.hatch:
            # The hatch takes the colour of the edge; the edge itself has no width.
            bar.set(hatch=step.hatch, edgecolor=(1.0, 1.0, 1.0, 0.35), linewidth=0)


def _finish(ax: Axes, description: str) -> Figure:
    figure: Any = ax.figure
    while not isinstance(figure, Figure):  # a subfigure
        figure = figure.figure
    if isinstance(figure, _NotebookFigure):
        figure.description = description
    return figure


def _duration(ms: float) -> str:
    if ms < 1:
        return f"{ms:.2f} ms"
    if ms < 99.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_950:
        return f"{ms / 1e3:.1f} s" if ms >= 9950 else f"{ms / 1e3:.2f} s"
    minutes, seconds = divmod(round(ms / 1e3), 60)
    return f"{minutes} min {seconds} s"


# --- the parts of plot_timings -----------------------------------------------------------------


def _labels(labels: str | Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        return [""] if count == 1 else [f"call {n}" for n in range(1, count + 1)]
    given = [labels] if isinstance(labels, str) else [str(label) for label in labels]
    if len(given) != count:
        raise ValueError(f"{len(given)} labels were given for {count} calls.")
    return ["\n".join(textwrap.wrap(label, 24, max_lines=2, placeholder=" …")) for label in given]


def _durations(call: Timings) -> dict[_Step, float]:
    known = {
        _LOAD: call.load_ms or 0.0,
        _PROMPT: call.prompt_ms or 0.0,
        _SAMPLE: call.sample_ms or 0.0,
        _EVAL: call.eval_ms or 0.0,
    }
    rest = (call.total_ms or 0.0) - (known[_PROMPT] + known[_SAMPLE] + known[_EVAL])
    # Less than 1/200 of the call is rounding and the cost of measuring, not a step.
    return {**known, _OTHER: rest if rest > 0.005 * (call.total_ms or 0.0) else 0.0}


def _total(call: Timings, steps: dict[_Step, float]) -> float:
    if call.total_ms is not None:
        return call.total_ms
    return sum(ms for step, ms in steps.items() if step is not _LOAD)


def _draw_times(
    ax: Axes, calls: list[Timings], durations: list[dict[_Step, float]], *, behind: bool
) -> None:
    longest = max(max(sum(steps.values()) - steps[_LOAD], steps[_LOAD]) for steps in durations)
    unit, scale = ("ms", 1.0) if longest < 2000 else ("s", 1e-3)
    rows = range(len(calls))
    starts = [0.0] * len(calls)
    for step in _STEPS:
        widths = [steps[step] * scale for steps in durations]
        if not any(widths):
            continue
        lefts = [-width for width in widths] if step is _LOAD else list(starts)
        bars = ax.barh(rows, widths, left=lefts, height=0.62, linewidth=0)
        _bars(bars, step)
        if step is not _LOAD:
            starts = [start + width for start, width in zip(starts, widths, strict=True)]
    loads = max(steps[_LOAD] for steps in durations) * scale
    ends = max(starts)
    span = (loads + ends) or 1.0
    ax.set_xlim(-loads - 0.01 * span, ends + (0.46 if behind else 0.14) * span)
    if loads:
        ax.axvline(0, color=_INK, linewidth=1.2)
    for row, call, steps, end in zip(rows, calls, durations, starts, strict=True):
        text = _duration(_total(call, steps))
        if behind and call.eval_per_second is not None:
            text += f" · {call.eval_per_second:.1f} tokens/s"
        ax.annotate(
            text,
            xy=(end, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            color=_INK,
        )
    ax.set_xlabel(f"time since the call began ({unit})")


def _draw_speeds(ax: Axes, calls: list[Timings]) -> None:
    height = 0.31
    fastest = 0.0
    pairs = (
        (_PROMPT, -height / 2, [call.prompt_per_second for call in calls]),
        (_EVAL, height / 2, [call.eval_per_second for call in calls]),
    )
    for step, offset, speeds in pairs:
        rows = [row + offset for row in range(len(calls))]
        bars = ax.barh(rows, [speed or 0.0 for speed in speeds], height=height, linewidth=0)
        _bars(bars, step)
        for row, call, speed in zip(rows, calls, speeds, strict=True):
            if call.prompt_per_second is None and call.eval_per_second is None:
                continue  # said once, below
            fastest = max(fastest, speed or 0.0)
            ax.annotate(
                "not measured" if speed is None else f"{speed:.{1 if speed < 99.95 else 0}f}",
                xy=(speed or 0.0, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=_TEXT - 1,
                color=_INK,
            )
    for row, call in enumerate(calls):
        if call.prompt_per_second is None and call.eval_per_second is None:
            ax.annotate(
                "not measured",
                xy=(0, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=_TEXT - 1,
                color=_INK,
            )
    ax.set_xlim(0, fastest * 1.35 or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4) if fastest else NullLocator())
    ax.set_xlabel("tokens per second")


def _legend(
    ax: Axes, used: list[_Step], columns: int, durations: dict[_Step, float] | None
) -> None:
    handles = []
    for step in used:
        label = step.name + (" (once, before)" if step is _LOAD else "")
        if durations is not None:
            label = f"{step.name} {_duration(durations[step])}"
        handles.append(
            Patch(
                facecolor=step.colour,
                hatch=step.hatch or None,
                edgecolor=(1.0, 1.0, 1.0, 0.35),
                linewidth=0,
                label=label,
            )
        )
    legend = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.3,
        ncols=columns,
        frameon=False,
        labelcolor=_INK,
        fontsize=_TEXT,
        handlelength=1.5,
        handletextpad=0.5,
        columnspacing=1.3,
        borderpad=0.1,
    )
    # It has the line under the titles for itself, across all axes: it must not narrow its own.
    legend.set_in_layout(False)
