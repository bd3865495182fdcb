"""`DocumentChat`: ask one's own documents, and see where each answer stands in them.

What it does and shows is in `cited.py`, without widgets.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from helpers.checks import check_text
from helpers.documents import CitedAnswer, DocumentIndex, answer_with_sources
from helpers.documents.index import Changes
from helpers.llm import ChatLlamaCpp
from helpers.llm.progress import listening
from helpers.widgets.chat_box import LOG, STYLE, make_button
from helpers.widgets.cited import (
    CITED_STYLE,
    Question,
    answer_until,
    changes_line,
    question_html,
    reasons,
    uploaded,
)
from helpers.widgets.grammar_trials import failure_text
from helpers.widgets.shell import Work
from helpers.widgets.transcript import shown

_NOTHING = "Nothing has been asked yet."
_READY = "Enter asks."
_WIDE = widgets.Layout(width="100%")
_KINDS = (".md", ".txt", ".ipynb")


class _CancelledError(Exception):
    """The work was to end."""


class DocumentChat:
    """Ask one's own documents: index a folder, ask, and open the passages that an answer quotes.

    Show it as the last line of a cell. *Index* reads a folder's `.md`, `.txt` and `.ipynb` files,
    or what changed in them since; *Upload* takes single files. Enter in the question's field asks.
    `[1]` in an answer opens the passage, the quote in it marked, and Esc closes it. Each question
    stands for itself. All of it works from the keyboard, and from code. What was computed when the
    index is stopped stays.

    Args:
        chat: The model, a `ChatLlamaCpp`.
        index: The index.
        k: Passages that the model reads for each question, 1 to 100.
        reranker: Judges what the search has found again, as `LlamaCppReranker` does.
        folder: What stands in the field of the folder.
        **call: Parameters of the model's calls, as for `answer_with_sources`.

    Attributes:
        index: The index.
        folder: The field of the folder.
        index_button: Indexes the folder.
        upload: Takes files.
        cancel_button: Ends the indexing.
        bar: How much of it is done.
        question: The field of the question.
        ask_button: Asks it.
        stop_button: Ends the answer.
        questions: What was asked, and what came of it.
        failure: The last exception of an answer or an indexing, or None.

    Raises:
        TypeError: `chat` or `index` is no such thing.

    >>> DocumentChat(chat, DocumentIndex(vectors, "index"))  # doctest: +SKIP
    """

    def __init__(
        self,
        chat: ChatLlamaCpp,
        index: DocumentIndex,
        *,
        k: int = 4,
        reranker: Any = None,
        folder: str | Path = "",
        **call: Any,
    ) -> None:
        if not isinstance(index, DocumentIndex):
            raise TypeError(f"index={index!r} must be a DocumentIndex.")
        retriever = index.as_retriever(k, reranker=reranker)
        self._chain = answer_with_sources(chat, retriever, **call)
        self.index = index
        self.failure: BaseException | None = None
        self.questions: list[Question] = []
        self._key = f"passage-{uuid.uuid4().hex[:8]}"
        self._make(str(folder))
        self._indexing = Work("index", [self.index_button, self.upload], self.cancel_button)
        self._asking = Work("ask", [self.ask_button], self.stop_button)
        self._connect()
        self._say(self._told, changes_line(None, (), index))
        self._say(self._status, _READY)

    # -- what keys and buttons do, from code ------------------------------------------------------

    def index_folder(self, folder: str | Path) -> Changes | None:
        """Index a folder, or what has changed in it since.

        Returns:
            What became of the index; None if it failed or was cancelled: `failure` says why.
        """
        self.folder.value = str(folder)
        return self._index(lambda: self._sync(str(folder))) if self._indexing.begin() else None

    def ask(self, text: str) -> CitedAnswer | None:
        """Ask something, and wait for the answer.

        Returns:
            The answer, also one that was stopped; None if there is none: `failure` says why.
        """
        return self._answer(check_text("text", text)) if self._begin() else None

    def cancel(self) -> None:
        """End the indexing; what is computed stays, and the next one goes on from there."""
        self._indexing.stop.set()

    def stop(self) -> None:
        """End the answer at once; what there is of it stays."""
        self._asking.stop.set()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for what a click or a key has begun, at most some seconds for each."""
        self._indexing.wait(timeout_s)
        self._asking.wait(timeout_s)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.questions)) or _NOTHING

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # Where a notebook is only read there are no widgets: the text says the same.
        return {**self.box._repr_mimebundle_(**options), "text/plain": str(self)}

    # -- making -----------------------------------------------------------------------------------

    def _make(self, folder: str) -> None:
        field = {"style": {"description_width": "70px"}}
        wide = {"flex": "1 1 180px", "min_width": "0"}
        self.folder = widgets.Text(
            folder,
            description="Folder",
            placeholder="A folder of .md, .txt and .ipynb files",
            tooltip="A folder whose documents are indexed; Enter begins",
            layout=widgets.Layout(**wide),
            **field,
        )
        self.index_button = make_button("Index", "Read what is new or changed in the folder")
        self.upload = widgets.FileUpload(
            accept=",".join(_KINDS),
            multiple=True,
            description="Upload",
            tooltip="Add files of this computer to the index",
        )
        self.cancel_button = make_button("Cancel", "End the indexing; what is computed stays")
        self.bar = widgets.IntProgress(layout=widgets.Layout(width="auto", display="none"))
        self.question = widgets.Text(
            description="Question",
            placeholder="Ask your documents",
            tooltip="A question about the documents; Enter asks",
            layout=widgets.Layout(**wide),
            **field,
        )
        self.ask_button = make_button("Ask", "Ask the question")
        self.stop_button = make_button("Stop", "End the answer; what there is of it stays")
        self.cancel_button.disabled = self.stop_button.disabled = True
        self._told, self._status = widgets.HTML(), widgets.HTML()
        self._log = widgets.VBox([widgets.HTML(_NOTHING)], layout=_WIDE)
        log = widgets.VBox([self._log], layout=LOG, tabbable=True)
        log.add_class("chat-log")
        top = [self.folder, self.index_button, self.upload, self.cancel_button]
        low = [self.question, self.ask_button, self.stop_button]
        wrapped = widgets.Layout(flex_flow="row wrap")
        above, below = (widgets.HBox(row, layout=wrapped) for row in (top, low))
        rows = [above, self.bar, self._told, log, below, self._status]
        self.box = widgets.VBox([widgets.HTML(STYLE + CITED_STYLE), *rows])
        self.box.add_class("chat-box")
        self.box.add_class("document-chat")

    def _connect(self) -> None:
        # A line tells of Enter by a message of its own.
        self.folder.on_msg(lambda _widget, said, _buffers: self._entered(said, self._click_index))
        self.question.on_msg(lambda _widget, said, _buffers: self._entered(said, self._click_ask))
        self.ask_button.on_msg(lambda *_: self.question.focus())
        self.index_button.on_click(lambda _: self._click_index())
        self.ask_button.on_click(lambda _: self._click_ask())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.stop_button.on_click(lambda _: self.stop())
        self.upload.observe(lambda _: self._uploaded(), names="value")

    def _entered(self, said: Any, action: Callable[[], object]) -> None:
        if said.get("event") == "submit":
            action()

    # -- indexing ---------------------------------------------------------------------------------

    def _click_index(self) -> None:
        if self._indexing.begin():
            self._indexing.after_click(lambda: self._index(lambda: self._sync(self.folder.value)))

    def _uploaded(self) -> None:
        files, self.upload.value = self.upload.value, ()
        if files and self._indexing.begin():
            self._indexing.after_click(lambda: self._index(lambda: self._add(files)))

    def _sync(self, folder: str) -> tuple[Changes, Sequence[str]]:
        if not folder.strip():
            raise ValueError("write the path of a folder first")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            changes = self.index.sync(folder.strip())
        return changes, reasons(one.message for one in told)

    def _add(self, files: Sequence[Any]) -> tuple[Changes, Sequence[str]]:
        documents, failed = uploaded(files)
        return self.index.add(documents), failed

    def _index(self, work: Callable[[], tuple[Changes, Sequence[str]]]) -> Changes | None:
        changes = None
        with self._indexing.showing(self._fail_index):
            self.failure = None
            self._say(self._told, "Reading…")
            self.bar.value, self.bar.layout.display = 0, ""
            with listening(self._progress):
                changes, failed = work()
            self._say(self._told, changes_line(changes, failed, self.index))
            self.bar.layout.display = "none"
        return changes

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._indexing.stop.is_set():
            raise _CancelledError
        if what == "passages":
            self.bar.max, self.bar.value = max(total, 1), done
            self._say(self._told, f"{done:,} of {total:,} passages are computed.")

    def _fail_index(self, error: BaseException) -> None:
        self.failure = error
        self.bar.layout.display = "none"
        cancelled = isinstance(error, _CancelledError | KeyboardInterrupt)
        said = "Cancelled; Index goes on from here." if cancelled else failure_text(error)
        self._say(self._told, f"{said}\n{changes_line(None, (), self.index)}")

    # -- asking -----------------------------------------------------------------------------------

    def _click_ask(self) -> None:
        if self._asking.in_progress and not self.question.value.strip():
            self.stop()
        elif self._begin():
            self._asking.after_click(self._ask_field)

    def _ask_field(self) -> None:
        text, self.question.value = self.question.value, ""
        self._answer(text)

    def _begin(self) -> bool:
        if not self._asking.begin():
            self._say(self._status, "Still answering: stop it, or wait. Your question stays here.")
            return False
        self._say(self._status, "The model reads and writes. Stop ends it.")
        return True

    def _answer(self, text: str) -> CitedAnswer | None:
        with self._asking.showing(lambda error: self._fail(error, text)):
            self.failure = None
            if not text.strip():
                self._say(self._status, "Write a question first.")
                return None
            question = Question(text)
            self.questions.append(question)
            view = widgets.HTML(layout=_WIDE)
            key = f"{self._key}-{len(self.questions)}"

            def show(question: Question) -> None:
                view.value = question_html(question, key)

            show(question)
            self._log.children = (*self._log.children[len(self.questions) == 1 :], view)
            answer = answer_until(self._chain, question, show, self._asking.stop)
            self._say(self._status, _READY)
            return answer
        return None  # what failed is shown

    def _fail(self, error: BaseException, text: str) -> None:
        self.failure = error
        self.question.value = self.question.value or text
        told = any(question.error is error for question in self.questions)
        self._say(self._status, "✗ Not answered: see above." if told else failure_text(error))

    def _say(self, place: Any, text: str) -> None:
        # A screen reader reads it out when it changes.
        lines = shown(text).replace("\n", "<br>")
        place.value = f'<span role="status" aria-live="polite">{lines}</span>'
