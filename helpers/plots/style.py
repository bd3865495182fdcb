"""The one look that every figure of this package shares.

Text and lines are a grey with the same contrast against a light and a dark page, colours come
from the Okabe-Ito palette, and each colour has its own hatch.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
SPEEDS = {"prompt": (PROMPT, "Prompt eval"), "eval": (EVAL, "Generation")}
LINES = (
    (PROMPT.colour, "o-"),
    (SAMPLE.colour, "s--"),
    (EVAL.colour, "^-."),
    (LOAD.colour, "D:"),
    (INK, "v-"),
    ("#A07800", "P--"),
)
"""Colours of lines with their marks and strokes, so that six can be told apart."""

Speed = Literal["eval", "prompt"]
Measured = tuple[float | None, tuple[float, float] | None]
"""A median with its spread, in tokens per second."""

_DPI = 80
_WHITE = (1.0, 1.0, 1.0, 0.35)


class NotebookFigure(Figure):
    """A figure that Jupyter shows by itself, sharp, with its numbers as the text beside it."""

    description = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        # Twice the points: sharp on high-resolution screens. Jupyter gets the size to show.
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
    """Give axes the shared look and a title, above the lines that a legend will take."""
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


def paint(bars: Iterable[Any], step: Step, *, hatch: bool = True) -> None:
    """Give bars the colour and the hatch of a step; hatches are noise in very thin bars."""
    for bar in bars:
        bar.set(**_looks(step if hatch else step._replace(hatch="")))


def swatch(step: Step, label: str = "") -> Patch:
    """An entry of a legend that looks like the bars of a step."""
    return Patch(**_looks(step._replace(name=label or step.name)))


def _looks(step: Step) -> dict[str, Any]:
    looks: dict[str, Any] = {"facecolor": step.colour, "label": step.name, "linewidth": 0}
    # The hatch takes the colour of the edge; the edge itself has no width.
    return looks | {"hatch": step.hatch, "edgecolor": _WHITE} if step.hatch else looks


def write(
    ax: Axes, text: str, x: float, y: float, *, right: float = 5, up: float = 0, **looks: Any
) -> None:
    """Write text some points beside a place, in the middle of its height."""
    looks = {"va": "center", "fontsize": TEXT_POINTS, "color": INK, **looks}
    ax.annotate(text, xy=(x, y), xytext=(right, up), textcoords="offset points", **looks)


def add_legend(ax: Axes, handles: Sequence[Any], columns: int, **looks: Any) -> None:
    """Put a legend into the lines that `style_axes` has left under the title."""
    # Lifted off the axes, but not moved to the right: it begins where the title does.
    lifted = ScaledTranslation(0, 4 / 72, ax.figure.dpi_scale_trans)
    legend = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        bbox_transform=ax.transAxes + lifted,
        borderaxespad=0,
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=TEXT_POINTS,
        columnspacing=1.0,
        borderpad=0,
        **{"handlelength": 1.2, "handletextpad": 0.5, **looks},
    )
    # It may run across all axes, in the lines under the titles: it must not narrow its own.
    legend.set_in_layout(False)


def panels(ax: Axes | Sequence[Axes] | None, count: int, width: float, height: float) -> list[Axes]:
    """One Axes for each of one or two speeds: the caller's, or those of a new figure.

    Raises:
        ValueError: The caller gave another number of them.
    """
    if ax is None:
        figure = new_figure(width, height)
        return list(figure.subplots(1, count, squeeze=False)[0])
    given: list[Any] = list(ax) if hasattr(ax, "__iter__") else [ax]
    if len(given) != count:
        raise ValueError(
            f"{len(given)} Axes were given for {count} speeds: give as many, or choose with "
            'speed="eval" or speed="prompt".'
        )
    return given


def finish(ax: Axes, description: str) -> Figure:
    """Return the figure that the axes belong to, with a description as its text form."""
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
