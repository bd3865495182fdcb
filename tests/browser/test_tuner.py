"""Notebook 30 in JupyterLab, and its tuner in Voilà: keys, clicks, pictures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.notebook_page import SCREENSHOTS, NotebookPage
from tests.support import model_children

NOTEBOOK = "30_tune_gpu_layers.ipynb"
CELL = """\
from helpers import GpuTuner, practice_accelerator
accelerator = practice_accelerator(100)
device = accelerator.start()
GpuTuner(devices=[device], n_ctx=1024, prompt_tokens=32, new_tokens=4, repeats=1)"""


class Tuner:
    """The widget's parts, found by what they are called on the screen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.locator(".gpu-tuner")
        self.memory = self.box.locator(".gpu-tuner-memory")

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def slide(self, *keys: str) -> None:
        """Move the slider of the layers by keys alone."""
        handle = self.box.locator(".widget-slider").first.locator(".noUi-handle")
        handle.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def rows(self) -> Locator:
        return self.box.locator("tbody tr").filter(has_text=re.compile(r"f16"))

    def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.box.screenshot(path=SCREENSHOTS / f"tuner_{name}.png")


@pytest.mark.timeout(400)
def test_notebook_30_is_worked_with_as_a_reader_would(page: Page, lab: str) -> None:
    notebook = NotebookPage(page, lab, NOTEBOOK)
    notebook.clear()
    notebook.run_all(timeout_s=240)
    assert notebook.errors() == []
    tuner = Tuner(page)
    tuner.box.scroll_into_view_if_needed()
    held = model_children(recursive=True)  # models that the notebook's own cells keep

    # The memory answers while the slider moves.
    tuner.slide("Home")
    expect(tuner.memory).to_contain_text("0 of 31 layers")
    tuner.slide("End")
    expect(tuner.memory).to_contain_text("31 of 31 layers")
    tuner.slide("ArrowLeft", "ArrowLeft", "ArrowLeft")
    expect(tuner.memory).to_contain_text("28 of 31 layers")
    tuner.picture("moved")

    before = tuner.rows().count()
    picture = tuner.box.locator("img").last.get_attribute("src")
    tuner.button("Measure").press("Enter")
    expect(tuner.rows()).to_have_count(before + 1, timeout=60_000)
    expect(tuner.box).to_contain_text("n_gpu_layers=28")
    assert picture is not None
    expect(tuner.box.locator("img").last).not_to_have_attribute("src", picture)
    expect(tuner.button("Measure")).to_be_enabled()
    tuner.picture("measured")

    tuner.button("Copy code").press("Enter")
    line = re.compile(r"^llm = LlamaCpp\(model_path=default_model\(\), n_gpu_layers=\d+")
    expect(tuner.box.locator("textarea")).to_have_value(line)

    # Cancel during a search: it stops, and the trial's process is gone.
    tuner.button("Find the best").press("Enter")
    deadline = time.monotonic() + 60
    while len(model_children(recursive=True)) <= len(held):
        assert time.monotonic() < deadline, "no trial has begun"
        page.wait_for_timeout(20)
    tuner.button("Cancel").press("Enter")
    expect(tuner.box).to_contain_text("Cancelled", timeout=10_000)
    expect(tuner.button("Cancel")).to_be_disabled()
    assert set(model_children(recursive=True)) == set(held)
    tuner.picture("cancelled")
    notebook.screenshot("tune_gpu_layers")
    assert notebook.errors() == []


@pytest.mark.timeout(600)
def test_the_tuner_in_voila(page: Page, voila: Callable[..., str]) -> None:
    page.goto(voila(CELL), timeout=90_000)
    tuner = Tuner(page)
    expect(tuner.box).to_be_visible(timeout=90_000)
    tuner.slide("End")
    expect(tuner.memory).to_contain_text("does not fit")
    tuner.picture("voila_too_large")
    tuner.slide("Home", "ArrowRight", "ArrowRight", "ArrowRight")
    expect(tuner.memory).to_contain_text("it fits: 3 of 31 layers")
    tuner.button("Measure").click()
    expect(tuner.rows()).to_have_count(1, timeout=60_000)
    tuner.picture("voila_measured")
    tuner.button("What helps me?").click()
    expect(tuner.box).to_contain_text("What helps here is drawn below", timeout=300_000)
    expect(tuner.box.get_by_text("flash_attn=False").first).to_be_visible()
    tuner.picture("voila_levers")
