"""An answer with the quotes that it rests on: as values, as text, as HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from langchain_core.documents import Document
from langchain_core.messages import AIMessage

MARK = re.compile(r"\[([0-9]+)\]")
"""How an answer cites a passage, by its number."""
_ENDS = {
    "writing": "(being written)",
    "cut": "(cut off by max_tokens)",
    "stopped": "(stopped)",
}


@dataclass(frozen=True)
class Quote:
    """A part of a passage, as it stands there.

    Attributes:
        passage: The passage.
        number: Its number in the prompt and in the answer, from 1.
        start: Where in its text the quote begins.
        text: The quote.
    """

    passage: Document
    number: int
    start: int
    text: str

    def __str__(self) -> str:
        return f"[{self.number}] “{self.text}” — {place(self.passage)}"


@dataclass(frozen=True)
class CitedAnswer:
    """An answer, and what of one's documents it rests on; shows itself in a notebook.

    Attributes:
        question: The question.
        text: The answer, with `[2]` after what passage 2 says; only passages that are quoted.
        quotes: What was quoted, in the model's order; each stands in its passage word for word.
        found: Whether the documents have an answer; if not, `text` says that.
        passages: What the model has read, in the order of their numbers.
        left_out: Passages for which the context had no room, best first.
        message: The model's message with its timings; None if the model was not asked.
        state: "done"; "writing" in a stream; "cut" by max_tokens or the context; or "stopped".
    """

    question: str
    text: str = ""
    quotes: tuple[Quote, ...] = ()
    found: bool = False
    passages: tuple[Document, ...] = field(default=(), repr=False)
    left_out: tuple[Document, ...] = field(default=(), repr=False)
    message: AIMessage | None = field(default=None, repr=False)
    state: Literal["writing", "done", "cut", "stopped"] = "done"

    @property
    def notes(self) -> list[str]:
        """What has to be said about the answer beside its text."""
        left = len(self.left_out)
        said = f"{left} passage{'s' * (left != 1)} found, but left out: the context is full."
        return [*filter(None, [_ENDS.get(self.state), said if left else ""])]

    def __str__(self) -> str:
        lines = [self.text, *self.notes, *([""] if self.quotes else []), *map(str, self.quotes)]
        return "\n".join(lines).lstrip("\n")

    def _repr_html_(self) -> str:
        # A text from right to left must not turn what stands beside it: `bdi` keeps it apart.
        quotes = "".join(
            f"<p style='margin:4px 0 4px 1.5em'>[{one.number}] <q>"
            f"<bdi style='white-space:pre-wrap'>{escape(one.text)}</bdi></q> — "
            f"<i><bdi>{escape(place(one.passage))}</bdi></i></p>"
            for one in self.quotes
        )
        notes = "".join(f"<p><i>{escape(note)}</i></p>" for note in self.notes)
        return (
            f"<p><b><bdi>{escape(self.question)}</bdi></b></p>"
            f"<p dir='auto'>{escape(self.text)}</p>{notes}{quotes}"
        )


def place(passage: Document) -> str:
    """Where a passage is from, for people: source, heading, page and cell as far as known.

    >>> from langchain_core.documents import Document
    >>> place(Document("…", metadata={"source": "rivers.md", "heading": "France › Loire"}))
    'rivers.md › France › Loire'
    """  # noqa: RUF002 (headings are joined like that)
    about = passage.metadata
    parts = [about.get("source") or "a passage without a name", about.get("heading")]
    parts += [f"{name} {about[name]}" for name in ("page", "cell") if about.get(name) is not None]
    return " › ".join(" ".join(str(part).split()) for part in parts if part)  # noqa: RUF001
