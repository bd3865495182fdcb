"""The chat box in JupyterLab and in Voilà, worked from the keyboard as a reader would."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.notebook_page import SCREENSHOTS, NotebookPage

CELL = """\
from helpers import ChatBox, ChatLlamaCpp, default_model
from helpers.widgets import conversation

conversation.ROUNDS = 1

class Eager(ChatLlamaCpp):
    def bind_tools(self, tools, *, tool_choice="any"):
        settings = {"tool_choice": tool_choice, "parallel_tool_calls": False}
        return super().bind_tools(tools, **settings)

def weather(city: str) -> str:
    "The weather of a city."
    return f"{city}: 21 °C, <b>sunny</b>"

def box(kind, **given):
    settings = {"n_gpu_layers": 0, "n_ctx": 1024, "temperature": 0, "max_tokens": 300}
    chat = kind(model_path=default_model(), **settings)
    return ChatBox(chat, system="You are a friendly assistant.", **given)

box(%s)"""
FIGURES = re.compile(r"^\d+ tokens? · [\d.]+ tokens/s · prompt of \d+ tokens, (\d+) cached")


class Chat:
    """The widget's parts, found by what they are called on the screen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.locator(".chat-box")
        self.field = self.box.get_by_role("textbox", name="Message", exact=True)
        self.answers = self.box.get_by_role("article", name="Model")

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> None:
        """Write and send by keys alone."""
        self.field.focus()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def done(self) -> None:
        expect(self.button("Stop")).to_be_disabled()
        expect(self.button("Send")).to_be_enabled()

    def at_the_end(self) -> bool:
        """Whether the newest text can be seen."""
        return bool(self.box.locator(".chat-log").evaluate("log => Math.abs(log.scrollTop) < 2"))

    def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.box.screenshot(path=SCREENSHOTS / f"chat_{name}.png")


@pytest.mark.timeout(300)
def test_a_chat_by_keys_alone(open_cell: Callable[[str], NotebookPage], page: Page) -> None:
    notebook = open_cell(CELL % "ChatLlamaCpp")
    notebook.run_all()
    assert notebook.errors() == []
    chat = Chat(page)
    expect(chat.box).to_contain_text("Nothing has been said yet")
    expect(chat.box.get_by_role("textbox", name="System prompt")).to_be_visible()

    # The answer grows, as text, where a screen reader listens.
    chat.send("Write <b>a long story</b> of a horse & a dog, please.")
    growing = chat.answers.first.locator(".text").filter(has_text=re.compile(r"\w{2}.*…$"))
    expect(growing).to_be_visible()
    first = growing.inner_text()
    expect(growing).not_to_have_text(first)
    expect(chat.answers.first).to_have_attribute("aria-busy", "true")
    expect(chat.box).to_contain_text("Write <b>a long story</b> of a horse & a dog, please.")
    assert chat.box.locator(".text b").count() == 0
    expect(chat.field).to_have_value("")

    # Tab leads to Stop; it ends the answer at once and keeps its part.
    page.keyboard.press("Tab")
    expect(chat.button("Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(chat.box).to_contain_text("✗ stopped here")
    chat.done()
    expect(chat.answers.first).to_have_attribute("aria-busy", "false")
    assert len(chat.answers.first.inner_text()) > len("Model\n…")
    chat.picture("stopped")

    # The next turn, with what it cost. It reads the new tokens alone.
    page.locator(".chat-box").get_by_role("slider").first.scroll_into_view_if_needed()
    chat.send("Say hello.")
    line = chat.box.locator(".figures").filter(has_text=FIGURES)
    expect(line).to_be_visible()
    found = FIGURES.match(line.inner_text())
    assert found and int(found[1]) > 20
    chat.done()
    assert chat.at_the_end()
    chat.picture("answered")

    # Enter in the empty field stops, too; what is in the field waits.
    chat.send("Tell me a long story about the sea.")
    expect(chat.answers.nth(2).locator(".text")).to_have_text(re.compile(r"\w{2}.*…$", re.DOTALL))
    chat.send("And then?")
    expect(chat.box).to_contain_text("still writing")
    expect(chat.field).to_have_value("And then?")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.wait_for_timeout(500)  # a browser holds back what was typed last
    page.keyboard.press("Enter")
    expect(chat.box.locator(".figures").filter(has_text="✗ stopped here")).to_have_count(2)
    chat.done()

    # A failure is shown with what to do, and nothing is lost.
    chat.field.focus()
    page.keyboard.insert_text("word " * 1500)
    page.keyboard.press("Enter")
    expect(chat.box.get_by_role("alert")).to_contain_text("Set n_ctx=")
    expect(chat.field).to_have_value("word " * 1500)
    chat.done()
    chat.picture("failure")

    # The code of the conversation; then a new one.
    chat.button("Copy as code").press("Enter")
    code = chat.box.locator('textarea[title^="The code"]')
    expect(code).to_have_value(re.compile(r"chat = ChatLlamaCpp\(.*ask\('Say hello\.'", re.S))
    chat.picture("code")
    chat.button("New chat").press("Enter")
    expect(chat.box).to_contain_text("Nothing has been said yet")
    expect(code).not_to_have_value(re.compile("Say hello"))
    expect(chat.field).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("Say hello.")
    chat.button("Send").press("Enter")
    expect(chat.field).to_be_focused()
    expect(chat.answers.last).to_have_attribute("aria-busy", "false")
    assert notebook.errors() == []


@pytest.mark.timeout(200)
def test_tools_on_a_narrow_dark_page_in_voila(page: Page, voila: Callable[..., str]) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto(voila(CELL % "Eager, tools=[weather]", "--theme=dark"), timeout=90_000)
    chat = Chat(page)
    expect(chat.box).to_be_visible(timeout=90_000)
    chat.send("How is the weather in Seoul?")
    calls = chat.box.locator("summary").filter(has_text="Tool weather: ✓ done")
    expect(calls).to_have_count(1, timeout=60_000)
    expect(calls.first.locator("..").locator("pre").last).to_be_hidden()
    calls.last.press("Enter")
    result = calls.last.locator("..").locator("pre").last
    expect(result).to_contain_text("21 °C, <b>sunny</b>")
    expect(result).to_be_visible()
    expect(chat.answers.last).to_have_attribute("aria-busy", "false", timeout=60_000)
    chat.done()
    expect(result).to_be_visible()  # what was unfolded stays so, while the answer grew below it
    chat.picture("tools_narrow_dark")
    assert chat.box.evaluate("box => box.scrollWidth <= document.documentElement.clientWidth")
