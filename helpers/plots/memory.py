"""Memory by device against what is free: `plot_memory`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Patch, Rectangle

from helpers.memory import MemoryPlan
from helpers.native import display_names
from helpers.plots.style import (
    EVAL,
    INK,
    LOAD,
    PROMPT,
    Step,
    add_legend,
    finish,
    new_figure,
    paint,
    style_axes,
    swatch,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.engine import LoadReport

_KINDS = {
    "weights": Step("weights", PROMPT.colour, ""),
    "kv": Step("KV cache", EVAL.colour, "...."),
    "compute": Step("compute buffers", LOAD.colour, "////"),
}
_RED = "#E0453A"  # 3:1 or more on white and on #111
_FAR = 2.5
"""A limit further away than this many times the longest bar is stated, not drawn."""


def plot_memory(
    plan: MemoryPlan | LoadReport | Mapping[str, MemoryPlan | LoadReport],
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw what a model takes on each device, against what is free there.

    Each device is a bar of weights, KV cache and compute buffers. Where the free memory is known
    it is a vertical line. A bar is framed in red where the plan says that it does not fit
    (`MemoryPlan.lacking_mib`): what is too much is crossed, and said in words.

    Args:
        plan: A `MemoryPlan`, or a `LoadReport` (drawn without limits); or several by name, such as
            `{"predicted": plan, "measured": llm.load_report}`, drawn one below the other.
        title: What the figure shows; default: the number of layers on devices.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on; sizes are in MiB.

    Raises:
        ValueError: There is nothing to draw.

    >>> plot_memory(predict_memory(n_gpu_layers=0, devices=[]))
    <Figure: Memory, 0 of 31 layers on devices: CPU ... fits>
    """
    plans = plan if isinstance(plan, Mapping) else {"": plan}
    shown = display_names({device: 0 for one in plans.values() for device in one.by_device})
    bars = [
        _Bar(f"{shown[device]}\n{name}" if name else shown[device], device, kinds, one)
        for name, one in plans.items()
        for device, kinds in one.by_device.items()
    ]
    order = list(dict.fromkeys(bar.device for bar in bars))
    bars.sort(key=lambda bar: order.index(bar.device))
    if not bars or not any(bar.needed for bar in bars):
        raise ValueError("There is nothing to draw: no device holds anything.")
    if ax is None:
        ax = new_figure(8.5, 1.25 + 0.62 * len(bars)).subplots()
    longest = max(bar.needed for bar in bars)
    drawn = [bar.free for bar in bars if bar.free is not None and bar.free <= _FAR * longest]
    span = max(longest, *drawn) if drawn else longest
    starts = [0.0] * len(bars)
    for kind, look in _KINDS.items():
        widths = [float(bar.kinds.get(kind, 0.0)) for bar in bars]
        paint(ax.barh(range(len(bars)), widths, left=starts, height=0.6, linewidth=0), look)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, bar in enumerate(bars):
        _draw_limit(ax, place, bar, span)
    ax.set_yticks(range(len(bars)), [bar.label for bar in bars])
    ax.set_ylim(len(bars) - 0.45, -0.55)
    ax.set_xlim(0, span * 1.42)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("MiB")
    first = next(iter(plans.values()))
    heading = title or f"Memory, {first.n_gpu_layers} of {first.n_layers} layers on devices"
    style_axes(ax, heading)
    _legend(ax, limits=bool(drawn), margins=any(bar.margin for bar in bars))
    told = ", ".join(f"{bar.label} {bar.words()}".replace("\n", " ") for bar in bars)
    return finish(ax, f"{heading}: {told}")


class _Bar:
    """One device of one plan."""

    def __init__(
        self, label: str, device: str, kinds: Mapping[str, float], plan: MemoryPlan | LoadReport
    ) -> None:
        self.label, self.device, self.kinds = label, device, kinds
        self.needed = sum(kinds.values())
        self.free: float | None = None
        self.margin = self.lacks = self.reclaimable = 0.0
        if isinstance(plan, MemoryPlan):
            self.free, self.margin = plan.free_mib[device], plan.margin_mib[device]
            self.lacks = plan.lacking_mib.get(device, 0.0)
            self.reclaimable = plan.reclaimable_mib.get(device, 0.0)

    def words(self) -> str:
        if self.free is None:
            return f"{self.needed:,.1f} MiB"
        text = f"{self.needed:,.0f} of {self.free:,.0f} MiB free"
        if self.lacks:
            return f"{text}\n✗ {self.lacks:,.0f} MiB short"
        if self.needed + self.margin > self.free:
            text += f"\n({self.reclaimable:,.0f} can be dropped)"
        return f"{text}, ✓ fits"


def _draw_limit(ax: Axes, place: int, bar: _Bar, span: float) -> None:
    """The words beside a bar, and the line where its device's memory ends."""
    end = bar.needed
    if bar.free is not None and bar.free <= span:
        limit = max(bar.free, 0.0)
        if bar.margin:
            zone = Rectangle((max(limit - bar.margin, 0), place - 0.4), 0, 0.8)
            zone.set_width(min(bar.margin, limit))
            zone.set(facecolor=INK, alpha=0.18, linewidth=0)
            ax.add_patch(zone)
        ax.plot([limit, limit], [place - 0.42, place + 0.42], color=INK, linewidth=2.6)
        end = max(end, limit)
    if bar.lacks:
        frame = Rectangle((0, place - 0.3), bar.needed, 0.6, fill=False)
        frame.set(edgecolor=_RED, linewidth=2.2)
        ax.add_patch(frame)
        too_much = min(bar.lacks, bar.needed)
        over = Rectangle((bar.needed - too_much, place - 0.3), too_much, 0.6, fill=False)
        over.set(edgecolor=_RED, hatch="xx", linewidth=0)
        ax.add_patch(over)
    look: dict[str, Any] = {"fontweight": "bold", "color": _RED} if bar.lacks else {}
    write(ax, bar.words(), end, place, right=7, **look)


def _legend(ax: Axes, *, limits: bool, margins: bool) -> None:
    handles: list[Any] = [swatch(look) for look in _KINDS.values()]
    if limits:
        handles += ax.plot([], [], color=INK, linewidth=2.6, label="end of free memory")
    if limits and margins:
        handles.append(Patch(facecolor=INK, alpha=0.18, linewidth=0, label="to stay free"))
    add_legend(ax, handles, len(handles))
