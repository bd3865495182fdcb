"""Embedding models and rerankers: for searching one's own texts, not for talking.

They stand beside the catalogue of chat models, so that neither is offered in place of the other.
Licences, release months, dimensions, tokens of context and prefixes are those that the benchmark
of embedding models lists (`mteb/models/model_implementations` in
github.com/embeddings-benchmark/mteb, commit a905523 of August 2026) or the makers' own cards; the
shapes are those of the `config.json` files, and the sizes are computed from them. Tests compare
the weights with the makers' numbers and the sizes with published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from helpers.models.catalogue import CatalogueEntry
from helpers.models.prefixes import prefixes_for
from helpers.models.shapes import Hyperparameters

_EMBEDDINGS, _RERANKING = ("embeddings",), ("reranking",)


def _bert(
    n_layers: int,
    width: int,
    n_heads: int,
    n_vocab: int,
    n_positions: int,
    classifier: bool = False,
) -> Hyperparameters:
    """A BERT, or an XLM-R, which is one for llama.cpp: no gate, and a table of positions."""
    return Hyperparameters(
        "bert", n_layers, width, n_heads, n_heads, width // n_heads, 4 * width, n_vocab,
        tied=True, gated=False, n_positions=n_positions, classifier=classifier,
    )  # fmt: skip


_ENTRIES = (
    CatalogueEntry(
        name="all-minilm-l6-v2",
        title="all-MiniLM-L6-v2",
        repository="second-state/All-MiniLM-L6-v2-Embedding-GGUF",
        quantizations=("Q8_0", "F16"),
        quantization="Q8_0",
        hparams=_bert(6, 384, 12, 30_522, 512),
        n_ctx_train=256,
        licence="apache-2.0",
        languages=("en",),
        purposes=_EMBEDDINGS,
        source="sentence-transformers/all-MiniLM-L6-v2",
        released="2021-08",
    ),
    CatalogueEntry(
        name="bge-small-en-v1.5",
        title="BGE small v1.5",
        repository="CompendiumLabs/bge-small-en-v1.5-gguf",
        quantizations=("Q8_0", "F16"),
        quantization="Q8_0",
        hparams=_bert(12, 384, 12, 30_522, 512),
        n_ctx_train=512,
        licence="mit",
        languages=("en",),
        purposes=_EMBEDDINGS,
        source="BAAI/bge-small-en-v1.5",
        released="2023-09",
    ),
    CatalogueEntry(
        name="nomic-embed-text-v1.5",
        title="Nomic Embed Text v1.5",
        repository="nomic-ai/nomic-embed-text-v1.5-GGUF",
        quantizations=("Q8_0", "F16"),
        quantization="Q8_0",
        hparams=Hyperparameters("nomic-bert", 12, 768, 12, 12, 64, 3072, 30_522, tied=True),
        # The makers say 8,192 with scaled positions; the file says 2,048, without.
        n_ctx_train=2048,
        licence="apache-2.0",
        languages=("en",),
        purposes=_EMBEDDINGS,
        source="nomic-ai/nomic-embed-text-v1.5",
        released="2024-02",
    ),
    CatalogueEntry(
        name="modernbert-embed-base",
        title="ModernBERT Embed",
        repository="keisuke-miyako/modernbert-embed-base-gguf-q8_0",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=Hyperparameters("modern-bert", 22, 768, 12, 12, 64, 1152, 50_368, tied=True),
        n_ctx_train=8192,
        licence="apache-2.0",
        languages=("en",),
        purposes=_EMBEDDINGS,
        source="nomic-ai/modernbert-embed-base",
        released="2024-12",
    ),
    CatalogueEntry(
        name="granite-embedding-278m",
        title="Granite Embedding 278M Multilingual",
        repository="bartowski/granite-embedding-278m-multilingual-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=_bert(12, 768, 12, 250_002, 512),
        n_ctx_train=512,
        licence="apache-2.0",
        languages=("en", "ar", "cs", "de", "es", "fr", "it", "ja", "ko", "nl", "pt", "zh"),
        purposes=_EMBEDDINGS,
        source="ibm-granite/granite-embedding-278m-multilingual",
        released="2024-12",
    ),
    CatalogueEntry(
        name="embeddinggemma-300m",
        title="EmbeddingGemma 300M",
        repository="ggml-org/embeddinggemma-300M-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        # The tensors of the file are listed in github.com/ggml-org/llama.cpp/issues/18677.
        hparams=Hyperparameters("gemma-embedding", 24, 768, 3, 1, 256, 1152, 262_144, tied=True),
        n_ctx_train=2048,
        licence="gemma (terms of use)",
        languages=("many",),
        purposes=_EMBEDDINGS,
        source="google/embeddinggemma-300m",
        released="2025-09",
    ),
    CatalogueEntry(
        name="mxbai-embed-large-v1",
        title="mxbai Embed Large v1",
        repository="mixedbread-ai/mxbai-embed-large-v1",
        quantizations=("F16",),
        quantization="F16",
        hparams=_bert(24, 1024, 16, 30_522, 512),
        n_ctx_train=512,
        licence="apache-2.0",
        languages=("en",),
        purposes=_EMBEDDINGS,
        source="mixedbread-ai/mxbai-embed-large-v1",
        released="2024-03",
    ),
    CatalogueEntry(
        name="multilingual-e5-large",
        title="Multilingual E5 Large",
        repository="phate334/multilingual-e5-large-gguf",
        quantizations=("F16",),
        quantization="F16",
        hparams=_bert(24, 1024, 16, 250_002, 512),
        n_ctx_train=512,
        licence="mit",
        languages=("many",),
        purposes=_EMBEDDINGS,
        source="intfloat/multilingual-e5-large",
        released="2024-02",
    ),
    CatalogueEntry(
        name="bge-m3",
        title="BGE M3",
        repository="gpustack/bge-m3-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=_bert(24, 1024, 16, 250_002, 8192),
        n_ctx_train=8192,
        licence="mit",
        languages=("many",),
        purposes=_EMBEDDINGS,
        source="BAAI/bge-m3",
        released="2024-06",
    ),
    CatalogueEntry(
        name="qwen3-embedding-0.6b",
        title="Qwen3 Embedding 0.6B",
        repository="Qwen/Qwen3-Embedding-0.6B-GGUF",
        quantizations=("Q8_0", "F16"),
        quantization="Q8_0",
        hparams=Hyperparameters("qwen3", 28, 1024, 16, 8, 128, 3072, 151_669, tied=True),
        n_ctx_train=32_768,
        licence="apache-2.0",
        languages=("many",),
        purposes=_EMBEDDINGS,
        source="Qwen/Qwen3-Embedding-0.6B",
        released="2025-06",
    ),
    CatalogueEntry(
        name="qwen3-embedding-4b",
        title="Qwen3 Embedding 4B",
        repository="Qwen/Qwen3-Embedding-4B-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("qwen3", 36, 2560, 32, 8, 128, 9728, 151_665, tied=True),
        n_ctx_train=32_768,
        licence="apache-2.0",
        languages=("many",),
        purposes=_EMBEDDINGS,
        source="Qwen/Qwen3-Embedding-4B",
        released="2025-06",
    ),
    CatalogueEntry(
        name="bge-reranker-v2-m3",
        title="BGE Reranker v2 M3",
        repository="gpustack/bge-reranker-v2-m3-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=_bert(24, 1024, 16, 250_002, 8192, classifier=True),
        n_ctx_train=8192,
        licence="apache-2.0",
        languages=("many",),
        purposes=_RERANKING,
        source="BAAI/bge-reranker-v2-m3",
        released="2024-06",
    ),
    CatalogueEntry(
        name="jina-reranker-v2",
        title="Jina Reranker v2 Base Multilingual",
        repository="gpustack/jina-reranker-v2-base-multilingual-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=_bert(12, 768, 12, 250_002, 1024, classifier=True),
        n_ctx_train=1024,
        licence="cc-by-nc-4.0 (no commercial use)",
        languages=("many",),
        purposes=_RERANKING,
        source="jinaai/jina-reranker-v2-base-multilingual",
        released="2024-06",
    ),
    CatalogueEntry(
        name="qwen3-reranker-0.6b",
        title="Qwen3 Reranker 0.6B",
        repository="ggml-org/Qwen3-Reranker-0.6B-Q8_0-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=Hyperparameters("qwen3", 28, 1024, 16, 8, 128, 3072, 151_669, tied=True),
        n_ctx_train=40_960,
        licence="apache-2.0",
        languages=("many",),
        purposes=_RERANKING,
        source="Qwen/Qwen3-Reranker-0.6B",
        released="2025-05",
    ),
)

EMBEDDING_MODELS: Mapping[str, CatalogueEntry] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)
"""Embedding models, those with fewer weights first, and rerankers; by `find_model`'s names."""


def embedding_models() -> list[dict[str, int | str]]:
    """The embedding models and rerankers that `find_model` knows, as rows of a table.

    Returns:
        A row for each: its name, what it is for, MiB of its weights in the usual quantization,
        numbers of a vector (0 for a reranker), tokens of context that it was trained for, its
        licence and languages, and what `LlamaCppEmbeddings` puts before a query and a document.

    Example:
        >>> from helpers.models import embedding_models
        >>> embedding_models()[0]["model"]
        'all-minilm-l6-v2'
    """
    rows: list[dict[str, int | str]] = []
    for entry in EMBEDDING_MODELS.values():
        embeds = entry.purposes == _EMBEDDINGS
        query, document = prefixes_for(entry.name) if embeds else ("", "")
        rows.append(
            {
                "model": entry.name,
                "for": entry.purposes[0],
                "weights_mib": round(entry.weights_mib()),
                "dimension": entry.hparams.n_embd if embeds else 0,
                "context": entry.n_ctx_train,
                "licence": entry.licence,
                "languages": ", ".join(entry.languages),
                "query_prefix": query,
                "document_prefix": document,
            }
        )
    return rows
