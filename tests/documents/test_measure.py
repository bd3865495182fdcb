from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document

from helpers.documents.measure import Question, measure_retrieval, read_questions
from tests.documents.record_retrieval import NOTEBOOKS, QUESTIONS, RECORD, write


def passage(cell: str, source: str = "a.ipynb") -> Document:
    return Document(page_content=cell, metadata={"source": source, "cell": cell})


def question(text: str, *cells: str | None) -> Question:
    return Question(text, frozenset(("a.ipynb", cell) for cell in cells))


class Ranked:
    """An index whose answers are known: the passages p1, p2, … in an order for each way."""

    orders = {"vectors": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "words": [11, 10, 1], "both": []}

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []

    def search(self, query: str, k: int = 4, *, by: str = "both") -> list[Document]:
        self.asked.append((query, k, by))
        return [passage(f"p{number}") for number in self.orders[by]][:k]


class Backwards(BaseDocumentCompressor):
    """A reranker that is of another opinion."""

    top_n: int | None = 3

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return documents[::-1][: self.top_n]


ASKED = [
    question("the first", "p1"),
    question("the fourth, or the seventh", "p7", "p4"),
    question("the tenth", "p10"),
    question("the eleventh", "p11"),
]


def test_recall_and_mean_reciprocal_rank_by_hand() -> None:
    table = measure_retrieval(Ranked(), ASKED)
    assert list(table.index) == ["vectors", "words", "both"]
    assert list(table.columns) == ["recall@1", "recall@5", "MRR", "seconds"]
    # Ranks 1, 4, 10, and beyond the tenth; then 3, none, 2, 1; then none at all.
    assert list(table.loc["vectors"])[:3] == [1 / 4, 2 / 4, pytest.approx((1 + 1 / 4 + 1 / 10) / 4)]
    assert list(table.loc["words"])[:3] == [1 / 4, 3 / 4, pytest.approx((1 / 3 + 1 / 2 + 1) / 4)]
    assert list(table.loc["both"])[:3] == [0, 0, 0]
    assert (table["seconds"] > 0).all()


def test_a_reranker_adds_rows_and_judges_twenty() -> None:
    index, reranker = Ranked(), Backwards()
    table = measure_retrieval(index, ASKED, ways=["vectors"], reranker=reranker)
    assert list(table.index) == ["vectors", "vectors, reranked"]
    # Ranks 11, 5, 2 and 1 of eleven that are turned round; the first is not among ten.
    assert list(table.loc["vectors, reranked"])[:3] == [
        1 / 4, 3 / 4, pytest.approx((1 / 5 + 1 / 2 + 1) / 4),
    ]  # fmt: skip
    assert {k for _, k, _ in index.asked} == {10, 20} and reranker.top_n == 3


def test_a_whole_source_may_be_right_and_another_source_is_not() -> None:
    found = [passage("p1", "b.ipynb"), passage("p1")]
    assert question("any cell", None).rank(found) == 2
    assert question("that cell", "p1").rank(found) == 2
    assert question("another", "p2").rank(found) is None


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        measure_retrieval(Ranked(), [])
    with pytest.raises(ValueError, match="'meaning'"):
        measure_retrieval(Ranked(), ASKED, ways=["meaning"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "text", ["", "{}]", '{"a": 1}', "[1]", "null", '[{"question": "x"}]',
             '[{"question": 1, "places": {"a": []}}]', '[{"question": "x", "places": {}}]',
             '[{"question": "x", "places": {"a": [[]]}}]', '[{"question": "x", "places": "a"}]'],
)  # fmt: skip
def test_a_file_that_is_no_labelled_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"q\.json is no labelled set"):
        read_questions(path)


# -- the suite's own set -----------------------------------------------------------------------


def cells() -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            found[path.name, cell["id"]] = cell
    return found


def test_the_suites_questions_name_cells_that_teach() -> None:
    questions, known = read_questions(QUESTIONS), cells()
    assert len(questions) >= 60 and len(known) > 500
    for one in questions:
        assert 1 <= len(one.places) <= 3, one
        for place in one.places:
            assert place in known, f"{one.text} is answered in {place}, which does not exist"
            assert not str(place[1]).startswith("exercise")
            assert "".join(known[place]["source"]).strip()  # type: ignore[index]


def test_the_suites_questions_are_many_and_spread() -> None:
    questions = read_questions(QUESTIONS)
    texts = [re.sub(r"\W+", " ", one.text.lower()).strip() for one in questions]
    assert len(set(texts)) == len(texts)
    assert all(len(text.split()) >= 4 for text in texts)
    sources = [source for one in questions for source in {source for source, _ in one.places}]
    # Those that come before 52 in the way through the notebooks; 23 comes after 30.
    lessons = {path.name for path in NOTEBOOKS.glob("*.ipynb") if path.name < "52"}
    lessons.remove("23_make_it_faster.ipynb")
    assert set(sources) == lessons and min(map(sources.count, lessons)) >= 3


def words(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z_0-9]{4,}", text.lower())}


def test_many_of_the_suites_questions_use_other_words_than_the_lesson() -> None:
    """A set in which each question repeats its cell would say nothing about vectors."""
    known = cells()

    def shared(one: Question) -> float:
        asked = words(one.text)
        said: Callable[[Any], str] = lambda place: "".join(known[place]["source"])  # noqa: E731
        return max(len(asked & words(said(place))) for place in one.places) / max(len(asked), 1)

    few = [one for one in read_questions(QUESTIONS) if shared(one) <= 1 / 3]
    assert len(few) >= len(read_questions(QUESTIONS)) / 3, len(few)


# -- the record ----------------------------------------------------------------------------------


def test_the_record_is_dated_and_names_no_machine() -> None:
    rows = json.loads(RECORD.read_text(encoding="utf-8"))
    assert rows
    for row in rows:
        date.fromisoformat(row["date"])
        assert row["file"].endswith(".gguf") and not re.search(r"[/\\]", row["file"])
        assert 0 <= row["recall@1"] <= row["MRR"] <= 1 and row["recall@1"] <= row["recall@5"] <= 1
        assert row["questions"] >= 60 and row["passages"] > 500 and row["dimension"] > 100
    keys = [(row["file"], row["way"], row.get("reranker")) for row in rows]
    assert len(set(keys)) == len(keys)


def test_a_new_row_takes_the_place_of_the_models_older_one(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.json"
    old = [{"file": "a.gguf", "way": way, "MRR": 0.1} for way in ("words", "both")]
    write(old, path)
    write([{"file": "a.gguf", "way": "both", "MRR": 0.9}], path)
    assert [row["MRR"] for row in json.loads(path.read_text(encoding="utf-8"))] == [0.1, 0.9]
