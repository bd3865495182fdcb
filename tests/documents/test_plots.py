from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from helpers import plot_passages
from tests.test_plots import contrast

RIVERS = [[3, 0, 0.1], [2.8, 0.2, 0], [3.1, -0.1, 0]]
CATS = [[0, 1, 0], [0.1, 1.2, 0.1], [0, 0.9, -0.1]]
GROUPS = ["rivers"] * 3 + ["cats"] * 3


def names(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def points(figure) -> np.ndarray:
    """All small points, in the order of the groups."""
    clouds = [c.get_offsets() for c in figure.axes[0].collections if c.get_zorder() == 2]
    return np.concatenate(clouds)


def test_points_lie_where_the_vectors_differ_most() -> None:
    figure = plot_passages(RIVERS + CATS, GROUPS)
    spread = points(figure)
    # Distances in the plane are those of the vectors, which hardly leave it.
    vectors = np.array(RIVERS + CATS)
    for one, other in ((0, 3), (0, 1), (4, 5)):
        shown = np.linalg.norm(spread[one] - spread[other])
        assert shown == pytest.approx(np.linalg.norm(vectors[one] - vectors[other]), abs=0.15)
    first, second = (axis.label.get_text() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))
    assert (first, second) == ("first direction (99% of the spread)", "second direction (1%)")
    assert repr(figure) == "<Figure: Passages by meaning: rivers 3, cats 3; 100% of the spread>"


def test_the_same_passages_give_the_same_picture() -> None:
    one = points(plot_passages(RIVERS + CATS, GROUPS))
    assert (points(plot_passages(np.array(RIVERS + CATS), GROUPS)) == one).all()


def test_a_question_and_what_was_found_are_drawn_in_the_same_plane() -> None:
    figure = plot_passages(RIVERS + CATS, GROUPS, query=RIVERS[1], found=[1, 0])
    ringed, star = figure.axes[0].lines
    spread = points(figure)
    assert np.allclose(np.transpose(ringed.get_data()), spread[[1, 0]])
    assert np.allclose(np.ravel(star.get_data()), spread[1])
    assert names(figure)[-2:] == ["found", "the question"]


def test_names_stand_by_the_height_of_their_groups() -> None:
    figure = plot_passages(RIVERS + CATS, GROUPS)
    middles = {c.get_label(): c.get_offsets()[0][1] for c in figure.axes[0].collections[1::2]}
    assert names(figure) == sorted(middles, key=lambda name: -middles[name])


def test_many_groups_can_be_told_apart_and_the_smallest_are_one() -> None:
    random = np.random.default_rng(7)
    for count in (14, 30):
        groups = [f"file {number}" for number in range(count) for _ in range(40 - number)]
        figure = plot_passages(random.normal(size=(len(groups), 8)), groups)
        handles = figure.axes[0].get_legend().legend_handles
        looks = {
            (to_hex(h.get_facecolor()[0]), h.get_paths()[0].vertices.tobytes()) for h in handles
        }
        assert len(looks) == len(handles) == min(count, 13 if count > 14 else 14)
    assert (
        "others" in repr(figure) and "file 13" not in names(figure) and "file 12" in names(figure)
    )


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_text_and_marks_stand_out_from_a_light_and_a_dark_page(page: str) -> None:
    groups = [f"file {number}" for number in range(14)]
    figure = plot_passages(np.eye(14), groups, query=np.ones(14), found=[3])
    axes = figure.axes[0]
    shown = [*axes.get_legend().get_texts(), axes._left_title, axes.xaxis.label, axes.yaxis.label]
    assert all(contrast(to_hex(text.get_color()), page) >= 4.2 for text in shown)
    for mark in axes.collections[1::2]:
        assert contrast(to_hex(mark.get_facecolor()[0]), page) >= 3.0
    assert figure.patch.get_alpha() == axes.patch.get_alpha() == 0


@pytest.mark.parametrize("vectors", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0]] * 3])
def test_vectors_without_two_directions_have_a_picture_too(vectors: list[list[float]]) -> None:
    figure = plot_passages(vectors, ["a"] * len(vectors))
    assert np.isfinite(points(figure)).all() and figure._repr_png_()[0][:4] == b"\x89PNG"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vectors": []}, "a row for each passage"),
        ({"vectors": [1.0, 2.0]}, "a row for each passage"),
        ({"vectors": [[1.0, float("nan")]] * 2}, "numbers that are none"),
        ({"groups": ["a"]}, "2 vectors, but 1 groups"),
        ({"query": [1.0]}, "a vector of 2 numbers"),
        ({"found": [2]}, "found=2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict, words: str) -> None:
    given = {"vectors": [[1.0, 0.0], [0.0, 1.0]], "groups": ["a", "b"]} | arguments
    with pytest.raises(ValueError, match=words):
        plot_passages(given.pop("vectors"), given.pop("groups"), **given)
