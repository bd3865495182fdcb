"""Vectors of texts, as LangChain's `Embeddings`: batches by tokens, isolated, and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from pydantic import PrivateAttr

from helpers.llm.vectors import VectorFields
from helpers.models import inspect_model
from helpers.models.prefixes import prefixes_of
from helpers.native import Vectors


class LlamaCppEmbeddings(VectorFields, Embeddings):
    """Vectors of texts from a llama.cpp model, in LangChain.

    Any embedding model that llama.cpp knows, and any language model (a poor embedder: measure it).
    Short texts are computed together in one decode: on a CPU that is up to twice as fast as one
    call for each. A text's vector is the same, alone or among others. What a text says never
    becomes a control token. The fields of the archived class keep their names.

    Example:
        >>> from helpers import LlamaCppEmbeddings, default_model
        >>> vectors = LlamaCppEmbeddings(model_path=default_model(), show_progress=False)
        >>> len(vectors.embed_query("Where is the river?"))
        576
    """

    normalize: bool = True
    """Vectors of length 1, so that their dot product is the cosine of the angle between them."""

    query_prefix: str | None = None
    """Text before each query. None: what this family of models was trained with, if it is known."""

    document_prefix: str | None = None
    """Text before each document, likewise."""

    _prefixes: tuple[str, str] = PrivateAttr(default=("", ""))

    def model_post_init(self, context: Any, /) -> None:
        """Check the values, then load the model."""
        super().model_post_init(context)
        self._prefixes = prefixes_of(inspect_model(self._engine.options.model_path, check=False))

    @property
    def prefixes(self) -> tuple[str, str]:
        """What goes before a query, and before a document."""
        query, document = self._prefixes
        return (
            query if self.query_prefix is None else self.query_prefix,
            document if self.document_prefix is None else self.document_prefix,
        )

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question.

        Args:
            text: The question; `query_prefix` goes before it.

        Returns:
            The vector, as long as the model is wide.

        Raises:
            ContextOverflowError: It has more tokens than the context, and `truncate` is off.
        """
        (vector,) = self._vectors([text], self.prefixes[0])
        return list(map(float, vector))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts that questions are asked of.

        Args:
            texts: The texts; `document_prefix` goes before each. An empty one has a vector, too.

        Returns:
            A vector for each text, in their order.

        Raises:
            ContextOverflowError: One has more tokens than the context, and `truncate` is off.
        """
        return [list(map(float, vector)) for vector in self._vectors(texts, self.prefixes[1])]

    def embed_tokens(self, text: str) -> list[list[float]]:
        """A vector for each token of a text; for `pooling="none"`.

        Args:
            text: The text, without a prefix.

        Returns:
            A vector for each of `get_token_ids(text)`; they are not normalized.

        Raises:
            ValueError: The model pools.
        """
        if self.load_report.pooling != "none":
            raise ValueError(
                f"embed_tokens needs pooling='none'; here it is {self.load_report.pooling!r}."
            )
        started = time.perf_counter()
        (matrix,) = self._computed([self._tokens(text)], "embed", started)
        return [list(map(float, row)) for row in matrix]

    def _vectors(self, texts: Sequence[str], prefix: str) -> list[Vectors]:
        started = time.perf_counter()
        pooling = self.load_report.pooling
        if pooling == "none":
            raise ValueError(
                "pooling='none' gives a vector for each token, not for a text: use embed_tokens, "
                "or pooling='mean'."
            )
        if pooling == "rank":
            raise ValueError(
                f"{self.load_report.model} is a reranker: it scores texts for a question, and has "
                "no vectors. Use LlamaCppReranker."
            )
        if isinstance(texts, str):
            raise TypeError(f"texts={texts[:40]!r} is one text: give a list, or use embed_query.")
        tokens = self._tokens_of_many(texts, prefix)
        found = self._computed(tokens, "embed", started)
        return [unit(vector) for vector in found] if self.normalize else found


def unit(vector: Vectors) -> Vectors:
    """A vector of the same direction and of length 1; one without a direction as it is."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector / np.float32(length) if length > 0 and np.isfinite(length) else vector
