"""A class and its machines, as simulated: `plot_serving`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from helpers.plots.style import (
    EVAL,
    INK,
    LINES,
    PROMPT,
    add_legend,
    finish,
    new_figure,
    paint,
    style_axes,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.serve.simulate import ClassLoad


def plot_serving(
    loads: Mapping[str, ClassLoad],
    *,
    target_s: float | None = None,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Draw what classes met with: the queue, the time to the first token, the machines.

    Args:
        loads: By name, what `simulate` or `machines_needed` gave; one to six of them.
        target_s: Seconds to the first token that were wanted, for a line.
        ax: Where to draw, three Axes; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: There are no loads or more than six, or not three Axes.
    """
    if not 1 <= len(loads) <= len(LINES):
        raise ValueError(f"Give 1 to {len(LINES)} loads, not {len(loads)}.")
    if ax is None:
        figure = new_figure(11.5, 2.5 + 0.3 * len(loads))
        ax = list(figure.subplots(1, 3, width_ratios=(1.5, 1.3, 1.0)))
    if len(ax) != 3:
        raise ValueError(f"{len(ax)} Axes were given: the figure has three.")
    queue, first, machines = ax
    names, places = list(loads), range(len(loads))
    lines = []
    for load, (colour, form) in zip(loads.values(), LINES, strict=False):
        minutes = [minute for minute, _ in load.queue]
        waiting = [length for _, length in load.queue]
        lines += queue.plot(
            minutes, waiting, form[1:], color=colour, linewidth=1.6, drawstyle="steps-post"
        )
    queue.set_xlim(0, max(1.0, *(minute for load in loads.values() for minute, _ in load.queue)))
    queue.set_ylim(0, max(1, *(load.longest_queue for load in loads.values())) * 1.08)
    queue.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    queue.set_xlabel("minutes")
    queue.set_ylabel("questions that wait")
    style_axes(queue, "Queue", grid="both", lines_under_title=len(loads))
    for line, name in zip(lines, names, strict=True):
        line.set_label(name)
    add_legend(queue, lines, 1, handlelength=2.6)

    seconds = [load.first_token() for load in loads.values()]
    paint(first.barh(places, seconds, height=0.68), PROMPT)
    for place, (load, at) in enumerate(zip(loads.values(), seconds, strict=True)):
        write(first, f"{at:.1f} s, half in {load.first_token(50):.1f} s", at, place)
    first.set_xlim(0, max(*seconds, target_s or 0.0, 0.1) * 1.75)
    if target_s is not None:
        first.axvline(target_s, color=INK, linewidth=1.4, linestyle="--")
    first.set_xlabel("seconds that 95 % keep to")
    first.set_yticks(places, names)
    style_axes(first, "First token", lines_under_title=0)

    counts = [load.machines for load in loads.values()]
    paint(machines.barh(places, counts, height=0.68), EVAL)
    for place, count in enumerate(counts):
        write(machines, str(count), count, place)
    machines.set_xlim(0, max(counts) * 1.25)
    machines.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    machines.set_xlabel("machines")
    machines.set_yticks(places, [])
    style_axes(machines, "Machines", lines_under_title=0)
    for panel in (first, machines):
        panel.set_ylim(len(names) - 0.5, -0.5)
    said = "; ".join(
        f"{name}: {load.machines} machines, at most {load.longest_queue} wait, 95 % have their "
        f"first token in {at:.1f} s"
        for (name, load), at in zip(loads.items(), seconds, strict=True)
    )
    return finish(queue, said)
