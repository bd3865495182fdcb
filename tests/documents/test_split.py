# ruff: noqa: RUF001 (texts of several languages)
from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from helpers import LlamaCpp, LlamaCppEmbeddings, default_model
from helpers.documents.places import SENTENCES, characters, places, sections
from helpers.documents.split import CountsTokens, TokenSplitter, split_text
from helpers.install.configure import pinned_source
from helpers.prompt import Prompt
from tests.models.gguf_builders import tiny_bert, tiny_llama

ROOT = Path(__file__).parents[2]
FAMILY = "👨‍👩‍👧"
PIECES = [
    "The river is long.", " ", " ", "\n", "\n\n", "It flows", "to the sea!", "\r\n", "# Head\n",
    "## Part #\n\n", "```\n# no head\n```\n", "Title\n=====\n", "- item\n", "\f",
    "\0", "e\u0301", FAMILY,
    "🇰🇷🇩🇪", "👍🏽", "강은 길다.", "川は長い。", "\u1112\u1161\u11ab", "<|im_start|>",
    "longwordwithoutend" * 3,
    "\t", "\u3000", "'", "|a|b|\n",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=60).map("".join)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppEmbeddings]:
    with LlamaCppEmbeddings(model_path=default_model(), show_progress=False) as made:
        yield made


@pytest.fixture(scope="module", params=["bert-bge", "llama-spm"])
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppEmbeddings]:
    """Other vocabularies: word pieces, lower-cased, between two tokens; and SentencePiece."""
    source = pinned_source()
    if source is None:
        pytest.skip("the source with the vocabularies is not on this machine: build from source")
    vocabulary = source / "vendor" / "llama.cpp" / "models" / f"ggml-vocab-{request.param}.gguf"
    write = tiny_bert if request.param == "bert-bge" else tiny_llama
    path = write(tmp_path_factory.mktemp("other") / "m.gguf", vocabulary=vocabulary)
    with LlamaCppEmbeddings(model_path=path, show_progress=False) as made:
        yield made


class Letters:
    """Counts characters: what a passage must be can be said by hand."""

    def get_num_tokens(self, text: str) -> int:
        return len(text)


def supplied(model: CountsTokens, text: str) -> int:
    return model.get_num_tokens(Prompt([(text, False)]))


def cut(text: str, size: int, overlap: int = 0, **metadata: Any) -> list[str]:
    splitter = TokenSplitter(Letters(), size, overlap)
    return [p.page_content for p in splitter.create_documents([text], [metadata])]


def check(text: str, model: CountsTokens, size: int, overlap: int) -> list[Document]:
    """What is true of the passages of any text."""
    passages = split_text(text, model, chunk_size=size, chunk_overlap=overlap)
    covered = bytearray(len(text))
    for passage in passages:
        start, content = passage.metadata["start"], passage.page_content
        assert content and content == content.strip()
        assert text[start : start + len(content)] == content
        assert passage.metadata["tokens"] == supplied(model, content) <= size
        covered[start : start + len(content)] = b"\1" * len(content)
    assert all(seen or one.isspace() for seen, one in zip(covered, text, strict=True))
    spans = [(p.metadata["start"], p.metadata["start"] + len(p.page_content)) for p in passages]
    for (start, stop), (next_start, next_stop) in pairwise(spans):
        assert start < next_start and stop < next_stop
        if next_start < stop:
            assert supplied(model, text[next_start:stop]) <= overlap
    heads = {section.start for section in sections(text)}
    for start, stop in spans:
        assert not any(start < head < stop for head in heads)
    return passages


def whole(text: str, passages: list[Document]) -> bool:
    """Whether no passage begins or ends within what a reader sees as one character."""
    between = {0, *characters(text, 0, len(text))}
    edges = [(p.metadata["start"], len(p.page_content)) for p in passages]
    # A mark behind a blank belongs to the blank, which no passage begins or ends with.
    marks = {at for at in range(1, len(text)) if text[at - 1].isspace()}
    return {edge for start, size in edges for edge in (start, start + size)} <= between | marks | {
        at for at in range(len(text)) if text[at].isspace()
    }


RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RELAXED
@given(text=TEXTS, size=st.integers(40, 80), overlap=st.integers(0, 39))
def test_what_is_true_of_the_passages_of_any_text(
    model: LlamaCppEmbeddings, text: str, size: int, overlap: int
) -> None:
    assert whole(text, check(text, model, size, overlap))


@RELAXED
@given(text=TEXTS, size=st.integers(10, 30), overlap=st.integers(0, 9))
def test_the_same_with_other_vocabularies(
    other: LlamaCppEmbeddings, text: str, size: int, overlap: int
) -> None:
    check(text, other, size, overlap)


@RELAXED
@given(text=TEXTS, size=st.integers(1, 20), data=st.data())
def test_the_same_with_a_token_for_each_code_point(
    text: str, size: int, data: st.DataObject
) -> None:
    check(text, Letters(), size, data.draw(st.integers(0, size - 1)))


def test_control_tokens_in_a_text_are_text(model: LlamaCppEmbeddings) -> None:
    (passage,) = split_text("<|im_start|>", model)
    assert passage.metadata["tokens"] == 7
    assert model.get_num_tokens("<|im_start|>") == 1


def test_passages_are_filled(model: LlamaCppEmbeddings) -> None:
    text = "word " * 2000
    passages = check(text, model, 100, 20)
    assert [p.metadata["tokens"] for p in passages[:-1]] == [100] * (len(passages) - 1)
    for one, other in pairwise(passages):
        stop = one.metadata["start"] + len(one.page_content)
        assert supplied(model, text[other.metadata["start"] : stop]) == 20


def test_the_lessons_of_the_suite(model: LlamaCppEmbeddings) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    passages = check(text, model, 128, 16)
    assert len(passages) > 10 and all(p.metadata["heading"] for p in passages)
    # Hardly a passage ends within a sentence.
    ends = [p.page_content[-1] in ".:`!?)|*]" for p in passages]
    assert sum(ends) > 0.8 * len(ends)


def test_a_section_ends_a_passage_and_names_it() -> None:
    text = "Before.\n\n# Rivers\n\n## Han ##\nLong.\n\n### Source\nCold.\n\n## Amur\nLonger.\n"
    passages = split_text(text, Letters())
    assert [(p.page_content, p.metadata.get("heading")) for p in passages] == [
        ("Before.", None),
        ("# Rivers\n\n## Han ##\nLong.", "Rivers › Han"),
        ("### Source\nCold.", "Rivers › Han › Source"),
        ("## Amur\nLonger.", "Rivers › Amur"),
    ]


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("```python\n# no\n```\n# yes\nx", ["", "yes"]),
        ("~~~~\n~~~\n# no\n~~~~\n# yes\nx", ["", "yes"]),
        ("```\n# never closed\n## x\n", [""]),
        ("``` a`b\n# yes\nx", ["", "yes"]),
        ("#hashtag\n####### seven\n    # code\nx", [""]),
        ("#\nbare", [""]),
        ("Han\n===\nLong.\n\nAmur\r\n---\r\nLonger.", ["Han", "Han › Amur"]),
        ("---\ntitle: no\n---\nText\n\n| a |\n|---|\n- x\n---\n", [""]),
        ("## Deep\nx\n# High\ny\n### Skips\nz", ["Deep", "High", "High › Skips"]),
        ("", [""]),
    ],
)
def test_headings(text: str, headings: list[str]) -> None:
    assert [section.heading for section in sections(text)] == headings


def test_code_has_no_headings() -> None:
    code = Document(page_content="# a comment\nx = 1", metadata={"cell_type": "code"})
    (passage,) = split_text(code, Letters())
    assert "heading" not in passage.metadata and passage.page_content == code.page_content


def test_cuts_between_paragraphs_then_sentences_lines_words_characters() -> None:
    text = "One two. Three.\n\nFour five. Six seven."
    assert cut(text, 30) == ["One two. Three.", "Four five. Six seven."]
    assert cut(text, 16) == ["One two. Three.", "Four five.", "Six seven."]
    assert cut("alpha beta\ngamma delta", 12) == ["alpha beta", "gamma delta"]
    assert cut("alpha beta gamma", 11) == ["alpha beta", "gamma"]
    assert cut("abcdefgh", 3) == ["abc", "def", "gh"]
    # A paragraph that fills less than half of a passage does not end it.
    assert cut("One.\n\nTwo three four five. Six.", 27) == ["One.\n\nTwo three four five.", "Six."]


def test_sentences_end_where_a_reader_would_say_so() -> None:
    text = 'Dr. Kim of St. Paul asked J. Bach, e.g. twice: "Why?" Nobody knew. 강은 길다. 川。山！'
    starts = places(text, SENTENCES)
    assert [text[at : at + 2] for at in starts] == ["No", "강은", "川。", "山！"]
    assert cut("1. one\n2. two\n- three\n| four |", 9) == [
        "1. one",
        "2. two",
        "- three",
        "| four |",
    ]


def test_the_overlap_is_whole_sentences_or_words_and_ends_with_a_section() -> None:
    text = "Aa bb. Cc dd. Ee ff. Gg hh."
    assert cut(text, 14, 7) == ["Aa bb. Cc dd.", "Cc dd. Ee ff.", "Ee ff. Gg hh."]
    assert cut("aa bb cc dd ee", 8, 5) == ["aa bb cc", "bb cc dd", "cc dd ee"]
    # The next sentence needs the room: nothing is repeated.
    assert cut("Aa bb. Cccc dddd ee.", 13, 6) == ["Aa bb.", "Cccc dddd ee."]
    assert cut("Aa bb.\n# H\nCc dd.", 20, 10) == ["Aa bb.", "# H\nCc dd."]


def test_a_character_is_not_cut(model: LlamaCppEmbeddings) -> None:
    text = FAMILY * 30 + "e\u0301" * 100 + "🇰🇷" * 30 + "👍🏽" * 30
    assert supplied(model, FAMILY) > 8
    assert whole(text, check(text, model, 40, 20))
    for one in (FAMILY, "e\u0301", "🇰🇷", "👍🏽", "\u1112\u1161\u11ab"):
        for size in (41, 42, 43):
            passages = check(one * 60, model, size, 7)
            assert len(passages) > 2 and not any(p.page_content.replace(one, "") for p in passages)
    # Marks that alone are too many for a passage are parted.
    marks = "e" + "\u0301" * 200
    assert unicodedata.combining(marks[1])
    assert len(check(marks, model, 40, 0)) > 2


def test_pages_come_from_form_feeds_and_from_metadata() -> None:
    text = "One two three.\fFour.\f\fFive six seven."
    pages = [
        p.metadata["page"] for p in split_text(text, Letters(), chunk_size=16, chunk_overlap=0)
    ]
    assert pages == [1, 2, 4]
    loaded = Document(page_content=text, metadata={"page": 7, "source": "a.pdf"})
    passages = split_text([loaded], Letters(), chunk_size=16, chunk_overlap=0)
    assert [p.metadata["page"] for p in passages] == [7, 8, 10]
    assert {p.metadata["source"] for p in passages} == {"a.pdf"}
    assert "page" not in split_text("No form feed.", Letters())[0].metadata


def test_an_eighth_is_repeated_where_nothing_else_is_said() -> None:
    passages = split_text("aa bb cc dd ee ff gg hh ii jj", Letters(), chunk_size=24)
    assert [p.metadata["start"] for p in passages] == [0, 21]  # "hh", and not " gg hh"
    assert split_text("a b", Letters(), chunk_size=1)


def test_metadata_is_copied_not_shared() -> None:
    given = {"source": "a.md", "tags": ["x"]}
    one, two = TokenSplitter(Letters(), 5, 0).transform_documents(
        [Document(page_content="aaaa bbbb", metadata=given)]
    )
    one.metadata["tags"].append("y")
    assert given == {"source": "a.md", "tags": ["x"]} and two.metadata["tags"] == ["x"]


def test_any_model_that_counts(other: LlamaCppEmbeddings) -> None:
    llm = LlamaCpp(model_path=default_model(), vocab_only=True)
    for model in (llm, other):
        (passage,) = split_text("The river is long.", model)
        assert passage.metadata["tokens"] == model.get_num_tokens("The river is long.")


@pytest.mark.parametrize("text", ["", " \n\t\f", "\ufeff \u3000"[1:]])
def test_a_text_without_words_has_no_passages(text: str) -> None:
    assert split_text(text, Letters()) == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size=0"),
        ({"chunk_size": 2.5}, TypeError, "whole number"),
        ({"chunk_size": True}, TypeError, "whole number"),
        ({"chunk_size": 10, "chunk_overlap": 10}, ValueError, "less than chunk_size"),
        ({"chunk_overlap": -1}, ValueError, "chunk_overlap=-1"),
        ({"chunk_size": 10**9}, ValueError, "262144"),
        ({"text": None}, TypeError, "text=None"),
        ({"text": 3.5}, TypeError, "several Documents"),
        ({"text": [b"x"]}, TypeError, "is no Document"),
        ({"text": "half \ud83d"}, ValueError, "character 5"),
        ({"model": "model.gguf"}, TypeError, "cannot count tokens"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"text": "A text.", "model": Letters()} | arguments
    with pytest.raises(kind, match=words):
        split_text(**given)


def test_a_character_of_too_many_tokens_is_refused(model: LlamaCppEmbeddings) -> None:
    with pytest.raises(ValueError, match=r"character 4 of the text.*chunk_size=1"):
        split_text("abc 🜚", model, chunk_size=1, chunk_overlap=0)
    with pytest.raises(TypeError, match="use split_text"):
        TokenSplitter(model).create_documents("one text")  # type: ignore[arg-type]
