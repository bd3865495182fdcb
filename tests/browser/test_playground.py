"""The grammar playground in JupyterLab, worked from the keyboard as a reader would."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.notebook_page import SCREENSHOTS, NotebookPage

CELL = """\
from helpers import GrammarPlayground, LlamaCpp, default_model
llm = LlamaCpp(model_path=default_model(), n_gpu_layers=0, temperature=0, n_ctx=1024)
GrammarPlayground(llm, max_tokens=20)"""


@pytest.fixture
def notebook(open_cell: Callable[[str], NotebookPage]) -> NotebookPage:
    return open_cell(CELL)


class Playground:
    """The widget's parts, found by what they are called on the screen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.locator(".grammar-playground")
        self.source = self.area("Grammar in GBNF")
        self.output = self.box.locator(".lm-TabPanel, .jupyter-widget-tab").first

    def area(self, title: str) -> Locator:
        return self.box.locator(f'textarea[title^="{title}"]')

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def write(self, place: Locator, text: str) -> None:
        """Replace a text by keys alone, as typed."""
        place.focus()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def tab(self, name: str) -> None:
        self.box.get_by_role("tab", name=name, exact=True).click()

    def picture(self, name: str) -> None:
        self.box.screenshot(path=SCREENSHOTS / f"playground_{name}.png")


@pytest.mark.timeout(300)
def test_a_grammar_is_edited_tried_and_generated_with(notebook: NotebookPage, page: Page) -> None:
    notebook.run_all()
    assert notebook.errors() == []
    playground = Playground(page)
    box = playground.box
    expect(box).to_contain_text("✓ a grammar of 2 rules")

    # A mistake is shown at its place while it is typed, and goes away when it is fixed.
    playground.write(playground.source, 'root ::= "yes" | maybe')
    expect(box).to_contain_text("line 1, column 18")  # from its first letter on
    message = box.locator('pre[role="status"]').filter(has_text="| maybe").inner_text()
    shown, caret = message.splitlines()[-2:]
    assert shown.strip() == 'root ::= "yes" | maybe'
    assert shown[caret.index("^") :] == "maybe"
    expect(box).to_contain_text("waits for a correct grammar")
    playground.picture("mistake")
    playground.page.keyboard.type('\nmaybe ::= [a-z]+ "?"')
    expect(box).to_contain_text("✓ a grammar of 2 rules")

    # Tab leads on to the texts; each is judged.
    for _ in range(10):
        page.keyboard.press("Tab")
        if playground.area("Texts to try").evaluate("area => area === document.activeElement"):
            break
    playground.write(playground.area("Texts to try"), "yes\nperhaps?\nno")
    expect(box.get_by_role("row").filter(has_text="✓ matches")).to_have_count(2)
    wrong = box.get_by_role("row").filter(has_text="✗ does not")
    expect(wrong).to_contain_text("line 1, column 3")
    playground.picture("texts")

    # The text appears as it is generated, and Stop ends it.
    playground.write(playground.source, "root ::= [^<>]+")
    playground.tab("Generate")
    slider = box.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    playground.write(playground.area("The prompt"), "Once upon a time")
    expect(playground.button("Stop")).to_be_disabled()
    playground.button("Generate").press("Enter")
    growing = box.locator("pre").filter(has_text=re.compile(r"\w{2}.*…$", re.DOTALL))
    expect(growing).to_be_visible()
    first = growing.inner_text()
    expect(growing).not_to_have_text(first)
    playground.picture("growing")
    playground.button("Stop").press("Enter")
    expect(box).to_contain_text("✗ stopped before it was complete")
    expect(playground.button("Generate")).to_be_enabled()

    # A finished text, with what was refused at each token.
    playground.write(playground.source, 'root ::= "a " ("cat" | "dog") "."')
    expect(box).to_contain_text('"."')  # in the drawing: the last key has arrived
    playground.button("Generate").press("Enter")
    expect(box).to_contain_text("✓ complete")
    expect(box.locator("pre").filter(has_text=re.compile(r"^a (cat|dog)\.$"))).to_be_visible()
    expect(box.get_by_role("cell", name="✗ overruled").first).to_be_visible()
    playground.picture("generated")

    # A failure is shown where the text would be.
    playground.write(playground.area("The prompt"), "")
    playground.page.keyboard.insert_text("<word> " * 1500)
    playground.button("Generate").press("Enter")
    expect(box).to_contain_text("✗ The prompt")
    playground.picture("failure")

    playground.tab("Drawing")
    expect(box.locator("svg")).to_be_visible()
    playground.picture("drawing")
    assert notebook.errors() == []
