"""The index: keeping up with a folder, searching, and refusing what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from helpers import HelpersError, LlamaCppEmbeddings, default_model
from helpers.documents.index import DocumentIndex
from helpers.documents.passages import Passages, vector_id
from helpers.documents.retrieval import WAYS, fused
from helpers.documents.sources import LARGEST, UnreadableError, list_files, read_file
from helpers.documents.split import TokenSplitter
from helpers.documents.vectors import DiskVectors
from tests.documents.support import Counting, content, index, texts, write
from tests.support import ROOT

FILES = {
    "rivers.md": "# Rivers\nThe Rhine is 1,233 km long.\nThe Danube is longer.",
    "deep/food.txt": "Bread needs flour.\nBread needs flour.\nSoup needs water.",
    "cells.ipynb": json.dumps(
        {
            "nbformat": 4,
            "cells": [
                {"id": "first", "cell_type": "markdown", "source": ["# Code\n", "A line of text."]},
                {"cell_type": "code", "source": "print('river')", "outputs": [{"text": "x"}]},
            ],
        }
    ),
}
WHERE = pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes", FILES)


@pytest.fixture
def place(tmp_path: Path, on_disk: bool) -> Path | None:
    return tmp_path / "index" if on_disk else None


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppEmbeddings]:
    with LlamaCppEmbeddings(
        model_path=default_model(), n_ctx=512, show_progress=False
    ) as embeddings:
        yield embeddings


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> VectorStore:
        return InMemoryVectorStore(self.get_embeddings())


class TestOnDisk(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        store = DiskVectors(tmp_path / "vectors", self.get_embeddings(), 6)
        yield store
        store.close()


@WHERE
def test_an_index_keeps_up_with_a_folder(notes: Path, place: Path | None) -> None:
    embeddings = Counting()
    with index(place, embeddings=embeddings) as ours:
        first = ours.sync(notes)
        assert first.added == ours.sources == ("cells.ipynb", "deep/food.txt", "rivers.md")
        assert first.passages == len(ours) == len(ours.passages()) == 9
        assert ours.sync(str(notes)).unchanged == first.added

        write(notes, {"rivers.md": "# Rivers\nThe Rhine is 1,233 km long.\nThe Nile is long."})
        write(notes, {"new.md": "New."})
        (notes / "deep" / "food.txt").unlink()
        embeddings.texts.clear()
        second = ours.sync(notes)
        assert (second.added, second.changed) == (("new.md",), ("rivers.md",))
        assert (second.removed, second.unchanged) == (("deep/food.txt",), ("cells.ipynb",))
        # A passage that was there is not computed again.
        assert sorted(embeddings.texts) == ["New.", "The Nile is long."]
        assert "1 added, 1 changed, 1 removed, 1 unchanged; 4 new passages" in str(second)
        for by in WAYS:
            found = texts(ours.search("Bread flour Danube Nile", 50, by=by))
            assert not {"Bread needs flour.", "The Danube is longer."} & set(found)
            assert "The Nile is long." in found
        # Nothing is kept that no passage has.
        wanted = {vector_id(passage.page_content) for passage in ours.passages()}
        assert not ours._passages.unused()
        assert len(ours._store.get_by_ids([vector_id("The Danube is longer.")])) == 0
        assert len(ours._store.get_by_ids([*wanted])) == len(wanted)


@WHERE
def test_a_place_is_remembered(notes: Path, place: Path | None) -> None:
    with index(place) as ours:
        ours.sync(notes)
        (found,) = ours.search("A line of text.", 1, by="vectors")
        assert found.metadata["source"] == "cells.ipynb" and found.metadata["cell"] == "first"
        assert found.id == "cells.ipynb#1" and found.metadata["score"] == pytest.approx(1)
        assert {one.metadata.get("cell") for one in ours.passages()} == {"first", "1", None}
        # The same text in two places is found in both.
        twice = ours.search("Bread needs flour.", 2, by="vectors")
        assert [one.id for one in twice] == ["deep/food.txt#0", "deep/food.txt#1"]


@WHERE
def test_what_is_added_is_replaced_by_its_name(place: Path | None) -> None:
    with index(place) as ours:
        rhine = [Document("The Rhine.", metadata={"source": "r", "page": 3})]
        assert ours.add(rhine).added == ("r",)
        assert rhine == [Document("The Rhine.", metadata={"source": "r", "page": 3})]
        assert ours.add(iter(rhine)).unchanged == ("r",)
        assert ours.add([Document("One.\nTwo.", metadata={"source": "r"})]).changed == ("r",)
        assert texts(ours.passages()) == ["One.", "Two."]
        ours.add([Document("No name."), Document(" \n\t")])
        assert len(ours) == 3 and len(ours.sources) == 3
        ours.remove("r")
        assert texts(ours.passages()) == ["No name."]
        with pytest.raises(ValueError, match="'r' is not in the index"):
            ours.remove("r")


@WHERE
def test_vectors_are_in_the_order_of_passages(notes: Path, place: Path | None) -> None:
    embeddings = Counting()
    with index(place, embeddings=embeddings) as ours:
        assert ours.vectors().shape[0] == 0
        ours.sync(notes)
        found = ours.vectors()
        assert found.dtype == np.float32
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
        made = np.array(embeddings.embed_documents(texts(ours.passages())))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        assert np.abs(found - made).max() < 1e-5


def test_an_index_on_disk_is_there_again(notes: Path, tmp_path: Path) -> None:
    with index(tmp_path / "index") as ours:
        ours.sync(notes)
        before = content(ours), texts(ours.search("long river", by="both"))
    embeddings = Counting()
    with index(tmp_path / "index", embeddings=embeddings) as ours:
        assert (content(ours), texts(ours.search("long river", by="both"))) == before
        assert len(ours.sync(notes).unchanged) == 3
        assert len(embeddings.texts) == 1  # the probe


def test_searches_with_a_real_model(model: LlamaCppEmbeddings, tmp_path: Path) -> None:
    notes = write(tmp_path / "notes", FILES)
    with DocumentIndex(model, tmp_path / "index") as ours:
        ours.sync(notes)
        assert all(one.metadata["tokens"] > 0 for one in ours.passages())
        for by in WAYS:
            best = ours.search("The Danube is longer.", 1, by=by)[0]
            assert "Danube" in best.page_content
        retriever = ours.as_retriever(2, by="words")
        assert [one.metadata["source"] for one in retriever.invoke("flour")] == ["deep/food.txt"]
    with pytest.raises(HelpersError, match="chunk_size 256, now 64"):
        DocumentIndex(model, tmp_path / "index", splitter=TokenSplitter(model, 64, 0))
    with LlamaCppEmbeddings(
        model_path=default_model(), n_ctx=512, pooling="last", document_prefix="passage: "
    ) as other:
        said = "pooling 'mean', now 'last'; document_prefix '', now 'passage: '"
        with pytest.raises(HelpersError, match=said):
            DocumentIndex(other, tmp_path / "index")


class Reversing(BaseDocumentCompressor):
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        return list(documents)[::-1]


async def test_a_retriever_asks_the_reranker(notes: Path) -> None:
    with index() as ours:
        ours.sync(notes)
        usual = ours.search("Bread needs flour and the Rhine is long", 6)
        retriever = ours.as_retriever(2, reranker=Reversing(), n_candidates=6)
        found = await retriever.ainvoke("Bread needs flour and the Rhine is long")
        assert [one.id for one in found] == [one.id for one in usual[::-1][:2]]
        assert found == retriever.invoke("Bread needs flour and the Rhine is long")
        assert texts(ours.as_retriever(1).batch(["Soup needs water."])[0]) == ["Soup needs water."]


def test_one_bar_is_shown_not_those_of_its_parts(
    model: LlamaCppEmbeddings, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = LlamaCppEmbeddings(model_path=model.model_path, n_ctx=512, show_progress=True)
    with DocumentIndex(loud, show_progress=True) as ours:
        ours.add([Document("The Rhine is long.", metadata={"source": "r"})])
        shown = capsys.readouterr().err
        loud.embed_documents(["one", "two"])
    assert "passages" in shown and "embed" not in shown
    assert "embed" in capsys.readouterr().err, "by itself it has its own"


def test_progress_counts_passages(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with index(show_progress=shown) as ours:
            ours.add([Document("One.\nTwo.\nTwo.")])
        assert ("passages:" in capsys.readouterr().err) is shown


def test_two_rankings_are_put_together() -> None:
    one, two, three = (Document(name, id=name) for name in "abc")
    found = fused([(one, 9.0), (two, 8.0)], [(two, 0.5), (three, 0.4)])
    assert [passage.id for passage, _ in found] == ["b", "a", "c"]
    assert [score for _, score in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


@pytest.mark.parametrize(
    "question",
    ['"', "a AND", "NEAR(", "river*", "col:river", "^river", "-river", "'; DROP TABLE words", "\0",
     "river\0river", "_", "()", "", " ", "🦊", "e\u0301", "(" * 1000, "river " * 20_000,
     " ".join(f"river{n}" for n in range(20_000))],
)  # fmt: skip
def test_any_text_is_a_question(question: str, notes: Path) -> None:
    with index() as ours:
        ours.sync(notes)
        for by in WAYS:
            assert isinstance(ours.search(question, by=by), list)


def test_words_are_found_by_their_stems() -> None:
    with index() as ours:
        ours.add([Document("Die Flüsse.\nLong rivers run.\nA cat.", metadata={"source": "s"})])
        assert texts(ours.search("Is a river RUNNING?", by="words"))[0] == "Long rivers run."
        assert texts(ours.search("flusse", by="words")) == ["Die Flüsse."]
        scores = [one.metadata["score"] for one in ours.search("a long river", by="words")]
        assert scores == sorted(scores, reverse=True) and scores[-1] >= 0


def test_questions_that_are_none() -> None:
    with index() as ours:
        with pytest.raises(TypeError, match="query must be a text"):
            ours.search(b"x")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="k=0 is out of range"):
            ours.search("x", 0)
        with pytest.raises(ValueError, match="by='bm25' must be 'vectors', 'words' or 'both'"):
            ours.search("x", by="bm25")  # type: ignore[arg-type]
        assert ours.search("\ud800", by="words") == []


def test_documents_that_are_none() -> None:
    with index() as ours:
        with pytest.raises(TypeError, match="'text', which is no Document"):
            ours.add(["text"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="list of Documents"):
            ours.add(Document("text"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="source must be a text"):
            ours.add([Document("text", metadata={"source": 3})])
        with pytest.raises(ValueError, match="surrogate"):
            ours.add([Document("half \ud800", metadata={"source": "s"})])
        assert len(ours) == 0 and ours.sources == ()
    with pytest.raises(TypeError, match="counts no tokens"):
        DocumentIndex(Counting())
    with pytest.raises(TypeError, match="must be LangChain's Embeddings"):
        DocumentIndex("model.gguf")  # type: ignore[arg-type]


def test_files_that_cannot_be_read_are_told_and_left_out(tmp_path: Path) -> None:
    notes = write(
        tmp_path / "notes",
        {"good.md": "Good.", "latin.txt": b"caf\xe9", "null.txt": b"a\0b", "bad.ipynb": "{",
         "old.ipynb": '{"worksheets": []}', "list.ipynb": "[]", ".hidden/x.md": "no",
         "utf16.txt": "x".encode("utf-16"), "bom.md": b"\xef\xbb\xbfMark.", "crlf.md": "a\r\nb"},
    )  # fmt: skip
    with (notes / "large.txt").open("wb") as file:
        file.truncate(LARGEST + 1)
    with index() as ours:
        with pytest.warns(UserWarning, match="Left out of the index: ") as told:
            changes = ours.sync(notes)
        assert changes.added == ("bom.md", "crlf.md", "good.md")
        assert len(changes.skipped) == 7
        for said in ("latin.txt: no text in UTF-8 (byte 3 is 0xe9)", "null bytes", "64 MiB",
                     "bad.ipynb: no notebook of format 4"):  # fmt: skip
            assert said in str(told[0].message)
        assert told[0].filename == __file__
        assert texts(ours.passages()) == ["Mark.", "a", "b", "Good."]
        # What was read once stays when it cannot be read any more.
        write(notes, {"good.md": b"\xff"})
        with pytest.warns(UserWarning, match=r"good\.md"):
            assert ours.sync(notes).removed == ()
        assert "good.md" in ours.sources


def test_what_is_in_a_folder_that_cannot_be_entered_stays(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder.name == "deep":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    with index() as ours:
        ours.sync(notes)
        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.warns(UserWarning, match="deep/: a folder that cannot be entered"):
            changes = ours.sync(notes)
        assert changes.removed == () and changes.skipped == ("deep/",)
        assert "deep/food.txt" in ours.sources


@pytest.mark.skipif(sys.platform == "win32", reason="links, special files")
def test_links_and_special_files(tmp_path: Path) -> None:
    notes = write(tmp_path / "notes", {"a/one.md": "One."})
    other = write(tmp_path / "other", {"two.md": "Two."})
    (notes / "a" / "loop").symlink_to(notes)
    (notes / "self.md").symlink_to("self.md")
    (notes / "gone.md").symlink_to("nowhere.md")
    (notes / "linked").symlink_to(other)
    os.mkfifo(notes / "pipe.md")
    assert [name for name, _ in list_files(notes, ("*.MD",))] == [
        "a/one.md", "gone.md", "linked/two.md", "pipe.md", "self.md",
    ]  # fmt: skip
    for name in ("gone.md", "pipe.md", "self.md"):
        with pytest.raises(UnreadableError):
            read_file(notes / name)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with index() as ours:
        with pytest.raises(FileNotFoundError, match="does not exist"):
            ours.sync(tmp_path / "nowhere")
        write(tmp_path, {"file": ""})
        with pytest.raises(FileNotFoundError, match="is no folder"):
            ours.sync(tmp_path / "file")
    with pytest.raises(HelpersError, match="cannot be a folder"):
        index(tmp_path / "file")


def test_several_folders(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, {f"{name}.md": name}) for name in ("one", "two"))
    with index() as ours:
        ours.sync(one)
        ours.add([Document("Mine.", metadata={"source": "mine"})])
        assert ours.sync(two).removed == ()
        assert ours.sources == ("mine", "one.md", "two.md")
        write(two, {"one.md": "another"})
        with pytest.raises(ValueError, match=r"'one\.md' is in the index already, from .*one"):
            ours.sync(two)
        assert texts(ours.passages()) == ["Mine.", "one", "two"]
        # A folder that has moved is the same one.
        (two / "one.md").unlink()
        embeddings = ours._embeddings
        assert isinstance(embeddings, Counting)
        embeddings.texts.clear()
        moved = one.rename(tmp_path / "moved")
        assert ours.sync(moved).unchanged == ("one.md",)
        (moved / "one.md").unlink()
        assert ours.sync(moved, patterns="*.md").removed == ("one.md",)
        assert embeddings.texts == []


def test_a_stopped_run_keeps_what_is_complete(tmp_path: Path) -> None:
    long = "x" * 3000
    notes = write(
        tmp_path / "notes",
        {f"{n}.md": f"{long}{n}a\n{long}{n}b" + ("STOP" if n == 2 else "") for n in range(4)},
    )
    with index(tmp_path / "index", embeddings=Counting(fail_at="STOP")) as ours:
        with pytest.raises(KeyboardInterrupt):
            ours.sync(notes)
        assert ours.sources == ("0.md", "1.md")
        assert len(ours.search("x", 50, by="vectors")) == 4 == len(ours)
        assert ours.search("xyz", by="words") == []
    embeddings = Counting()
    with index(tmp_path / "index", embeddings=embeddings) as ours:
        assert ours.sync(notes).unchanged == ("0.md", "1.md")
        assert len(embeddings.texts) == 4  # the probe, and what had no vector yet
        assert len(ours) == 8


def test_an_index_is_searched_while_it_grows(tmp_path: Path) -> None:
    notes = write(
        tmp_path / "notes",
        {f"{n}.md": "\n".join(f"word{n} {m}" for m in range(9)) for n in range(30)},
    )
    failures: list[BaseException] = []
    with index(tmp_path / "index", embeddings=Counting(pause=0.0005)) as ours:
        done = threading.Event()

        def ask() -> None:
            try:
                while not done.is_set():
                    ours.vectors()
                    for by in WAYS:
                        found = ours.search("word3 4", 500, by=by)
                        counts = Counter(one.metadata["source"] for one in found)
                        if by == "vectors":
                            assert set(counts.values()) <= {9}, counts
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        ours.sync(notes)
        write(notes, {f"{n}.md": "\n".join(f"other{n} {m}" for m in range(9)) for n in range(9)})
        ours.sync(notes)
        done.set()
        for thread in threads:
            thread.join()
        assert failures == [] and len(ours) == 270


@WHERE
def test_a_search_sees_no_half_of_a_change(
    place: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(text: str) -> list[Document]:
        return [Document(text, metadata={"source": "s"})]

    with index(place) as ours:
        ours.add(named("same\nold"))
        change = threading.Thread(target=lambda: ours.add(named("same\nnew")))
        nearest = ours._store.similarity_search_with_score_by_vector

        def meanwhile(*args: Any, **kwargs: Any) -> object:
            found = nearest(*args, **kwargs)
            change.start()
            change.join(0.5)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(ours._store, "similarity_search_with_score_by_vector", meanwhile)
            assert sorted(texts(ours.search("x", by="vectors"))) == ["old", "same"]
        change.join()
        assert sorted(texts(ours.search("x", by="vectors"))) == ["new", "same"]


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    ours = index(tmp_path / "index")
    ours.close()
    ours.close()
    for use in (
        ours.passages, ours.vectors, ours.__len__, lambda: ours.sources, lambda: ours.search("x"),
        lambda: ours.add([]), lambda: ours.sync(tmp_path), lambda: ours.remove("x"),
        lambda: ours.as_retriever().invoke("x"),
    ):  # fmt: skip
        with pytest.raises(HelpersError, match=r"index \(.*index\) has been closed"):
            use()
    assert repr(ours) == f"DocumentIndex({tmp_path / 'index'}, closed)"


def test_making_it_again_closes_the_older_one(tmp_path: Path) -> None:
    older = index(tmp_path / "index")
    older.add([Document("One.")])
    with index(tmp_path / "index") as newer:
        assert len(newer) == 1
        with pytest.raises(HelpersError, match="closes it, too"):
            older.search("One.")
        older.close()
        assert len(newer) == 1
    left = index(tmp_path / "index")
    del left  # nobody has it any more
    with index(tmp_path / "index") as newer:
        assert len(newer) == 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "from tests.documents.support import index; import sys, time; ours = index(sys.argv[1])\n"
        "print('open', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "index"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout is not None and child.stdout.readline()
        for more in ({}, {"rebuild": True}):
            with pytest.raises(HelpersError, match=r"The index in .*index is in use by another"):
                index(tmp_path / "index", **more)
    finally:
        child.kill()
        child.communicate()
    index(tmp_path / "index").close()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with index(tmp_path / "index") as ours:
        ours.add([Document("One.")])
    with pytest.raises(HelpersError, match=r"width 16, now 8; .*rebuild=True|width 16, now 8\."):
        index(tmp_path / "index", embeddings=Counting(8))

    class Other(Counting):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents([text + "!" for text in texts])

    Other.__name__ = "Counting"
    with pytest.raises(HelpersError, match="another model of the same name"):
        index(tmp_path / "index", embeddings=Other())
    with index(tmp_path / "index") as ours:
        assert len(ours) == 1
    with index(tmp_path / "index", embeddings=Counting(8), rebuild=True) as ours:
        assert len(ours) == 0 and ours.sources == () and ours.search("One.") == []
        ours.add([Document("One.")])
    with index(tmp_path / "index", embeddings=Counting(8)) as ours:
        assert texts(ours.search("One.")) == ["One."]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage " * 2000)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("passages.sqlite", _garbage),
        ("passages.sqlite", _cut),
        ("vectors/meta.json", _garbage),
        ("vectors/collection/passages/storage.sqlite", _garbage),
        ("vectors/collection/passages/storage.sqlite", _cut),
        ("vectors/collection/passages/storage.sqlite", Path.unlink),
        ("vectors", shutil.rmtree),
    ],
)
def test_a_damaged_index_says_so_and_can_be_made_anew(
    name: str, damage: Any, tmp_path: Path
) -> None:
    place = tmp_path / "index"
    with index(place) as ours:
        ours.add([Document("\n".join(f"passage {n}" for n in range(200)))])
    damage(place / name)
    with pytest.raises(HelpersError, match="rebuild=True empties the index"):
        index(place)
    with index(place, rebuild=True) as ours:
        ours.add([Document("One.")])
    with index(place) as ours:
        assert texts(ours.search("One.")) == ["One."]


def test_a_folder_that_is_no_index_is_left_alone(tmp_path: Path) -> None:
    place = write(tmp_path / "mine", {"vectors/mine.txt": "mine"})
    for rebuild in (False, True):
        with pytest.raises(HelpersError, match="it is no index"):
            index(place, rebuild=rebuild)
    assert (place / "vectors" / "mine.txt").read_text() == "mine"


def test_an_index_that_was_hardly_begun_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Passages, "keep_settings", end)
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "index")
    with index(tmp_path / "index", embeddings=Counting(8)) as ours:
        ours.add([Document("One.")])
        assert len(ours.search("One.")) == 1
