"""What embedding models were trained to see before a question, and before a text.

No key of a GGUF file says it: these are the models' own cards, and what the benchmark of embedding
models gives them (`model_prompts` in mteb/models/model_implementations of
github.com/embeddings-benchmark/mteb, commit a905523). Where the file's name tells the family, its
prefixes are used; without them such a model finds less.
"""

from __future__ import annotations

import re

from helpers.models.info import ModelInfo

_BGE = "Represent this sentence for searching relevant passages: "
_PREFIXES = (
    # Pattern of the name, before a question, before a text.
    (r"nomic.?embed|modernbert.?embed", "search_query: ", "search_document: "),
    (r"embedding.?gemma", "task: search result | query: ", "title: none | text: "),
    (
        r"qwen3.?embedding",
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:",
        "",
    ),
    (r"\be5.(small|base|large)", "query: ", "passage: "),
    (r"arctic.?embed.*v2", "query: ", ""),
    (r"bge.(small|base|large).en|mxbai.?embed|arctic.?embed", _BGE, ""),
)


def prefixes_of(info: ModelInfo) -> tuple[str, str]:
    """The texts before a query and before a document; empty where nothing is known.

    Args:
        info: The model's file.
    """
    return prefixes_for(f"{info.name} {info.path.name}")


def prefixes_for(names: str) -> tuple[str, str]:
    """The same for the name of a model, or several of them in one text."""
    for pattern, query, document in _PREFIXES:
        if re.search(pattern, names.lower()):
            return query, document
    return "", ""
