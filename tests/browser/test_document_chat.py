"""Asking one's own documents in JupyterLab and in Voilà, worked from the keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.notebook_page import SCREENSHOTS, NotebookPage

CELL = '''\
import os, tempfile
from pathlib import Path
from helpers import DocumentChat, DocumentIndex, ChatLlamaCpp, LlamaCppEmbeddings, default_model

os.chdir(tempfile.mkdtemp())
Path("notes").mkdir()
Path("notes/rivers.md").write_text("""# Rivers of France

## Loire

The Loire is 1,006 km long. It begins in the <b>Ardèche</b> and flows into the Atlantic.

## Seine

The Seine is 777 km long. Paris stands on it.
""", encoding="utf-8")
Path("notes/mountains.md").write_text("# Mountains\\n\\nMont Blanc is 4,806 m high.\\n")

settings = {"model_path": default_model(), "n_gpu_layers": 0}
vectors = LlamaCppEmbeddings(**settings, n_ctx=512, show_progress=False)
chat = ChatLlamaCpp(**settings, n_ctx=1024, temperature=0, max_tokens=%s)
DocumentChat(chat, DocumentIndex(vectors))'''
FIGURES = re.compile(r"\d+ tokens? · [\d.]+ tokens/s · prompt of \d+ tokens, (\d+) cached")


class Documents:
    """The widget's parts, found by what they are called on the screen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.locator(".document-chat")
        self.folder = self.box.get_by_role("textbox", name="Folder", exact=True)
        self.field = self.box.get_by_role("textbox", name="Question", exact=True)
        self.answers = self.box.get_by_role("article", name="Answer")
        self.marks = self.box.get_by_role("button", name=re.compile(r"^Passage \d"))

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def send(self, place: Locator, text: str) -> None:
        """Write and send by keys alone."""
        place.focus()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def done(self) -> None:
        expect(self.button("Stop")).to_be_disabled()
        expect(self.button("Ask")).to_be_enabled()

    def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.box.screenshot(path=SCREENSHOTS / f"documents_{name}.png")


@pytest.mark.timeout(300)
def test_ask_a_folder_by_keys_alone(
    open_cell: Callable[[str], NotebookPage], page: Page, tmp_path: Path
) -> None:
    notebook = open_cell(CELL % 120)
    notebook.run_all()
    assert notebook.errors() == []
    documents = Documents(page)
    expect(documents.box).to_contain_text("Nothing has been asked yet")
    expect(documents.box).to_contain_text("The index has 0 passages of 0 sources.")

    # Nothing indexed: nothing found, and the model is not asked.
    documents.send(documents.field, "How long is the Loire?")
    expect(documents.answers).to_have_text("Not in the documents.")
    expect(documents.box.locator(".figures")).to_have_count(0)
    documents.done()

    # A folder that is not there, then the right one.
    documents.send(documents.folder, "note")
    expect(documents.box).to_contain_text("does not exist")
    expect(documents.button("Index")).to_be_enabled()
    documents.send(documents.folder, "s")
    expect(documents.box).to_contain_text("2 added; 3 new passages", timeout=60_000)
    expect(documents.box).to_contain_text("The index has 3 passages of 2 sources.")
    expect(documents.button("Cancel")).to_be_disabled()

    # One more file, and one that cannot be read.
    (tmp_path / "lake.txt").write_text("Lake Geneva is 580 km² large.", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with page.expect_file_chooser() as chooser:
        documents.box.locator(".widget-upload").press("Enter")
    chooser.value.set_files([tmp_path / "lake.txt", tmp_path / "bad.txt"])
    expect(documents.box).to_contain_text("1 added; 1 new passages", timeout=60_000)
    expect(documents.box).to_contain_text("not read: bad.txt: no text in UTF-8")
    expect(documents.box).to_contain_text("The index has 4 passages of 3 sources.")

    # An answer with quotes; each opens its passage, by keys too.
    documents.send(documents.field, "How long is the Loire?")
    line = documents.box.locator(".figures").filter(has_text=FIGURES)
    expect(line).to_be_visible(timeout=60_000)
    documents.done()
    expect(documents.field).to_have_value("")
    mark = documents.marks.first
    expect(mark).to_be_visible()
    documents.picture("answered")
    opened = documents.box.locator(".passage:popover-open")
    expect(opened).to_have_count(0)
    for open_it in (lambda: mark.press("Enter"), mark.click):
        open_it()
        expect(opened).to_have_count(1)
        quote = opened.locator("mark").first
        expect(quote).to_be_visible()
        assert quote.inner_text() in documents.box.locator(".quotes").inner_text()
        page.screenshot(path=SCREENSHOTS / "documents_passage.png")
        page.keyboard.press("Escape")
        expect(opened).to_have_count(0)
        expect(mark).to_be_focused()

    # The next question about the same reuses what was read; what documents say is text.
    documents.send(documents.field, "Where does the Loire begin?")
    expect(line).to_have_count(2, timeout=60_000)
    documents.done()
    found = FIGURES.search(line.last.inner_text())
    assert found and int(found[1]) > 100
    assert documents.box.locator(".passage b, .quotes b").count() == 0
    documents.picture("two_answers")
    assert notebook.errors() == []


@pytest.mark.timeout(200)
def test_stop_and_failure_on_a_narrow_dark_page_in_voila(
    page: Page, voila: Callable[..., str]
) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto(voila(CELL % 800, "--theme=dark"), timeout=90_000)
    documents = Documents(page)
    expect(documents.box).to_be_visible(timeout=90_000)
    documents.send(documents.folder, "notes")
    ready = "The index has 3 passages of 2 sources."
    expect(documents.box).to_contain_text(ready, timeout=60_000)
    documents.send(documents.field, "Tell me all about the Loire.")
    expect(documents.box.locator(".quotes li").first).to_be_visible(timeout=60_000)
    expect(documents.answers).to_have_attribute("aria-busy", "false", timeout=60_000)
    documents.done()
    documents.marks.first.click()
    expect(documents.box.locator(".passage:popover-open mark").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "documents_narrow_dark.png")
    page.keyboard.press("Escape")

    # A question too long for the context fails, and is back in the field.
    documents.field.focus()
    page.keyboard.insert_text("word " * 1500)
    page.keyboard.press("Enter")
    expect(documents.box.get_by_role("alert")).to_contain_text("tokens", timeout=60_000)
    expect(documents.field).to_have_value("word " * 1500)
    documents.done()
    documents.picture("failure_narrow_dark")
    assert documents.box.evaluate("box => box.scrollWidth <= document.documentElement.clientWidth")
