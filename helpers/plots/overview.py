"""What a model file is and what becomes of it, in one picture: `plot_overview`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import FancyBboxPatch

from helpers.plots.style import (
    EVAL,
    INK,
    LOAD,
    PROMPT,
    TEXT_POINTS,
    finish,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.models import ModelInfo

_BLOCK = 32
"""Weights that llama.cpp's simplest 4-bit types store together."""

_LEVELS = 16


def plot_overview(info: ModelInfo) -> Figure:
    """Draw how a GGUF file becomes text, and what quantization does to its weights.

    Above, the file with its real size, llama.cpp, and the tokens. Below, one block of 32 weights:
    with 16 bits each, and rounded to 16 levels with 4 bits each. That is llama.cpp's type Q4_1,
    the plainest of the kind: a block has its own lowest level and its own step. The weights are
    drawn at random, in the shape that real ones have; the rounding is Q4_1's.

    Args:
        info: The model, from `inspect_model`.

    Returns:
        The figure that was drawn.
    """
    figure = new_figure(9.5, 4.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    for part in parts:
        part.patch.set_alpha(0.0)
    above, below = parts
    way: Axes = above.subplots()
    _draw_way(way, info)
    full, rounded = below.subplots(1, 2, sharey=True)
    weights = np.random.default_rng(7).normal(0, 0.02, _BLOCK)
    levels = _draw_block(full, weights, None), _draw_block(rounded, weights, _levels(weights))
    full.set_ylabel("value of the weight")
    return finish(
        way,
        f"{info.path.name}, {info.file_size / 2**20:,.0f} MiB -> llama.cpp -> tokens; "
        f"{_BLOCK} weights: {levels[0]} different values at 16 bits, {levels[1]} at 4 bits",
    )


def _levels(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values that 4 bits can tell apart in a block: from its least to its greatest weight."""
    return np.linspace(weights.min(), weights.max(), _LEVELS)


def _draw_way(ax: Axes, info: ModelInfo) -> None:
    size = f"{info.file_size / 2**20:,.0f} MiB"
    boxes = (
        ("a GGUF file", f"{_short(info.path.name)}\n{size} on disk\nweights · tokens · template"),
        ("llama.cpp", "loads the file once, then\ncomputes with its weights,\non CPU or GPU"),
        ("text", "one token after another,\neach with its probability,\nuntil the answer ends"),
    )
    for left, (title, text), step in zip((0.0, 3.6, 7.2), boxes, (LOAD, PROMPT, EVAL), strict=True):
        looks: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.12", "linewidth": 2}
        ax.add_patch(FancyBboxPatch((left, 0), 2.8, 1, fill=False, ec=step.colour, **looks))
        middle: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
        bold: dict[str, Any] = {"fontsize": TEXT_POINTS + 2, "fontweight": "bold"}
        ax.annotate(title, (left + 1.4, 0.81), **bold, **middle)
        ax.annotate(text, (left + 1.4, 0.37), fontsize=TEXT_POINTS, linespacing=1.4, **middle)
        if left:
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 2, "mutation_scale": 18}
            tip, tail = (left - 0.08, 0.5), (left - 0.72, 0.5)
            ax.annotate("", tip, tail, arrowprops=arrow, color=INK)
    ax.set_xlim(-0.05, 10.05)
    ax.set_ylim(-0.03, 1.03)
    ax.axis("off")


def _draw_block(
    ax: Axes, weights: np.ndarray[Any, Any], levels: np.ndarray[Any, Any] | None
) -> int:
    """Draw a block as it is, or rounded to some levels; return how many values it has."""
    places = np.arange(1, _BLOCK + 1)
    shown = weights
    if levels is None:
        title = f"{_BLOCK} weights with 16 bits each: {_BLOCK * 2} bytes"
        step, mark = PROMPT, "o"
    else:
        # 4 bits each, and two numbers of 16 bits for the block: its lowest level and its step.
        title = f"with 4 bits each: {_BLOCK // 2 + 4} bytes"
        shown = levels[np.abs(weights[:, None] - levels).argmin(axis=1)]
        step, mark = EVAL, "s"
        for level in levels:
            ax.axhline(level, color=INK, alpha=0.35, linewidth=0.8)
        ax.vlines(places, weights, shown, color=INK, linewidth=1.2)
    ax.plot(places, shown, mark, color=step.colour, markersize=5)
    style_axes(ax, title, grid="y", lines_under_title=0)
    if levels is not None:
        ax.grid(visible=False)
    ax.set_xlabel("weights of one block" if levels is None else "each on the nearest of 16 levels")
    ax.set_xticks([])
    return len(np.unique(shown))


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:16]}…{name[-16:]}"
