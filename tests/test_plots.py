"""Plots: the numbers behind the bars, readable on light and dark pages, shown once in Jupyter."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from helpers import (
    Timings,
    default_model,
    inspect_model,
    plot_bars,
    plot_lines,
    plot_overview,
    plot_split,
    plot_timings,
    plot_tokens,
)
from helpers.plots.style import duration

CALL = Timings(
    load_ms=400.0,
    prompt_ms=100.0,
    prompt_tokens=20,
    sample_ms=50.0,
    sample_tokens=32,
    eval_ms=800.0,
    eval_tokens=40,
    total_ms=1000.0,
)
SLOW = Timings(prompt_ms=1000.0, prompt_tokens=10, eval_ms=9000.0, eval_tokens=90, total_ms=10_000)


def widths(axes) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for bar in axes.patches:
        found.setdefault(bar.get_label(), []).append(pytest.approx(bar.get_width()))
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# --- plot_timings ----------------------------------------------------------------------------


def test_bars_are_as_long_as_the_steps() -> None:
    times, speeds = plot_timings(CALL).axes
    assert widths(times) == {
        "load": [400.0],
        "prompt eval": [100.0],
        "sample": [50.0],
        "eval": [800.0],
        "other": [50.0],
    }
    assert widths(speeds) == {"prompt eval": [200.0], "eval": [50.0]}


def test_bars_follow_each_other_from_zero_and_loading_comes_before() -> None:
    times = plot_timings(CALL).axes[0]
    ends = {bar.get_label(): (bar.get_x(), bar.get_x() + bar.get_width()) for bar in times.patches}
    assert ends["load"] == (-400.0, 0.0)
    order = ["prompt eval", "sample", "eval", "other"]
    assert ends["prompt eval"][0] == 0.0
    for one, next_one in itertools.pairwise(order):
        assert ends[one][1] == pytest.approx(ends[next_one][0])
    assert ends["other"][1] == pytest.approx(CALL.total_ms)


def test_seconds_are_used_as_soon_as_a_call_takes_two() -> None:
    times = plot_timings([CALL, SLOW]).axes[0]
    assert widths(times)["eval"] == [0.8, 9.0]
    assert times.get_xlabel() == "time since the call began (s)"
    assert plot_timings(CALL).axes[0].get_xlabel() == "time since the call began (ms)"


def test_axes_are_labelled_and_the_first_call_is_on_top() -> None:
    figure = plot_timings([CALL, SLOW], ["quick", "slow"])
    times, speeds = figure.axes
    assert [label.get_text() for label in times.get_yticklabels()] == ["quick", "slow"]
    assert times.get_ylim()[0] > times.get_ylim()[1]
    assert speeds.get_xlabel() == "tokens per second"
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    assert "1.00 s" in texts(figure)
    assert "10.0 s" in texts(figure)


def test_legend_of_one_call_tells_the_times() -> None:
    legend = plot_timings(CALL).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "load 400 ms",
        "prompt eval 100 ms",
        "sample 50.0 ms",
        "eval 800 ms",
        "other 50.0 ms",
    ]


def test_what_was_not_measured_is_left_out() -> None:
    figure = plot_timings([Timings(eval_ms=5.0), CALL])
    assert "not measured" in texts(figure)
    assert widths(figure.axes[0])["eval"] == [5.0, 800.0]
    only = plot_timings(Timings(eval_ms=5.0))
    assert list(widths(only.axes[0])) == ["eval"]


def test_figures_of_a_log_whose_sum_is_more_than_its_total() -> None:
    times = plot_timings(Timings(prompt_ms=60.0, eval_ms=60.0, total_ms=100.0)).axes[0]
    assert "other" not in widths(times)


def test_labels_too_long_are_cut_into_two_lines() -> None:
    long = "a label that never comes to an end " * 4
    times = plot_timings([CALL, SLOW], [long, "short"]).axes[0]
    shown = times.get_yticklabels()[0].get_text()
    assert shown.count("\n") == 1
    assert max(map(len, shown.splitlines())) <= 26
    assert shown.endswith("…")


@pytest.mark.parametrize("labels", [["one"], ["one", "two", "three"], "one"])
def test_wrong_number_of_labels(labels) -> None:
    with pytest.raises(ValueError, match="labels were given for 2 calls"):
        plot_timings([CALL, SLOW], labels)


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="the list is empty"):
        plot_timings([])
    with pytest.raises(ValueError, match="none of the steps was measured"):
        plot_timings(Timings())


def test_drawing_on_given_axes() -> None:
    figure = Figure()
    one, two = figure.subplots(1, 2)
    assert plot_timings(CALL, ax=one) is figure
    assert "1.00 s · 50.0 tokens/s" in texts(figure)
    assert not two.patches
    assert plot_timings(CALL, ax=figure.subplots(1, 2)) is figure


def test_drawing_on_a_subfigure_gives_the_figure() -> None:
    figure = Figure()
    assert plot_tokens(Timings(token_ms=[1.0]), ax=figure.subfigures(1, 2)[0].subplots()) is figure


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_no_text_overlaps_another(count: int, small: float) -> None:
    call = Timings(
        load_ms=110.0,
        prompt_ms=700.0 * small,
        prompt_tokens=3,
        sample_ms=200.0 * small,
        eval_ms=700.0,
        eval_tokens=63,
        total_ms=1700.0,
    )
    figure = plot_timings([call] * count, ["a label which needs two lines to be told"] * count)
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        shown = [*axes.texts, axes.title, axes._left_title, axes.xaxis.label]
        shown += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        if axes.get_legend():
            shown += axes.get_legend().get_texts()
        low, high = sorted(axes.get_xlim())
        ticks = {*axes.get_xticklabels()}
        boxes += [
            (text.get_text(), text.get_window_extent())
            for text in shown
            if text.get_text()
            and text.get_visible()
            and not (text in ticks and not low <= text.get_position()[0] <= high)
        ]
    assert len(boxes) > 8
    labels_left_of_speeds = {
        text.get_text() for text in figure.axes[1].get_yticklabels() if text.get_visible()
    }
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        if a == b and a in labels_left_of_speeds:
            continue
        assert not box_a.overlaps(box_b), f"{a!r} and {b!r} overlap"


# --- plot_tokens -----------------------------------------------------------------------------


def test_each_token_has_a_bar_and_the_median_leaves_out_the_first() -> None:
    figure = plot_tokens(Timings(token_ms=[80.0, 10.0, 12.0, 11.0]))
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [80.0, 10.0, 12.0, 11.0]
    assert [bar.get_label() for bar in axes.patches] == ["prompt eval", *["eval"] * 3]
    median = next(line for line in axes.lines if line.get_label() == "median")
    assert list(median.get_ydata()) == [11.0, 11.0]
    assert "first token 80.0 ms (bar cut off)" in texts(figure)
    assert "median\n11.0 ms\n91 tokens/s" in texts(figure)
    assert "ms" in axes.get_ylabel()
    assert axes.get_xlabel()


def test_a_first_token_of_ordinary_length_is_not_cut_off() -> None:
    figure = plot_tokens(Timings(token_ms=[13.0, 12.0, 11.0, 14.0]))
    assert "first token 13.0 ms" in texts(figure)
    assert figure.axes[0].get_ylim()[1] > 14.0


def test_one_token_and_very_many() -> None:
    one = plot_tokens(Timings(token_ms=[5.0]))
    assert not one.axes[0].lines
    many = plot_tokens(Timings(token_ms=[50.0, *[5.0] * 999]))
    assert len(many.axes[0].patches) == 1000
    assert not any(bar.get_hatch() for bar in many.axes[0].patches)


@pytest.mark.parametrize("token_ms", [[0.0], [0.0, 0.0, 0.0]])
def test_tokens_that_took_no_time_at_all(token_ms: list[float]) -> None:
    assert plot_tokens(Timings(token_ms=token_ms)).axes[0].get_ylim()[1] > 0


@pytest.mark.parametrize("timings", [Timings(), Timings(token_ms=[])])
def test_no_times_per_token(timings: Timings) -> None:
    with pytest.raises(ValueError, match="no times per token"):
        plot_tokens(timings)


# --- plot_overview -------------------------------------------------------------------------------


def test_the_overview_names_the_file_and_rounds_a_block_to_sixteen_levels() -> None:
    info = inspect_model(default_model())
    way, full, rounded = plot_overview(info).axes
    assert any(info.path.name in text.get_text() for text in way.texts)
    (before,), (after,) = (
        [line for line in axes.lines if len(line.get_ydata()) == 32] for axes in (full, rounded)
    )
    weights, stored = np.asarray(before.get_ydata()), np.asarray(after.get_ydata())
    levels = sorted({line.get_ydata()[0] for line in rounded.lines if line is not after})
    assert len(levels) == 16 and set(stored) <= set(levels)
    assert abs(weights - stored).max() <= (levels[1] - levels[0]) / 2 * 1.001


# --- the look --------------------------------------------------------------------------------


def contrast(one: str, other: str) -> float:
    """Contrast ratio as the Web Content Accessibility Guidelines define it."""

    def luminance(colour: str) -> float:
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in to_rgb(colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
@pytest.mark.parametrize(
    "figure",
    [
        plot_timings([CALL, SLOW]),
        plot_tokens(Timings(token_ms=[80.0, 10.0])),
        plot_overview(inspect_model(default_model())),
    ],
)
def test_text_and_bars_stand_out_from_a_light_and_a_dark_page(page: str, figure: Figure) -> None:
    for axes in figure.axes:
        shown = [*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        shown += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        shown += axes.get_legend().get_texts() if axes.get_legend() else []
        for text in shown:
            if text.get_text() and (axes.axison or text in axes.texts):
                assert contrast(to_hex(text.get_color()), page) >= 4.2
        for bar in axes.patches:
            colour = bar.get_facecolor() if bar.get_fill() else bar.get_edgecolor()
            assert contrast(to_hex(colour), page) >= 3.0
        for spine in axes.spines.values() if axes.axison else ():
            assert contrast(to_hex(spine.get_edgecolor()), page) >= 4.2
        assert axes.patch.get_alpha() == 0 or not axes.axison
    assert figure.patch.get_alpha() == 0


def test_steps_differ_without_colour() -> None:
    figure = plot_timings(CALL)
    hatches = [bar.get_hatch() for bar in figure.axes[0].patches]
    assert len(hatches) == len(set(hatches)) == 5


def test_no_figure_is_left_behind_in_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_timings(CALL)
    plot_tokens(Timings(token_ms=[1.0, 2.0]))
    assert plt.get_fignums() == before


def test_picture_is_sharp_and_jupyter_is_told_its_size() -> None:
    figure = plot_timings(CALL)
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20])
    assert size["width"] == width // 2
    assert 700 < size["width"] < 850
    assert repr(figure) == "<Figure: 1 call: 1.00 s>"


@pytest.mark.parametrize("first", ["", "import matplotlib.pyplot as plt\n", "%matplotlib inline\n"])
def test_jupyter_shows_the_figure_once(first: str) -> None:
    import nbclient
    import nbformat

    code = first + (
        "from helpers import Timings, plot_timings\n"
        "figure = plot_timings(Timings(prompt_ms=3.0, eval_ms=5.0))\nfigure"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert "image/png" in output.data
    assert re.match(r"<Figure", output.data["text/plain"])


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.123, "0.12 ms"),
        (9.94, "9.9 ms"),
        (613.4, "613 ms"),
        (999.7, "1.00 s"),
        (9949.0, "9.95 s"),
        (10151.17, "10.2 s"),
        (125_000.0, "2 min 5 s"),
    ],
)
def test_durations_are_told_in_words_of_three_digits(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_bars_have_the_lengths_and_the_notes_that_were_given():
    figure = plot_bars({"one": 2.0, "two": 40.0}, unit="ms", title="T", notes=["a", "b"])
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 40.0]
    assert [label.get_text() for label in axes.texts] == ["2.0  a", "40.0  b"]
    assert axes.get_xlabel() == "ms"
    counted = plot_bars({"one": 9, "two": 1200}, unit="of them", title="T").axes[0]
    assert [label.get_text() for label in counted.texts] == ["9", "1200"]
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_bars({}, unit="ms", title="T")
    with pytest.raises(ValueError, match="2 bars, but 1 notes"):
        plot_bars({"one": 1, "two": 2}, unit="ms", title="T", notes=["a"])


def test_lines_go_through_the_measured_points():
    figure = plot_lines({"eval": ([1, 2], [9, 18])}, xlabel="tokens", ylabel="ms", title="T")
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [9, 18]
    with pytest.raises(ValueError, match="2 x values and 1 y values"):
        plot_lines({"eval": ([1, 2], [9])}, xlabel="x", ylabel="y", title="T")
    with pytest.raises(ValueError, match="1 to 4 lines, not 5"):
        plot_lines({str(i): ([1], [1]) for i in range(5)}, xlabel="x", ylabel="y", title="T")


def test_a_legend_begins_where_the_title_does() -> None:
    figure = plot_timings(CALL)
    figure.draw_without_rendering()
    times = figure.axes[0]
    left = times.get_legend().get_window_extent().x0
    assert left == pytest.approx(times._left_title.get_window_extent().x0, abs=2)


def test_whole_numbers_are_counted_in_whole_steps() -> None:
    looks = {"xlabel": "turn", "ylabel": "tokens", "title": "Chat"}
    for x, whole in (([1, 2, 3, 4], True), ([0.1, 0.4, 0.9], False)):
        ticks = plot_lines({"computed": (x, list(x))}, **looks).axes[0].get_xticks()
        assert all(tick == int(tick) for tick in ticks) is whole


@pytest.mark.parametrize("label", ["", "here", "a model with a long, long name"])
def test_the_legend_of_one_call_stays_over_its_own_axes(label: str) -> None:
    slow = Timings(
        **CALL.to_dict()
        | {"load_ms": 999.4, "prompt_ms": 123.4, "sample_ms": 99.9, "total_ms": 1111.1}
    )
    figure = plot_timings(slow, label or None)
    figure.draw_without_rendering()
    times, speeds = figure.axes
    assert times.get_legend().get_window_extent().x1 <= speeds.get_window_extent().x0
    assert times._left_title.get_window_extent().x1 <= speeds.get_window_extent().x0
    assert " ".join(times.get_title(loc="left").split()).startswith("Where the time went")


def test_a_split_is_drawn_as_times_on_a_line_and_as_their_inverse() -> None:
    figure = plot_split(
        {4: 40.0, 0: 10.0}, {"formula": lambda n: 1 / (0.1 - 0.01875 * n)}, title="T"
    )
    times, speeds = figure.axes
    line, points = times.lines
    assert list(points.get_xdata()) == [0, 4]
    assert list(points.get_ydata()) == pytest.approx([100, 25])
    assert list(line.get_ydata()) == pytest.approx([100, 81.25, 62.5, 43.75, 25])
    assert list(speeds.lines[1].get_ydata()) == [10.0, 40.0]
    assert [text.get_text() for text in times.get_legend().get_texts()] == ["measured", "formula"]
    assert "formula 10.0 to 40.0 tokens/s" in repr(figure)


@pytest.mark.parametrize("measured", [{}, {0: 0.0, 4: 3.0}])
def test_a_split_without_speeds(measured: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="tokens/s above 0"):
        plot_split(measured, {"f": lambda n: 1.0}, title="T")
    with pytest.raises(ValueError, match="1 to 3 functions, not 0"):
        plot_split({0: 1.0}, {}, title="T")
