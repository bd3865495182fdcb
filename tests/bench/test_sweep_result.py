"""A result without a model: the best row, the table, the data frame, the line of code."""

from __future__ import annotations

import math

import pytest

from helpers import SweepResult
from helpers.bench import SweepRow

MODEL = {"file": "m.gguf", "n_layers": 31, "code": "default_model()"}
SETUP = {
    "prompt_tokens": 8,
    "new_tokens": 4,
    "repeats": 3,
    "n_ctx": 4096,
    "n_ctx_given": False,
    "default_threads": 2,
    "devices": None,
}


def row(layers: int, speed: float, prompt: float, **settings: object) -> SweepRow:
    return SweepRow(
        n_gpu_layers=layers,
        eval_runs=(speed * 0.9, speed, speed * 1.2),
        prompt_runs=(prompt, prompt, prompt),
        **{"n_threads": 2, **settings},  # type: ignore[arg-type]
    )


def result(*rows: SweepRow, **changes: object) -> SweepResult:
    values = {"model": MODEL, "setup": SETUP, "rows": list(rows), "planned": len(rows)}
    return SweepResult(**{**values, **changes})  # type: ignore[arg-type]


def test_the_best_row_depends_on_the_goal() -> None:
    quick, middle, reader = row(0, 100, 100), row(8, 80, 500), row(31, 40, 900)
    every = result(quick, middle, reader)
    assert every.best() is quick
    assert every.best("prompt") is reader
    assert every.best("both") is middle
    assert every.best(1.0) is quick and every.best(0) is reader
    every.goal = "prompt"
    assert every.best() is reader


def test_rows_that_differ_by_less_than_noise_are_told_apart_by_the_other_speed() -> None:
    lucky, better = row(0, 100, 100, n_batch=64), row(0, 99, 400, n_batch=512)
    assert result(lucky, better).best() is better
    assert result(lucky, row(0, 97, 400)).best() is lucky  # 3 % is more than noise


def test_failed_rows_are_never_the_best() -> None:
    failed = SweepRow(n_gpu_layers=31, reason="out of memory: no")
    fine = row(0, 1, 1)
    assert result(failed, fine).best() is fine
    assert failed.score() == -math.inf


def test_a_weighted_goal_does_not_depend_on_units() -> None:
    one, other = row(0, 100, 1000), row(8, 50, 2100)
    assert one.score(0.5) == pytest.approx(math.log(math.sqrt(100 * 1000)))
    assert result(one, other).best("both") is other


def test_the_code_names_what_differs_from_the_defaults() -> None:
    assert result(row(31, 1, 1)).code() == (
        "llm = LlamaCpp(model_path=default_model(), n_gpu_layers=31, n_batch=512)"
    )
    odd = result(
        row(3, 1, 1, n_threads=7, type_kv="q8_0"),
        setup={**SETUP, "n_ctx_given": True, "devices": ["CUDA1"]},
    )
    assert odd.code() == (
        "llm = LlamaCpp(model_path=default_model(), n_gpu_layers=3, n_batch=512, n_threads=7, "
        'type_k="q8_0", type_v="q8_0", n_ctx=4096, '
        "devices=[d for d in devices() if d.name in ['CUDA1']])"
    )
    practice = result(row(3, 1, 1), setup={**SETUP, "devices": ["RPC0"]})
    assert practice.code().endswith("devices=[device])")


def test_a_data_frame_has_plain_columns() -> None:
    frame = result(row(0, 100, 50), SweepRow(n_gpu_layers=31, reason="timed out")).to_dataframe()
    assert list(frame["n_gpu_layers"]) == [0, 31]
    assert frame["eval_low"][0] == pytest.approx(90)
    assert frame["eval_high"][0] == pytest.approx(120)
    assert math.isnan(frame["eval_per_second"][1])
    assert frame["reason"][1] == "timed out"
    assert result().to_dataframe().empty


def test_tables_show_every_row_and_mark_the_best() -> None:
    cruel = SweepRow(n_gpu_layers=31, reason="<script>" + "long " * 40)
    table = result(row(0, 100, 50), cruel, notes=["a note"], stopped="interrupted", planned=9)
    text = str(table)
    assert "100.0 (90.0 to 120.0)" in text
    assert "interrupted after 2 of 9 settings" in text and "note: a note" in text
    assert "best for eval: llm = LlamaCpp(" in text
    assert max(map(len, text.splitlines())) < 120
    html = table._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert html.count("<tr") == 3 and "★ best" in html
    assert repr(table) == "<SweepResult: 1 of 2 trials with a result>"
    assert "0 of 0 settings" in str(result())


def test_two_trials_of_one_point_are_pooled() -> None:
    first, second = row(0, 100, 50), row(0, 110, 60)
    both = first.pooled(second)
    assert both.repeats == 6
    assert first.pooled(SweepRow(reason="timed out")).reason == "timed out"
