"""The index of documents: it keeps up with a folder, and finds passages by meaning and by words."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from helpers.checks import check_choice, check_path, check_range, check_text
from helpers.documents.opening import Storage, open_folder, open_memory
from helpers.documents.passages import Source, vector_id
from helpers.documents.retrieval import WAYS, DocumentRetriever, Found, Way, fused
from helpers.documents.sources import UnreadableError, list_files, read_file
from helpers.errors import HelpersError
from helpers.llm import LlamaCppEmbeddings
from helpers.llm.progress import progress
from helpers.threads import catch_up, later
from helpers.warn import warn_caller

_BATCH = 4096
"""Characters of passages that are computed between two moments at which work can be stopped."""

_REMOVED_AT_ONCE = 64

_CANDIDATES = 50
"""Passages that each way gives, at least, where two ways are put together."""

_opening = threading.Lock()
_open: weakref.WeakValueDictionary[Path, DocumentIndex] = weakref.WeakValueDictionary()


class Splitter(Protocol):
    """What cuts documents into passages, as LangChain's text splitters do."""

    def split_documents(self, documents: Iterable[Document]) -> list[Document]:
        """Cut documents into passages, with their metadata."""
        ...


@dataclass(frozen=True)
class Changes:
    """What became of an index.

    Attributes:
        added: Sources that are new in it.
        changed: Sources whose content was another before.
        removed: Sources that are gone.
        unchanged: Sources that stay as they were.
        skipped: Sources that could not be read; what the index had of them stays.
        passages: Passages in what was added and changed.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    passages: int = 0

    def __str__(self) -> str:
        names = ("added", "changed", "removed", "unchanged", "skipped")
        counts = [f"{len(getattr(self, name))} {name}" for name in names if getattr(self, name)]
        return f"{', '.join(counts) or 'nothing to do'}; {self.passages} new passages"


class DocumentIndex:
    """Passages of one's documents, to be searched by meaning, by words, or both.

    On disk it is a folder: vectors in Qdrant's local mode, which compares a question with every
    vector, so that nothing is missed; passages and words in SQLite. Whatever ends the process while
    it works, a search sees each source as it was or as it is, never half of it, and the next run
    goes on with the vectors that were computed. One process at a time may use a folder.

    Above some 20,000 passages a server is faster: `QdrantVectorStore` of langchain-qdrant speaks to
    one, and `DocumentIndex.passages()` gives what to add to it.

    Do not open an index that a stranger made: Qdrant's local mode keeps pickles, and loading one
    can run any program.

    Args:
        embeddings: What makes the vectors; `LlamaCppEmbeddings`, or another of LangChain's.
        path: A folder for the index, made if it does not exist. None: in memory.
        splitter: What cuts documents into passages. None: `TokenSplitter(embeddings)`.
        show_progress: A progress bar over passages. None: if it takes over two seconds.
        rebuild: Forget what is in the folder, and begin with an empty index.

    Raises:
        HelpersError: Another process uses the folder; it is damaged; or the index was made with
            other settings.

    Example:
        >>> vectors = LlamaCppEmbeddings(model_path=default_model(), show_progress=False)
        >>> index = DocumentIndex(vectors)
        >>> _ = index.add([Document("The river is 1,233 km long.", metadata={"source": "river"})])
        >>> [passage.metadata["source"] for passage in index.search("How long is the river?")]
        ['river']
    """

    def __init__(
        self,
        embeddings: Embeddings,
        path: str | Path | None = None,
        *,
        splitter: Splitter | None = None,
        show_progress: bool | None = None,
        rebuild: bool = False,
    ) -> None:
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                f"embeddings={embeddings!r} must be LangChain's Embeddings, as LlamaCppEmbeddings."
            )
        self._embeddings = embeddings
        self._splitter = splitter or _token_splitter(embeddings)
        self._show = show_progress
        self._closed = False
        self._writing = threading.RLock()
        self._steady = threading.Lock()  # while it is held, what is to be seen stays the same
        self.path = None if path is None else Path(check_path("path", path)).resolve()
        if self.path is None:
            self._have(open_memory(embeddings))
        else:
            catch_up()  # what nobody has any more is closed
            with _opening:
                if (older := _open.get(self.path)) is not None:
                    older.close()
                storage = open_folder(self.path, embeddings, self._splitter, rebuild)
                self._have(storage)
                _open[self.path] = self

    def _have(self, storage: Storage) -> None:
        self._passages, self._store = storage.passages, storage.vectors
        self._process = storage.process
        # A finaliser may take no lock.
        self._finalizer = weakref.finalize(self, later, storage.close)

    def sync(
        self,
        folder: str | Path,
        *,
        patterns: Sequence[str] = ("*.md", "*.txt", "*.ipynb"),
    ) -> Changes:
        """Make the index say what a folder's files say now.

        New and changed files are read, split and computed; a passage that was there before is not
        computed again. What a file said that is gone, or that no pattern fits any more, is removed.
        Sources of other folders, and those that were added, stay. A source is called by its path in
        the folder. A file that cannot be read is left out with a warning.

        Args:
            folder: The folder; its subfolders belong to it, but not what begins with a dot.
            patterns: Names of the files, as in a shell.

        Returns:
            What became of the sources.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: A source of that name has come from elsewhere.
            ContextOverflowError: A passage has more tokens than the model can take.
        """
        self._check_open()
        root = Path(check_path("folder", folder)).resolve()
        if not root.is_dir():
            what = "is no folder" if root.exists() else "does not exist"
            raise FileNotFoundError(f"folder={str(folder)!r} {what} (looked for {root}).")
        if isinstance(patterns, str):
            patterns = (patterns,)
        skipped: dict[str, str] = {}

        def read() -> Iterator[tuple[str, list[Document]]]:
            for name, path in list_files(root, patterns):
                try:
                    name.encode()
                    documents = read_file(path)
                except (UnreadableError, UnicodeError) as error:
                    reason = "its name is no Unicode" if isinstance(error, UnicodeError) else error
                    skipped[name] = str(reason)
                else:
                    yield name, documents

        changes = self._update(read(), str(root), skipped)
        if skipped:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:10])
            more = f"; and {len(skipped) - 10} more" if len(skipped) > 10 else ""
            warn_caller(f"Left out of the index: {listed}{more}.")
        return changes

    def add(self, documents: Iterable[Document]) -> Changes:
        """Add documents that are no files.

        All documents with the same `metadata["source"]` are one source, in their order; it takes
        the place of what was added under that name before. One without a name gets one from its
        text.

        Args:
            documents: LangChain's documents, as its loaders make them.

        Returns:
            What became of the sources.

        Raises:
            TypeError: One is no `Document`.
            ValueError: A source of that name has come from a folder.
            ContextOverflowError: A passage has more tokens than the model can take.
        """
        self._check_open()
        if isinstance(documents, Document | str):
            raise TypeError("documents must be a list of Documents, not one.")
        sources: dict[str, list[Document]] = {}
        for document in documents:
            if not isinstance(document, Document):
                raise TypeError(f"documents has {document!r:.60}, which is no Document.")
            name = document.metadata.get("source") or "text " + vector_id(document.page_content)[:8]
            sources.setdefault(check_text("source", name), []).append(document)
        return self._update(sources.items(), None)

    def remove(self, source: str) -> None:
        """Remove a source and its passages.

        Raises:
            ValueError: There is none of that name.
        """
        with self._writing, self._in_use():
            if source not in self._passages.sources():
                raise ValueError(f"source={source!r} is not in the index: see .sources.")
            self._drop([source])
            self._clean()

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources, sorted."""
        with self._in_use():
            return tuple(self._passages.sources())

    def __len__(self) -> int:
        """How many passages there are."""
        with self._in_use():
            return len(self._passages)

    def __bool__(self) -> bool:
        """An index without passages is an index, too."""
        return True

    def passages(self) -> list[Document]:
        """All passages, by source and by their place in it."""
        with self._in_use():
            return self._passages.all()

    def vectors(self) -> npt.NDArray[np.float32]:
        """The vectors of `passages()`, a row for each, of length 1."""
        with self._in_use(), self._steady:
            ids = [vector_id(passage.page_content) for passage in self._passages.all()]
            if not isinstance(self._store, InMemoryVectorStore):
                return self._store.matrix(ids)
            rows = [self._store.store[one]["vector"] for one in ids]
        matrix = np.array(rows, dtype=np.float32)
        lengths = np.linalg.norm(matrix, axis=-1, keepdims=True).clip(1e-12)
        return np.asarray(matrix / lengths, dtype=np.float32)

    def search(self, query: str, k: int = 4, *, by: Way = "both") -> list[Document]:
        """The passages that suit a question, the best first.

        Args:
            query: The question, in any words.
            k: Most passages.
            by: "vectors" (meaning: the cosine of the angle between them), "words" (BM25 over word
                stems, for languages with blanks between words), or "both": reciprocal rank fusion
                of the two, which adds 1 / (60 + rank) (Cormack, Clarke and Büttcher, SIGIR 2009).

        Returns:
            Passages, with `metadata["score"]`: higher is better; compare it for one question and
            one way only.

        Raises:
            ContextOverflowError: The question has more tokens than the model can take.
        """
        query = check_text("query", query)
        k = check_range("k", k, 1, 1_000_000)
        check_choice("by", by, WAYS)
        many = max(_CANDIDATES, 2 * k) if by == "both" else k
        with self._in_use():
            vector = self._embeddings.embed_query(query) if by != "words" else []
            with self._steady:
                near = self._nearest(vector, many) if by != "words" else []
                words = self._passages.with_words(query, many) if by != "vectors" else []
        found = fused(near, words) if by == "both" else near or words
        return [
            passage.model_copy(update={"metadata": {**passage.metadata, "score": score}})
            for passage, score in found[:k]
        ]

    def as_retriever(
        self,
        k: int = 4,
        *,
        by: Way = "both",
        reranker: BaseDocumentCompressor | None = None,
        n_candidates: int = 20,
    ) -> BaseRetriever:
        """The index as LangChain's retriever, for chains.

        Args:
            k: Most passages.
            by: As in `search`.
            reranker: Judges what the search has found again, as `LlamaCppReranker` does; it may
                return fewer (there: `top_n`).
            n_candidates: Passages that the reranker is given.

        Returns:
            The retriever.
        """
        check_choice("by", by, WAYS)
        k = check_range("k", k, 1, 1_000_000)
        n_candidates = check_range("n_candidates", n_candidates, 1, 1_000_000)
        return DocumentRetriever(
            index=self, k=k, by=by, reranker=reranker, n_candidates=n_candidates
        )

    def close(self) -> None:
        """Close the folder, so that another process may use it; it can be called twice."""
        self._closed = True
        if found := self._finalizer.detach():
            found[2][0]()

    def __enter__(self) -> DocumentIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self.path or "in memory"
        return f"DocumentIndex({where}, {'closed' if self._closed else f'{len(self)} passages'})"

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Say that it was closed, whatever its parts say about that."""
        self._check_open()
        try:
            yield
        except Exception:
            self._check_open()
            raise

    def _check_open(self) -> None:
        if self._process != os.getpid():
            raise HelpersError("This index is its parent process's, which forked: make another.")
        if self._closed:
            raise HelpersError(
                f"This index ({self.path or 'in memory'}) has been closed; one that is made for "
                "the same folder closes it, too. Make a new one to go on."
            )

    def _update(
        self,
        given: Iterable[tuple[str, list[Document]]],
        folder: str | None,
        skipped: Mapping[str, str] | None = None,
    ) -> Changes:
        """Let sources be as given; of a folder, those that are not given go."""
        with self._writing, self._in_use():
            known = self._passages.sources()
            new: list[Source] = []
            unchanged: list[str] = []
            for name, documents in given:
                before = known.get(name)
                if before and not _may_replace(before, folder):
                    origin = f"from {before.folder}" if before.folder else "by add()"
                    raise ValueError(
                        f"source={name!r} is in the index already, {origin}. Sync a folder that "
                        "holds both, remove() the other, or make an index for each."
                    )
                source = Source(name, folder, _digest(name, documents))
                if before and before.digest == source.digest:
                    unchanged.append(name)
                else:
                    new.append(replace(source, passages=self._split(name, documents)))
            skipped = skipped or {}
            here = {name for name, source in known.items() if folder and source.folder == folder}
            removed = sorted(
                here
                - {source.name for source in new}
                - set(unchanged)
                - {name for name in here for left in skipped if _within(name, left)}
            )
            self._passages.move(unchanged, folder)
            self._drop(removed)
            self._fill(new)
            self._clean()
            names = [source.name for source in new]
            return Changes(
                tuple(name for name in names if name not in known),
                tuple(name for name in names if name in known),
                tuple(removed),
                tuple(unchanged),
                tuple(skipped),
                sum(len(source.passages) for source in new),
            )

    def _split(self, name: str, documents: Sequence[Document]) -> tuple[Document, ...]:
        whole = [
            Document(document.page_content, metadata={**document.metadata, "source": name})
            for document in documents
        ]
        return tuple(
            one for one in self._splitter.split_documents(whole) if one.page_content.strip()
        )

    def _fill(self, sources: Sequence[Source]) -> None:
        """Compute what is not computed yet; each source is seen as soon as all of it is."""
        texts = {
            vector_id(passage.page_content): passage.page_content
            for source in sources
            for passage in source.passages
        }
        there = {document.id for document in self._store.get_by_ids(list(texts))} if texts else ()
        for one in there:
            del texts[str(one)]
        self._passages.expect(texts)
        waiting, missing = list(sources), set(texts)
        with progress(len(texts), "passages", self._show) as done:
            for batch in _batches(texts):
                self._check_open()
                self._store.add_texts([texts[one] for one in batch], ids=batch)
                missing.difference_update(batch)
                whole = 0
                while whole < len(waiting) and missing.isdisjoint(
                    vector_id(passage.page_content) for passage in waiting[whole].passages
                ):
                    whole += 1
                self._put(waiting[:whole])
                del waiting[:whole]
                done(len(batch))
        self._put(waiting)

    def _put(self, sources: Sequence[Source]) -> None:
        with self._steady:
            self._passages.put(sources)

    def _drop(self, names: Sequence[str]) -> None:
        with self._steady:
            self._passages.drop(names)

    def _clean(self) -> None:
        """Remove vectors that no passage has, some at a time: searches wait meanwhile."""
        unused = self._passages.unused()
        for first in range(0, len(unused), _REMOVED_AT_ONCE):
            batch = unused[first : first + _REMOVED_AT_ONCE]
            with self._steady:
                self._store.delete(ids=[*batch])
                self._passages.forget(batch)

    def _nearest(self, vector: list[float], k: int) -> Found:
        """The passages nearest to a vector; those that are not to be seen yet are passed over."""
        wanted = k
        while True:
            near = self._store.similarity_search_with_score_by_vector(vector, k=wanted)
            scores = {str(document.id): float(score) for document, score in near}
            passages = self._passages.with_vectors(list(scores))
            found = [(one, scores[key]) for key, several in passages.items() for one in several]
            if len(found) >= k or len(near) < wanted:
                return found[:k]
            wanted *= 4


def _token_splitter(embeddings: Embeddings) -> Splitter:
    if not isinstance(embeddings, LlamaCppEmbeddings):
        raise TypeError(
            f"{type(embeddings).__name__} counts no tokens: give splitter=, one of LangChain's "
            "text splitters."
        )
    from helpers.documents.split import TokenSplitter

    return TokenSplitter(embeddings)


def _may_replace(source: Source, folder: str | None) -> bool:
    """Whether a source may be read from a folder now: it came from there, or that has moved."""
    moved = folder and source.folder and not Path(source.folder).is_dir()
    return source.folder == folder or bool(moved)


def _within(name: str, skipped: str) -> bool:
    return name == skipped or (skipped.endswith("/") and name.startswith(skipped))


def _digest(name: str, documents: Sequence[Document]) -> str:
    content = [(document.page_content, document.metadata) for document in documents]
    try:
        text = json.dumps(content, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"source={name!r} has metadata that is no JSON: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _batches(texts: Mapping[str, str]) -> Iterator[list[str]]:
    """The keys of texts, in their order, by so many characters at a time."""
    batch: list[str] = []
    size = 0
    for key, text in texts.items():
        if batch and size + len(text) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += len(text)
    if batch:
        yield batch
