"""The catalogue's sizes are computed: against files, against llama.cpp's quantizer, by hand."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import pytest

from helpers import default_model, inspect_model, recommend
from helpers.models import CATALOGUE
from helpers.models.formats import ARCHITECTURES
from helpers.models.kv_cache import kv_mib_by_layer
from helpers.models.mixes import Hyperparameters

# Sizes of the files on the Hub in GB (10^9 bytes), as their pages say, and the model's weights in
# billions, as its makers say.
PUBLISHED = {
    ("qwen3-0.6b", "Q8_0"): 0.64,
    ("gemma-3-1b", "Q4_K_M"): 0.806,
    ("smollm3-3b", "Q4_K_M"): 1.92,
    ("qwen3-4b", "Q4_K_M"): 2.50,
    ("qwen3-4b", "Q8_0"): 4.28,
    ("qwen3-8b", "Q4_K_M"): 5.03,
    ("qwen3-8b", "Q6_K"): 6.73,
    ("gemma-3-12b", "Q4_K_M"): 7.30,
    ("gpt-oss-20b", "mxfp4"): 12.1,
    ("mistral-small-24b", "Q4_K_M"): 14.3,
    ("qwen3-30b-a3b", "Q4_K_M"): 18.6,
    ("llama-3.3-70b", "Q4_K_M"): 42.5,
}
WEIGHTS = {
    "smollm2-135m": 0.135,
    "qwen3-0.6b": 0.596,
    "gemma-3-1b": 1.0,
    "smollm3-3b": 3.08,
    "qwen3-4b": 4.02,
    "qwen3-8b": 8.19,
    "gemma-3-12b": 11.8,
    "gpt-oss-20b": 20.9,
    "mistral-small-24b": 23.6,
    "qwen3-30b-a3b": 30.5,
    "llama-3.3-70b": 70.6,
}


def test_every_entry_is_complete() -> None:
    assert 9 <= len(CATALOGUE) <= 12
    for name, entry in CATALOGUE.items():
        assert name == entry.name == name.lower()
        assert entry.quantization in entry.quantizations
        assert entry.hparams.architecture in ARCHITECTURES
        assert entry.repository.count("/") == 1
        assert entry.licence and entry.languages and entry.purposes and entry.source
        assert len(entry.needs()) == len(entry.quantizations)


@pytest.mark.parametrize("name", CATALOGUE)
def test_weights_are_as_many_as_the_makers_say(name: str) -> None:
    assert CATALOGUE[name].n_params / 1e9 == pytest.approx(WEIGHTS[name], rel=0.01)


@pytest.mark.parametrize(("name", "quantization"), PUBLISHED)
def test_sizes_are_those_of_the_published_files(name: str, quantization: str) -> None:
    computed = CATALOGUE[name].weights_mib(quantization) * 2**20 / 1e9
    # The header, norms and biases of a file are not counted: up to 10 MB.
    assert computed == pytest.approx(PUBLISHED[name, quantization], rel=0.01, abs=0.011)


def test_the_embedded_model_to_the_byte() -> None:
    info = inspect_model(default_model())
    entry = CATALOGUE["smollm2-135m"]
    matrices = sum(tensor.n_bytes for tensor in info.tensors if len(tensor.shape) == 2)
    assert entry.hparams.weight_bytes("Q4_1") == matrices
    ours = entry.hparams
    assert (ours.n_layers, ours.n_embd, ours.n_vocab) == (30, info.n_embd, info.n_vocab)
    assert (ours.n_heads, ours.n_kv_heads) == (info.n_heads[0], info.n_kv_heads[0])
    assert (ours.head_length, ours.n_ff) == (info.key_length, info.n_ff[0])


# Recipes by their numbers in llama.h (LLAMA_FTYPE_MOSTLY_…).
FILE_TYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2, "Q3_K_M": 12}


@pytest.mark.parametrize("recipe", FILE_TYPES)
@pytest.mark.parametrize("width", [256, 288])
def test_recipes_agree_with_llama_cpp_s_own_quantizer(
    tmp_path: Path, recipe: str, width: int
) -> None:
    # 288 is no multiple of 256: the recipes fall back to other types, as for the embedded model.
    from gguf_builders import tiny_llama

    layers = 16
    source = tiny_llama(
        tmp_path / "f32.gguf",
        layers=layers, width=width, heads=4, kv_heads=2, feed_forward=2 * width,
    )  # fmt: skip
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[recipe]
    params.nthread = 2
    target = tmp_path / "quantized.gguf"
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    assert status == 0
    info = inspect_model(target)
    made = Hyperparameters(
        "llama", layers, width, 4, 2, width // 4, 2 * width, info.n_vocab, tied=True
    )
    matrices = sum(tensor.n_bytes for tensor in info.tensors if len(tensor.shape) == 2)
    assert made.weight_bytes(recipe) == matrices
    assert info.quantization == recipe


def test_cache_by_hand() -> None:
    # Keys and values x layers x heads x values x 2 bytes.
    assert CATALOGUE["qwen3-8b"].kv_mib(4096) == 2 * 36 * 8 * 128 * 2 * 4096 / 2**20 == 576
    assert CATALOGUE["llama-3.3-70b"].kv_mib(32_768) == 10_240
    # Gemma 3 12B: 8 of 48 layers see everything, the others 1,024 tokens and a batch of 512.
    expected = 2 * 8 * 256 * 2 * (8 * 32_768 + 40 * 1536) / 2**20
    assert CATALOGUE["gemma-3-12b"].kv_mib(32_768) == expected
    # Without a window, shorter than the window, and in 8 bits.
    assert CATALOGUE["gemma-3-12b"].kv_mib(512) == 2 * 8 * 256 * 2 * 48 * 512 / 2**20
    layers = CATALOGUE["qwen3-8b"].hparams.layer_caches()
    assert sum(kv_mib_by_layer(layers, 4096, 8, 8)) == 576 * 8.5 / 16


def test_share_of_experts() -> None:
    assert CATALOGUE["qwen3-30b-a3b"].hparams.active_share() == pytest.approx(3.3 / 30.5, abs=0.01)
    assert CATALOGUE["qwen3-8b"].hparams.active_share() == 1.0


@pytest.mark.parametrize("ram", [2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000])
@pytest.mark.parametrize("vram", [0, 6_000, 24_000, 80_000])
def test_recommendations_fit(ram: int, vram: int) -> None:
    ranked = recommend(ram, vram)
    assert ranked
    assert [item.rank for item in ranked] == list(range(1, len(ranked) + 1))
    for item in ranked:
        room = vram if item.placement == "gpu" else ram + (vram if item.n_gpu_layers else 0)
        assert item.weights_mib + item.kv_mib < item.total_mib < room
        assert (item.n_gpu_layers > 0) == (item.placement != "cpu")
        assert item.n_gpu_layers <= item.model.hparams.n_layers + 1
        assert item.name in str(item) and "MiB to spare" in item.reason


@pytest.mark.parametrize("ram", [8_192, 16_384, 32_768, 65_536])
def test_one_memory_is_counted_once(ram: int) -> None:
    # A Mac's GPU may take two thirds of the one memory there is.
    mac = recommend(ram, ram * 2 / 3, unified=True)
    assert mac and all(item.total_mib < ram - 1500 for item in mac)
    names = {item.model.name for item in mac}
    # With a card of its own the same figures hold more, and no less.
    assert names <= {item.model.name for item in recommend(ram, ram * 2 / 3)}
    # What fits without a GPU fits here.
    assert {item.model.name for item in recommend(ram)} == names
    assert mac[0].n_gpu_layers > 0


def test_more_memory_gives_larger_models() -> None:
    sizes = [recommend(4_000, vram)[0].model.n_params for vram in (0, 8_000, 16_000, 80_000)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert recommend(1_000) == []


def test_purpose_and_context_count() -> None:
    assert recommend(3_000, purpose="teaching")[0].model.name == "smollm2-135m"
    assert "code" in recommend(16_000, 12_000, "code")[0].model.purposes
    short, long = recommend(8_000, n_ctx=2048), recommend(8_000, n_ctx=32_768)
    kv = {item.model.name: item.kv_mib for item in short}
    assert all(item.kv_mib > kv[item.model.name] for item in long if item.n_ctx > 2048)
    assert recommend(8_000, n_ctx=10**6)[0].n_ctx <= 131_072


def test_a_mixture_beats_a_dense_model_without_a_gpu() -> None:
    assert recommend(64_000)[0].model.hparams.n_experts > 0
    assert "of which a token uses" in recommend(64_000)[0].reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((-1,), "negative"), ((1000, -5), "negative"), ((1000, 0, "cooking"), "purpose must be")],
)
def test_bad_input(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recommend(*arguments)  # type: ignore[arg-type]
