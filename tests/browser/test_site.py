"""The site of the suite, walked through by a browser, and looked over by axe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.publish.site import build, languages
from tests.browser.notebook_page import SCREENSHOTS

pytest.importorskip("pydata_sphinx_theme", reason="the extra `site` is not installed")
from axe_playwright_python.base import AXE_FILE_PATH

SCREEN, PHONE = {"width": 1280, "height": 1000}, {"width": 360, "height": 780}
# To measure contrast takes most of axe's time, and colours are the theme's: it is measured, in
# light and in dark, on one page of each kind.
COLOURS = {
    "index.html", "search.html", "CHANGELOG.html", "workshop.html", "api/memory.html",
    "notebooks/12_install_on_metal.html", "notebooks/solutions/21_choose_a_model.html",
}  # fmt: skip
AXE = """async colours => {
  const rules = {"color-contrast": {enabled: colours}};
  const found = await axe.run({resultTypes: ["violations"], preload: false, rules});
  return found.violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(" | ")}`);
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def html() -> Path:
    """The folder of the site, with every warning of Sphinx an error."""
    return build()


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[str]:
    """Address of the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def problems(page: Page, site: str) -> Iterator[list[str]]:
    """What went wrong in the page: errors of scripts, and what it asks of other sites."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda told: found.append(told.text) if told.type == "error" else None)
    page.on(
        "request",
        lambda asked: (
            found.append(asked.url) if not asked.url.startswith((site, "data:", "blob:")) else None
        ),
    )
    yield found
    assert not found


def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"site_{name}.png")


def test_a_reader_finds_the_way(page: Page, site: str, problems: list[str]) -> None:
    page.goto(site)
    picture(page, "start")
    page.get_by_role("main").get_by_role("link", name="Start here").click()
    expect(page.locator("h1")).to_contain_text("Start here and run your first language model")
    pictures = page.locator(".cell_output img")
    expect(pictures.first).to_be_visible()
    assert all("Figure" not in alt and len(alt) > 20 for alt in alts(page))
    picture(page, "notebook")
    page.goto(f"{site}/notebooks/21_choose_a_model.html")
    expect(page.get_by_alt_text("ModelChooser at work")).to_be_visible()
    page.goto(f"{site}/notebooks/30_tune_gpu_layers.html")
    expect(page.locator("img[src*=widget_tuner]")).to_be_visible()


def alts(page: Page) -> list[str]:
    found = page.locator(".cell_output img").evaluate_all("all => all.map(one => one.alt)")
    assert found
    return [str(alt) for alt in found]


def test_a_search_finds_a_notebook_and_a_function(
    page: Page, site: str, problems: list[str]
) -> None:
    page.goto(site)
    page.keyboard.press("Control+k")
    page.keyboard.type("prefix cache")
    page.keyboard.press("Enter")
    results = page.locator("#search-results ul.search li")
    expect(results.filter(has_text="Measure what you run").first).to_be_visible()
    picture(page, "search")
    page.goto(f"{site}/search.html?q=suggest_gpu_layers")
    link = results.get_by_role("link", name="helpers.suggest_gpu_layers").first
    link.click()
    expect(page.locator("dt[id='helpers.suggest_gpu_layers']")).to_be_visible()
    picture(page, "api")


def test_it_is_dark_on_demand_and_stays_so(page: Page, site: str, problems: list[str]) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(f"{site}/notebooks/22_measure_what_you_run.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Color mode").click()
    page.get_by_role("button", name="Dark", exact=True).click()
    assert page.evaluate(colour) != light
    page.goto(f"{site}/notebooks/30_tune_gpu_layers.html")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.locator(".cell_output img").first.scroll_into_view_if_needed()
    picture(page, "dark")


@pytest.mark.timeout(600)
def test_axe_finds_no_serious_fault_and_a_phone_is_wide_enough(
    page: Page, site: str, html: Path, problems: list[str]
) -> None:
    script = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
    pages = own_pages(html)
    assert set(pages) >= COLOURS
    faults = {}
    for path in pages:
        page.set_viewport_size(SCREEN)  # type: ignore[arg-type]
        for scheme in ("light", "dark") if path in COLOURS else ("light",):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(f"{site}/{path}", wait_until="load")
            # A colour that is about to change is none to be judged.
            page.add_style_tag(content="* {transition: none !important}")
            page.evaluate(script)
            if found := page.evaluate(AXE, path in COLOURS):
                faults[f"{path} ({scheme})"] = found
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            faults[f"{path} (phone)"] = width
        if path == "notebooks/40_constrain_output_with_grammars.html":
            picture(page, "phone")
    assert not faults


def test_axe_would_find_one(page: Page, site: str) -> None:
    page.goto(site)
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    page.evaluate("document.querySelector('main img').removeAttribute('alt')")
    assert any(fault.startswith("image-alt") for fault in page.evaluate(AXE, False))


def own_pages(html: Path) -> list[str]:
    """Every page in English; the other languages have the same form."""
    others = {html / code for code in languages()[1:]}
    pages = [
        path.relative_to(html).as_posix()
        for path in sorted(html.rglob("*.html"))
        if not others & set(path.parents) and html / "_static" not in path.parents
    ]
    assert len(pages) > 40
    return pages
