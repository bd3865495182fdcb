"""Figures of sweeps, memory and comparisons: the numbers behind them, readable without colour."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from helpers import (
    HelpersError,
    MemoryPlan,
    SweepResult,
    Timings,
    plot_compare,
    plot_memory,
    plot_sweep,
    predict_memory,
)
from helpers.bench import SweepRow
from helpers.engine import LoadReport
from helpers.plots import SEED_FIGURES


def row(layers: int, batch: int, speed: float | None, **changes: Any) -> SweepRow:
    values: dict[str, Any] = {"n_gpu_layers": layers, "n_batch": batch, "n_threads": 2}
    if speed is not None:
        values["eval_runs"] = (speed * 0.9, speed, speed * 1.2)
        values["prompt_runs"] = (speed * 10,)
    return SweepRow(**{**values, **changes})


def result(*extra: SweepRow) -> SweepResult:
    rows = [row(0, 128, 50.0), row(15, 128, 40.0), row(31, 128, 90.0)]
    rows += [row(0, 512, 51.0), row(15, 512, 41.0), row(31, 512, None, reason="out of memory: no")]
    return SweepResult(rows=[*rows, *extra])


def legend(figure: Figure, panel: int = 0) -> list[str]:
    found = figure.axes[panel].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


# --- plot_sweep ----------------------------------------------------------------------------------


def test_a_line_for_each_batch_goes_through_the_medians_with_their_spread() -> None:
    (axes,) = plot_sweep(result(), speed="eval").axes
    lines = {c.get_label(): c for c in axes.containers}
    assert list(lines) == ["n_batch 128", "n_batch 512"]
    line, caps, _ = lines["n_batch 128"].lines
    assert list(line.get_xdata()) == [0, 15, 31]
    assert list(line.get_ydata()) == [50, 40, 90]
    assert list(caps[0].get_ydata()) == pytest.approx([45, 36, 81])
    assert list(caps[1].get_ydata()) == pytest.approx([60, 48, 108])
    other = lines["n_batch 512"].lines[0]
    assert list(other.get_ydata()) == [51, 41]
    assert line.get_linestyle() != other.get_linestyle()
    assert line.get_marker() != other.get_marker()
    assert axes.get_xlabel() == "n_gpu_layers"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "15", "31"]


def test_failed_trials_are_marked_in_the_colour_of_their_line_and_told() -> None:
    timed = row(31, 2048, None, reason="timed out after 3 s, while loading")
    figure = plot_sweep(result(timed, row(0, 2048, 49.0)), speed="eval")
    axes = figure.axes[0]
    marks = [line for line in axes.lines if line.get_gid()]
    assert {mark.get_gid() for mark in marks} == {"out of memory: no", timed.reason}
    assert len({mark.get_marker() for mark in marks}) == 2
    assert all(list(mark.get_xdata()) == [31] for mark in marks)
    second = axes.containers[1].lines[0]
    assert to_hex(marks[0].get_color()) == to_hex(second.get_color())
    assert {"no result: out of memory", "no result: timed out"} <= set(legend(figure))
    figure.draw_without_rendering()
    heights = [mark.get_window_extent().y0 for mark in marks]
    assert heights[0] != heights[1]  # two at one place stand above each other


def test_the_best_has_a_ring_in_the_panel_of_its_goal_alone() -> None:
    figure = plot_sweep(result())
    prompt, generation = figure.axes
    assert "best" in legend(figure, 1) and "best" not in legend(figure, 0)
    figure.canvas.draw()
    heights = [axes._left_title.get_window_extent().y0 for axes in figure.axes]
    assert heights[0] == pytest.approx(heights[1], abs=1), "titles stand at one height"
    ring = next(line for line in generation.lines if line.get_label() == "best")
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([31], [90])
    assert prompt.get_title(loc="left") == "Prompt eval"
    assert "6 trials, up to 90.0 tokens/s" in repr(figure)


def test_without_layers_the_batch_is_drawn_along() -> None:
    sweep = SweepResult(rows=[row(0, 64, 10.0), row(0, 512, 20.0)])
    axes = plot_sweep(sweep, speed="eval").axes[0]
    assert axes.get_xlabel() == "n_batch"
    assert {label.get_text() for label in axes.get_xticklabels()} == {"64", "512"}
    assert plot_sweep(SweepResult(rows=[row(0, 64, 10.0)])).axes[0].get_xlabel() == "n_gpu_layers"


def test_a_sweep_of_failures_alone_can_be_drawn() -> None:
    failed = SweepResult(rows=[row(31, 64, None, reason="the process ended (SIGKILL): it")])
    assert "no result: process died" in legend(plot_sweep(failed))


def test_a_heat_map_has_a_number_or_a_reason_in_each_cell() -> None:
    figure = plot_sweep(result(), speed="eval", heat=("n_gpu_layers", "n_batch"))
    (axes,) = figure.axes
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["50", "51", "40", "41", "90", "✗\nout\nof\nmemory"]
    assert axes.images[0].get_array().shape == (2, 3)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("n_gpu_layers", "n_batch")
    assert "5 cells, up to 90.0" in repr(figure)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        plot_sweep(SweepResult())
    with pytest.raises(ValueError, match="'layers' is not a setting: use one of n_gpu_layers"):
        plot_sweep(result(), x="layers")
    many = SweepResult(rows=[row(n, 2**b, 1.0) for n in (0, 1) for b in range(7)])
    with pytest.raises(ValueError, match=r"7 lines .* heat=\('n_gpu_layers', 'n_batch'\)"):
        plot_sweep(many)
    third = result(row(0, 128, 1.0, type_kv="q8_0"))
    with pytest.raises(ValueError, match="type_kv varies too"):
        plot_sweep(third, heat=("n_gpu_layers", "n_batch"))
    with pytest.raises(ValueError, match="1 Axes were given for 2 speeds"):
        plot_sweep(result(), ax=Figure().subplots())


# --- plot_memory ---------------------------------------------------------------------------------


def plan(free: float, reclaimable: float = 0.0) -> MemoryPlan:
    return MemoryPlan(
        model="m.gguf",
        n_ctx=4096,
        n_batch=512,
        by_device={
            "CPU": {"weights": 90.0, "kv": 10.0, "compute": 5.0},
            "CUDA0": {"weights": 600.0, "kv": 300.0, "compute": 100.0},
        },
        free_mib={"CPU": 20_000.0, "CUDA0": free},
        margin_mib={"CPU": 0.0, "CUDA0": 128.0},
        reclaimable_mib={"CUDA0": reclaimable},
        n_gpu_layers=20,
        n_layers=31,
    )


def test_bars_are_stacked_by_kind() -> None:
    figure = plot_memory(plan(2000.0))
    axes = figure.axes[0]
    stacks = [[(bar.get_x(), bar.get_width()) for bar in group] for group in axes.containers]
    assert stacks == [[(0, 90), (0, 600)], [(90, 10), (600, 300)], [(100, 5), (900, 100)]]
    assert len({group[0].get_hatch() for group in axes.containers}) == 3
    assert axes.get_title(loc="left") == "Memory, 20 of 31 layers on devices"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CPU", "CUDA0"]
    assert "CUDA0 1,000 of 2,000 MiB free, ✓ fits" in repr(figure)


@pytest.mark.parametrize(("free", "lacks"), [(2000, 0), (1128, 0), (1127, 1), (900, 228)])
def test_the_limit_is_drawn_and_what_is_beyond_it_is_framed_and_said(free: int, lacks: int) -> None:
    figure = plot_memory(plan(free))
    axes = figure.axes[0]
    limits = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert [list(line.get_xdata()) for line in limits] == [[free, free]]  # the CPU's is far away
    framed = [patch for patch in axes.patches if patch.get_hatch() == "xx"]
    assert len(framed) == (1 if lacks else 0)
    assert (f"✗ {lacks} MiB short" in texts(figure)) == bool(lacks)
    assert ("1,000 of" in texts(figure)) and ("105 of 20,000 MiB free, ✓ fits" in texts(figure))
    if framed:
        assert framed[0].get_x() == free - 128
        assert framed[0].get_x() + framed[0].get_width() == 1000
    assert "end of free memory" in legend(figure) and "to stay free" in legend(figure)


@pytest.mark.parametrize(("free", "lacks"), [(2000, 0), (1000, 0), (828, 0), (700, 128)])
def test_the_verdict_is_the_plan_s(free: int, lacks: int) -> None:
    told = plan(free, reclaimable=300.0)
    assert told.fits == (not lacks) and told.lacking_mib.get("CUDA0", 0) == lacks
    figure = plot_memory(told)
    crossed = [patch for patch in figure.axes[0].patches if patch.get_hatch() == "xx"]
    assert [patch.get_width() for patch in crossed] == [lacks] * bool(lacks)
    assert ("MiB short" in texts(figure)) == (not told.fits)
    assert ("(300 can be dropped), ✓ fits" in texts(figure)) == (told.fits and free < 1128)


def test_a_real_plan_and_a_report_stand_below_each_other() -> None:
    predicted = predict_memory(n_gpu_layers=0, devices=[], n_ctx=512)
    measured = {device: dict(kinds) for device, kinds in predicted.by_device.items()}
    report = LoadReport("m.gguf", "llama", 512, 512, 0, 31, by_device=measured)
    figure = plot_memory({"predicted": predicted, "measured": report})
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["CPU\npredicted", "CPU\nmeasured"]
    first, second = (
        [bar.get_width() for bar in group] for group in zip(*axes.containers, strict=True)
    )
    assert first == second == pytest.approx(list(predicted.by_device["CPU"].values()))
    assert "MiB free" in texts(figure)
    assert "free" not in texts(plot_memory(report))
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_memory({})


# --- plot_compare --------------------------------------------------------------------------------


def test_the_seed_s_own_figures_are_shown_by_default() -> None:
    figure = plot_compare()
    (axes,) = figure.axes
    assert [round(bar.get_width(), 2) for bar in axes.patches] == [25.12, 36.01]
    assert texts(figure).splitlines() == ["25.1", "36.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(SEED_FIGURES)
    assert [round(t.total_ms or 0) for t in SEED_FIGURES.values()] == [11332, 5294]


def test_recorded_results_are_compared_side_by_side_with_their_spread() -> None:
    figure = plot_compare({"CPU": row(0, 512, 50.0), "GPU": result(), "by hand": 36.0})
    prompt, generation = figure.axes
    assert [bar.get_width() for bar in generation.patches] == [50.0, 90.0, 36.0]
    assert [bar.get_width() for bar in prompt.patches] == [500.0, 900.0, 0.0]
    assert "not measured" in texts(figure)
    spreads = [list(line.get_xdata()) for line in generation.lines]
    assert spreads[0] == pytest.approx([45, 60])
    assert len(plot_compare({"a": result()}, speed="eval").axes) == 1


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_compare({})
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_compare({"call": Timings(total_ms=1.0)})
    with pytest.raises(HelpersError, match="no trial has been made"):
        plot_compare({"empty": SweepResult()})
    with pytest.raises(ValueError, match="1 Axes were given for 2 speeds"):
        plot_compare({"a": result()}, ax=Figure().subplots())
