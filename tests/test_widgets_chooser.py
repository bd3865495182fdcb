"""`ModelChooser`: what it shows is what `recommend` says, and nothing it meets escapes it."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator

import ipywidgets as widgets
import matplotlib.image
import pytest

import helpers
from helpers import Device, ModelChooser, recommend
from helpers.models import CATALOGUE
from helpers.widgets.choice import choose, code_for, runs_on, video_memory


@pytest.fixture
def chooser() -> Iterator[ModelChooser]:
    made = ModelChooser(ram_gib=16, vram_gib=0)
    yield made
    made.box.close()


def cells(table: str) -> list[list[str]]:
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]
    ]


def test_the_choice_is_recommend_s() -> None:
    choice = choose(16, 8, "code", 8192)
    expected = recommend(16 * 1024, 8 * 1024, "code", n_ctx=8192)
    assert list(choice.fitting) == expected
    assert {one.model.name for one in expected} | set(choice.too_large) == set(CATALOGUE)
    assert "llama-3.3-70b" in choice.too_large and "llama-3.3-70b" in choice.message
    rows = cells(choice.table())
    assert [row[0] for row in rows] == [str(one.rank) for one in expected]
    assert rows[0][1:4] == [expected[0].model.title, expected[0].quantization, runs_on(expected[0])]
    assert rows[0][6] == f"{expected[0].total_mib:,.0f}" and rows[0][7] == expected[0].reason
    figure = choice.figure()
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [one.total_mib for one in expected]
    assert str(choice).count("\n") == len(expected)


def test_a_mixture_says_where_its_experts_are() -> None:
    choice = choose(32, 8, "code", 16_384)
    mixture = next(one for one in choice.fitting if one.n_cpu_moe)
    where = f"GPU, n_cpu_moe={mixture.n_cpu_moe}"
    assert runs_on(mixture) == where and where in str(choice) and where in choice.table()
    assert f"    n_cpu_moe={mixture.n_cpu_moe},\n)" in code_for(mixture)
    dense = next(one for one in choice.fitting if not one.n_cpu_moe)
    assert "n_cpu_moe" not in code_for(dense)
    compile(code_for(mixture), "code", "exec")


def test_sliders_change_everything_that_is_shown(chooser: ModelChooser) -> None:
    small = chooser.message.value, chooser.table.value, chooser.plot.value, chooser.code.value
    chooser.ram.value = 64
    after = chooser.message.value, chooser.table.value, chooser.plot.value, chooser.code.value
    assert all(one != other for one, other in zip(small, after, strict=True))
    assert chooser.choice == choose(64, 0, "chat", 4096)
    chooser.vram.value = 24
    assert chooser.chosen is not None and "gpu" in chooser.chosen.placement
    chooser.purpose.value = "teaching"
    assert chooser.chosen.name != choose(64, 24, "teaching", 4096).fitting[-1].name
    chooser.context.value = 32_768
    assert chooser.choice == choose(64, 24, "teaching", 32_768)
    assert chooser.chosen.n_ctx <= 32_768


def test_a_pick_stays_as_long_as_it_fits(chooser: ModelChooser) -> None:
    assert chooser.pick.value == chooser.choice.fitting[0].name == chooser.chosen.name
    chooser.pick.value = chooser.choice.fitting[1].name
    kept = chooser.chosen
    assert html.escape(code_for(kept)) in chooser.code.value
    chooser.context.value = 2048
    assert chooser.chosen.name == kept.name and chooser.chosen.n_ctx == 2048
    assert "n_ctx=2048" in chooser.code.value


def test_the_code_runs_with_the_model_that_is_there(chooser: ModelChooser) -> None:
    chooser.purpose.value = "teaching"
    chooser.context.value = 1024
    assert chooser.chosen.name == "smollm2-135m"
    scope: dict[str, object] = {}
    exec(code_for(chooser.chosen), scope)
    llm = scope["llm"]
    assert isinstance(llm, helpers.LlamaCpp)
    assert llm.load_report.n_ctx == 1024
    llm.close()


def test_too_little_memory_is_said_and_comes_back(chooser: ModelChooser) -> None:
    chooser.ram.value = 0.5
    assert "Nothing fits" in chooser.message.value
    assert chooser.chosen is None and chooser.pick.options == ()
    assert chooser.plot.value == chooser.table.value == chooser.code.value == ""
    chooser.ram.value = 16
    assert chooser.chosen is not None and "Best" in chooser.message.value


def test_errors_are_shown_in_the_widget(chooser: ModelChooser) -> None:
    chooser.ram.min = -10
    chooser.ram.value = -5  # what `recommend` refuses
    assert "This did not work: ram_mib" in chooser.message.value
    assert chooser.choice is None and chooser.chosen is None
    assert "nothing to show" in str(chooser)


def test_it_begins_with_this_machine() -> None:
    chooser = ModelChooser(purpose="code", n_ctx=5000)
    memory = helpers.environment_summary().memory_gib
    assert chooser.ram.value == pytest.approx(memory, abs=0.5)
    assert chooser.context.value == 5000 and chooser.purpose.value == "code"
    chooser.box.close()


def test_a_mac_has_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Device("MTL0", "Apple M2", "gpu", "MTL", 10_923, 10_922)
    assert video_memory([mac]) == (10_923 / 1024, True)
    card = Device("CUDA0", "a card", "gpu", "CUDA", 8192, 8000)
    assert video_memory([card, card]) == (16, False)
    assert video_memory([Device("CPU", "", "cpu", "CPU", 16_384, 9000)]) == (0, False)
    monkeypatch.setattr("helpers.widgets.chooser.devices", lambda: [mac])
    chooser = ModelChooser(ram_gib=16)
    assert chooser.unified.value and chooser.vram.value == 10.5
    assert chooser.choice == choose(16, 10.5, "chat", 4096, unified=True)
    once = str(chooser)
    chooser.unified.value = False
    assert chooser.choice == choose(16, 10.5, "chat", 4096)
    assert str(chooser) != once
    chooser.box.close()


def test_it_can_be_used_without_a_mouse_and_without_eyes(chooser: ModelChooser) -> None:
    parts = chooser.box.children
    controls = [part for part in parts if not isinstance(part, widgets.HTML)]
    assert len(controls) == 6
    assert all(type(part).__module__.startswith("ipywidgets") for part in parts)
    assert all(part.description and not part.disabled for part in controls)
    assert 'role="status"' in chooser.message.value
    alt = re.search(r'<img alt="([^"]+)"', chooser.plot.value)
    assert alt and chooser.chosen.name in html.unescape(alt[1])
    png = re.search(r"base64,([^\"]+)", chooser.plot.value)
    assert png is not None
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(png[1])))
    assert pixels.ndim == 3 and pixels.std() > 0


def test_where_there_are_no_widgets_the_text_says_the_same(chooser: ModelChooser) -> None:
    bundle = chooser._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == str(chooser) == str(chooser.choice)
