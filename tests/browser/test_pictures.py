"""The pictures of the widgets at work, for readers where widgets do not show.

Each widget is put to work in Voilà, and its picture is taken. With LLAMA_NOTEBOOKS_PICTURES=1 it
goes to notebooks/data; without, to a folder that git does not look at:

    LLAMA_NOTEBOOKS_PICTURES=1 python -m pytest tests/browser/test_pictures.py
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from machine_traces import machine_traces_in
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.notebook_page import SCREENSHOTS
from tests.browser.test_chat_box import Chat
from tests.browser.test_document_chat import CELL, Documents
from tests.browser.test_playground import Playground
from tests.browser.test_tuner import Tuner
from tests.support import ROOT

DATA = ROOT / "notebooks" / "data"
PLACE = DATA if os.environ.get("LLAMA_NOTEBOOKS_PICTURES") else SCREENSHOTS
MAX_BYTES = 150_000
FINENESS = 2  # pixels of the picture for one of the page: crisp on any screen

CHOOSER = """\
from helpers import ModelChooser
ModelChooser(ram_gib=16, vram_gib=8, unified=False)"""
TUNER = """\
from helpers import GpuTuner, practice_accelerator
accelerator = practice_accelerator(100)
device = accelerator.start()
GpuTuner(devices=[device], n_ctx=1024, prompt_tokens=64, new_tokens=16, repeats=2)"""
PLAYGROUND = '''\
from helpers import GrammarPlayground, LlamaCpp, default_model
llm = LlamaCpp(model_path=default_model(), n_gpu_layers=0, temperature=0, n_ctx=1024)
GrammarPlayground(
    llm,
    """# A day and a time.
root   ::= day ", " hour ":" minute
day    ::= "Monday" | "Tuesday" | "Wednesday" | "Thursday" | "Friday" | "Saturday" | "Sunday"
hour   ::= [0-9] | "1" [0-9] | "2" [0-3]
minute ::= [0-5] [0-9]
""",
    texts="Friday, 9:45\\nSunday, 23:59\\nSunday, 24:10\\ntomorrow at nine",
    prompt="The train to Paris leaves on",
    max_tokens=20,
)'''
CHAT = """\
from helpers import ChatBox, ChatLlamaCpp, default_model
chat = ChatLlamaCpp(model_path=default_model(), n_gpu_layers=0, temperature=0, max_tokens=80)
ChatBox(chat, system="You are a helpful assistant.")"""


def chooser(page: Page) -> Iterator[Locator]:
    """The sliders, the bars and the code; its table is below, and long."""
    parts = page.locator(".widget-vbox").first.locator("> *")
    expect(parts.locator("img")).to_be_visible()
    page.add_style_tag(content=".widget-vbox > :last-child {display: none !important}")
    yield page.locator(".widget-vbox").first


def tuner(page: Page) -> Iterator[Locator]:
    """Four trials."""
    tuner = Tuner(page)
    for n, keys in enumerate([["Home"], *[["ArrowRight"] * 5] * 3]):
        tuner.slide(*keys)
        expect(tuner.memory).to_contain_text(f"{5 * n} of 31 layers")
        tuner.button("Measure").click()
        expect(tuner.rows()).to_have_count(n + 1, timeout=60_000)
        expect(tuner.button("Measure")).to_be_enabled()
    yield tuner.box


def playground(page: Page) -> Iterator[Locator]:
    """The whole of it with the texts that were tried, below it the page with a generated one."""
    playground = Playground(page)
    expect(playground.box).to_contain_text("✗ does not")
    yield playground.box
    playground.tab("Generate")
    playground.button("Generate").click()
    expect(playground.box).to_contain_text("✓ complete", timeout=60_000)
    above = ".grammar-playground > :not(.jupyter-widget-tab, .widget-tab)"
    page.add_style_tag(content=f"{above} {{display: none !important}}")
    yield playground.box


def chat(page: Page) -> Iterator[Locator]:
    """Two questions, and their answers."""
    chat = Chat(page)
    for n, text in enumerate(["What is the capital of France?", "Write one sentence about it."]):
        chat.send(text)
        expect(chat.box.locator(".figures")).to_have_count(n + 1, timeout=60_000)
        chat.done()
    yield chat.box


def documents(page: Page) -> Iterator[Locator]:
    """A folder that was indexed and asked, below it the passage that the answer quotes."""
    documents = Documents(page)
    documents.send(documents.folder, "notes")
    expect(documents.box).to_contain_text("The index has 3 passages of 2 sources.", timeout=60_000)
    documents.send(documents.field, "How long is the Seine?")
    expect(documents.box.locator(".figures")).to_be_visible(timeout=60_000)
    documents.done()
    yield documents.box
    page.add_style_tag(
        content=".passage {border-radius: 0 !important} .passage::backdrop {opacity: 0}"
    )
    documents.marks.last.click()
    yield documents.box.locator(".passage:popover-open")


# Name of the picture, cell, class of the widget, width of the page, and what is done with it.
WIDGETS: dict[str, tuple[str, str, int, Callable[[Page], Iterator[Locator]]]] = {
    "chooser": (CHOOSER, ".widget-vbox", 680, chooser),
    "tuner": (TUNER, ".gpu-tuner", 900, tuner),
    "playground": (PLAYGROUND, ".grammar-playground", 900, playground),
    "chat": (CHAT, ".chat-box", 800, chat),
    "documents": (CELL % 120, ".document-chat", 800, documents),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", WIDGETS)
def test_a_picture_is_taken_at_work(name: str, browser: Browser, voila: Callable[..., str]) -> None:
    cell, selector, width, work = WIDGETS[name]
    page = browser.new_page(viewport={"width": width, "height": 1600}, device_scale_factor=FINENESS)
    page.set_default_timeout(90_000)
    page.goto(voila(cell))
    expect(page.locator(selector).first).to_be_visible()
    parts = []
    for shown in work(page):
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)  # a browser lets shadows and colours fade
        assert list(machine_traces_in(shown.inner_text())) == []
        parts.append(Image.open(io.BytesIO(shown.screenshot())).convert("RGB"))
    page.close()
    PLACE.mkdir(exist_ok=True)
    _save(_below_each_other(parts), PLACE / f"widget_{name}.png")
    _check(PLACE / f"widget_{name}.png")


@pytest.mark.parametrize("name", WIDGETS)
def test_its_picture_is_there_for_readers(name: str) -> None:
    _check(DATA / f"widget_{name}.png")


def test_a_blank_picture_is_found_out(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 800), "white").save(tmp_path / "blank.png")
    with pytest.raises(AssertionError, match="blank"):
        _check(tmp_path / "blank.png")


def _below_each_other(parts: list[Image.Image], margin: int = 10 * FINENESS) -> Image.Image:
    """One picture of several, without the empty space at their right and at the end."""
    size = (max(part.width for part in parts), sum(part.height + 2 * margin for part in parts))
    whole = Image.new("RGB", size, "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + 2 * margin
    rows, columns = np.nonzero((np.asarray(whole) < 250).any(axis=2))
    width, height = int(columns.max()) + 1, int(rows.max()) + 1
    framed = Image.new("RGB", (width + 2 * margin, height + 2 * margin), "white")
    framed.paste(whole.crop((0, 0, width, height)), (margin, margin))
    return framed


def _save(image: Image.Image, path: Path) -> None:
    """Write a picture with at most 64 colours: half the size, and the letters stay crisp."""
    image.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def _check(path: Path) -> None:
    """Look whether a picture can be published: small, crisp, nothing but pixels, not blank."""
    assert path.exists(), f"{path.name} is missing; {__doc__}"
    assert path.stat().st_size < MAX_BYTES, f"{path.name} has {path.stat().st_size} bytes"
    with Image.open(path) as image:
        assert not image.info.keys() - {"transparency", "dpi"}, f"{path.name} carries texts"
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] >= 500 * FINENESS, f"{path.name} is {pixels.shape[1]} pixels wide"
    ink = float((pixels < 128).mean())
    assert ink > 0.01, f"{path.name} is blank: {ink:.2%} of it is dark"
