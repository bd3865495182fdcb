"""The layer tuner: its logic as a plain object, then the widgets as a reader would use them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import Device, DeviceError, GpuTuner, ModelFileError, practice_accelerator
from helpers.bench import Cancelled
from helpers.widgets.tuning import Tuning, kept_file, memory_html
from tests.support import model_children, wait_for

QUICK: dict[str, Any] = {"prompt_tokens": 16, "new_tokens": 4, "repeats": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with practice_accelerator() as found:
        yield found


@pytest.fixture
def tuner() -> Iterator[GpuTuner]:
    made = GpuTuner(n_ctx=512, **QUICK)
    yield made
    made.close()


# -- logic ----------------------------------------------------------------------------------------


def test_plans_trials_and_the_best_of_them(device: Device) -> None:
    logic = Tuning(devices=[device], **QUICK)
    assert logic.n_layers == 31
    assert logic.contexts()[-1] == 8192
    plan = logic.plan(10, 512, 512, "f16")
    assert plan.n_gpu_layers == 10 and plan.fits and not plan.estimated
    assert logic.code(512, "eval") == "" and logic.best(512, "eval") is None
    row = logic.measure(10, 512, 128, "q8_0")
    assert row.ok and row.n_gpu_layers == 10 and row.n_batch == 128
    # What was predicted is what the trial reported.
    said = logic.plan(10, 512, 128, "q8_0")
    assert sum(row.memory["RPC0"].values()) == pytest.approx(said.needed_mib(device.name), abs=2)
    assert logic.result(512).rows == [row]
    assert logic.result(1024).rows == []  # another context, another history
    assert 'n_gpu_layers=10, n_batch=128, type_k="q8_0"' in logic.code(512, "eval")


def test_a_search_keeps_its_rows_and_can_be_cancelled(device: Device) -> None:
    logic = Tuning(devices=[device], **QUICK)
    stop = threading.Event()
    rows = []

    def on_row(row: Any) -> None:
        rows.append(row)
        if len(rows) == 2:
            stop.set()

    found = logic.find_best(512, "eval", cancel=stop, on_row=on_row)
    assert found.stopped == "cancelled"
    assert logic.result(512).rows == rows and len(rows) == 2
    with pytest.raises(Cancelled):
        logic.measure(3, 512, 512, "f16", cancel=stop)
    assert not model_children()


def test_the_best_settings_are_found_again(device: Device) -> None:
    logic = Tuning(devices=[device], **QUICK)
    assert logic.kept() is None and logic.keep(512, "eval") is None
    row = logic.measure(7, 512, 128, "f16")
    assert row.eval_per_second is not None
    kept = logic.keep(512, "eval")
    assert kept is not None and kept.settings.n_gpu_layers == 7
    assert Tuning(devices=[device], **QUICK).kept() == kept
    assert kept.eval_per_second == row.eval_per_second
    slower = dataclasses.replace(row, n_gpu_layers=9, eval_runs=(row.eval_per_second / 2,))
    assert kept.beats(slower, 512, "eval") and not kept.beats(slower, 512, "prompt")
    faster = dataclasses.replace(slower, eval_runs=(row.eval_per_second * 2,))
    assert not kept.beats(faster, 512, "eval") and not kept.beats(slower, 1024, "eval")
    assert Tuning(**QUICK).kept() is None  # without the device it is another machine
    for damage in ("{", "[]", json.dumps({logic._key(): {"settings": 3}})):
        kept_file().write_text(damage)
        assert logic.kept() is None
    logic.keep(512, "eval")
    assert logic.kept() == kept
    text = kept_file().read_text()
    assert "127.0.0.1" not in text and str(Path.home()) not in text


def test_bars_say_in_words_what_they_show(device: Device) -> None:
    with practice_accelerator(64) as small:
        logic = Tuning(devices=[small], **QUICK)
        good = memory_html(logic.plan(2, 512, 512, "f16"))
        bad = memory_html(logic.plan(31, 512, 512, "f16"))
    assert "✓ it fits" in good and "#D1242F" not in good
    assert "✗ it does not fit" in bad and "MiB too many" in bad and "#D1242F" in bad
    assert "is the most that fits" in bad
    for html in (good, bad):
        assert 'role="status"' in html
        assert all(word in html for word in ("weights", "KV cache", "compute buffers"))


def test_a_wide_search_has_rows_of_its_own() -> None:
    logic = Tuning(**QUICK)
    plain = logic.measure(0, 512, 512, "f16")
    logic.keep(512, "eval")
    logic.wide = True
    assert logic.result(512).rows == [] and logic.kept() is None
    stop = threading.Event()
    rows: list[Any] = []

    def on_row(row: Any) -> None:
        rows.append(row)
        if len({(row.type_kv, row.speculate, row.n_threads) for row in rows}) > 3:
            stop.set()

    found = logic.find_best(512, "eval", cancel=stop, on_row=on_row)
    grid = {(row.type_kv, row.speculate) for row in rows}
    assert found.setup["quoting"] and len(grid) > 1, grid
    assert found.planned >= 32 and logic.result(512).rows
    logic.wide = False
    assert logic.result(512).rows == [plain]


# -- widgets --------------------------------------------------------------------------------------


def test_the_box_stays_as_it_is_while_something_is_measured(tuner: GpuTuner) -> None:
    tuner.find_button.click()
    assert tuner.wide.disabled
    tuner.wide.value = True
    assert tuner.wide.value is False and "Cancel the measurement first" in tuner.message.value
    tuner.cancel()
    tuner.wait(60)
    tuner.wide.value = True
    assert tuner.wide.value and not tuner.wide.disabled and tuner.result.setup["quoting"]


def test_without_a_device_it_offers_the_practice_accelerator(tuner: GpuTuner) -> None:
    assert tuner.layers.disabled and tuner.layers.value == 0
    assert "practice accelerator" in tuner.message.value
    tuner.practice.value = True
    assert not tuner.layers.disabled and tuner.layers.max == 31
    assert "makes nothing faster" in tuner.message.value
    shown = tuner.memory.value
    tuner.layers.value = 12
    assert tuner.plan is not None and tuner.plan.n_gpu_layers == 12
    assert tuner.memory.value != shown and "12 of 31 layers" in tuner.memory.value
    pid = tuner._accelerator.pid if tuner._accelerator else None
    tuner.practice.value = False
    assert tuner.layers.disabled and tuner.plan.n_gpu_layers == 0
    assert pid is not None and not psutil.pid_exists(pid)


def test_a_small_device_turns_the_bar_red(tuner: GpuTuner) -> None:
    tuner.practice.value = True
    tuner.practice_memory.value = 64
    tuner.layers.value = 31
    assert tuner.plan is not None and not tuner.plan.fits
    assert "does not fit" in tuner.memory.value
    tuner.layers.value = 3
    assert tuner.plan.fits and "does not fit" not in tuner.memory.value


def test_measure_adds_a_row_a_plot_and_code(tuner: GpuTuner) -> None:
    tuner.practice.value = True
    tuner.layers.value = 5
    assert tuner.history.value == "" and tuner.plot.value == ""
    tuner.code_button.click()
    assert "click Measure first" in tuner.message.value
    row = tuner.measure()
    assert row is not None and row.n_gpu_layers == 5
    assert "n_gpu_layers=5" in tuner.message.value
    assert tuner.history.value.count("<tr") == 2 and "<img" in tuner.plot.value
    tuner.code_button.click()
    assert tuner.code.layout.display != "none"
    assert re.fullmatch(r"llm = LlamaCpp\(.*n_gpu_layers=5.*\)", tuner.code.value)
    again = GpuTuner(n_ctx=512, **QUICK)
    again.practice.value = True
    assert "were the best" in again.message.value and again.layers.value == 5
    again.close()


def test_the_button_measures_in_a_thread_and_cancel_ends_it(tuner: GpuTuner) -> None:
    tuner.measure_button.click()
    assert tuner.measure_button.disabled and not tuner.cancel_button.disabled
    assert tuner.measure() is None  # one at a time
    assert "in progress" in tuner.message.value
    assert wait_for(model_children)
    tuner.cancel_button.click()
    tuner.wait(240)
    assert not model_children()
    assert "Cancelled" in tuner.message.value
    assert tuner.cancel_button.disabled and not tuner.measure_button.disabled
    assert tuner.result.rows == []
    tuner.measure_button.click()
    tuner.wait(240)
    assert len(tuner.result.rows) == 1


def test_a_device_that_vanishes_during_a_trial_is_a_row_with_its_reason() -> None:
    accelerator = practice_accelerator()
    device = accelerator.start()
    tuner = GpuTuner(devices=[device], n_ctx=512, prompt_tokens=400, new_tokens=100, repeats=3)
    tuner.layers.value = 31
    tuner.measure_button.click()
    assert wait_for(lambda: "measuring 1" in tuner.message.value)
    assert accelerator.pid is not None
    os.kill(accelerator.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    tuner.wait(240)
    (row,) = tuner.result.rows
    assert not row.ok and "RPC server was lost" in row.reason
    assert "gave no result" in tuner.message.value
    tuner.layers.value = 4  # and from now on the plan says what has happened
    assert isinstance(tuner.failure, DeviceError)
    assert "Start it again" in tuner.message.value
    tuner.close()
    accelerator.close()


def test_two_tuners_take_turns() -> None:
    tuners = [GpuTuner(n_ctx=512, **QUICK) for _ in range(2)]
    for tuner in tuners:
        tuner.measure_button.click()
    seen = 0
    while any(tuner.measure_button.disabled for tuner in tuners):
        seen = max(seen, len(model_children()))
        time.sleep(0.01)
    assert seen == 1
    assert [len(tuner.result.rows) for tuner in tuners] == [1, 1]
    for tuner in tuners:
        tuner.close()


def test_find_the_best_sets_the_sliders(tuner: GpuTuner) -> None:
    best = tuner.find_best()
    assert best is not None and best.n_gpu_layers == 0 == tuner.layers.value
    assert tuner.batch.value == best.n_batch
    assert "Best of" in tuner.message.value
    assert tuner.code.value.startswith("llm = LlamaCpp(")


def test_what_is_read_where_there_are_no_widgets(tuner: GpuTuner) -> None:
    text = tuner._repr_mimebundle_()["text/plain"]
    assert "0 of 31 layers on devices" in text
    tuner.measure()
    assert "tokens/s" in tuner._repr_mimebundle_()["text/plain"]


def test_bad_beginnings() -> None:
    with pytest.raises(ModelFileError):
        GpuTuner("no-such-model.gguf")
    with pytest.raises(TypeError, match="not a Device"):
        GpuTuner(devices=["CUDA0"])  # type: ignore[list-item]
