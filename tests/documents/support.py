"""What the tests of the index share: a quick embedder that counts, a splitter, a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_text_splitters import CharacterTextSplitter

from helpers.documents.index import DocumentIndex


class Counting(Embeddings):
    """Vectors that mean nothing, the same for the same text; it remembers what it was asked."""

    def __init__(self, size: int = 16, pause: float = 0, fail_at: str = "\0") -> None:
        self._made = DeterministicFakeEmbedding(size=size)
        self._pause, self._fail_at = pause, fail_at
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if any(self._fail_at in text for text in texts):
            raise KeyboardInterrupt
        time.sleep(self._pause * len(texts))
        self.texts += texts
        return self._made.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._made.embed_query(text)


class Lines(CharacterTextSplitter):
    """A passage for each line."""

    def __init__(self) -> None:
        super().__init__("\n", chunk_size=1, chunk_overlap=0, length_function=lambda _: 1)


def index(path: str | Path | None = None, **more: Any) -> DocumentIndex:
    embeddings = more.pop("embeddings", None) or Counting()
    return DocumentIndex(embeddings, path, **{"splitter": Lines(), **more})


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def texts(passages: list[Document]) -> list[str]:
    return [passage.page_content for passage in passages]


def content(opened: DocumentIndex) -> list[tuple[str | None, str, dict[str, Any]]]:
    """All that an index says."""
    return [(one.id, one.page_content, one.metadata) for one in opened.passages()]
