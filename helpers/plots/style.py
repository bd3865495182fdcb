"""The one look that every figure of this package shares.

Text and lines are a grey with the same contrast against a light and a dark page, colours come
from the Okabe-Ito palette, and each colour has its own hatch.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

# Contrast 4.2:1 or more on white and on the #111 of JupyterLab's dark theme. 4.35:1 is the most
# that one colour can have on both at once.
INK = "#787878"
_BLUE, _VERMILLION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#B5628F"
TEXT_POINTS = 9.5


class Step(NamedTuple):
    """A step of a call, and how it looks in every figure."""

    name: str
    colour: str
    hatch: str


LOAD = Step("load", _PURPLE, "////")
PROMPT = Step("prompt eval", _BLUE, "")
SAMPLE = Step("sample", _VERMILLION, "xxxx")
EVAL = Step("eval", _GREEN, "....")
OTHER = Step("other", INK, "----")
STEPS = (LOAD, PROMPT, SAMPLE, EVAL, OTHER)

_DPI = 80


class NotebookFigure(Figure):
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


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure with the shared look; width and height in inches."""
    figure = NotebookFigure(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def style_axes(
    ax: Axes, title: str, *, grid: Literal["x", "y", "both"] = "x", lines_under_title: int = 1
) -> None:
    """Give axes the shared look and a title, above as many lines of legend as are said."""
    pad = 11 + 15 * lines_under_title  # points
    ax.set_title(title, color=INK, fontsize=11, fontweight="bold", loc="left", pad=pad)
    ax.patch.set_alpha(0.0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    ax.tick_params(colors=INK, labelsize=TEXT_POINTS)
    ax.xaxis.label.set(color=INK, fontsize=TEXT_POINTS)
    ax.yaxis.label.set(color=INK, fontsize=TEXT_POINTS)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=INK, alpha=0.25, linewidth=0.8)


def paint(bars: BarContainer, step: Step, *, hatch: bool = True) -> None:
    """Give bars the colour and the hatch of a step; hatches are noise in very thin bars."""
    for bar in bars:
        bar.set_facecolor(step.colour)
        bar.set_label(step.name)
        if hatch and step.hatch:
            # The hatch takes the colour of the edge; the edge itself has no width.
            bar.set(hatch=step.hatch, edgecolor=(1.0, 1.0, 1.0, 0.35), linewidth=0)


def finish(ax: Axes, description: str) -> Figure:
    """Return the figure that the axes belong to, told what it shows (for its text form)."""
    figure: Any = ax.figure
    while not isinstance(figure, Figure):  # a subfigure
        figure = figure.figure
    if isinstance(figure, NotebookFigure):
        figure.description = description
    return figure


def duration(ms: float) -> str:
    """Write milliseconds with the unit and the digits that people read.

    >>> duration(10151.17), duration(0.25)
    ('10.2 s', '0.25 ms')
    """
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
