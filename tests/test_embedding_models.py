"""Every architecture of embedding models that people use: loaded, computed, planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from helpers import (
    ContextOverflowError,
    LlamaCppEmbeddings,
    LlamaCppReranker,
    ModelFileError,
    default_model,
    inspect_model,
    practice_accelerator,
    predict_memory,
)
from helpers.install.configure import pinned_source
from helpers.models.check import check_model_file
from helpers.models.header import read_header
from helpers.models.purpose import check_generates
from tests.memory.test_memory_real import buffers, compare
from tests.models.encoder_builders import EMBEDDERS, VOCABULARIES, Pooling, tiny_embedder
from tests.support import child_of
from tests.test_embeddings import TEXTS, close, matrix


def write(path: Path, kind: str, **more: object) -> Path:
    source = pinned_source()
    if source is None and kind in VOCABULARIES:
        pytest.skip("the source with the vocabulary is not on this machine: build from source")
    folder = source / "vendor" / "llama.cpp" / "models" if source else None
    return tiny_embedder(path, kind, vocabularies=folder, **more)


@pytest.fixture(scope="module", params=EMBEDDERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", request.param)


def test_it_embeds_alone_as_among_others(model: Path) -> None:
    with LlamaCppEmbeddings(model_path=model) as vectors:
        together = matrix(vectors, TEXTS * 3)
        alone = np.concatenate([matrix(vectors, [text]) for text in TEXTS])
        width = inspect_model(model).n_embd
        # Longer than a usual batch: a micro-batch must take it whole.
        long = vectors.embed_query("a long text " * (vectors.load_report.n_ctx // 16))
    assert together.shape == (3 * len(TEXTS), width) and len(long) == width
    assert close(together, np.tile(alone, (3, 1)))
    assert len({tuple(np.round(row, 3)) for row in alone}) > 4, "texts differ"


def test_in_a_process_of_its_own_it_is_the_same(model: Path) -> None:
    with (
        LlamaCppEmbeddings(model_path=model) as here,
        LlamaCppEmbeddings(model_path=model, isolate=True) as there,
    ):
        assert there.load_report.isolated and there.load_report.pooling == here.load_report.pooling
        assert close(matrix(there, TEXTS), matrix(here, TEXTS))


def test_a_text_that_is_too_long_is_told_or_cut(model: Path) -> None:
    with LlamaCppEmbeddings(model_path=model) as vectors:
        with pytest.raises(ContextOverflowError, match=r"Text 1 .*Split it"):
            vectors.embed_documents(["short", "x y " * 4000])
        cut = vectors.model_copy(update={"truncate": True})
        assert np.isfinite(cut.embed_query("x y " * 4000)).all()
        assert len(cut._tokens("x y " * 4000)) == vectors.load_report.n_ctx


def test_the_checks_know_it(model: Path) -> None:
    check_model_file(model)
    info = inspect_model(model)
    assert info.architecture == ("bert" if model.stem == "xlm-roberta" else model.stem)
    assert info.n_embd in (32, 64) and info.n_ctx_train in (128, 512) and info.n_layers in (2, 6)
    with pytest.raises(ModelFileError, match="embedding model"):
        check_generates(read_header(model))


def test_its_memory_is_planned(model: Path) -> None:
    plan = predict_memory(model, n_gpu_layers=0, embeddings=True)
    with LlamaCppEmbeddings(model_path=model) as vectors:
        compare(plan, with_longest_text(model, vectors))
        report = vectors.load_report
    assert (plan.n_ctx, plan.n_batch) == (report.n_ctx, report.n_batch)


def with_longest_text(model: Path, vectors: LlamaCppEmbeddings) -> dict[str, dict[str, float]]:
    """What the load allocated, and the logits and vectors that the longest text adds."""
    real, info = buffers(vectors.native_log), inspect_model(model)
    tokens = vectors.load_report.n_ctx - min(128, vectors.load_report.n_ctx)
    real["CPU"]["compute"] += tokens * 4 * (info.n_vocab + info.n_embd) / 2**20
    return real


@pytest.mark.parametrize("layers", [0, 12, 31])
def test_the_memory_of_a_language_model_that_embeds_is_planned(layers: int) -> None:
    with practice_accelerator() as device:
        fields: dict[str, Any] = {"n_ctx": 300, "n_gpu_layers": layers, "devices": [device]}
        plan = predict_memory(embeddings=True, **fields)
        with LlamaCppEmbeddings(model_path=default_model(), **fields) as vectors:
            compare(plan, with_longest_text(default_model(), vectors))


def test_the_longest_text_takes_what_was_planned() -> None:
    plan = predict_memory(n_ctx=512, n_gpu_layers=0, embeddings=True)
    assert plan.n_ctx == 512
    with LlamaCppEmbeddings(model_path=default_model(), n_ctx=512, isolate=True) as vectors:
        process = psutil.Process(child_of(vectors._engine))
        vectors.embed_query("x")
        before = process.memory_info().rss / 2**20
        vectors.embed_query("river " * 500)
        grown = process.memory_info().rss / 2**20 - before
    # The room for one token of each of 128 texts was there before.
    expected = plan.by_device["CPU"]["compute"] - 128 * 4 * (49_152 + 576) / 2**20
    assert grown == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_a_reranker_of_each_form(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "reranker.gguf", kind, pooling=Pooling.RANK)
    texts = ["It is long.", "It is cold.", "", "The sea."]
    with LlamaCppReranker(model_path=path) as reranker:
        together = reranker.score("How long?", texts)
        alone = [reranker.score("How long?", [text])[0] for text in texts]
        assert together == pytest.approx(alone, abs=1e-5)
        assert len(set(np.round(together, 4))) == len(texts)
        assert together != reranker.score("How cold?", texts), "the question counts"
        # Qwen3's is the probability of "yes"; a BERT's is any number.
        assert kind == "bert" or all(0 < score < 1 for score in together)
    with pytest.raises(ModelFileError, match="reranker"):
        check_generates(read_header(path))


def test_the_end_token_that_a_file_forgets_is_put_there(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{end}.gguf", "qwen3", add_end=end) for end in (True, None, False)]
    found = []
    for path in paths:
        with LlamaCppEmbeddings(model_path=path, truncate=True) as vectors:
            found.append(matrix(vectors, TEXTS))
            long = vectors._tokens("x y " * 4000)
            assert len(long) == vectors.load_report.n_ctx
            assert (long[-1] == 2) == (path.stem != "False")
    assert close(found[0], found[1]), "as if the file had said it"
    assert not close(found[0], found[2]), "a file that wants none gets none"


@pytest.mark.parametrize("kind", ["nomic-bert", "modern-bert"])
def test_a_file_without_a_pooling_is_averaged(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "silent.gguf", kind, pooling=None)
    with (
        LlamaCppEmbeddings(model_path=path) as silent,
        LlamaCppEmbeddings(model_path=path, pooling="mean") as mean,
        LlamaCppEmbeddings(model_path=path, pooling="cls") as first,
        LlamaCppEmbeddings(model_path=path, pooling="last") as last,
    ):
        assert silent.load_report.pooling == "mean"
        found = [matrix(vectors, TEXTS) for vectors in (silent, mean, first, last)]
    assert close(found[0], found[1])
    assert not close(found[1], found[2]) and not close(found[2], found[3])
