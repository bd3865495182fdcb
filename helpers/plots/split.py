"""A model split between processor and device: what was measured, and what a formula expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers.plots.style import INK, LINES, add_legend, finish, panels, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STROKES = ("-", "--", ":")


def plot_split(
    measured: Mapping[int, float],
    expected: Mapping[str, Callable[[int], float]],
    *,
    title: str,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Draw generation against layers on a device twice: as time per token, and as speed.

    The times of layers add up, so they lie on a straight line; the speeds, their inverse, do not.

    Args:
        measured: Tokens/s by `n_gpu_layers`.
        expected: One to three functions from `n_gpu_layers` to tokens/s by name; each is drawn as
            a line from no layers to the most that were measured.
        title: What the figure shows.
        ax: Where to draw, two Axes; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: There are no measurements, one is not positive, or not one to three functions.

    >>> plot_split({0: 10.0, 4: 40.0}, {"formula": lambda n: 1 / (0.1 - 0.01875 * n)}, title="A")
    <Figure: A: 0 layers 10.0 tokens/s, 4 layers 40.0 tokens/s; formula 10.0 to 40.0 tokens/s>
    """
    if not measured or min(measured.values()) <= 0:
        raise ValueError(f"Give tokens/s above 0 for each n_gpu_layers, not {dict(measured)}.")
    if not 1 <= len(expected) <= len(_STROKES):
        raise ValueError(f"Give 1 to {len(_STROKES)} functions, not {len(expected)}.")
    times, speeds = axes = panels(ax, 2, 10.4, 3.8)
    counts = sorted(measured)
    steps = range(counts[-1] + 1)
    handles: list[Any] = []
    for (name, function), (colour, _), stroke in zip(
        expected.items(), LINES[1:], _STROKES, strict=False
    ):
        line = [function(count) for count in steps]
        times.plot(steps, [1000 / speed for speed in line], stroke, color=colour, linewidth=1.8)
        handles += speeds.plot(steps, line, stroke, color=colour, linewidth=1.8, label=name)
    looks: dict[str, Any] = {"color": LINES[0][0], "markersize": 7, "markeredgecolor": INK}
    points = [measured[count] for count in counts]
    times.plot(counts, [1000 / speed for speed in points], "o", **looks)
    handles = speeds.plot(counts, points, "o", label="measured", **looks) + handles
    for panel, unit in zip(axes, ("ms per token", "tokens per second"), strict=True):
        panel.set_xlabel("n_gpu_layers")
        panel.set_ylabel(unit)
        panel.set_ylim(0, 1.06 * max(panel.dataLim.y1, 1e-9))
    style_axes(times, title, grid="both")
    style_axes(speeds, "", grid="both")
    add_legend(times, handles, len(handles), handlelength=2.4)
    said = ", ".join(f"{count} layers {measured[count]:.1f} tokens/s" for count in counts)
    told = ", ".join(
        f"{name} {function(0):.1f} to {function(counts[-1]):.1f} tokens/s"
        for name, function in expected.items()
    )
    return finish(times, f"{title}: {said}; {told}")
