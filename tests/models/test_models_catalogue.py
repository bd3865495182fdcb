"""The catalogue's sizes are computed: against files, against llama.cpp's quantizer, by hand."""

from __future__ import annotations

import ctypes
import json
import re
import statistics
import struct
from pathlib import Path

import llama_cpp
import pytest

from helpers import default_model, inspect_model, recommend
from helpers.models import CATALOGUE, metal_mib
from helpers.models.formats import ARCHITECTURES
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches
from helpers.models.mixes import expert_bytes, weight_bytes
from helpers.models.recommendation import RAM_RESERVE, READS_FASTER
from helpers.models.shapes import Hyperparameters
from tests.support import ROOT

# Sizes of the files on the Hub in GB (10^9 bytes), as their pages or those who have them say:
# ggml-org/Llama-macOS#63 on GitHub has those of Qwen3.5 in Q8_0.
PUBLISHED = {
    ("qwen3-0.6b", "Q8_0"): 0.64,
    ("gemma-3-1b", "Q4_K_M"): 0.806,
    ("smollm3-3b", "Q4_K_M"): 1.92,
    ("ministral-3-3b", "Q4_K_M"): 2.147023008,
    ("qwen3.5-4b", "Q8_0"): 4.482403424,
    ("gemma-4-e4b", "Q8_0"): 8.0316,
    ("ministral-3-8b", "Q4_K_M"): 5.198911904,
    ("granite-4.1-8b", "Q4_K_M"): 5.348,
    ("qwen3.5-9b", "Q4_K_M"): 5.627044256,
    ("qwen3.5-9b", "Q8_0"): 9.527502048,
    ("ministral-3-14b", "Q4_K_M"): 8.239593024,
    ("gpt-oss-20b", "mxfp4"): 12.1,
    ("gemma-4-26b-a4b", "Q8_0"): 26.859859264,
    ("qwen3.6-27b", "Q8_0"): 28.595763424,
    ("gemma-4-31b", "Q8_0"): 32.6,
    ("qwen3.6-35b-a3b", "Q4_K_M"): 21.166757728,
    ("qwen3.6-35b-a3b", "Q8_0"): 36.903140320,
    ("llama-3.3-70b", "Q4_K_M"): 42.5,
}
# The model's weights in billions, as its makers or llama.cpp say.
WEIGHTS = {
    "smollm2-135m": 0.135,
    "qwen3-0.6b": 0.596,
    "gemma-3-1b": 1.0,
    "smollm3-3b": 3.08,
    "ministral-3-3b": 3.4,
    "qwen3.5-4b": 4.21,
    "gemma-4-e4b": 7.5,
    "ministral-3-8b": 8.4,
    "granite-4.1-8b": 8.8,
    "qwen3.5-9b": 8.96,
    "ministral-3-14b": 13.5,
    "gpt-oss-20b": 20.9,
    "gemma-4-26b-a4b": 25.2,
    "qwen3.6-27b": 26.896,
    "gemma-4-31b": 30.7,
    "qwen3.6-35b-a3b": 34.66,
    "llama-3.3-70b": 70.6,
}


def test_every_entry_is_complete() -> None:
    assert 9 <= len(CATALOGUE) <= 18
    for name, entry in CATALOGUE.items():
        assert name == entry.name == name.lower()
        assert entry.quantization in entry.quantizations
        assert entry.hparams.architecture in ARCHITECTURES
        assert entry.repository.count("/") == 1
        assert entry.licence and entry.languages and entry.purposes and entry.source
        assert re.fullmatch(r"202[4-9]-(0[1-9]|1[0-2])", entry.released)
        assert len(entry.needs()) == len(entry.quantizations)


@pytest.mark.parametrize("name", CATALOGUE)
def test_weights_are_as_many_as_the_makers_say(name: str) -> None:
    assert CATALOGUE[name].n_params / 1e9 == pytest.approx(WEIGHTS[name], rel=0.011)


@pytest.mark.parametrize(("name", "quantization"), PUBLISHED)
def test_sizes_are_those_of_the_published_files(name: str, quantization: str) -> None:
    computed = CATALOGUE[name].weights_mib(quantization) * 2**20 / 1e9
    # The header, norms and biases of a file are not counted: up to 20 MB, with many tokens.
    assert computed == pytest.approx(PUBLISHED[name, quantization], rel=0.005, abs=0.015)


def test_the_embedded_model_to_the_byte() -> None:
    info = inspect_model(default_model())
    entry = CATALOGUE["smollm2-135m"]
    matrices = sum(tensor.n_bytes for tensor in info.tensors if len(tensor.shape) == 2)
    assert weight_bytes(entry.hparams, "Q4_1") == matrices
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
    from tests.models.gguf_builders import tiny_llama

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
    assert weight_bytes(made, recipe) == matrices
    assert info.quantization == recipe


def test_cache_by_hand() -> None:
    # Keys and values x layers x heads x values x 2 bytes.
    assert CATALOGUE["ministral-3-8b"].kv_mib(4096) == 2 * 34 * 8 * 128 * 2 * 4096 / 2**20 == 544
    assert CATALOGUE["llama-3.3-70b"].kv_mib(32_768) == 10_240
    # Gemma 4 31B: 10 of 60 layers see everything, with heads of another size; the others see
    # 1,024 tokens and a batch of 512.
    full, windowed = 10 * 4 * 512 * 32_768, 50 * 16 * 256 * 1536
    assert CATALOGUE["gemma-4-31b"].kv_mib(32_768) == 2 * 2 * (full + windowed) / 2**20
    # Without a window, shorter than the window, and in 8 bits.
    short = 2 * 2 * 512 * (10 * 4 * 512 + 50 * 16 * 256) / 2**20
    assert CATALOGUE["gemma-4-31b"].kv_mib(512) == short
    layers = CATALOGUE["ministral-3-8b"].hparams.layer_caches()
    assert sum(kv_mib_by_layer(layers, 4096, 8, 8)) == 544 * 8.5 / 16
    # Gemma 4 E4B: the last 18 of 42 layers use the caches of others, 4 of the first 24 see all.
    first = 2 * 2 * (4 * 2 * 512 * 4096 + 20 * 2 * 256 * 1024) / 2**20
    assert CATALOGUE["gemma-4-e4b"].kv_mib(4096) == first


@pytest.mark.parametrize(
    ("name", "mib"),
    [("qwen3.5-4b", 32), ("qwen3.5-9b", 32), ("qwen3.6-27b", 64), ("qwen3.6-35b-a3b", 20)],
)
def test_a_state_does_not_grow_with_the_context(name: str, mib: int) -> None:
    # MiB for 1,024 tokens more, as ggml-org/Llama-macOS#63 has them.
    entry = CATALOGUE[name]
    assert entry.kv_mib(33 * 1024) - entry.kv_mib(32 * 1024) == mib
    assert 0 < entry.kv_mib(256) - mib / 4 < 200


def test_matrices_are_those_of_a_published_file() -> None:
    # Qwen3.5 4B, blocks 6 and 7, as github.com/huggingface/candle/pull/3821 lists them.
    published = {
        ("attn_gate", 6): (2560, 4096), ("attn_qkv", 6): (2560, 8192), ("ssm_alpha", 6): (2560, 32),
        ("ssm_conv1d", 6): (4, 8192), ("ssm_out", 6): (4096, 2560), ("ffn_down", 6): (9216, 2560),
        ("attn_k", 7): (2560, 1024),
    }  # fmt: skip
    ours = {(m.kind, m.layer): m for m in CATALOGUE["qwen3.5-4b"].hparams.matrices()}
    for key, (row, rows) in published.items():
        assert (ours[key].row, ours[key].values) == (row, row * rows)
    assert ("attn_k", 6) not in ours and ("attn_qkv", 7) not in ours


@pytest.mark.parametrize(
    "name", ["gemma-4-e4b", "gemma-4-26b-a4b", "gemma-4-31b", "qwen3.5-9b", "qwen3.6-35b-a3b"]
)
def test_the_cache_is_the_one_that_a_file_s_header_gives(name: str, tmp_path: Path) -> None:
    from tests.models.gguf_builders import Draft, tiny_llama

    entry = CATALOGUE[name]
    ours, layers = entry.hparams, entry.hparams.n_layers
    draft = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    architecture = ours.architecture.encode()
    for key in draft.keys:
        key[0] = key[0].replace(b"llama.", architecture + b".")
    draft.key("general.architecture")[2] = struct.pack("<Q", len(architecture)) + architecture
    whole = {"block_count": layers, "attention.head_count": ours.n_heads}
    heads, full, net = [ours.n_kv_heads] * layers, ours.full, ours.delta_net
    length = full.head_length if full else ours.head_length
    whole |= dict.fromkeys(("attention.key_length", "attention.value_length"), length)
    if full:
        windows = [bool((layer + 1) % full.every) for layer in range(layers)]
        heads = [ours.n_kv_heads if window else full.n_kv_heads for window in windows]
        draft.keys.append(array("attention.sliding_window_pattern", architecture, "?", 7, windows))
        whole |= {"attention.sliding_window": ours.sliding_window}
        whole |= {"attention.shared_kv_layers": ours.n_shared_kv}
        swa = ("attention.key_length_swa", "attention.value_length_swa")
        whole |= dict.fromkeys(swa, ours.head_length)
    if net:
        whole |= {"full_attention_interval": net.every, "ssm.conv_kernel": net.kernel}
        whole |= {"ssm.state_size": net.head_length, "ssm.group_count": net.n_key_heads}
        whole |= {"ssm.inner_size": net.n_value_heads * net.head_length}
    draft.remove(f"{ours.architecture}.attention.head_count_kv")
    draft.keys.append(array("attention.head_count_kv", architecture, "I", 4, heads))
    for key, value in whole.items():
        draft.set(f"{ours.architecture}.{key}", "I", 4, value)
    info = inspect_model(draft.write(tmp_path / "file.gguf"), check=False)
    assert layer_caches(info) == ours.layer_caches()


def array(name: str, architecture: bytes, code: str, kind: int, values: list[int]) -> list[object]:
    """A key of a header with an array as its value."""
    raw = struct.pack(f"<IQ{len(values)}{code}", kind, len(values), *values)
    return [architecture + b"." + name.encode(), 9, raw]


def test_share_of_experts() -> None:
    assert CATALOGUE["qwen3.6-35b-a3b"].hparams.active_share() == pytest.approx(3 / 35, abs=0.02)
    assert CATALOGUE["gemma-4-26b-a4b"].hparams.active_share() == pytest.approx(
        3.8 / 25.2, abs=0.01
    )
    assert CATALOGUE["ministral-3-8b"].hparams.active_share() == 1.0
    # Google calls 4.5 of its 8 billion weights "effective"; of the others one row is looked up.
    e4b = CATALOGUE["gemma-4-e4b"]
    assert e4b.hparams.active_share() * e4b.n_params / 1e9 == pytest.approx(4.7, abs=0.1)


def test_experts_are_a_part_of_the_weights() -> None:
    for entry in CATALOGUE.values():
        experts = entry.expert_mib()
        assert len(experts) == (entry.hparams.n_layers if entry.hparams.n_experts else 0)
        assert sum(experts) < entry.weights_mib()
        assert not experts or sum(experts) > 0.8 * entry.weights_mib()
    with pytest.raises(KeyError):
        expert_bytes(CATALOGUE["gpt-oss-20b"].hparams, "Q9_Z")


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
    # A Mac's GPU may take a part of the one memory there is.
    mac = recommend(ram, metal_mib(ram), unified=True)
    assert mac == recommend(ram, unified=True)
    assert mac and all(item.total_mib < ram - RAM_RESERVE for item in mac)
    assert not any(item.n_cpu_moe for item in mac)
    names = {item.model.name for item in mac}
    # With a card of its own the same figures hold more, and no less.
    assert names <= {item.model.name for item in recommend(ram, metal_mib(ram))}
    # What fits without a GPU fits here.
    assert {item.model.name for item in recommend(ram)} == names
    assert mac[0].n_gpu_layers > 0


@pytest.mark.parametrize("ram", [8_192, 16_384, 24_576, 32_768, 65_536])
def test_a_mac_gets_a_model_that_metal_takes_whole(ram: int) -> None:
    first = recommend(ram, unified=True)[0]
    assert first.placement == "gpu" and first.total_mib < metal_mib(ram)
    assert "the GPU takes it whole" in first.reason


def test_a_newer_model_comes_before_an_older_one_of_its_size() -> None:
    ranked = [item.model.name for item in recommend(128_000, 80_000)]
    assert ranked.index("gemma-4-31b") < ranked.index("llama-3.3-70b")
    assert ranked.index("llama-3.3-70b") < ranked.index("smollm2-135m")
    assert f"of {CATALOGUE[ranked[0]].released}" in recommend(128_000, 80_000)[0].reason


def test_what_metal_takes_is_what_logs_show() -> None:
    # recommendedMaxWorkingSetSize in MiB, by GiB of memory; the newer systems allow more.
    seen = {16: (10_922.67, 12_124.2), 32: (21_845.34,), 64: (49_152.0, 53_084.2), 96: (73_728.0,)}
    for gib, logs in seen.items():
        assert metal_mib(gib * 1024) == pytest.approx(min(logs), abs=0.01)


@pytest.mark.parametrize("unified", [False, True])
def test_a_small_laptop_keeps_room_for_its_browser(unified: bool) -> None:
    ranked = recommend(8 * 1024, unified=unified)
    assert all(item.total_mib <= 4 * 1024 for item in ranked)
    assert 3e9 < ranked[0].model.n_params < 5e9
    # Where there is less than 8 GiB, half of it is left.
    assert all(item.total_mib <= 1024 for item in recommend(2 * 1024))


def test_more_memory_gives_larger_models() -> None:
    sizes = [recommend(4_000, vram)[0].model.n_params for vram in (0, 8_000, 16_000, 80_000)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert recommend(600) == []


def test_purpose_and_context_count() -> None:
    assert recommend(3_000, purpose="teaching")[0].model.name == "smollm2-135m"
    assert "code" in recommend(16_000, 12_000, "code")[0].model.purposes
    short, long = recommend(8_000, n_ctx=2048), recommend(8_000, n_ctx=32_768)
    kv = {item.model.name: item.kv_mib for item in short}
    assert all(item.kv_mib > kv[item.model.name] for item in long if item.n_ctx > 2048)
    assert recommend(8_000, n_ctx=10**6)[0].n_ctx <= 131_072


def test_a_mixture_keeps_its_layers_on_the_card_and_some_experts_off_it() -> None:
    ranked = recommend(32 * 1024, 12 * 1024)
    mixtures = [item for item in ranked if item.n_cpu_moe]
    assert mixtures
    for item in mixtures:
        hparams = item.model.hparams
        experts = item.model.expert_mib(item.quantization)
        assert item.placement == "gpu and cpu" and item.n_gpu_layers == hparams.n_layers + 1
        on_card = item.total_mib - sum(experts[: item.n_cpu_moe])
        assert on_card <= 12 * 1024 - 500 < on_card + experts[item.n_cpu_moe - 1]
        assert f"the experts of {item.n_cpu_moe} of {hparams.n_layers} stay in RAM" in item.reason
    # On a large card all of it fits, on none of them are there layers to keep.
    for vram in (0, 80_000):
        assert not any(item.n_cpu_moe for item in recommend(64_000, vram))
    # More memory on the card takes more experts.
    name = mixtures[0].model.name
    (more,) = (item for item in recommend(32 * 1024, 16 * 1024) if item.model.name == name)
    assert more.n_cpu_moe < mixtures[0].n_cpu_moe


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


def test_what_is_said_of_reading_speed_is_what_was_recorded() -> None:
    rows = json.loads((ROOT / "notebooks" / "data" / "builds_amd_epyc.json").read_text())["rows"]
    speeds = {
        (row["setting"], row["type"]): statistics.median(row["runs"])
        for row in rows
        if (row["build"], row["what"]) == ("cpu", "prompt 512")
    }
    for slow, (better, times) in READS_FASTER.items():
        setting = "default" if slow == "Q4_1" else "rows of 2048"
        assert round(speeds[setting, better] / speeds[setting, slow], 1) == times
    said = "in Q5_K_M it would read prompts 1.6 times as fast"
    on_cpu = [one for one in recommend(12 * 1024) if one.quantization == "Q4_K_M"]
    assert on_cpu and all(said in one.reason for one in on_cpu)
    on_gpu = [one for one in recommend(64 * 1024, 24 * 1024) if one.placement == "gpu"]
    assert on_gpu and not any("read prompts" in one.reason for one in on_gpu)
