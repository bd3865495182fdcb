"""Vectors on disk: Qdrant's local mode through LangChain, safe among threads."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from helpers.errors import HelpersError
from helpers.threads import aside

COLLECTION = "passages"
_ID = "_id"


class DiskVectors(QdrantVectorStore):
    """A folder with vectors of texts, as LangChain's vector store.

    Its own class so that any thread may use it, and because LangChain's vector stores take any text
    for an id, and give documents back as they were given.

    Args:
        folder: Where it is, or is to be.
        embeddings: What makes the vectors.
        width: Numbers in a vector.

    Raises:
        Exception: What Qdrant says about a damaged folder, or one that another process uses.
    """

    def __init__(self, folder: Path, embeddings: Embeddings, width: int) -> None:
        client = _Client(path=str(folder), force_disable_check_same_thread=True)
        try:
            if not client.collection_exists(COLLECTION):
                client.create_collection(
                    COLLECTION,
                    vectors_config=models.VectorParams(size=width, distance=models.Distance.COSINE),
                )
                _wait_less(folder)
        except BaseException:
            client.close()
            raise
        super().__init__(client, COLLECTION, embeddings, validate_collection_config=False)

    def add_texts(  # type: ignore[override]
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        **more: Any,
    ) -> list[str]:
        """Keep texts and their vectors, in place of those with their ids."""
        texts = list(texts)
        names = [one or str(uuid.uuid4()) for one in ids or [None] * len(texts)]
        before = metadatas or [{}] * len(texts)
        known = [{**one, _ID: name} for one, name in zip(before, names, strict=True)]
        super().add_texts(texts, known, [_point(name) for name in names], **more)
        return names

    def delete(self, ids: Sequence[str] | None = None, **more: Any) -> bool | None:  # type: ignore[override]
        """Remove texts and vectors; ids that are not there are passed over."""
        return super().delete([_point(one) for one in ids or ()], **more) if ids else None

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:  # type: ignore[override]
        """The texts of those ids that are there."""
        return super().get_by_ids([_point(one) for one in ids])

    @classmethod
    def _document_from_point(cls, scored_point: Any, *_: Any) -> Document:
        metadata = dict(scored_point.payload[cls.METADATA_KEY])
        name = metadata.pop(_ID)
        return Document(scored_point.payload[cls.CONTENT_KEY], metadata=metadata, id=name)

    def __len__(self) -> int:
        return int(self.client.count(COLLECTION).count)

    def matrix(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of some ids, a row for each."""
        points = self.client.retrieve(
            COLLECTION, list({*ids}), with_payload=False, with_vectors=True
        )
        found = {str(point.id): point.vector for point in points}
        return np.array([found[one] for one in ids], dtype=np.float32)

    def close(self) -> None:
        """Close the folder; it can be called twice."""
        self.client.close()


def _point(name: str) -> str:
    """The number that Qdrant, which takes no others, knows an id by."""
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


class _Client(QdrantClient):
    """A client for one thread at a time, whose changes are whole: Ctrl-C does not end them."""

    def __init__(self, **where: Any) -> None:
        self._one = threading.RLock()
        super().__init__(**where)

    def _change(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        def whole() -> Any:
            with self._one:
                return action(*args, **kwargs)

        try:
            return aside(whole, lambda: None)
        except sqlite3.Error as error:
            raise HelpersError(f"The index's vectors cannot be written: {error}.") from error

    def upsert(self, *args: Any, **kwargs: Any) -> Any:
        return self._change(super().upsert, *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return self._change(super().delete, *args, **kwargs)

    def query_points(self, *args: Any, **kwargs: Any) -> Any:
        with self._one:
            return super().query_points(*args, **kwargs)

    def retrieve(self, *args: Any, **kwargs: Any) -> Any:
        with self._one:
            return super().retrieve(*args, **kwargs)

    def close(self, *args: Any, **kwargs: Any) -> None:
        with self._one:
            super().close(*args, **kwargs)


def _wait_less(folder: Path) -> None:
    """Let a vector's commit wait for the disk once, not four times.

    Qdrant commits each vector by itself. That its file has a write-ahead log is noted in the file.
    """
    for file in folder.glob(f"collection/{COLLECTION}/*.sqlite"):
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA journal_mode=WAL")
