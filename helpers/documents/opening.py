"""Open an index's folder: for one process, whole, and made with what it is opened with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from helpers.documents.passages import AGAIN, BusyError, DamagedError, Passages
from helpers.errors import HelpersError
from helpers.llm import LlamaCppEmbeddings

if TYPE_CHECKING:
    from helpers.documents.vectors import DiskVectors

_PASSAGES, _VECTORS = "passages.sqlite", "vectors"
_PROBE = "The river flows into the sea."
_SAME = 0.999
"""Cosine above which two vectors of one text are the same model's, on whatever processor."""


@dataclass(frozen=True)
class Storage:
    """What an index has open.

    Attributes:
        passages: The passages, with their words.
        vectors: The vectors of their texts.
        process: The process that has opened them; a fork of it must not touch them.
    """

    passages: Passages
    vectors: InMemoryVectorStore | DiskVectors
    process: int = field(default_factory=os.getpid)

    def close(self) -> None:
        """Close both; it can be called twice."""
        if self.process != os.getpid():
            return
        if not isinstance(self.vectors, InMemoryVectorStore):
            self.vectors.close()
        self.passages.close()


def open_memory(embeddings: Embeddings) -> Storage:
    """A storage that ends with its index."""
    return Storage(Passages(), InMemoryVectorStore(embeddings))


def open_folder(folder: Path, embeddings: Embeddings, splitter: object, rebuild: bool) -> Storage:
    """Open the storage in a folder, for this process alone; nothing stays open if it cannot be.

    Args:
        folder: The folder, made if it does not exist.
        embeddings: What makes the vectors.
        splitter: What makes the passages.
        rebuild: Begin with an empty one.

    Raises:
        HelpersError: It cannot be opened, or was made with other settings.
    """
    file, vectors = folder / _PASSAGES, folder / _VECTORS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HelpersError(f"path={str(folder)!r} cannot be a folder: {error}.") from error
    if vectors.exists() and not file.exists():
        raise HelpersError(
            f"{folder} has {_VECTORS!r}, but no {_PASSAGES!r}: it is no index, or half of one. "
            "Choose another folder."
        )
    passages = _open_passages(file, rebuild)
    try:
        made, now = passages.settings, _settings(embeddings, splitter)
        if made:
            _check_same(made, now, folder)
        elif vectors.exists():
            shutil.rmtree(vectors)  # of an index that was begun, or is to be made anew
        storage = Storage(passages, _open_vectors(vectors, embeddings, now["width"], passages))
        if not made:
            passages.keep_settings(now)
    except BaseException:
        passages.close()
        raise
    return storage


def _open_passages(file: Path, rebuild: bool) -> Passages:
    try:
        passages = Passages(file)
    except BusyError as error:
        raise HelpersError(
            f"The index in {file.parent} is in use by another process: close() it there, or end "
            "that process (in Jupyter: shut down its kernel)."
        ) from error
    except DamagedError:
        if not rebuild:
            raise
        file.unlink()
        return Passages(file)
    if rebuild:
        passages.clear()
    return passages


def _open_vectors(
    folder: Path, embeddings: Embeddings, width: int, passages: Passages
) -> DiskVectors:
    from helpers.documents.vectors import DiskVectors  # takes a second or two

    try:
        vectors = DiskVectors(folder, embeddings, width)
        if (lost := len(passages.vectors()) - len(vectors)) > 0:
            vectors.close()
            raise DamagedError(f"{lost:,} are lost")
    except Exception as error:  # Qdrant has no kind of its own for damage
        raise HelpersError(
            f"The vectors in {folder} cannot be used ({type(error).__name__}: {error}). {AGAIN}"
        ) from error
    return vectors


def _settings(embeddings: Embeddings, splitter: object) -> dict[str, Any]:
    """What an index that is made with these can be used with; `width` is that of a vector."""
    (probe,) = embeddings.embed_documents([_PROBE])
    settings: dict[str, Any] = {"embeddings": type(embeddings).__name__, "width": len(probe)}
    if isinstance(embeddings, LlamaCppEmbeddings):
        settings["model"] = embeddings._model_name
        settings["pooling"] = embeddings.load_report.pooling
        settings["normalize"] = embeddings.normalize
        settings["document_prefix"] = embeddings.prefixes[1]
    settings["splitter"] = type(splitter).__name__
    for name in ("chunk_size", "chunk_overlap"):
        if (value := getattr(splitter, f"_{name}", None)) is not None:
            settings[name] = value
    return {**settings, "probe": list(map(float, probe))}


def _check_same(made: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Compare an index's settings with those that it is opened with.

    The vector of one text tells models apart that have the same name.

    Raises:
        HelpersError: They differ; it says in what.
    """
    differ = [
        f"{name} {made.get(name)!r}, now {now.get(name)!r}"
        for name in dict.fromkeys([*made, *now])
        if name != "probe" and made.get(name) != now.get(name)
    ]
    if not differ and _cosine(made["probe"], now["probe"]) < _SAME:
        differ = [f"other vectors for {_PROBE!r}, so another model of the same name"]
    if differ:
        raise HelpersError(
            f"The index in {folder} was made with other settings: {'; '.join(differ)}. Use the "
            f"same, or another folder; {AGAIN}"
        )


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths else 1.0
