"""Plans for models of any size, made as headers without weights, against figures by hand."""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import Device, inspect_model, predict_memory, suggest_gpu_layers
from helpers.load_options import LoadOptions
from helpers.memory.placement import CPU, expert_mib, place_layers, weights_mib
from helpers.memory.simulate import simulate_load
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches
from tests.models.gguf_builders import Draft, sparse_model, tiny_llama

MIB = 2**20
Q4_0, Q6_K, Q8_0 = 2, 14, 8


def card(free_mib: float, name: str = "CUDA0") -> Device:
    """A graphics card that nobody here has."""
    return Device(name, "a card", "gpu", "CUDA", free_mib + 500, free_mib)


SEVEN = {
    "layers": 32,
    "width": 4096,
    "heads": 32,
    "kv_heads": 32,
    "feed_forward": 11008,
    "tokens": 32_000,
    "type_id": Q4_0,
}
EIGHT = {**SEVEN, "kv_heads": 8, "feed_forward": 14336, "tokens": 128_256, "type_id": Q8_0}
MIXTURE = {**EIGHT, "experts": 8, "experts_used": 2, "tokens": 32_000, "type_id": Q4_0}


def build(folder: Path, shape: dict[str, Any]) -> Path:
    path: Path = sparse_model(folder / "m.gguf", "llama", output_type_id=Q6_K, **shape)
    with path.open("rb") as file:
        draft = Draft(file.read(16 * MIB))  # the header; the weights are a hole
    draft.set("llama.context_length", "I", 4, 32_768)
    draft.place_tensors()
    written: Path = draft.write(path)
    return written


@pytest.mark.parametrize(
    ("shape", "layer_weights", "kv_4096"),
    [
        # 4 d² + 3 d f weights a layer at 4.5 bits, two norms of 4 bytes a value;
        # 32 layers x 4096 tokens x 2 x 32 heads x 128 values x 2 bytes.
        (SEVEN, (4 * 4096**2 + 3 * 4096 * 11008) * 18 / 32 + 2 * 4 * 4096, 2048),
        # Queries and outputs d², keys and values d²/4 each; a quarter of the heads in the cache.
        (EIGHT, (2.5 * 4096**2 + 3 * 4096 * 14336) * 34 / 32 + 2 * 4 * 4096, 512),
        # Eight times the feed-forward network, and a router of 32-bit numbers.
        (MIXTURE, (2.5 * 4096**2 + 24 * 4096 * 14336) * 18 / 32 + (2 + 8) * 4 * 4096, 512),
    ],
    ids=["7B", "8B, grouped queries", "mixture of experts"],
)
def test_weights_and_cache_by_hand(
    tmp_path: Path, shape: dict[str, Any], layer_weights: float, kv_4096: float
) -> None:
    path = build(tmp_path, shape)
    gpu = card(100_000)
    plan = predict_memory(path, n_gpu_layers=11, n_ctx=4096, devices=[gpu])
    output = shape["tokens"] * 4096 * 210 / 256 + 4 * 4096  # Q6_K: 210 bytes for 256 values
    on_card = plan.by_device["CUDA0"]
    assert on_card["weights"] == pytest.approx((10 * layer_weights + output) / MIB, rel=1e-3)
    assert on_card["kv"] == pytest.approx(kv_4096 * 10 / 32)
    assert plan.by_device[CPU]["kv"] == pytest.approx(kv_4096 * 22 / 32)
    assert plan.estimated  # there is no such card to ask
    assert plan.layers_on == {CPU: 22, "CUDA0": 11}
    whole = predict_memory(path, n_ctx=4096, devices=[gpu])
    embeddings = shape["tokens"] * 4096 * {Q4_0: 18, Q8_0: 34}[shape["type_id"]] / 32
    assert whole.by_device[CPU]["weights"] == pytest.approx(embeddings / MIB, rel=1e-3)
    assert whole.by_device[CPU]["kv"] == 0
    halved = predict_memory(path, n_ctx=4096, devices=[gpu], type_k="q8_0", type_v="q8_0")
    assert halved.by_device["CUDA0"]["kv"] == pytest.approx(kv_4096 * 34 / 64)


@pytest.mark.parametrize("shape", [SEVEN, EIGHT, MIXTURE], ids=["7B", "8B", "mixture"])
def test_the_formula_for_compute_buffers_is_near_what_llama_cpp_says(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    path = build(tmp_path, shape)
    asked = predict_memory(path, n_gpu_layers=0, n_ctx=4096)
    assert not asked.estimated
    guessed = predict_memory(path, n_gpu_layers=16, n_ctx=4096, devices=[card(100_000)])
    truth = asked.by_device[CPU]["compute"]
    assert truth < guessed.by_device["CUDA0"]["compute"] * 1.25 < 3 * truth
    # The cache of the whole model is what the simulated load lays out.
    assert asked.by_device[CPU]["kv"] == pytest.approx(
        sum(kv_mib_by_layer(layer_caches(inspect_model(path)), 4096))
    )


def test_recurrent_layers_keep_a_state_of_fixed_size(tmp_path: Path) -> None:
    draft = Draft(tiny_llama(tmp_path / "t.gguf", layers=4).read_bytes())
    for name, value in (("inner_size", 128), ("state_size", 16), ("conv_kernel", 4)):
        draft.set(f"llama.ssm.{name}", "I", 4, value)
    draft.set("llama.ssm.group_count", "I", 4, 1)
    draft.set_array("llama.attention.head_count_kv", "i", 5, [0, 0, 0, 2])
    layers = layer_caches(inspect_model(draft.write(tmp_path / "r.gguf"), check=False))
    state = 4 * (3 * (128 + 2 * 16) + 16 * 128) / MIB
    for n_ctx in (256, 4096):
        attention = 128 * n_ctx / MIB
        assert kv_mib_by_layer(layers, n_ctx) == pytest.approx([state] * 3 + [attention])
    assert kv_mib_by_layer(layers, 256, n_seq=3)[0] == pytest.approx(3 * state)


@pytest.mark.parametrize(
    ("layers", "split", "expected"),
    [
        (0, None, [33, 0, 0]),
        (1, None, [32, 1, 0]),
        (33, [1.0, 1.0], [0, 17, 16]),
        (33, [0.0, 1.0], [0, 0, 33]),
        (10, [3.0, 1.0], [23, 8, 2]),
        (-1, None, [0, 22, 11]),  # by free memory, 2 : 1
    ],
)
def test_placement_on_two_cards(
    layers: int, split: list[float] | None, expected: list[int]
) -> None:
    cards = [card(2000, "A"), card(1000, "B")]
    placed = place_layers(32, layers, cards, tensor_split=split)
    assert [placed.count(name) for name in (CPU, "A", "B")] == expected
    assert list(placed) == sorted(placed, key=[CPU, "A", "B"].index)


def test_the_embeddings_are_counted_twice_only_where_they_are_shared(tmp_path: Path) -> None:
    info = inspect_model(tiny_llama(tmp_path / "t.gguf"))
    assert info.tied_output
    everywhere = weights_mib(info, place_layers(2, 3, [card(1000)]), mapped=())
    alone = weights_mib(info, place_layers(2, 0, []), mapped=())
    embeddings = info.embedding_bytes / MIB
    assert everywhere["CUDA0"] + everywhere[CPU] == pytest.approx(alone[CPU] + embeddings, abs=1e-3)


def test_suggestions_are_the_largest_that_fit(tmp_path: Path) -> None:
    path = build(tmp_path, SEVEN)
    last = 0
    for free in (500, 1500, 3000, 4500, 8000):
        gpu = card(free)
        layers = suggest_gpu_layers(path, devices=[gpu], n_ctx=2048)
        if layers:
            assert predict_memory(path, n_gpu_layers=layers, devices=[gpu], n_ctx=2048).fits
        if layers < 33:
            more = predict_memory(path, n_gpu_layers=layers + 1, devices=[gpu], n_ctx=2048)
            assert "CUDA0" in more.lacking_mib
            assert f"n_gpu_layers={layers} is the most" in " ".join(more.advice) or not layers
        assert layers >= last
        last = layers
    assert last == 33


def test_advice_names_what_would_make_room(tmp_path: Path) -> None:
    path = build(tmp_path, MIXTURE)
    plan = predict_memory(path, devices=[card(12_000)], n_ctx=32_768)
    text = str(plan)
    assert not plan.fits and "does not fit" in text and " short" in text
    assert 'type_k="q8_0", type_v="q8_0" would make room for' in text
    assert "n_ctx=16384 would make room for" in text
    assert f"{expert_mib(inspect_model(path)):,.0f} MiB are experts" in text
    assert "2 of 8" in text
    html = plan._repr_html_()
    assert html.count("<tr>") == 3 and " short" in html


def test_a_batch_has_a_context_beside_that_of_single_calls() -> None:
    one = predict_memory(n_gpu_layers=0, n_ctx=1024)
    four = predict_memory(n_gpu_layers=0, n_ctx=1024, n_parallel=4)
    assert four.by_device[CPU]["kv"] == 5 * one.by_device[CPU]["kv"]
    assert four.by_device[CPU]["compute"] > 2 * one.by_device[CPU]["compute"]
    assert four.by_device[CPU]["weights"] == one.by_device[CPU]["weights"]


def test_a_file_that_ends_the_simulator_gives_an_estimate(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "t.gguf")
    options = LoadOptions(model_path=str(path), n_gpu_layers=0, n_ctx=256)
    assert simulate_load(options) is not None
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + struct.pack("<I", 3) + b"\xff" * 64)
    assert simulate_load(replace(options, model_path=str(broken))) is None
    assert simulate_load(replace(options, n_ctx=512)) is not None


def test_a_margin_is_kept_free(tmp_path: Path) -> None:
    path = build(tmp_path, SEVEN)
    gpu = dataclasses.replace(card(8000), total_mib=24_000)
    assert predict_memory(path, devices=[gpu]).margin_mib["CUDA0"] == 1024
    small = dataclasses.replace(gpu, total_mib=2000)
    assert predict_memory(path, devices=[small]).margin_mib["CUDA0"] == 250
    none = suggest_gpu_layers(path, devices=[card(3000)], margin_mib=0)
    some = suggest_gpu_layers(path, devices=[card(3000)], margin_mib=700)
    assert none > some


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"n_gpu_layers": -2}, ValueError, "n_gpu_layers=-2"),
        ({"n_gpu_layers": "all"}, TypeError, "'all'"),
        ({"n_ctx": -1}, ValueError, "n_ctx=-1"),
        ({"n_batch": 0}, ValueError, "n_batch=0"),
        ({"n_ubatch": 0}, ValueError, "n_ubatch=0"),
        ({"n_ubatch": "x"}, TypeError, "n_ubatch='x'"),
        ({"margin_mib": float("nan")}, ValueError, "margin_mib=nan"),
        ({"margin_mib": "1"}, TypeError, "margin_mib='1'"),
        ({"flash_attn": "on"}, ValueError, "flash_attn='on'"),
        ({"devices": card(99)}, TypeError, "must be a list"),
        ({"n_parallel": 1000}, ValueError, "n_parallel=1000"),
        ({"type_k": "q3_k"}, ValueError, "q3_k.*f16"),
        ({"devices": ["CUDA0"]}, TypeError, "helpers.devices"),
        ({"devices": [card(99)], "split_mode": 0, "main_gpu": 3}, ValueError, "main_gpu=3.*1"),
        ({"tensor_spilt": [1]}, TypeError, "tensor_split"),
        ({"model_path": "x.gguf"}, TypeError, "first argument"),
    ],
    ids=str,
)
def test_values_without_meaning(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        predict_memory(**settings)


def test_layers_without_a_device_are_said() -> None:
    with pytest.warns(UserWarning, match="no device here takes layers"):
        plan = predict_memory(n_gpu_layers=5, devices=[])
    assert plan.n_gpu_layers == 0


def test_more_layers_than_there_are_is_said() -> None:
    with pytest.warns(UserWarning, match="n_gpu_layers=99 is more than this model's 31 layers"):
        plan = predict_memory(n_gpu_layers=99, devices=[card(1000)])
    assert plan.n_gpu_layers == 31


def test_pages_of_the_file_that_nobody_needs_do_not_count_against_it(tmp_path: Path) -> None:
    path = build(tmp_path, SEVEN)
    gpu = card(100_000)
    plan = predict_memory(path, n_gpu_layers=32, devices=[gpu])
    kept = plan.by_device[CPU]["weights"] - plan.reclaimable_mib[CPU]
    # What stays: the embeddings and one block, however long the mapped stretch is.
    by_hand = 32_000 * 4096 * 18 / 32 + (4 * 4096**2 + 3 * 4096 * 11008) * 18 / 32
    assert kept == pytest.approx(by_hand / MIB, rel=0.01)
    assert plan.by_device[CPU]["weights"] >= kept
