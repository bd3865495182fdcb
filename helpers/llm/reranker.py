"""Scores of texts for a question, as LangChain's document compressor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import PrivateAttr

from helpers.errors import ModelFileError
from helpers.llm.vectors import VectorFields
from helpers.models import ModelInfo, inspect_model
from helpers.prompt import Prompt


class LlamaCppReranker(VectorFields, BaseDocumentCompressor):
    """Puts documents into the order in which they answer a question, with a reranker model.

    A reranker reads question and document together, so it judges better than the distance of two
    vectors, and takes longer: give it the few documents that a search has found.

    Example:
        >>> reranker = LlamaCppReranker(model_path="bge-reranker.gguf")  # doctest: +SKIP
        >>> reranker.score("How long is it?", ["1,233 km.", "It is cold."])  # doctest: +SKIP
        [4.2, -7.9]
    """

    top_n: int | None = 3
    """Most documents that `compress_documents` returns; None: all."""

    _info: ModelInfo = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model; one that makes no scores is refused."""
        super().model_post_init(context)
        self._info = inspect_model(self._engine.options.model_path, check=False)
        pooling = self.load_report.pooling
        if pooling != "rank":
            self.close()
            raise ModelFileError(
                f"{self._info.path.name} is no reranker: it makes vectors "
                f"(pooling {pooling}). Use LlamaCppEmbeddings, or choose a model "
                "whose file has the pooling type rank."
            )

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers a question.

        Args:
            query: The question.
            texts: The texts.

        Returns:
            A score for each text, in their order; higher is better. They are the model's own
            (logits): compare them for one question only.

        Raises:
            ContextOverflowError: Question and text have more tokens than the context.
        """
        started = time.perf_counter()
        tokens = [self._pair(query, text, number) for number, text in enumerate(texts)]
        return [float(found[0]) for found in self._computed(tokens, "rerank", started)]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The `top_n` documents that answer a question best, the best first.

        Args:
            documents: What a search has found.
            query: The question.
            callbacks: Not used.

        Returns:
            Copies, with the score in `metadata["relevance_score"]`.
        """
        scores = self.score(query, [document.page_content for document in documents])
        best = sorted(range(len(scores)), key=lambda n: -scores[n])[: self.top_n]
        return [
            documents[n].model_copy(
                update={"metadata": {**documents[n].metadata, "relevance_score": scores[n]}}
            )
            for n in best
        ]

    def _pair(self, query: str, text: str, number: int) -> list[int]:
        """Question and text in one sequence, as the model was trained to see them.

        A file may have a form for it (`tokenizer.chat_template.rerank`); else both stand one after
        the other, each with what the vocabulary puts behind a text.
        """
        header = self._info.metadata
        template = header.get("tokenizer.chat_template.rerank")
        if isinstance(template, str):
            parts, rest = [], template
            while found := _first(rest, {"{query}": query, "{document}": text}):
                before, name, value = found
                parts += [(before, True), (value, False)]
                rest = rest[len(before) + len(name) :]
            tokens = self._engine.tokenize(Prompt([*parts, (rest, True)]))
            around = self._supplied("")
            # What the vocabulary puts around a text may stand in the template, too.
            if around and tokens[:2] == around[:1] * 2:
                del tokens[0]
            if len(around) > 1 and tokens[-2:] == around[-1:] * 2:
                del tokens[-1]
        else:
            first, second = self._supplied(query), self._supplied(text)
            around = self._supplied("")
            if around and second[:1] == around[:1]:
                second = second[1:]  # what begins a text stands once
            separator = header.get("tokenizer.ggml.seperator_token_id")
            # Vocabularies of word pieces end each text with it anyway.
            if (
                header.get("tokenizer.ggml.add_sep_token")
                and header.get("tokenizer.ggml.model") != "bert"
                and isinstance(separator, int)
            ):
                first = [*first, separator]
            tokens = first + second
        return self._fitting(tokens, text, number)


def _first(text: str, values: dict[str, str]) -> tuple[str, str, str] | None:
    """What stands before the first of some names, that name, and its value."""
    places = [(text.find(name), name) for name in values if name in text]
    if not places:
        return None
    at, name = min(places)
    return text[:at], name, values[name]
