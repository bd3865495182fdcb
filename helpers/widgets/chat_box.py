"""`ChatBox`: talk with a model, see what each answer cost, and stop it at any time.

What it does is in `conversation.py`, what it shows in `transcript.py`, both without widgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from helpers.checks import check_text
from helpers.widgets.conversation import Conversation, Turn
from helpers.widgets.grammar_trials import failure_text
from helpers.widgets.shell import Work
from helpers.widgets.transcript import as_text, code_for, shown, turn_parts

_READY = "Enter sends."
_WRITING = "The model reads and writes. Stop ends it, and so does Enter in the empty field."
_NOTHING = "Nothing has been said yet."
_WIDE = widgets.Layout(width="100%")
_WRAPPED = widgets.Layout(flex_flow="row wrap")
_BUTTON = widgets.Layout(width="auto", flex="0 0 auto")
# The log grows from its bottom, where a browser then stays while text arrives.
LOG = widgets.Layout(display="flex", flex_flow="column-reverse", max_height="460px")
STYLE = """<style>
.chat-box {max-width: 860px;}
.chat-box .chat-log {overflow: hidden auto; border: 1px solid #888; padding: 4px 8px;
  margin: 6px 2px;}
.chat-box .chat-log .widget-vbox {flex: 0 0 auto; overflow: visible; margin: 0;}
.chat-box .chat-log .widget-html {height: auto; margin: 0; flex: 0 0 auto; display: block;}
.chat-box .chat-log .widget-html-content {line-height: 1.45;}
.chat-box .said {margin: 4px 0; padding: 5px 10px; width: fit-content;}
.chat-box .user {margin-left: auto; max-width: 80%; border-radius: 8px;
  background: rgba(128, 128, 128, .18);}
.chat-box .model {border-left: 3px solid #4C78A8;}
.chat-box .user .text {max-height: 220px; overflow-y: auto;}
.chat-box .text, .chat-box pre {white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere;}
.chat-box .figures {opacity: .8; font-size: 90%; margin: 0 0 8px 13px;}
.chat-box details {margin: 4px 0 4px 13px;}
.chat-box summary {cursor: pointer;}
.chat-box details pre {max-height: 220px; overflow-y: auto; margin: 2px 0 6px; padding: 4px 8px;
  background: rgba(128, 128, 128, .12); line-height: 1.35;}
.chat-box details div {font-size: 90%; opacity: .8;}
.chat-box pre.failure {border-left: 3px solid #C44E52; padding: 4px 10px; margin: 4px 0;
  font-family: inherit;}
</style>"""


class ChatBox:
    """A chat with a model: history, answers that appear as they are written, what each one cost.

    Show it as the last line of a cell. Enter sends, *Stop* ends an answer at once and keeps the
    part that is there, *New chat* begins anew, *Copy as code* shows the Python that has the same
    conversation again. All of it works from the keyboard, and from code: `box.ask("Hi!")`. Under
    each answer stand its tokens, its speed, and how much of its prompt the model knew already.
    Reasoning and calls of tools are folded. What failed is shown, and what was written is back in
    the field.

    Args:
        chat: The model, a `ChatLlamaCpp`.
        system: The system prompt to begin with.
        tools: Functions with a docstring, or LangChain tools: the box calls those that the model
            asks for and gives it the results, at most 5 times for one answer.

    Attributes:
        system: Textarea: the system prompt; a change counts from the next message on.
        temperature: Slider: the temperature of the next answer.
        line: The field for a message of one line.
        page: The field for one of several lines.
        lines_button: Says which of the two is shown.
        send_button: Sends what is in the field.
        stop_button: Ends the answer.
        new_button: Begins a new conversation.
        code_button: Shows `code` below.
        status: What is going on.
        failure: The last exception of an answer, or None.

    Raises:
        TypeError: `chat` is no chat model, or a tool cannot be called.

    >>> from helpers import ChatLlamaCpp, default_model
    >>> box = ChatBox(ChatLlamaCpp(model_path=default_model(), temperature=0, max_tokens=8))
    >>> answer = box.ask("Hi!")
    >>> [message.type for message in box.messages]
    ['human', 'ai']
    """

    def __init__(self, chat: BaseChatModel, *, system: str = "", tools: Sequence[Any] = ()) -> None:
        self.failure: BaseException | None = None
        self._given = tuple(tools)
        self._talk = Conversation(chat, self._given)
        temperature = getattr(chat, "temperature", None)
        self._make_controls(system, 0.8 if temperature is None else float(temperature))
        self._work = Work("chat-box", [self.send_button, self.new_button], self.stop_button)
        self._sent = ""
        self._connect()
        self.new_chat()

    # -- what keys and buttons do, from code ------------------------------------------------------

    def ask(self, text: str) -> AIMessage | None:
        """Say something as if it was typed and sent, and wait for the answer.

        Args:
            text: What to say.

        Returns:
            The answer, also one that was stopped; None if there is none, and then `failure` or
            `status` says why.
        """
        return self._answer(check_text("text", text)) if self._begin() else None

    def stop(self) -> None:
        """End the answer at once; the part that is there stays. *Stop* calls this."""
        self._work.stop.set()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the answer to what was sent from the field, at most some seconds."""
        self._work.wait(timeout_s)

    def new_chat(self) -> None:
        """Forget all that was said; the settings stay."""
        if self._work.in_progress:
            self._say("Stop the answer first, or wait for it.")
            return
        self._talk = Conversation(self._talk.chat, self._given)
        self.failure = None
        for box in self._turns.children:
            box.close()
        self._turns.children = [widgets.HTML(_NOTHING)]
        self._views: dict[int, Any] = {}
        self._changed()
        self._say(_READY)

    @property
    def messages(self) -> list[BaseMessage]:
        """The conversation as LangChain messages, its system prompt first; no failed turn."""
        return self._talk.messages(self.system.value)

    @property
    def code(self) -> str:
        """The Python that has the same conversation again."""
        return code_for(self._talk, self.system.value)

    @property
    def field(self) -> Any:
        """The field that is shown."""
        return self.page if self.lines_button.value else self.line

    def __str__(self) -> str:
        return as_text(self._talk.turns) or _NOTHING

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # Where a notebook is only read there are no widgets: the text says the same.
        return {**self.box._repr_mimebundle_(**options), "text/plain": str(self)}

    # -- making -----------------------------------------------------------------------------------

    def _make_controls(self, system: str, temperature: float) -> None:
        self.system = widgets.Textarea(
            system,
            description="System prompt",
            placeholder="How the model is to behave; empty for none",
            tooltip="A change counts from the next message on",
            rows=2,
            style={"description_width": "110px"},
            layout=widgets.Layout(flex="1 1 320px"),
        )
        self.temperature = widgets.FloatSlider(
            value=temperature,
            min=0.0,
            max=max(2.0, temperature),
            step=0.05,
            description="temperature",
            tooltip="0: always the likeliest token; more: more varied",
            style={"description_width": "90px"},
            layout=widgets.Layout(flex="0 1 330px"),
        )
        about = {
            "description": "Message",
            "placeholder": "Write to the model",
            "style": {"description_width": "110px"},
        }
        self.line = widgets.Text(tooltip="Message to the model; Enter sends", **about)
        self.page = widgets.Textarea(tooltip="Message to the model, several lines", rows=5, **about)
        self.lines_button = widgets.ToggleButton(
            description="Several lines",
            tooltip="Write several lines; there Send sends, not Enter",
            layout=_BUTTON,
        )
        self.send_button = make_button("Send", "Send the message")
        self.stop_button = make_button("Stop", "End the answer; what there is of it stays")
        self.stop_button.disabled = True
        self.new_button = make_button("New chat", "Forget all that was said")
        self.code_button = make_button(
            "Copy as code", "Show the Python of this conversation, to copy"
        )
        self._code = widgets.Textarea("", tooltip="The code: Ctrl+A, Ctrl+C", rows=14)
        self._code.layout = widgets.Layout(width="auto", display="none")
        self.status = widgets.HTML()
        self._turns = widgets.VBox([], layout=_WIDE)
        log = widgets.VBox([self._turns], layout=LOG, tabbable=True)
        log.add_class("chat-log")
        for place in (self.line, self.page):
            place.layout = widgets.Layout(flex="1 1 100px", min_width="0")
        settings = widgets.HBox([self.system, self.temperature], layout=_WRAPPED)
        writing = widgets.HBox([self.line, self.page, self.send_button, self.stop_button])
        more = [self.lines_button, self.new_button, self.code_button]
        buttons = widgets.HBox(more, layout=_WRAPPED)
        self.box = widgets.VBox(
            [widgets.HTML(STYLE), settings, log, writing, self.status, buttons, self._code]
        )
        self.box.add_class("chat-box")
        self._switch_lines()

    def _connect(self) -> None:
        # A line tells of Enter by a message of its own.
        self.line.on_msg(lambda _widget, said, _buffers: self._entered(said))
        for button in (self.send_button, self.new_button):
            # Of clicks in a browser alone: a cell that clicks must not pull the reader here.
            button.on_msg(lambda *_: self.field.focus())
        self.send_button.on_click(lambda _: self._send())
        self.stop_button.on_click(lambda _: self.stop())
        self.new_button.on_click(lambda _: self.new_chat())
        self.code_button.on_click(lambda _: self._show_code())
        self.lines_button.observe(lambda _: self._switch_lines(), names="value")

    # -- sending ----------------------------------------------------------------------------------

    def _entered(self, said: Any) -> None:
        if said.get("event") != "submit":
            return
        if self._work.in_progress and not self.line.value.strip():
            self.stop()
        else:
            self._send()

    def _send(self) -> None:
        if self._begin():
            self._work.after_click(self._send_field)

    def _send_field(self) -> None:
        text, self.field.value = self.field.value, ""
        self._answer(text)

    def _begin(self) -> bool:
        if not self._work.begin():
            self._say("The model is still writing: stop it, or wait. Your text stays here.")
            return False
        self.failure = None
        self._say(_WRITING)
        return True

    def _answer(self, text: str) -> AIMessage | None:
        self._sent = text
        answer = None
        with self._work.showing(self._fail):
            if not text.strip():
                self._say("Write a message first.")
                return None
            answer = self._talk.ask(
                text,
                system=self.system.value,
                temperature=self.temperature.value,
                show=self._show,
                stop=self._work.stop,
            )
            self._say(_READY)
            self._changed()
        return answer

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        if isinstance(error, KeyboardInterrupt):  # a stop by other means
            self._say("The kernel was interrupted.")
            return
        self.field.value = self.field.value or self._sent
        told = any(turn.error is error for turn in self._talk.turns)
        self._say("✗ Not answered: the reason stands above." if told else failure_text(error))

    # -- showing ----------------------------------------------------------------------------------

    def _show(self, turn: Turn) -> None:
        """Bring what is shown of a turn up to date: only parts that changed go to the browser."""
        view = self._views.get(id(turn))
        if view is None:
            old = self._turns.children if self._views else ()
            self._views[id(turn)] = view = widgets.VBox([], layout=_WIDE)
            self._turns.children = (*old, view)
        parts = turn_parts(turn)
        for part, place in zip(parts, view.children, strict=False):
            place.value = part
        new = [widgets.HTML(part, layout=_WIDE) for part in parts[len(view.children) :]]
        if new or len(view.children) > len(parts):
            view.children = (*view.children[: len(parts)], *new)

    def _say(self, text: str) -> None:
        # A screen reader reads it out when it changes.
        self.status.value = f'<span role="status" aria-live="polite">{shown(text)}</span>'

    def _show_code(self) -> None:
        hidden = self._code.layout.display == "none"
        self._code.layout.display = "" if hidden else "none"
        self._changed()

    def _changed(self) -> None:
        self._code.value = self.code

    def _switch_lines(self) -> None:
        several = self.lines_button.value
        shown_one, other = (self.page, self.line) if several else (self.line, self.page)
        shown_one.value, other.value = shown_one.value or other.value, ""
        shown_one.layout.display, other.layout.display = "", "none"


def make_button(text: str, tooltip: str) -> Any:
    """A button as wide as its text."""
    return widgets.Button(description=text, tooltip=tooltip, layout=_BUTTON)
