"""The teacher's page of `python -m helpers serve`, on a real server, looked at by a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from helpers import default_model
from helpers.serve import serve
from helpers.serve.keys import add_keys
from tests.browser.notebook_page import SCREENSHOTS

expect.set_options(timeout=60_000)

# A name that would be a picture with a program if anybody read it as HTML.
NAME = "<img src=x onerror=document.title='taken'>"
BODY = {"prompt": "a", "stream": True, "max_tokens": 400, "logit_bias": {"0": "-inf", "2": "-inf"}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.txt"


@pytest.fixture(scope="module")
def keys(file: Path) -> dict[str, str]:
    return add_keys(file, ["ada", "grace"]) | add_keys(file, ["teacher"], teacher=True)


@pytest.fixture(scope="module")
def server(
    file: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve]:
    model = tmp_path_factory.mktemp("models") / f"{NAME}.gguf"
    model.symlink_to(default_model())
    with serve(model, keys=file, parallel=4, queue=8, n_ctx=512) as made:
        yield made


@contextmanager
def asking(server: serve, key: str) -> Iterator[None]:
    """An answer that is on its way as long as the block lasts."""
    with (
        httpx.Client(timeout=120, trust_env=False, verify=False) as http,
        http.stream(
            "POST",
            f"{server.url}/v1/completions",
            json=BODY,
            headers={"authorization": f"Bearer {key}"},
        ) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()  # kept: its end would be the answer's
        next(lines)
        yield


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_teacher_sees_the_class(
    page: Page, server: serve, keys: dict[str, str], scheme: str
) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda told: problems.append(told.text) if "Failed" not in told.text else 0)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(server.url)
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#main")).to_be_hidden()
    page.get_by_label("key").fill(keys["ada"])
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#wrong")).to_contain_text("not a teacher's")
    page.get_by_label("key").fill(keys["teacher"])
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#main")).to_be_visible()
    with asking(server, keys["ada"]), asking(server, keys["grace"]):
        expect(page.locator("#running")).to_have_text("2")
        expect(page.locator("#places i.on")).to_have_count(2)
        expect(page.locator("#state")).to_have_text("answering")
        row = page.locator("#users tr", has_text="grace")
        expect(row).to_have_class("on")
        expect(row.locator("td").nth(1)).to_have_text("1")
        expect(page.locator("#speed")).not_to_have_text("0")
        expect(page.locator("#curve")).to_have_attribute("d", re.compile(r"^M[\d. L]+$"))
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"teacher_page_{scheme}.png", full_page=True)
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#running")).to_have_text("0")
    expect(page.locator("#errors")).to_contain_text("client gone, grace")
    assert page.locator("#model").text_content() == NAME  # a text, and nothing else
    assert page.locator("img").count() == 0 and page.title() != "taken"
    page.reload()  # the key stays in this tab
    expect(page.locator("#main")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="forget the key").click()
    expect(page.locator("#ask")).to_be_visible()
    assert not problems


def test_a_narrow_window_and_a_server_that_has_gone(
    page: Page, file: Path, keys: dict[str, str]
) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    with serve(keys=file, parallel=1, n_ctx=256) as short:
        page.goto(short.url)
        page.get_by_label("key").fill(keys["teacher"])
        page.keyboard.press("Enter")
        expect(page.locator("#nobody")).to_be_visible()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
    expect(page.locator("#state")).to_have_text("no connection to the server")
