"""Machines and devices side by side, from recorded results: `plot_compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from helpers.plots.style import (
    EVAL,
    INK,
    PROMPT,
    TEXT_POINTS,
    Step,
    finish,
    new_figure,
    paint,
    style_axes,
)
from helpers.timings import Timings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.bench import SweepResult, SweepRow

SEED_FIGURES = {
    "the old page, CPU section": Timings(
        load_ms=358.60,
        sample_ms=172.55,
        sample_tokens=256,
        prompt_ms=613.36,
        prompt_tokens=16,
        eval_ms=10151.17,
        eval_tokens=255,
        total_ms=11332.41,
    ),
    "the old page, GPU section": Timings(
        load_ms=427.63,
        sample_ms=115.85,
        sample_tokens=164,
        prompt_ms=427.53,
        prompt_tokens=45,
        eval_ms=4526.53,
        eval_tokens=163,
        total_ms=5293.77,
    ),
}
"""What the LangChain page that this suite began with shows: 25.1 against 36.0 tokens/s.

Its author's logs of one model file on one Mac. The prompts differ in length, so of the two speeds
only the generation can be compared, and even that from a single call each.
"""


class _Entry(NamedTuple):
    name: str
    prompt: float | None
    prompt_spread: tuple[float, float] | None
    eval: float | None
    eval_spread: tuple[float, float] | None


def plot_compare(
    results: Mapping[str, SweepResult | SweepRow | Timings | float] | None = None,
    *,
    speed: Literal["eval", "prompt"] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw the speeds of several machines, devices or settings side by side.

    Args:
        results: By name: a `SweepResult` (its best row), one of its rows, the `Timings` of a call,
            or a plain number of tokens/s of generation. None: the two calls of the page that this
            suite began with, whose generation can be compared.
        speed: "eval" (generation), "prompt", or None for both where both are known.
        ax: Where to draw: one Axes for each speed. Default: a new figure.

    Returns:
        The figure that was drawn on. Where a spread is known, it is the thin bar.

    Raises:
        ValueError: There is nothing to draw.
        HelpersError: A result has no row with a speed.

    >>> plot_compare({"CPU": 25.1, "GPU": 36.0})
    <Figure: Generation: CPU 25.1 tokens/s, GPU 36.0 tokens/s>
    """
    if results is None:
        results, speed = SEED_FIGURES, speed or "eval"
    entries = [_entry(name, result) for name, result in results.items()]
    steps = [PROMPT, EVAL] if speed is None else [EVAL if speed == "eval" else PROMPT]
    steps = [step for step in steps if any(_speed(entry, step) for entry in entries)]
    if not steps:
        raise ValueError("There is nothing to draw: none of the results has such a speed.")
    if ax is None:
        figure = new_figure(5.0 * len(steps) + 2.5, 1.1 + 0.42 * len(entries))
        panels = list(figure.subplots(1, len(steps), squeeze=False, sharey=True)[0])
    else:
        panels = list(ax) if isinstance(ax, Sequence) else [ax]
        if len(panels) != len(steps):
            raise ValueError(
                f"{len(panels)} Axes were given for {len(steps)} speeds: give as many, or choose "
                'with speed="eval" or speed="prompt".'
            )
    told = []
    for panel, step in zip(panels, steps, strict=True):
        _draw(panel, entries, step)
        style_axes(panel, _WORDS[step.name], lines_under_title=0)
        panel.tick_params(axis="y", length=0, labelleft=panel is panels[0])
        numbers = [(entry.name, _speed(entry, step)) for entry in entries]
        said = ", ".join(f"{name} {number:.1f} tokens/s" for name, number in numbers if number)
        told.append(f"{_WORDS[step.name]}: {said}")
    panels[0].set_yticks(range(len(entries)), [entry.name for entry in entries])
    panels[0].set_ylim(len(entries) - 0.5, -0.5)
    return finish(panels[0], "; ".join(told))


_WORDS = {EVAL.name: "Generation", PROMPT.name: "Prompt eval"}


def _speed(entry: _Entry, step: Step) -> float | None:
    return entry.eval if step is EVAL else entry.prompt


def _entry(name: str, result: SweepResult | SweepRow | Timings | float) -> _Entry:
    if isinstance(result, int | float):
        return _Entry(name, None, None, float(result), None)
    if isinstance(result, Timings):
        return _Entry(name, result.prompt_per_second, None, result.eval_per_second, None)
    row: SweepRow = result.best() if hasattr(result, "best") else result
    return _Entry(
        name, row.prompt_per_second, row.prompt_spread, row.eval_per_second, row.eval_spread
    )


def _draw(ax: Axes, entries: list[_Entry], step: Step) -> None:
    speeds = [_speed(entry, step) or 0.0 for entry in entries]
    paint(ax.barh(range(len(entries)), speeds, height=0.68, linewidth=0), step)
    furthest = 0.0
    for place, (entry, speed) in enumerate(zip(entries, speeds, strict=True)):
        spread = entry.eval_spread if step is EVAL else entry.prompt_spread
        end = speed
        if spread is not None:
            ax.plot(spread, [place, place], color=INK, linewidth=1.6, marker="|", markersize=7)
            end = max(end, spread[1])
        furthest = max(furthest, end)
        ax.annotate(
            f"{speed:,.{1 if speed < 1000 else 0}f}" if speed else "not measured",
            xy=(end, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=TEXT_POINTS,
            color=INK,
        )
    ax.set_xlim(0, furthest * 1.18)
    ax.set_xlabel("tokens per second")
