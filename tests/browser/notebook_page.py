"""A notebook in JupyterLab, driven as a reader drives it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from playwright.sync_api import Page, expect

TOKEN = "browser-test"
SCREENSHOTS = Path(__file__).parent / "screenshots"


def write_notebook(file: Path, cell: str) -> None:
    """Make a notebook of one cell."""
    spec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), file)


class NotebookPage:
    """One notebook of a folder of the suite, opened in a browser tab."""

    def __init__(self, page: Page, lab: str, name: str, folder: str = "notebooks") -> None:
        self.page = page
        page.goto(f"{lab}/lab/tree/{folder}/{name}?token={TOKEN}&reset")
        page.locator(".jp-Notebook").wait_for()
        # The kernel is there and idle before anything is clicked; Run would ask for one otherwise.
        expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Python 3", timeout=60_000)
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()

    def menu(self, name: str, item: str) -> None:
        """Choose an item of the menu bar."""
        dialog = self.page.locator(".jp-Dialog")
        assert dialog.count() == 0, f"a question is in the way: {dialog.all_inner_texts()}"
        self.page.locator(".lm-MenuBar-item").get_by_text(name, exact=True).click()
        self.page.locator(".lm-Menu-item").get_by_text(item, exact=True).first.click()

    def clear(self) -> None:
        """Remove all outputs, so that what shows up later is of this run."""
        outputs = self.page.locator(".jp-OutputArea-output")
        for _ in range(10):  # a menu that is opened too early does nothing yet
            self.menu("Edit", "Clear Outputs of All Cells")
            self.page.wait_for_timeout(500)
            if outputs.count() == 0:
                return
        raise AssertionError(f"{outputs.count()} outputs are left")

    def run_all(self, timeout_s: float = 150) -> None:
        """Run every cell and wait until the last one is done."""
        begun = self.page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[(\*|\d+)\]"))
        for _ in range(10):  # a menu that is opened too early does nothing yet
            self.menu("Run", "Run All Cells")
            self.page.wait_for_timeout(1000)
            if begun.count():
                break
        # A folded solution shows no number; the last cell that is not folded does.
        prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)")
        last = prompts.nth(prompts.count() - 1)
        expect(last).to_have_text(re.compile(r"\[\d+\]"), timeout=timeout_s * 1000)
        self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()

    def errors(self) -> list[str]:
        """Texts of the error outputs and of what was written to stderr."""
        kinds = ("application/vnd.jupyter.error", "application/vnd.jupyter.stderr")
        found = [
            text
            for kind in kinds
            for text in self.page.locator(
                f'.jp-OutputArea-output[data-mime-type="{kind}"]'
            ).all_inner_texts()
        ]
        return [text for text in found if text.strip()]

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the window."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path
