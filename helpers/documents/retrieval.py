"""Ways to find passages: two rankings put together, and LangChain's retriever."""

from __future__ import annotations

from typing import Literal, Protocol

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, SkipValidation

Way = Literal["vectors", "words", "both"]
WAYS: tuple[Way, ...] = ("vectors", "words", "both")
Found = list[tuple[Document, float]]
"""Passages and their scores, the best first."""

_RANK = 60


class Searchable(Protocol):
    """What finds passages."""

    def search(self, query: str, k: int = 4, *, by: Way = "both") -> list[Document]:
        """The passages that suit a question, the best first."""
        ...


class DocumentRetriever(BaseRetriever):
    """An index as LangChain's retriever; `DocumentIndex.as_retriever` makes it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: SkipValidation[Searchable]
    k: int
    by: Way
    reranker: BaseDocumentCompressor | None
    n_candidates: int

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.reranker is None:
            return self.index.search(query, self.k, by=self.by)
        candidates = self.index.search(query, max(self.k, self.n_candidates), by=self.by)
        best = self.reranker.compress_documents(candidates, query, run_manager.get_child())
        return list(best)[: self.k]


def fused(*found: Found) -> Found:
    """Passages that were found in several ways, by reciprocal rank fusion."""
    scores: dict[str, float] = {}
    passages: dict[str, Document] = {}
    for ranked in found:
        for rank, (passage, _) in enumerate(ranked, 1):
            key = str(passage.id)
            passages[key] = passage
            scores[key] = scores.get(key, 0.0) + 1 / (_RANK + rank)
    # What has the same score stays in the order in which it was found.
    return [(passages[key], scores[key]) for key in sorted(scores, key=lambda key: -scores[key])]
