"""`n_cpu_moe`, `offload_kqv`, `op_offload`: what they move, as planned and as loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import Device, LlamaCpp, default_model, practice_accelerator, predict_memory
from helpers.memory.placement import CPU
from tests.models.gguf_builders import tiny_llama

MIB = 2**20
LAYERS, EXPERTS, WIDTH, FEED_FORWARD = 4, 8, 64, 96
OF_A_BLOCK = 3 * EXPERTS * WIDTH * FEED_FORWARD * 4 / MIB  # MiB of the experts of one block, f32


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixture") / "mixture.gguf"
    return tiny_llama(path, layers=LAYERS, experts=EXPERTS)


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Device]:
    practice = practice_accelerator()
    if not practice.available:
        pytest.skip("this llama-cpp-python has no RPC; python3 -m helpers lab --backend rpc")
    with practice as device:
        yield device


def load(path: Path, device: Device, **settings: Any) -> tuple[dict[str, dict[str, float]], str]:
    with LlamaCpp(
        model_path=path,
        devices=[device],
        n_gpu_layers=-1,
        n_ctx=256,
        temperature=0,
        max_tokens=8,
        **settings,
    ) as llm:
        return llm.load_report.by_device, llm.invoke("hello")


@pytest.mark.parametrize("blocks", [0, 1, 3, 4])
def test_experts_stay_where_the_plan_says(mixture: Path, accelerator: Device, blocks: int) -> None:
    settings: dict[str, Any] = {"n_cpu_moe": blocks, "use_mmap": False}
    plan = predict_memory(mixture, devices=[accelerator], n_ctx=256, **settings)
    real, text = load(mixture, accelerator, **settings)
    for device, kinds in plan.by_device.items():
        for kind, mib in kinds.items():
            assert mib == pytest.approx(real[device][kind], rel=0.01, abs=0.02), (device, kind)
    assert text == load(mixture, accelerator)[1]


def test_the_plan_shows_what_is_freed(mixture: Path, accelerator: Device) -> None:
    name = accelerator.name

    def on_device(blocks: int) -> float:
        plan = predict_memory(mixture, devices=[accelerator], n_ctx=256, n_cpu_moe=blocks)
        return plan.by_device[name]["weights"]

    for blocks in (1, 4):
        assert on_device(0) - on_device(blocks) == pytest.approx(blocks * OF_A_BLOCK, abs=0.01)


def test_advice_names_the_fewest_experts_to_keep_on_the_cpu(mixture: Path) -> None:
    whole = predict_memory(mixture, devices=[_card(1000)], n_ctx=256).needed_mib("CARD0")
    # Room for all but two and a half blocks' experts: three must stay behind.
    card = _card(whole - 2.5 * OF_A_BLOCK)
    plan = predict_memory(mixture, devices=[card], n_ctx=256, margin_mib=0)
    assert not plan.fits
    assert any(line.startswith("n_cpu_moe=3 would make room for 5 layers") for line in plan.advice)
    assert predict_memory(mixture, devices=[card], n_ctx=256, margin_mib=0, n_cpu_moe=3).fits
    assert not predict_memory(mixture, devices=[card], n_ctx=256, margin_mib=0, n_cpu_moe=2).fits


def _card(mib: float) -> Device:
    return Device("CARD0", "a card that is not here", "gpu", "CUDA", mib, mib)


def test_a_model_without_experts_is_told_so() -> None:
    with pytest.warns(UserWarning, match="n_cpu_moe=3 has no effect"):
        LlamaCpp(model_path=default_model(), n_cpu_moe=3, n_ctx=256, vocab_only=True).close()


def test_the_cache_can_stay_on_the_cpu(mixture: Path, accelerator: Device) -> None:
    settings: dict[str, Any] = {"offload_kqv": False, "use_mmap": False}
    plan = predict_memory(mixture, devices=[accelerator], n_ctx=256, **settings)
    real, text = load(mixture, accelerator, **settings)
    assert real[CPU]["kv"] == pytest.approx(plan.by_device[CPU]["kv"], abs=0.01) != 0
    assert real[accelerator.name]["kv"] == plan.by_device[accelerator.name]["kv"] == 0
    assert text == load(mixture, accelerator, op_offload=False)[1]
