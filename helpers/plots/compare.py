"""Machines and devices side by side, from recorded results: `plot_compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from helpers.plots.style import (
    INK,
    SPEEDS,
    Measured,
    Speed,
    finish,
    paint,
    panels,
    style_axes,
    write,
)
from helpers.timings import Timings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.bench import SweepResult, SweepRow

SEED_FIGURES = {
    "page's CPU section\n(heading 7B, path 13B)": Timings(
        load_ms=358.60,
        sample_ms=172.55,
        sample_tokens=256,
        prompt_ms=613.36,
        prompt_tokens=16,
        eval_ms=10151.17,
        eval_tokens=255,
        total_ms=11332.41,
    ),
    "page's GPU section\n(path 13B)": Timings(
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

What is known of them: both load one path on a Mac, `…openorca-platypus2-13b.gguf.q4_0.bin`, though
the text above the first says 7B; the first sets no `n_gpu_layers`, the second -1; no log says where
the layers were. The prompts differ in length, so of the two speeds only the generation can be
compared, and even that from a single call each.
"""


def plot_compare(
    results: Mapping[str, SweepResult | SweepRow | Timings | float] | None = None,
    *,
    speed: Speed | None = None,
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
    entries = {name: _measured(result) for name, result in results.items()}
    shown: list[Speed] = ["prompt", "eval"] if speed is None else [speed]
    shown = [one for one in shown if any(entry[one][0] for entry in entries.values())]
    if not shown:
        raise ValueError("There is nothing to draw: none of the results has such a speed.")
    axes = panels(ax, len(shown), 5.0 * len(shown) + 2.5, 1.1 + 0.42 * len(entries))
    told = []
    for panel, one in zip(axes, shown, strict=True):
        step, title = SPEEDS[one]
        measured = [entry[one] for entry in entries.values()]
        paint(panel.barh(range(len(entries)), [m or 0.0 for m, _ in measured], height=0.68), step)
        panel.set_xlim(0, _write_speeds(panel, measured) * 1.18)
        panel.set_xlabel("tokens per second")
        style_axes(panel, title, lines_under_title=0)
        panel.tick_params(axis="y", length=0, labelleft=panel is axes[0])
        panel.set_yticks(range(len(entries)), list(entries))
        panel.set_ylim(len(entries) - 0.5, -0.5)
        said = [
            f"{name} {entry[one][0]:.1f} tokens/s"
            for name, entry in entries.items()
            if entry[one][0]
        ]
        told.append(f"{title}: {', '.join(said)}")
    return finish(axes[0], "; ".join(told))


def _measured(result: SweepResult | SweepRow | Timings | float) -> dict[str, Measured]:
    if isinstance(result, int | float):
        return {"prompt": (None, None), "eval": (float(result), None)}
    if isinstance(result, Timings):
        return {"prompt": (result.prompt_per_second, None), "eval": (result.eval_per_second, None)}
    row: SweepRow = result.best() if hasattr(result, "best") else result
    return {name: row.speed(name) for name in SPEEDS}


def _write_speeds(ax: Axes, measured: list[Measured]) -> float:
    """Draw the spreads and write the speeds behind the bars; return where the longest ends."""
    furthest = 0.0
    for place, (median, spread) in enumerate(measured):
        end = median or 0.0
        if spread is not None:
            ax.plot(spread, [place, place], color=INK, linewidth=1.6, marker="|", markersize=7)
            end = max(end, spread[1])
        furthest = max(furthest, end)
        text = f"{median:,.{1 if median < 1000 else 0}f}" if median else "not measured"
        write(ax, text, end, place, right=6)
    return furthest
