"""What `DocumentChat` does and shows, without a widget: answers that can be stopped, as HTML."""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from helpers.documents.citations import MARK, CitedAnswer, place
from helpers.documents.sources import UnreadableError, read_file
from helpers.errors import ContextOverflowError
from helpers.widgets.grammar_trials import failure_text
from helpers.widgets.transcript import answer_line, shown

_TICK_S = 1 / 15
"""Between two pictures of a growing answer, and the longest that a stop is not noticed."""

CITED_STYLE = """<style>
.document-chat button.cite {border: 0; border-radius: 4px; padding: 0 4px; margin: 0 1px;
  font: inherit; color: inherit; background: rgba(76, 120, 168, .25); cursor: pointer;}
.document-chat button.cite:hover, .document-chat button.cite:focus-visible
  {background: rgba(76, 120, 168, .5);}
.document-chat .quotes {margin: 4px 0 4px 13px; padding: 0; list-style: none;}
.document-chat .quotes li {margin: 3px 0;}
.document-chat .quotes i {opacity: .8; font-size: 90%;}
.document-chat .absent .text {font-style: italic; opacity: .85;}
.document-chat .passage {width: min(640px, 90vw); max-height: 70vh; padding: 12px 16px;
  border: 1px solid #888; border-radius: 8px; overflow: auto; line-height: 1.45;
  box-shadow: 0 6px 24px rgba(0, 0, 0, .35);
  color: var(--jp-ui-font-color1, CanvasText); background: var(--jp-layout-color1, Canvas);}
.document-chat .passage::backdrop {background: rgba(0, 0, 0, .3);}
.document-chat .passage h4 {margin: 0 0 8px; font-size: 100%;}
.document-chat .passage .close {float: right; margin-left: 8px;}
.document-chat .passage mark {background: #f2cf5b; color: #000; padding: 1px 0;}
.document-chat .widget-upload {width: auto;}
</style>"""


@dataclass
class Question:
    """A question, and what came of it.

    Attributes:
        text: The question.
        answer: The answer, as far as there is one.
        error: What it ended in instead.
    """

    text: str
    answer: CitedAnswer | None = None
    error: BaseException | None = None

    def __str__(self) -> str:
        end = _advice(self.error) if self.error is not None else str(self.answer or "")
        return f"Question: {self.text}\n{end}"


def answer_until(
    chain: Runnable[Any, CitedAnswer],
    question: Question,
    show: Callable[[Question], object],
    stop: threading.Event,
) -> CitedAnswer:
    """Have a question answered, and show the answer as it grows.

    Args:
        chain: What answers it.
        question: The question; its answer is put there.
        show: Called as the answer grows, some 15 times a second, from another thread.
        stop: Set it, from any thread, to end the answer at once; what there is of it stays.

    Returns:
        The answer, also one that was stopped.

    Raises:
        Exception: As the chain.
    """

    async def read() -> None:
        async for answer in chain.astream(question.text):
            question.answer = answer

    async def watched() -> None:
        work = asyncio.ensure_future(read())
        seen = None
        while not (await asyncio.wait({work}, timeout=_TICK_S))[0]:
            if question.answer is not seen:
                seen = question.answer
                show(question)
            if stop.is_set():
                work.cancel()
                break
        try:
            await work
        except asyncio.CancelledError:
            begun = question.answer or CitedAnswer(question.text)
            question.answer = replace(begun, state="stopped")
        except Exception as error:
            question.error = error
            raise
        finally:
            show(question)

    # In Jupyter the caller's thread has an event loop already, and one cannot run in another.
    with ThreadPoolExecutor(1, "question") as thread:
        try:
            thread.submit(asyncio.run, watched()).result()
        except KeyboardInterrupt:
            stop.set()
            raise
    assert question.answer is not None
    return question.answer


def uploaded(files: Iterable[Mapping[str, Any]]) -> tuple[list[Document], list[str]]:
    """Read files that were uploaded.

    Args:
        files: What a `FileUpload` has as its value: each with its `name` and `content`.

    Returns:
        Their documents, and what could not be read, with the reasons.
    """
    documents: list[Document] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            name = Path(str(file["name"]).replace("\\", "/")).name or "a file without a name"
            path = Path(folder) / f"file{Path(name).suffix}"
            path.write_bytes(bytes(file["content"]))
            try:
                found = read_file(path)
            except UnreadableError as error:
                failed.append(f"{name}: {error}")
                continue
            documents += [
                Document(d.page_content, metadata={**d.metadata, "source": name}) for d in found
            ]
    return documents, failed


# --- HTML ----------------------------------------------------------------------------------------


def question_html(question: Question, key: str) -> str:
    """A question and its answer as HTML; all that somebody or a model has written is escaped.

    Args:
        question: The question.
        key: What no other question of the page is called: its passages' ids begin with it.
    """
    asked = (
        '<div class="said user" role="article" aria-label="You">'
        f'<div class="text">{shown(question.text)}</div></div>'
    )
    if question.error is not None:
        return f'{asked}<pre class="failure" role="alert">{shown(_advice(question.error))}</pre>'
    answer = question.answer or CitedAnswer(question.text, state="writing")
    writing, cited = answer.state == "writing", {one.number for one in answer.quotes}
    # Cut at the marks; what a mark has in it stands at each second place.
    parts = MARK.split(answer.text)
    parts[::2] = map(shown, parts[::2])
    parts[1::2] = [_cite(int(n), key, answer) if int(n) in cited else f"[{n}]" for n in parts[1::2]]
    quotes = "".join(
        f"<li>{_cite(one.number, key, answer)} <q><bdi>{shown(one.text)}</bdi></q> "
        f"<i>{shown(place(one.passage))}</i></li>"
        for one in answer.quotes
    )
    line = answer_line(answer.message) if answer.message is not None and not writing else ""
    notes = [*([line] if line else []), *(answer.notes if not writing else [])]
    kind = "model" if answer.found or writing else "model absent"
    return (
        f'{asked}<div class="said {kind}" role="article" aria-label="Answer" aria-live="polite" '
        f'aria-busy="{str(writing).lower()}"><div class="text" dir="auto">{"".join(parts)}'
        f"{'…' if writing else ''}</div></div>"
        + (f'<ul class="quotes">{quotes}</ul>' if quotes else "")
        + "".join(_passage(number, key, answer) for number in sorted(cited))
        + (f'<div class="figures">{shown(" · ".join(notes))}</div>' if notes else "")
    )


def _cite(number: int, key: str, answer: CitedAnswer) -> str:
    where = shown(place(answer.passages[number - 1]))
    return (
        f'<button class="cite" popovertarget="{key}-{number}" title="{where}" '
        f'aria-label="Passage {number}, {where}">[{number}]</button>'
    )


def _passage(number: int, key: str, answer: CitedAnswer) -> str:
    """A passage that its number opens, with what is quoted of it marked."""
    passage = answer.passages[number - 1]
    text, start = passage.page_content, passage.metadata.get("start")
    parts, at = [], 0
    for one in sorted((q for q in answer.quotes if q.number == number), key=lambda q: q.start):
        end = one.start + len(one.text)
        parts.append(f"{shown(text[at : one.start])}<mark>{shown(text[one.start : end])}</mark>")
        at = end
    after = f", from character {start:,} on" if isinstance(start, int) else ""
    return (
        f'<div class="passage" popover id="{key}-{number}" role="dialog" '
        f'aria-label="Passage {number}" tabindex="-1">'
        f'<button class="cite close" popovertarget="{key}-{number}" popovertargetaction="hide" '
        f'aria-label="Close">Close</button><h4>[{number}] {shown(place(passage))}{after}</h4>'
        f'<div class="text" dir="auto">{"".join(parts)}{shown(text[at:])}</div></div>'
    )


def _advice(error: BaseException) -> str:
    more = "The question is back in the field."
    if isinstance(error, ContextOverflowError):
        more = f"Or index with smaller passages (chunk_size). {more}"
    return f"{failure_text(error)}\n{more}"


def changes_line(changes: Any, failed: Iterable[str], index: Any) -> str:
    """What became of an index, in a line, and one for each file that could not be read.

    Args:
        changes: What `DocumentIndex.sync` or `add` gives, or None.
        failed: Files that could not be read, with the reasons.
        index: The index.
    """
    sources = len(index.sources)
    size = f"The index has {len(index):,} passages of {sources:,} source{'s' * (sources != 1)}."
    done = f"✓ {changes}. " if changes is not None else ""
    return "\n".join([f"{done}{size}", *(f"✗ not read: {one}" for one in failed)])


def reasons(told: Iterable[Any]) -> list[str]:
    """The files that a warning of `DocumentIndex.sync` says were left out.

    >>> reasons(["Left out of the index: a.md: no text in UTF-8; b.md: no file."])
    ['a.md: no text in UTF-8', 'b.md: no file']
    """
    texts = [str(one) for one in told if str(one).startswith("Left out of the index: ")]
    listed = [re.sub(r"^Left out of the index: |\.$", "", text).split("; ") for text in texts]
    return [one for found in listed for one in found]
