"""Each setting alone against the default: every one is measured, kept, drawn; losses are named."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers import HelpersError, plot_levers, what_helps
from helpers.bench.grid import make_setup
from helpers.bench.levers import Lever, Levers, _twins_of, levers_for
from helpers.native import usable_cores
from helpers.widgets import GpuTuner

TINY: dict[str, Any] = {"prompt_tokens": 16, "new_tokens": 4, "n_ctx": 256, "rounds": 1}


@pytest.fixture(scope="module")
def found() -> Levers:
    return what_helps(**TINY)


def test_every_setting_is_measured_and_guesses_twice(found: Levers) -> None:
    setup = make_setup(
        None, prompt_tokens=16, new_tokens=4, repeats=1, n_ctx=256, chosen=None, timeout_s=60
    )
    names = {row.name for row in found.rows}
    assert {"flash_attn=False", "type_k=type_v=q8_0", "speculate=lookup"} <= names
    assert {"in Q4_0", "in Q8_0"} <= names
    assert len(names) == len(levers_for(setup, usable_cores())) + 2
    assert all(row.ratios and (row.ratio or 0) > 0 for row in found.rows), str(found)
    guesses = [row.what for row in found.rows if row.name.startswith("speculate")]
    assert guesses == ["free text", "repeating"]
    assert found.find("n_ubatch=64", "prompt").ratio
    with pytest.raises(KeyError, match="n_ubatch=64"):
        found.find("n_ubatch=64", "generation")


def test_it_is_kept_and_drawn(found: Levers, tmp_path: Path) -> None:
    found.save(tmp_path / "levers.json")
    assert Levers.load(tmp_path / "levers.json") == found
    text = (tmp_path / "levers.json").read_text()
    assert str(tmp_path) not in text and str(Path.home()) not in text
    with pytest.raises(HelpersError, match="cannot be read"):
        Levers.load(Path(__file__))
    labels = [label.get_text() for label in plot_levers(found).axes[0].get_yticklabels()]
    assert len(labels) == len(found.rows)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_levers(Levers("m", {}))


def test_verdicts_need_all_rounds() -> None:
    assert Lever("a", "prompt", (1.2, 1.1)).verdict == "faster"
    assert Lever("a", "prompt", (1.2, 0.9)).verdict == "no difference"
    assert Lever("a", "prompt", (0.8, 0.9)).verdict == "slower"
    assert Lever("a", "prompt", reason="out of memory").verdict == "out of memory"
    table = str(Levers("m", {}, [Lever("slow=1", "prompt", (0.5,))]))
    assert "slow=1" in table and "0.50" in table and "slower" in table


def test_devices_and_experts_have_settings_of_their_own() -> None:
    class Info:
        n_experts, n_layers = 8, 20

    class Made:
        offloads, n_layers, info = True, 21, Info

    names = [one for one, _ in levers_for(Made, 8)]  # type: ignore[arg-type]
    assert {one.n_gpu_layers for one in names} == {0, 10, 21}
    assert any(one.n_cpu_moe == 20 for one in names)


def test_cancelling_gives_what_there_is() -> None:
    stop = threading.Event()
    result = what_helps(**TINY | {"rounds": 2}, cancel=stop, on_row=lambda _: stop.set())
    assert result.stopped == "cancelled" and result.rows
    with pytest.raises(ValueError, match="rounds=0"):
        what_helps(rounds=0)
    with pytest.raises(TypeError, match=r"must be a list, such as \['lookup'\]"):
        what_helps(speculate="lookup")
    with pytest.raises(ValueError, match="mtp"):
        what_helps(speculate=["mtp"])
    with pytest.raises(TypeError, match=r"must be a list, such as \['Q8_0'\]"):
        what_helps(quantizations="Q8_0")
    with pytest.raises(TypeError, match="quantizations=7"):
        what_helps(quantizations=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Q9_9"):
        what_helps(quantizations=["Q9_9"])
    with pytest.raises(TypeError, match="what_helps"):
        plot_levers("levers")  # type: ignore[arg-type]


def test_a_copy_that_cannot_be_made_is_a_row_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    stop = threading.Event()
    result = what_helps(
        **TINY, quantizations=["Q8_0"] * 2, on_row=lambda _: stop.set(), cancel=stop
    )
    refused = result.find("in Q8_0", "copy")
    assert result.rows.count(refused) == 1
    assert not refused.ratios and "MiB" in refused.verdict
    assert list(tmp_path.iterdir()) == []


def test_large_models_are_not_copied_unasked() -> None:
    class Info:
        file_size, quantization = 3 << 30, "Q4_K_M"

    class Made:
        info = Info

    assert _twins_of(Made) == []  # type: ignore[arg-type]
    Info.file_size = 1 << 20
    assert _twins_of(Made) == ["Q4_0", "Q8_0"]  # type: ignore[arg-type]
    Info.quantization = "Q8_0"
    assert _twins_of(Made) == ["Q4_0"]  # type: ignore[arg-type]


def test_the_button_shows_the_table_and_the_plot() -> None:
    tuner = GpuTuner(n_ctx=512, prompt_tokens=16, new_tokens=4, repeats=1)
    try:
        tuner.levers_button.click()
        tuner.wait(300)
        assert tuner.failure is None, tuner.failure
        assert "flash_attn=False" in tuner.levers.value and "<img" in tuner.levers.value
        assert "drawn below" in tuner.message.value
    finally:
        tuner.close()
