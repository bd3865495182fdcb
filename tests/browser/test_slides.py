"""The slides of the notebooks, shown from a disk without a network, and measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.publish.slides import find, write
from tests.browser.notebook_page import SCREENSHOTS

pytest.importorskip("sphinx_revealjs", reason="the extra `site` is not installed")

# One notebook each time; all of them where somebody asks for it.
NUMBERS = [] if os.environ.get("LLAMA_NOTEBOOKS_ALL_SLIDES") else ["30"]
SIZE = {"width": 1280, "height": 720}
NOTES = """\
# Notes

## Aim

They can say what a layer is.

## Slides

### What a layer is

Draw the stack of blocks.
"""
# Of the slide that is shown: how far it leaves its frame, and its smallest letters, in points of a
# slide that is 720 high.
MEASURE = """() => {
  const slide = Reveal.getCurrentSlide(), frame = document.querySelector(".slides");
  const room = frame.getBoundingClientRect(), box = slide.getBoundingClientRect();
  const scale = room.height / 720, zoom = Number(slide.style.zoom || 1);
  let right = 0, below = 0, letters = 100;
  for (const one of slide.querySelectorAll("p, pre, li, td, th, img, h1, h2, h3")) {
    if (one.closest("aside")) continue;
    const place = one.getBoundingClientRect();
    right = Math.max(right, place.right - room.right);
    below = Math.max(below, place.bottom - room.bottom);
    if (one.tagName !== "IMG") {
      letters = Math.min(letters, parseFloat(getComputedStyle(one).fontSize) * zoom);
    }
  }
  return {right: right / scale, below: below / scale, letters, zoom,
          text: slide.innerText.slice(0, 60)};
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    notes = tmp_path_factory.mktemp("notes")
    (notes / "30_tune_gpu_layers.md").write_text(NOTES, encoding="utf-8")
    out = tmp_path_factory.mktemp("slides")
    write(find(NUMBERS), out, notes)
    return out


def test_no_slide_is_too_full_or_too_small(page: Page, folder: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.set_viewport_size(SIZE)  # type: ignore[arg-type]
    wrong = []
    for path in sorted(folder.glob("[0-9]*.html")):
        page.goto(path.as_uri())
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        count = page.evaluate("Reveal.getTotalSlides()")
        assert count > 10
        for number in range(count):
            seen = page.evaluate(MEASURE)
            if seen["right"] > 1 or seen["below"] > 1 or seen["letters"] < 14:
                wrong.append((path.name, number + 1, seen))
            if number in (0, 1, 5, 9):
                SCREENSHOTS.mkdir(exist_ok=True)
                page.screenshot(path=SCREENSHOTS / f"slides_{path.stem[:2]}_{number + 1}.png")
            page.evaluate("Reveal.next()")
        assert page.evaluate("Reveal.isLastSlide()")
    assert not wrong
    assert all(address.startswith((folder.as_uri(), "data:")) for address in asked), asked


def test_the_speaker_sees_the_notes(page: Page, folder: Path) -> None:
    page.goto((folder / "30_tune_gpu_layers.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    speaker = opened.value
    expect(speaker.locator(".speaker-controls-notes")).to_contain_text("what a layer is")
    while "What a layer is" not in page.evaluate("Reveal.getCurrentSlide().innerText"):
        page.keyboard.press("Space")
    expect(speaker.locator(".speaker-controls-notes")).to_contain_text("Draw the stack of blocks.")
    speaker.screenshot(path=SCREENSHOTS / "slides_speaker.png")
    speaker.close()


def test_the_first_page_lists_what_there_is(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    page.get_by_role("link", name="Tune n_gpu_layers").click()
    expect(page.locator("h1")).to_have_text("Tune n_gpu_layers")
