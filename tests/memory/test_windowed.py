"""Models with sliding windows: the computed cache against what llama.cpp allocates."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers import Device, DeviceError, inspect_model, predict_memory, suggest_gpu_layers
from helpers.engine import LoadOptions, core
from helpers.models import CATALOGUE, ModelInfo
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches, sliding_windows
from helpers.native import Context, Model, read_buffers, read_caches
from tests.models.gguf_builders import Draft, tiny_llama

MIB = 2**20
WIDTH = 64
LOGGED = 0.006  # the log has two decimals


def write(path: Path, architecture: str, layers: int, **keys: int | list[bool]) -> Path:
    """A tiny gemma2 or gemma3, with keys below `attention.` in its header."""
    norms = {"post_attention_norm": WIDTH, "post_ffw_norm": WIDTH}
    if architecture == "gemma3":
        norms |= {"attn_q_norm": WIDTH // 4, "attn_k_norm": WIDTH // 4}

    def edit(writer: gguf.GGUFWriter) -> None:
        for name, value in keys.items():
            key = f"{architecture}.attention.{name}"
            if isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_uint32(key, value)

    tiny_llama(path, architecture=architecture, norms=norms, layers=layers, edit=edit)
    return path


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("windowed") / "gemma.gguf", "gemma3", 12, sliding_window=300
    )


@pytest.fixture(scope="module")
def loaded(gemma: Path) -> Iterator[Model]:
    model = Model(LoadOptions(model_path=str(gemma), n_gpu_layers=0))
    yield model
    model.close()


def allocated(model: Model, **settings: Any) -> tuple[float, list[tuple[float, list[int]]]]:
    """MiB of the cache that a real context has, and the layers of each of its parts."""
    n_seq = settings.pop("n_seq", 1)
    context = Context(model, dataclasses.replace(model.options, **settings), n_seq)
    context.close()
    return read_buffers(context.log)["CPU"]["kv"], read_caches(context.log)


@pytest.mark.parametrize("swa_full", [False, True])
@pytest.mark.parametrize("n_seq", [1, 4])
@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch"), [(4096, 512), (4096, 16), (3000, 211), (700, 512), (200, 64)]
)
def test_the_cache_is_what_llama_cpp_allocates(
    gemma: Path, loaded: Model, n_ctx: int, n_ubatch: int, n_seq: int, swa_full: bool
) -> None:
    real, caches = allocated(loaded, n_ctx=n_ctx, n_seq=n_seq, n_ubatch=n_ubatch, swa_full=swa_full)
    layers = layer_caches(inspect_model(gemma))
    computed = kv_mib_by_layer(layers, n_ctx, n_seq=n_seq, swa_full=swa_full, n_ubatch=n_ubatch)
    assert sum(computed) == pytest.approx(real, rel=0.01, abs=LOGGED)
    for mib, members in caches:
        assert sum(computed[layer] for layer in members) == pytest.approx(mib, rel=0.01, abs=LOGGED)
    everything, windowed = (members for _, members in caches)
    assert everything == [5, 11] == [n for n, layer in enumerate(layers) if not layer.window]
    assert sorted(everything + windowed) == list(range(12))


def test_the_plan_says_the_same(gemma: Path, loaded: Model) -> None:
    sizes = []
    for swa_full in (False, True):
        plan = predict_memory(gemma, n_ctx=4096, n_gpu_layers=0, devices=[], swa_full=swa_full)
        real, _ = allocated(loaded, n_ctx=4096, swa_full=swa_full)
        assert plan.by_device["CPU"]["kv"] == pytest.approx(real, rel=0.01, abs=LOGGED)
        sizes.append(real)
    assert sizes[0] < sizes[1] / 2


def test_the_check_before_a_load_counts_the_window(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = inspect_model(gemma)
    whole, capped = (
        LoadOptions(model_path=str(gemma), n_ctx=8192, isolate=False, swa_full=full)
        for full in (True, False)
    )
    small = 2 * 8192 * 128 / MIB + 10 * 1024 * 128 / MIB  # 2 whole layers, 10 of 300 + 512 tokens
    monkeypatch.setattr(core, "available_mib", lambda: small * 1.01)
    core.check_memory(capped, info)
    with pytest.raises(DeviceError, match="n_ctx=8192 needs 12 MiB") as caught:
        core.check_memory(whole, info)
    # 0.8 of what there is holds so many steps of 256 tokens in each of 12 layers.
    steps = int(small * 1.01 * 0.8 * MIB / (12 * 256 * 128))
    assert f"Set n_ctx={256 * steps} or less" in str(caught.value)
    monkeypatch.setattr(core, "available_mib", lambda: small * 0.99)
    with pytest.raises(DeviceError) as caught:
        core.check_memory(capped, info)
    suggested = int(str(caught.value).split("Set n_ctx=")[1].split()[0])
    assert suggested > 256 * steps
    monkeypatch.setattr(core, "available_mib", lambda: small * 0.8)
    core.check_memory(dataclasses.replace(capped, n_ctx=suggested), info)


def test_a_gemma_in_the_catalogue_is_a_gemma_in_a_file(gemma: Path) -> None:
    entry = CATALOGUE["gemma-3-1b"]
    draft = Draft(gemma.read_bytes())
    ours = entry.hparams
    for name, value in {
        "block_count": ours.n_layers,
        "embedding_length": ours.n_embd,
        "attention.head_count": ours.n_heads,
        "attention.head_count_kv": ours.n_kv_heads,
        "attention.key_length": ours.head_length,
        "attention.value_length": ours.head_length,
        "attention.sliding_window": ours.sliding_window,
    }.items():
        draft.set(f"gemma3.{name}", "I", 4, value)
    info = inspect_model(draft.write(gemma.with_name("one.gguf")), check=False)
    assert layer_caches(info) == ours.layer_caches()
    assert sum(kv_mib_by_layer(layer_caches(info), 32_768)) == entry.kv_mib(32_768) == 150
    assert sum(kv_mib_by_layer(layer_caches(info), 32_768, swa_full=True)) == 26 * 32


@pytest.mark.parametrize(
    ("architecture", "layers", "keys"),
    [
        ("gemma2", 6, {}),  # 4096 tokens where the header names none
        ("gemma2", 6, {"sliding_window": 256}),
        ("gemma3", 6, {"sliding_window": 0}),
        ("gemma3", 6, {"sliding_window": 256, "sliding_window_pattern": 3}),
        ("gemma3", 4, {"sliding_window": 256, "sliding_window_pattern": [True, True, False, True]}),
        ("gemma3", 12, {"sliding_window": 256}),
    ],
    ids=str,
)
def test_which_layers_are_windowed_is_what_llama_cpp_says(
    tmp_path: Path, architecture: str, layers: int, keys: dict[str, Any]
) -> None:
    path = write(tmp_path / "m.gguf", architecture, layers, **keys)
    model = Model(LoadOptions(model_path=str(path), n_gpu_layers=0))
    real, caches = allocated(model, n_ctx=8192, n_ubatch=64, swa_full=False)
    model.close()
    ours = layer_caches(inspect_model(path))
    windowed = [n for n, layer in enumerate(ours) if layer.window]
    assert windowed == (caches[1][1] if len(caches) > 1 else [])
    assert sum(kv_mib_by_layer(ours, 8192, n_ubatch=64)) == pytest.approx(
        real, rel=0.01, abs=LOGGED
    )


def test_windows_of_architectures_by_the_source() -> None:
    # From src/models/*.cpp of llama.cpp; 8 layers, W for a window.
    for architecture, window, expected in [
        ("llama", 4096, "--------"),
        ("phi3", 2047, "--------"),  # llama.cpp does not use its windows
        ("gpt-oss", 128, "W-W-W-W-"),
        ("cohere2", 4096, "WWW-WWW-"),
        ("cohere2moe", 4096, "-WWW-WWW"),
        ("llama4", None, "WWW-WWW-"),
        ("llama4", 0, "--------"),
        ("smallthinker", 4096, "-WWW-WWW"),
        ("plamo3", 2048, "WWWWWWW-"),
        ("lfm2", 1024, "WWWWWWWW"),
        ("gemma4", 512, "--------"),  # its header names each layer
        ("invented", 512, "--------"),
    ]:
        found = sliding_windows(architecture, 8, window)
        assert "".join("W" if one else "-" for one in found) == expected, architecture
    assert sliding_windows("llama4", 1, None) == (8192,)
    assert sliding_windows("gemma4", 3, 512, (True, False)) == (512, 0, 0)
    assert sliding_windows("invented", 3, 512, 3) == (512, 512, 0)


def changed(gemma: Path, architecture: str, **keys: int) -> ModelInfo:
    """A header of another architecture, read without llama.cpp."""
    draft = Draft(gemma.read_bytes())
    for entry in draft.keys:
        entry[0] = entry[0].replace(b"gemma3.", architecture.encode() + b".")
    draft.set_text("general.architecture", architecture)
    for name, value in keys.items():
        draft.set(f"{architecture}.{name}".replace("__", "."), "I", 4, value)
    return inspect_model(draft.write(gemma.with_name(f"{architecture}.gguf")), check=False)


def test_layers_without_a_cache_of_their_own(gemma: Path) -> None:
    shared = layer_caches(changed(gemma, "gemma4", attention__shared_kv_layers=5))
    assert [bool(layer.keys) for layer in shared] == [True] * 7 + [False] * 5
    draft = layer_caches(changed(gemma, "glm4moe", nextn_predict_layers=1))
    assert [bool(layer.keys) for layer in draft] == [True] * 11 + [False]
    third = layer_caches(changed(gemma, "gemma3n", block_count=30))
    assert [bool(layer.keys) for layer in third] == [True] * 20 + [False] * 10


def test_windowed_layers_can_have_shorter_heads(gemma: Path) -> None:
    short = changed(gemma, "gemma3", attention__key_length_swa=8, attention__value_length_swa=4)
    for layer in layer_caches(short):
        assert (layer.keys, layer.values) == ((2 * 8, 2 * 4) if layer.window else (32, 32))


def test_advice_counts_the_window(gemma: Path) -> None:
    settings: dict[str, Any] = {"n_ubatch": 16, "margin_mib": 0, "swa_full": False}
    advised = 0
    for free in np.arange(1.0, 6.0, 0.25):
        card = Device("CUDA0", "a card", "gpu", "CUDA", 24_000, float(free))
        plan = predict_memory(gemma, n_ctx=8192, devices=[card], **settings)
        for line in plan.advice:
            if found := re.match(r"n_ctx=4096 would make room for (\d+) layers", line):
                truth = suggest_gpu_layers(gemma, n_ctx=4096, devices=[card], **settings)
                assert int(found[1]) <= truth
                advised += 1
    assert advised > 3
