"""The chat with one's documents: its words without widgets, then as its user works it."""

from __future__ import annotations

import datetime
import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from helpers import ChatLlamaCpp, DocumentChat, DocumentIndex, default_model
from helpers.documents.citations import CitedAnswer, Quote
from helpers.llm.progress import listening, progress
from helpers.widgets.cited import Question, answer_until, question_html, reasons, uploaded
from tests.support import wait_for


class Lines:
    """Cuts a document into its lines."""

    def split_documents(self, documents: Any) -> list[Document]:
        return [
            Document(line, metadata={**one.metadata, "start": 0, "tokens": 1})
            for one in documents
            for line in one.page_content.splitlines()
        ]


class Hashed(Embeddings):
    """Vectors of no meaning, made at once; `wait` holds them back."""

    def __init__(self) -> None:
        self.wait = threading.Event()
        self.wait.set()
        self.asked = threading.Event()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.set()
        self.wait.wait(60)
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [byte / 255 + 0.01 for byte in hashlib.sha256(text.encode()).digest()[:8]]


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatLlamaCpp]:
    with ChatLlamaCpp(
        model_path=default_model(), n_gpu_layers=0, n_ctx=1024, temperature=0, max_tokens=100
    ) as made:
        yield made


@pytest.fixture
def vectors() -> Hashed:
    return Hashed()


@pytest.fixture
def box(chat: ChatLlamaCpp, vectors: Hashed) -> DocumentChat:
    return DocumentChat(chat, DocumentIndex(vectors, splitter=Lines(), show_progress=False))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "rivers.md").write_text("The Loire is 1,006 km long.\nThe Seine is 777 km long.\n")
    (folder / "mountains.txt").write_text("Mont <b>Blanc</b> is 4,806 m high.\n")
    return folder


def told(box: DocumentChat) -> str:
    return re.sub("<[^>]*>", " ", box._told.value + box._status.value)


def shown(box: DocumentChat) -> list[str]:
    return [one.value for one in box._log.children]


# --- without widgets -----------------------------------------------------------------------------

PASSAGE = Document(
    "<i>One.</i> The river is long. Two.", metadata={"source": "a<b.md", "heading": "R", "start": 7}
)
QUOTE = Quote(PASSAGE, 2, 12, "The river is long.")
OTHER = Document("Other.", metadata={"source": "b.md"})
ANSWER = CitedAnswer("How <long>?", "Very [2], <s>not</s> [1].", (QUOTE,), True, (OTHER, PASSAGE))


def test_citations_open_their_passage_with_the_quote_marked() -> None:
    html = question_html(Question("How <long>?", ANSWER), "k")
    assert html.count('<button class="cite" popovertarget="k-2"') == 2  # in the text, at the quote
    assert html.count('popover id="k-2"') == 1 and 'id="k-1"' not in html
    assert "&lt;i&gt;One.&lt;/i&gt; <mark>The river is long.</mark> Two." in html
    assert "Very <button" in html and "&lt;s&gt;not&lt;/s&gt; [1]." in html
    assert "How &lt;long&gt;?" in html and "a&lt;b.md › R, from character 7 on" in html  # noqa: RUF001
    assert not re.search(r"<(i>One|s>|b\.md|long)", html)


def test_what_is_not_found_growing_or_failed_looks_like_it() -> None:
    absent = question_html(Question("Why?", CitedAnswer("Why?", "Not there.")), "k")
    assert "said model absent" in absent and "popover" not in absent
    growing = question_html(Question("Why?"), "k")
    assert 'aria-busy="true"' in growing and "absent" not in growing and "…" in growing
    failed = question_html(Question("Why?", error=ValueError("<b>no</b>")), "k")
    assert 'role="alert">✗ ValueError: &lt;b&gt;no&lt;/b&gt;' in failed
    cut = CitedAnswer(
        "Why?", "So", (QUOTE,), True, (OTHER, PASSAGE), (OTHER,), AIMessage(""), "cut"
    )
    html = question_html(Question("Why?", cut), "k")
    assert "cut off by max_tokens" in html and "1 passage found, but left out" in html


def test_files_that_are_uploaded_are_read_by_their_kind() -> None:
    notebook = b'{"cells": [{"id": "c1", "cell_type": "markdown", "source": ["Hi", " there"]}]}'
    files = [
        {"name": "a.md", "content": memoryview("Größe\r\nB".encode())},
        {"name": "../../b.ipynb", "content": notebook},
        {"name": "c:\\x\\bad.txt", "content": b"\xff"},
        {"name": "broken.ipynb", "content": b"{"},
    ]
    documents, failed = uploaded(files)
    assert [(d.metadata["source"], d.page_content) for d in documents] == [
        ("a.md", "Größe\nB"), ("b.ipynb", "Hi there"),
    ]  # fmt: skip
    assert documents[1].metadata["cell"] == "c1"
    assert [one.split(":")[0] for one in failed] == ["bad.txt", "broken.ipynb"]
    assert reasons(["Left out of the index: a: b; c: d.", "else"]) == ["a: b", "c: d"]


def test_an_answer_can_be_stopped_before_its_first_word() -> None:
    stop, begun, end = threading.Event(), threading.Event(), threading.Event()

    def slow(text: str) -> CitedAnswer:
        begun.set()
        end.wait(30)
        return CitedAnswer(text, "Too late")

    threading.Thread(target=lambda: (begun.wait(30), stop.set(), end.set())).start()
    question, seen = Question("Why?"), []
    answer = answer_until(
        RunnableLambda(slow), question, lambda q: seen.append(q.answer and q.answer.state), stop
    )
    if answer.state != "done":  # the answer may have won the race
        assert (answer.state, answer.text) == ("stopped", "") and seen[-1] == "stopped"


def test_progress_is_told_to_a_listener_which_may_end_the_work() -> None:
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *one: seen.append(one)), progress(3, "steps") as done:
        done(1)
        done(2)
    assert seen == [("steps", 0, 3), ("steps", 1, 3), ("steps", 3, 3)]

    def end(*_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), listening(end), progress(3, "steps"):
        pass
    with progress(3, "steps", shown=False) as done:
        done(1)
    assert len(seen) == 3


# --- as its user works it ------------------------------------------------------------------------


def test_index_then_ask(box: DocumentChat, notes: Path) -> None:
    assert str(box) == "Nothing has been asked yet." and "0 passages of 0 sources" in told(box)
    changes = box.index_folder(notes)
    assert changes is not None and changes.added == ("mountains.txt", "rivers.md")
    assert "2 added" in told(box) and "3 passages of 2 sources" in told(box)
    assert (box.bar.max, box.bar.value, box.bar.layout.display) == (3, 3, "none")

    answer = box.ask("How long is the Loire?")
    assert answer is not None and answer.state == "done" and box.failure is None
    assert len(answer.passages) == 3 and len(shown(box)) == 1
    assert "cached" in shown(box)[0] and answer.text.split("[")[0] in str(box)
    again = box.ask("How long is the Seine?")
    assert again is not None and again.message is not None and again.message.usage_metadata
    assert again.message.usage_metadata["input_token_details"]["cache_read"] > 100
    assert len(shown(box)) == 2 and "text/plain" in box._repr_mimebundle_()

    (notes / "rivers.md").write_text("The Rhine is 1,233 km long.\n")
    (notes / "mountains.txt").unlink()
    (notes / "bad.md").write_bytes(b"\xff")
    box.index_button.click()
    box.wait(60)
    assert "1 changed, 1 removed" in told(box) and "1 passages of 1 source" in told(box)
    assert "not read: bad.md: no text in UTF-8" in told(box)
    assert not box.index_button.disabled and box.cancel_button.disabled


def test_an_upload_is_added_and_can_come_again(box: DocumentChat) -> None:
    now = datetime.datetime.now()
    for content, word in ((b"One.\nTwo.", "1 added"), (b"Three.", "1 changed")):
        box.upload.set_trait(
            "value",
            ({"name": "a.md", "type": "", "size": 9, "content": content, "last_modified": now},),
        )
        box.wait(60)
        assert word in told(box) and box.upload.value == ()
    assert [one.page_content for one in box.index.passages()] == ["Three."]


def test_indexing_is_cancelled_and_goes_on(box: DocumentChat, vectors: Hashed, notes: Path) -> None:
    for n in range(6):
        (notes / f"long{n}.txt").write_text(f"word{n} " * 1500)
    vectors.wait.clear()
    box.folder.value = str(notes)
    box.index_button.click()
    assert vectors.asked.wait(30) and not box.cancel_button.disabled and box.upload.disabled
    assert box.index_folder(notes) is None  # one at a time
    box.cancel_button.click()
    vectors.wait.set()
    box.wait(60)
    assert "Cancelled" in told(box) and box.cancel_button.disabled and not box.upload.disabled
    before = len(box.index)
    assert before < 9
    assert box.index_folder(notes) is not None and len(box.index) == 9


def test_failures_are_shown_and_nothing_is_lost(box: DocumentChat, notes: Path) -> None:
    assert box.index_folder(notes / "none") is None
    assert isinstance(box.failure, FileNotFoundError) and "does not exist" in told(box)
    assert box.index_folder(" ") is None and "write the path" in told(box)
    box.index_folder(notes)
    assert box.ask(" ") is None and "Write a question first" in told(box) and not box.questions
    long = "word " * 1500
    box.question.value = long
    box.ask_button.click()
    box.wait(120)
    assert box.failure is not None and box.question.value == long and box.questions[0].error
    assert 'role="alert"' in shown(box)[0] and "see above" in told(box)
    assert box.ask("How long is the Loire?") is not None and box.failure is None
    box.index.close()
    assert box.ask("And now?") is None and "closed" in shown(box)[-1]
    with pytest.raises(TypeError, match="text"):
        box.ask(None)  # type: ignore[arg-type]
    assert box.ask("Again?") is None and "closed" in shown(box)[-1]


def test_stop_keeps_what_there_is(box: DocumentChat, notes: Path) -> None:
    box.index_folder(notes)
    box.question.value = "Tell me all about the Loire."
    box.ask_button.click()
    assert wait_for(lambda: box.questions and box.questions[0].answer)
    assert box.ask("Me first!") is None and "Still answering" in told(box)
    box.stop_button.click()
    box.wait(60)
    answer = box.questions[0].answer
    assert answer is not None and answer.state in ("stopped", "done")
    if answer.state == "stopped":
        assert "(stopped)" in shown(box)[0] and "Enter asks." in told(box)
    assert box.stop_button.disabled and box.failure is None


def test_what_is_no_chat_and_no_index(chat: ChatLlamaCpp, box: DocumentChat) -> None:
    with pytest.raises(TypeError, match="index='x' must be a DocumentIndex"):
        DocumentChat(chat, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ChatLlamaCpp"):
        DocumentChat("x", box.index)  # type: ignore[arg-type]
