"""How well a search finds what answers a question: recall and mean reciprocal rank."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from langchain_core.documents import BaseDocumentCompressor, Document

from helpers.checks import check_choice, check_path
from helpers.documents.retrieval import WAYS, Searchable, Way

_LOOKED_AT = 10
_RERANKED = 20

Search = Callable[[str], list[Document]]


@dataclass(frozen=True)
class Question:
    """A question, and where it is answered.

    Attributes:
        text: What somebody asks.
        places: The right places: a source and its cell, or a source and None for all of it.
    """

    text: str
    places: frozenset[tuple[str, str | None]]

    def rank(self, found: Sequence[Document]) -> int | None:
        """The place of the first passage that answers, from 1; None if none does."""
        for number, passage in enumerate(found, 1):
            source = passage.metadata.get("source")
            if {(source, None), (source, passage.metadata.get("cell"))} & self.places:
                return number
        return None


def read_questions(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    """Read a labelled set of questions.

    Args:
        path: A JSON file: a list of objects with `question`, and `places` that answer it: the ids
            of cells by their source, or an empty list where any passage of a source does.

    Returns:
        The questions, in their order.

    Raises:
        ValueError: It is no such file.

    >>> _ = Path("q.json").write_text('[{"question": "How long?", "places": {"river.md": []}}]')
    >>> read_questions("q.json")[0].text
    'How long?'
    """
    path = Path(check_path("path", path))
    try:
        return tuple(_question(row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no labelled set ({type(error).__name__}: {error}). Write a list of "
            '{"question": "…", "places": {"notes.ipynb": ["id of a cell", …]}}.'
        ) from error


def _question(row: dict[str, Any]) -> Question:
    text, places = row["question"], row["places"]
    if not (isinstance(text, str) and isinstance(places, dict) and places):
        raise TypeError(f"{row!r:.80}")
    return Question(
        text, frozenset((name, cell) for name in places for cell in places[name] or [None])
    )


def measure_retrieval(
    index: Searchable,
    questions: Sequence[Question],
    ways: Sequence[Way] = WAYS,
    reranker: BaseDocumentCompressor | None = None,
) -> pd.DataFrame:
    """Ask all questions in several ways, and count how often the right passage is found.

    Args:
        index: What is asked: a `DocumentIndex`, or another object with its `search`.
        questions: The questions with their right places; `read_questions` reads them.
        ways: Ways to search: "vectors", "words", "both".
        reranker: Judges the first 20 of each way again, as a row of its own.

    Returns:
        A row for each way, with

        - `recall@1` and `recall@5`: the share of questions with a right passage first, and among
          the first five
        - `MRR`: mean of 1 / rank of the first right passage; 0 where none is among the first ten
        - `seconds`: mean time of a question

    Raises:
        ValueError: There are no questions, or no such way.

    Example:
        >>> questions = read_questions("questions.json")  # doctest: +SKIP
        >>> measure_retrieval(index, questions)  # doctest: +SKIP
    """
    questions = list(questions)
    if not questions:
        raise ValueError("questions is empty: there is nothing to measure.")
    rows: dict[str, dict[str, float]] = {}
    for way in ways:
        check_choice("way", way, WAYS)
        rows[way] = _row(questions, _search(index, way))
        if reranker is not None:
            rows[f"{way}, reranked"] = _row(questions, _search(index, way, reranker))
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("way")


def _search(index: Searchable, way: Way, reranker: BaseDocumentCompressor | None = None) -> Search:
    if reranker is None:
        return lambda text: index.search(text, _LOOKED_AT, by=way)
    if hasattr(reranker, "top_n"):  # by default it would keep three
        reranker = reranker.model_copy(update={"top_n": _LOOKED_AT})

    def search(text: str) -> list[Document]:
        return list(reranker.compress_documents(index.search(text, _RERANKED, by=way), text))

    return search


def _row(questions: Sequence[Question], search: Search) -> dict[str, float]:
    started = time.perf_counter()
    ranks = [question.rank(search(question.text)[:_LOOKED_AT]) for question in questions]
    seconds = time.perf_counter() - started
    count = len(questions)
    return {
        "recall@1": sum(rank == 1 for rank in ranks) / count,
        "recall@5": sum(rank is not None and rank <= 5 for rank in ranks) / count,
        "MRR": sum(1 / rank for rank in ranks if rank) / count,
        "seconds": seconds / count,
    }
