"""Passages by meaning: many numbers each, seen from the side from which they differ most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from helpers.plots.style import INK, LINES, TEXT_POINTS, finish, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_GROUPS = 14
_COLOURS = [colour for colour, _ in LINES if colour != INK]
_MARKS = "os^Dv"
_OTHERS = "others"

Matrix = npt.NDArray[np.float64]


def plot_passages(
    vectors: npt.ArrayLike,
    groups: Sequence[str],
    *,
    query: npt.ArrayLike | None = None,
    found: Sequence[int] = (),
    title: str = "Passages by meaning",
    ax: Axes | None = None,
) -> Figure:
    """Draw passages as points: near each other where their vectors are.

    The points lie along the two directions in which the vectors differ most (principal
    components); the axes say how much of all difference that is. What is near in the picture may
    be far in another direction. A large mark is the middle of a group; the
    names stand beside, by the height of these marks.

    Args:
        vectors: A row for each passage, as `DocumentIndex.vectors()` gives them.
        groups: What each passage belongs to, such as its source. The 13 with the most passages
            have names if there are more than 14.
        query: The vector of a question, drawn as a star.
        found: Rows of passages to put a ring around, such as those that a search found.
        title: What the figure shows.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: There are no vectors, not one group for each, or numbers that are none.

    >>> plot_passages([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], ["river", "river", "cat"])
    <Figure: Passages by meaning: river 2, cat 1; 100% of the spread>
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ValueError(
            f"vectors must be a table of numbers, a row for each passage; it has the shape "
            f"{rows.shape}{'' if np.isfinite(rows).all() else ', and numbers that are none'}."
        )
    if len(groups) != len(rows):
        raise ValueError(f"There are {len(rows)} vectors, but {len(groups)} groups.")
    if wrong := [row for row in found if not 0 <= row < len(rows)]:
        raise ValueError(f"found={wrong[0]} is no row: there are {len(rows)} vectors.")
    middle = rows.mean(axis=0)
    directions, shares = _directions(rows - middle)
    points = (rows - middle) @ directions
    if ax is None:
        ax = new_figure(8.0, 4.6).subplots()
    named = _named(groups)
    shown = [one if one in named else _OTHERS for one in groups]
    marks = _draw_groups(ax, points, shown, named)
    looks: dict[str, Any] = {"color": INK, "markersize": 9, "linestyle": "", "zorder": 4}
    if len(found):
        x, y = points[list(found)].T
        marks += ax.plot(x, y, "o", markerfacecolor="none", markeredgewidth=1.6, **looks)
        marks[-1].set_label("found")
    if query is not None:
        x, y = (_row(query, rows.shape[1]) - middle) @ directions
        marks += ax.plot(x, y, "*", **{**looks, "markersize": 16}, label="the question")
    ax.set_xlabel(f"first direction ({shares[0]:.0%} of the spread)")
    ax.set_ylabel(f"second direction ({shares[1]:.0%})")
    ax.set_xticks([])
    ax.set_yticks([])
    style_axes(ax, title, grid="both", lines_under_title=0)
    ax.legend(
        handles=marks,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        labelcolor=INK,
        fontsize=TEXT_POINTS,
        labelspacing=0.75,
    )
    listed = ", ".join(f"{name} {count}" for name, count in Counter(shown).most_common())
    return finish(ax, f"{title}: {listed}; {sum(shares):.0%} of the spread")


def _directions(rows: Matrix) -> tuple[Matrix, list[float]]:
    """The two directions in which centred rows spread most, and their shares of the spread."""
    _, spread, directions = np.linalg.svd(rows, full_matrices=False)
    two = np.zeros((rows.shape[1], 2))
    two[:, : len(directions[:2])] = directions[:2].T
    # The sign of a direction is left open: the same passages shall give the same picture.
    signs = np.sign(two[np.abs(two).argmax(axis=0), [0, 1]])
    shares = np.append(spread**2, [0.0, 0.0])[:2] / max(float((spread**2).sum()), 1e-300)
    return two * np.where(signs == 0, 1, signs), [float(share) for share in shares]


def _row(vector: npt.ArrayLike, width: int) -> Matrix:
    row = np.asarray(vector, dtype=np.float64)
    if row.shape != (width,) or not np.isfinite(row).all():
        raise ValueError(f"query must be a vector of {width} numbers; its shape is {row.shape}.")
    return row


def _named(groups: Sequence[str]) -> list[str]:
    """The groups that get a name, in the order of their first passage."""
    counts = Counter(groups)
    if len(counts) > _MOST_GROUPS:
        counts = Counter(dict(counts.most_common(_MOST_GROUPS - 1)))
    return [name for name in dict.fromkeys(groups) if name in counts]


def _draw_groups(
    ax: Axes, points: Matrix, groups: Sequence[str], named: Sequence[str]
) -> list[Artist]:
    """Draw the points of each group and their middle; return marks for a legend, by height."""
    marks: list[tuple[float, Artist]] = []
    for number, name in enumerate([*named, _OTHERS]):
        own = points[[group == name for group in groups]]
        if name == _OTHERS:
            ax.scatter(own[:, 0], own[:, 1], s=14, color=INK, alpha=0.4, marker=".")
            continue
        # Five colours times five marks, a new mark each time: 25 groups could be told apart.
        looks: dict[str, Any] = {
            "color": _COLOURS[number % 5],
            "marker": _MARKS[(number + number // 5) % 5],
        }
        ax.scatter(own[:, 0], own[:, 1], s=17, alpha=0.65, linewidths=0, zorder=2, **looks)
        x, y = np.median(own, axis=0)
        mark = ax.scatter(x, y, s=80, linewidths=1.2, zorder=3, label=name, **looks)
        mark.set_edgecolor(INK)
        marks.append((-y, mark))
    return [mark for _, mark in sorted(marks, key=lambda one: one[0])]
