"""What makes no text is refused, and what no rule knows whole is tried in a child first."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers import LlamaCpp, ModelFileError, check_model_file, default_model, inspect_model
from helpers.children import Child
from helpers.models.check import checked_header
from helpers.models.proof import is_proved
from tests.models.gguf_builders import tiny_llama


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The questions to child processes; nothing is remembered from before."""
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("helpers.models.trial._accepted", set())
    asked: list[Any] = []
    ask = Child.ask

    def counted(self: Child, *arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return ask(self, *arguments, **options)

    monkeypatch.setattr(Child, "ask", counted)
    return asked


def _text(path: Path) -> str:
    with LlamaCpp(model_path=path, n_ctx=64, max_tokens=2, temperature=0, isolate=False) as llm:
        return llm.invoke("hello")


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("eurobert", "is an embedding model (architecture eurobert): it makes vectors, no text"),
        ("llama-embed", "embedding model"),
        ("llada", "is a diffusion model (architecture llada)"),
        ("dream", "diffusion model"),
    ],
)
def test_a_good_file_that_makes_no_text_is_refused_by_the_engine_alone(
    tmp_path: Path, architecture: str, words: str
) -> None:
    path = tiny_llama(tmp_path / "m.gguf", architecture=architecture)
    check_model_file(path)
    assert inspect_model(path).architecture == architecture
    with pytest.raises(ModelFileError, match=r"m\.gguf") as caught:
        _text(path)
    assert words in str(caught.value)
    with LlamaCpp(model_path=path, vocab_only=True) as llm:
        assert llm.get_num_tokens("hello") > 0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pooling_type", 3, "embedding model"),
        ("pooling_type", 4, "reranker"),
        ("attention.causal", False, "both directions"),
    ],
)
def test_a_header_that_names_another_purpose_is_believed(
    tmp_path: Path, key: str, value: int, words: str
) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
        add(f"llama.{key}", value)

    path = tiny_llama(tmp_path / "m.gguf", edit=edit)
    check_model_file(path)
    with pytest.raises(ModelFileError, match=words):
        _text(path)


def test_overrides_count(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match="embedding model"):
        LlamaCpp(model_path=path, model_kwargs={"kv_overrides": {"llama.pooling_type": 1}})


def test_the_common_models_are_known_whole(tmp_path: Path, questions: list[Any]) -> None:
    assert is_proved(checked_header(default_model()))
    _text(tiny_llama(tmp_path / "m.gguf"))
    assert not questions


def test_another_is_tried_once_until_it_changes(
    tmp_path: Path, questions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path / "m.gguf", architecture="gemma")
    assert _text(path) == _text(path)
    assert len(questions) == 1
    monkeypatch.setattr("helpers.models.trial._accepted", set())  # as in the next session
    _text(path)
    assert len(questions) == 1
    os.utime(path, (1, 1))
    _text(path)
    assert len(questions) == 2
    with LlamaCpp(model_path=path, n_ctx=64, isolate=True) as llm:
        llm.get_num_tokens("in a child of its own anyway")
    assert len(questions) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="its abort leaves no words")
def test_what_ends_the_trial_is_refused(tmp_path: Path, questions: list[Any]) -> None:
    # 4 heads do not divide among 3: no rule says so of gemma, and ggml asserts it.
    path = tiny_llama(tmp_path / "m.gguf", architecture="gemma", kv_heads=3)
    check_model_file(path)
    for count in (1, 2):  # a death is not remembered: it may have had another cause
        with pytest.raises(ModelFileError, match=r"ended the process.*GGML_ASSERT.*isolate=True"):
            _text(path)
        assert len(questions) == count


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.scale", "blk.1.ffn_up.scale"])
def test_factors_are_f32(tmp_path: Path, name: str) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor(name, np.ones(8 if "rope" in name else 1, np.float16))

    with pytest.raises(ModelFileError, match="not as F32"):
        check_model_file(tiny_llama(tmp_path / "m.gguf", edit=edit))


def test_a_vocabulary_that_a_text_never_ends_with(tmp_path: Path) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.model"].value = "rwkv"

    with pytest.raises(ModelFileError, match="never come to an end"):
        check_model_file(tiny_llama(tmp_path / "m.gguf", edit=edit))


def test_architectures_without_their_sections_or_experts(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="dimension_sections"):
        check_model_file(tiny_llama(tmp_path / "m.gguf", architecture="qwen2vl"))
    with pytest.raises(ModelFileError, match="has no experts"):
        check_model_file(tiny_llama(tmp_path / "n.gguf", architecture="grovemoe"))
