"""Open notebooks in JupyterLab in a headless browser and run them as a reader does."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.notebook_page import NotebookPage
from tests.support import ROOT


@pytest.mark.timeout(300)
def test_the_first_notebook_runs_from_top_to_bottom(page: Page, lab: str) -> None:
    file = ROOT / "notebooks" / "00_start_here.ipynb"
    before = file.read_bytes()
    notebook = NotebookPage(page, lab, file.name)
    notebook.clear()
    notebook.run_all()

    assert notebook.errors() == []
    outputs = page.locator(".jp-OutputArea-output")
    checks = [text for text in outputs.all_inner_texts() if "✓" in text]
    assert len(checks) >= 5, checks
    figures = page.locator('.jp-OutputArea-output[data-mime-type="image/png"] img')
    assert figures.count() >= 1
    assert figures.first.evaluate("image => image.naturalWidth") > 400
    figures.first.scroll_into_view_if_needed()
    notebook.screenshot("00_start_here")
    assert file.read_bytes() == before, "the test changed the notebook on disk"
