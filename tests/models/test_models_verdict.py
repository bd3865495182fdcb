"""What the lists of helpers do not know is llama.cpp's to decide, and its answer is kept."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import LlamaCpp, ModelFileError, check_model_file, inspect_model
from helpers.children import Child
from helpers.models import formats, plausible, verdict, vocabulary
from helpers.models.header import read_header
from helpers.models.overrides import check_overrides
from tests.models.gguf_builders import Draft, sparse_model, tiny_llama

VERSION = importlib.metadata.version("llama-cpp-python")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The child processes that were started to ask llama.cpp."""
    asked: list[Any] = []
    ask = Child.ask

    def counted(self: Child, *arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return ask(self, *arguments, **options)

    monkeypatch.setattr(Child, "ask", counted)
    return asked


def _edited(source: Path, edit: Callable[[Draft], object]) -> Path:
    draft = Draft(source.read_bytes())
    edit(draft)
    draft.place_tensors()
    return draft.write(source.with_name("edited.gguf"))


def _forget(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make the lists those of a helpers that is older than an architecture or a pre-tokenizer."""
    for module, listed in ((plausible, "ARCHITECTURES"), (vocabulary, "PRE_TOKENIZERS")):
        monkeypatch.setattr(module, listed, getattr(module, listed) - set(names))
    monkeypatch.setattr(plausible, "FREE_HEAD_LENGTHS", frozenset(), raising=False)


def _refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        check_model_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def _generated(path: Path) -> int:
    with LlamaCpp(model_path=path, n_ctx=64, max_tokens=4, temperature=0) as llm:
        llm.invoke("hello world")
        return int(llm.last_timings.generated_tokens or 0)


def _unequal(path: Path, architecture: str) -> Path:
    """A model whose heads have 16 values for keys and 32 for values."""
    sparse_model(
        path, architecture,
        layers=2, width=64, heads=4, kv_heads=2, feed_forward=96, tokens=300, type_id=0,
        output_type_id=0,
    )  # fmt: skip

    def edit(draft: Draft) -> None:
        draft.set(f"{architecture}.attention.key_length", "I", 4, 16)
        draft.set(f"{architecture}.attention.value_length", "I", 4, 32)
        draft.set(f"{architecture}.expert_feed_forward_length", "I", 4, 96)
        draft.set(f"{architecture}.attention.sliding_window", "I", 4, 32)
        draft.set_array(f"{architecture}.attention.sliding_window_pattern", "I", 4, [0, 1])
        for tensor in draft.tensors:
            if tensor[0].endswith(b"attn_v.weight"):
                tensor[1] = [64, 64]
            elif tensor[0].endswith(b"attn_output.weight"):
                tensor[1] = [128, 64]

    edited = _edited(path, edit)
    data = read_header(edited).data_offset
    weights = np.random.default_rng(7).normal(0, 0.05, (edited.stat().st_size - data) // 4)
    with edited.open("r+b") as file:
        file.seek(data)
        file.write(weights.astype("<f4").tobytes())
    return edited


def test_an_invented_architecture_is_refused_in_the_words_of_llama_cpp(tmp_path: Path) -> None:
    path = sparse_model(
        tmp_path / "new.gguf", "frobnicate",
        layers=2, width=64, heads=4, kv_heads=2, feed_forward=96, tokens=300, type_id=0,
        output_type_id=0,
    )  # fmt: skip
    message = _refusal(path)
    assert "unknown model architecture: 'frobnicate'" in message
    assert VERSION in message and "it knows" in message and "Upgrade llama-cpp-python" in message


def test_an_invented_pre_tokenizer_is_refused_in_the_words_of_llama_cpp(tiny: Path) -> None:
    path = _edited(tiny, lambda draft: draft.set_text("tokenizer.ggml.pre", "frobnicate"))
    message = _refusal(path)
    assert "unknown pre-tokenizer type: 'frobnicate'" in message
    assert VERSION in message and "Upgrade llama-cpp-python" in message


def test_unequal_head_lengths_are_refused_in_the_words_of_llama_cpp(tmp_path: Path) -> None:
    message = _refusal(_unequal(tmp_path / "unequal.gguf", "gemma"))
    assert "16 values for keys and 32 for values" in message
    assert "'blk.0.attn_output.weight' has wrong shape; expected 64, 64" in message
    assert "unknown model architecture" in _refusal(_unequal(tmp_path / "new.gguf", "frobnicate"))


@pytest.mark.parametrize("unknown", ["llama", "gpt-2"])
def test_what_llama_cpp_takes_is_taken_though_no_list_has_it(
    tiny: Path, unknown: str, monkeypatch: pytest.MonkeyPatch, questions: list[Any]
) -> None:
    _forget(monkeypatch, unknown)
    check_model_file(tiny)
    assert len(questions) == 1
    assert _generated(tiny) > 0
    assert len(questions) == 1


def test_unequal_head_lengths_of_an_architecture_of_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _unequal(tmp_path / "mimo2.gguf", "mimo2")
    _forget(monkeypatch, "mimo2")
    check_model_file(path)
    assert inspect_model(path).value_length == 32
    assert _generated(path) > 0


def test_an_unknown_tensor_type_takes_the_room_up_to_the_next(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, questions: list[Any]
) -> None:
    known = inspect_model(tiny)
    path = _edited(tiny, lambda draft: draft.tensors[4].__setitem__(2, 99))
    assert "invalid ggml type 99" in _refusal(path)
    monkeypatch.delitem(formats.TENSOR_TYPES, 0)
    tiny.touch()
    questions.clear()
    info = inspect_model(tiny)
    assert len(questions) == 1
    assert 0 <= info.weight_bytes - known.weight_bytes < 32 * len(info.tensors)
    tiny.write_bytes(tiny.read_bytes()[:-4096])
    assert "not within the file bounds" in _refusal(tiny)


def test_more_experts_than_this_version_takes(tiny: Path) -> None:
    def edit(draft: Draft) -> None:
        draft.set("llama.expert_count", "I", 4, 2000)
        draft.set("llama.expert_used_count", "I", 4, 2)

    message = _refusal(_edited(tiny, edit))
    assert "outside 0 to 1,024" in message and "LLAMA_MAX_EXPERTS" in message


def test_an_abort_of_the_loader_is_an_answer(tiny: Path) -> None:
    path = _edited(tiny, lambda draft: draft.set_text("llama.rope.scaling.type", "magic"))
    message = _refusal(path)
    assert "it knows none, linear, yarn, longrope" in message
    assert "ended its process on it" in message
    if sys.platform != "win32":
        assert "GGML_ASSERT" in message


def test_overrides_are_asked_about_too(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"kv_overrides.*has wrong shape"):
        check_overrides(str(tiny), [("llama.attention.value_length", 32)])
    with pytest.raises(ValueError, match=r"kv_overrides.*ended its process"):
        check_overrides(str(tiny), [("llama.rope.scaling.type", "magic")])


def test_what_the_header_proves_is_not_asked(tiny: Path, questions: list[Any]) -> None:
    def edit(draft: Draft) -> None:
        draft.set_text("tokenizer.ggml.pre", "frobnicate")
        draft.set("llama.block_count", "I", 4, 5)

    message = _refusal(_edited(tiny, edit))
    assert "'frobnicate'" in message and "besides" in message and "no tensor of layer 2" in message
    assert not questions


def test_a_verdict_is_kept_until_the_file_changes(tiny: Path, questions: list[Any]) -> None:
    path = _edited(tiny, lambda draft: draft.set_text("tokenizer.ggml.pre", "frobnicate"))
    assert _refusal(path) == _refusal(path)
    assert len(questions) == 1
    os.utime(path, (1, 1))
    _refusal(path)
    assert len(questions) == 2


def test_without_llama_cpp_the_hint_is_left(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, questions: list[Any]
) -> None:
    def missing(_name: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    path = _edited(tiny, lambda draft: draft.set_text("tokenizer.ggml.pre", "frobnicate"))
    monkeypatch.setattr(verdict.importlib.metadata, "version", missing)
    message = _refusal(path)
    assert "'frobnicate'" in message and "not installed" in message and "Upgrade" in message
    assert not questions


def test_a_question_without_an_end_is_given_up(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _edited(tiny, lambda draft: draft.set_text("tokenizer.ggml.pre", "frobnicate"))
    monkeypatch.setattr(verdict, "_SECONDS", 1e-6)
    assert "did not finish with it within 1e-06 s" in _refusal(path)
    monkeypatch.undo()
    assert "unknown pre-tokenizer" in _refusal(path)  # what passed is not remembered
