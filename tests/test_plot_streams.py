"""`plot_streams`: it draws when tokens came, and says the two right figures beside each row."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from helpers import plot_bars, plot_streams

STREAMS = {"one": [10.0, 10.5, 10.6, 11.4], "late": [10.8, 11.0, 11.1]}


def strokes(figure: Figure) -> list[list[Any]]:
    """For each row, where its tokens stand."""
    drawn: list[Any] = list(figure.axes[0].collections)
    return [[pytest.approx(segment[0][0]) for segment in row.get_segments()] for row in drawn]


def bars(figure: Figure) -> list[tuple[Any, ...]]:
    """Name, begin and length of each bar."""
    drawn: list[Any] = list(figure.axes[0].patches)
    return [
        (bar.get_label(), pytest.approx(bar.get_x()), pytest.approx(bar.get_width()))
        for bar in drawn
    ]


def test_times_begin_with_the_first_question_whatever_the_clock() -> None:
    figure = plot_streams(STREAMS)
    assert strokes(figure) == [[0.5, 0.6, 1.4], [1.0, 1.1]]
    assert bars(figure) == [
        ("waits for the first token", 0.0, 0.5),
        ("longest gap", 0.6, 0.8),
        ("waits for the first token", 0.8, 0.2),
        ("longest gap", 1.0, 0.1),
    ]
    moved = {name: [moment + 1e6 for moment in moments] for name, moments in STREAMS.items()}
    assert strokes(plot_streams(moved)) == strokes(figure)


def test_rows_are_in_order_and_say_their_figures() -> None:
    figure = plot_streams(STREAMS, title="Two")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "late"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    said = ["first 500 ms, gap 800 ms", "first 200 ms, gap 100 ms"]
    assert [text.get_text() for text in axes.texts] == said
    assert repr(figure) == f"<Figure: Two: one {said[0]}; late {said[1]}>"


def test_answers_of_one_token_and_of_none_are_drawn() -> None:
    figure = plot_streams({"one": [1.0, 2.0], "none": [1.0]})
    assert [text.get_text() for text in figure.axes[0].texts] == ["first 1.00 s", "no token"]
    assert plot_streams({"none": [1.0]}).axes[0].get_xlim()[1] > 0


def test_it_draws_where_it_is_told() -> None:
    axes = plot_bars({"a": 1.0}, unit="s", title="other").axes[0]
    assert plot_streams(STREAMS, ax=axes) is axes.figure


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ({}, "nothing to draw"),
        ({"a": []}, "nothing to draw"),
        ({"a": [1.0, 3.0, 2.0]}, "The moments of 'a' are out of order"),
    ],
)
def test_what_cannot_be_drawn_is_refused(streams: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_streams(streams)
