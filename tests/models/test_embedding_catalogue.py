"""The embedding models of the catalogue: sizes against files, weights against makers' counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import ModelFileError, cli, find_model, inspect_model, recommend
from helpers.errors import InstallError
from helpers.models import CATALOGUE, EMBEDDING_MODELS, embedding_models
from helpers.models.formats import ARCHITECTURES
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches
from helpers.models.prefixes import prefixes_for
from tests.models.encoder_builders import Pooling, tiny_embedder

# Bytes of the files on the Hub, as those who pin them say: aflin/rampart-langtools on GitHub
# (rampart-models.js), and for EmbeddingGemma, Qwen's own files, ModernBERT (152.8 MiB), Granite
# (303 MB) and the BGE reranker the projects that check their downloads.
PUBLISHED = {
    ("all-minilm-l6-v2", "Q8_0"): 25_008_064,
    ("all-minilm-l6-v2", "F16"): 45_949_216,
    ("bge-small-en-v1.5", "Q8_0"): 36_806_944,
    ("bge-small-en-v1.5", "F16"): 67_308_128,
    ("nomic-embed-text-v1.5", "Q8_0"): 146_146_432,
    ("nomic-embed-text-v1.5", "F16"): 274_290_560,
    ("modernbert-embed-base", "Q8_0"): 152.8 * 2**20,
    ("granite-embedding-278m", "Q8_0"): 303e6,
    ("embeddinggemma-300m", "Q8_0"): 333_590_944,
    ("mxbai-embed-large-v1", "F16"): 669_603_712,
    ("multilingual-e5-large", "F16"): 1_126_215_072,
    ("bge-m3", "Q8_0"): 634_553_760,
    ("qwen3-embedding-0.6b", "Q8_0"): 639_150_592,
    ("qwen3-embedding-0.6b", "F16"): 1_197_630_112,
    ("qwen3-embedding-4b", "Q8_0"): 4_279_660_224,
    ("bge-reranker-v2-m3", "Q8_0"): 635_676_416,
    ("jina-reranker-v2", "Q8_0"): 305_339_552,
    ("qwen3-reranker-0.6b", "Q8_0"): 639_153_184,
}
# Weights in millions, as the benchmark of embedding models counts them (mteb, commit a905523), or
# the makers.
WEIGHTS = {
    "all-minilm-l6-v2": 22.713216,
    "bge-small-en-v1.5": 33.4,
    "nomic-embed-text-v1.5": 136.731648,
    "modernbert-embed-base": 149.014272,
    "granite-embedding-278m": 278.043648,
    "embeddinggemma-300m": 307.581696,
    "mxbai-embed-large-v1": 335.141888,
    "multilingual-e5-large": 560,
    "bge-m3": 568,
    "qwen3-embedding-0.6b": 595.776512,
    "qwen3-embedding-4b": 4021.774336,
    "bge-reranker-v2-m3": 568,
    "jina-reranker-v2": 278,
    "qwen3-reranker-0.6b": 595.776512,
}


def test_every_entry_is_complete() -> None:
    assert WEIGHTS.keys() == EMBEDDING_MODELS.keys()
    for name, entry in EMBEDDING_MODELS.items():
        assert name == entry.name == name.lower()
        assert entry.quantization in entry.quantizations
        assert entry.hparams.architecture in ARCHITECTURES
        assert entry.purposes in (("embeddings",), ("reranking",))
        assert entry.repository.count("/") == 1 and entry.licence and entry.source
        assert re.fullmatch(r"202[1-9]-(0[1-9]|1[0-2])", entry.released)


@pytest.mark.parametrize(("name", "quantization"), PUBLISHED)
def test_sizes_are_those_of_the_published_files(name: str, quantization: str) -> None:
    computed = EMBEDDING_MODELS[name].weights_mib(quantization) * 2**20
    # What is not counted: the vocabulary, norms and biases, and EmbeddingGemma's two projections.
    rest = PUBLISHED[name, quantization] - computed
    assert 0 < rest < 40 * EMBEDDING_MODELS[name].hparams.n_vocab + 5.1e6


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_as_many_as_the_makers_say(name: str) -> None:
    # EmbeddingGemma's two projections behind the pooling are 1.5 % of it.
    assert EMBEDDING_MODELS[name].n_params / 1e6 == pytest.approx(WEIGHTS[name], rel=0.016)


def test_neither_is_offered_for_the_other() -> None:
    assert not CATALOGUE.keys() & EMBEDDING_MODELS.keys()
    offered = {item.model.name for item in recommend(512 * 1024, 80_000)}
    assert offered and not offered & EMBEDDING_MODELS.keys()
    with pytest.raises(ValueError, match=r"purpose must be one of.*embedding_models\(\)"):
        recommend(16_000, purpose="embeddings")


def test_find_model_knows_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_embedder(tmp_path / "Qwen3-Embedding-0.6B-Q8_0.gguf", "qwen3")
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL_DIR", str(tmp_path))
    assert find_model("qwen3-embedding-0.6b", download_missing=False) == path
    with pytest.raises(ModelFileError, match=r"Did you mean bge-m3.*To search texts: all-minilm"):
        find_model("bge-m33", download_missing=False)


@pytest.mark.parametrize("pooling", [Pooling.LAST, Pooling.RANK])
def test_the_notebooks_are_not_run_with_one(tmp_path: Path, pooling: Pooling) -> None:
    path = tiny_embedder(tmp_path / "m.gguf", "qwen3", pooling=pooling)
    with pytest.raises(InstallError, match="To generate text, choose a language model"):
        cli._choose_model(str(path))


def test_the_table() -> None:
    rows = {row["model"]: row for row in embedding_models()}
    assert rows.keys() == EMBEDDING_MODELS.keys()
    gemma, reranker = rows["embeddinggemma-300m"], rows["bge-reranker-v2-m3"]
    assert (gemma["dimension"], gemma["context"], gemma["weights_mib"]) == (768, 2048, 307)
    assert gemma["query_prefix"] == "task: search result | query: "
    assert (reranker["for"], reranker["dimension"], reranker["query_prefix"]) == (
        "reranking",
        0,
        "",
    )


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [
        ("modernbert-embed-base", "search_query: ", "search_document: "),
        ("multilingual-e5-large", "query: ", "passage: "),
        ("qwen3-embedding-4b", "Instruct: Given a web search query, retrieve relevant", ""),
        ("mxbai-embed-large-v1", "Represent this sentence for searching", ""),
        ("snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("bge-m3", "", ""),
        ("all-minilm-l6-v2", "", ""),
        ("granite-embedding-278m", "", ""),
    ],
)
def test_prefixes_are_known_by_name(name: str, query: str, document: str) -> None:
    found = prefixes_for(name)
    assert found[0].startswith(query) and bool(found[0]) == bool(query) and found[1] == document


def test_encoders_keep_nothing_of_a_text(tmp_path: Path) -> None:
    caches = layer_caches(inspect_model(tiny_embedder(tmp_path / "m.gguf", "modern-bert")))
    assert len(caches) == 2 and sum(kv_mib_by_layer(caches, 2048)) == 0
    assert EMBEDDING_MODELS["bge-m3"].kv_mib(2048) == 0
    assert EMBEDDING_MODELS["qwen3-embedding-0.6b"].kv_mib(2048) == 224
