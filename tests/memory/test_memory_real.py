"""Predicted memory against real loads, whose log lines are read here on their own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import (
    Device,
    LlamaCpp,
    MemoryPlan,
    default_model,
    practice_accelerator,
    predict_memory,
    quantize,
)

LINE = re.compile(r"^.*?(\S+)\s+(model|KV|compute|output) buffer size\s*=\s*([0-9.]+) MiB", re.M)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with practice_accelerator() as found:
        yield found


@pytest.fixture(scope="module")
def two_devices() -> Iterator[list[Device]]:
    with practice_accelerator() as first, practice_accelerator() as second:
        yield [first, second]


def buffers(log: str) -> dict[str, dict[str, float]]:
    """MiB by device and kind, from the native log alone."""
    found: dict[str, dict[str, float]] = {}
    for name, kind, mib in LINE.findall(log):
        where = "CPU" if name.startswith("CPU") else name
        kind = {"model": "weights", "KV": "kv"}.get(kind, "compute")
        kinds = found.setdefault(where, dict.fromkeys(("weights", "kv", "compute"), 0.0))
        kinds[kind] += float(mib)
    return found


def load(path: Path | None = None, **settings: Any) -> dict[str, dict[str, float]]:
    with LlamaCpp(model_path=path or default_model(), **settings) as llm:
        return buffers(llm.native_log)


def compare(plan: MemoryPlan, real: dict[str, dict[str, float]]) -> None:
    """Every part within 2 MiB, every total within 1 %."""
    assert not plan.estimated
    for device, kinds in plan.by_device.items():
        truth = real.get(device, dict.fromkeys(kinds, 0.0))
        for kind, mib in kinds.items():
            assert mib == pytest.approx(truth[kind], abs=2), (device, kind)
    assert set(real) <= set(plan.by_device)
    assert plan.total_mib == pytest.approx(sum(sum(k.values()) for k in real.values()), rel=0.01)


CPU = list(itertools.product([512, 3000], [64, 512], ["f16", "q8_0"]))
DEVICE = [
    *itertools.product([1, 2, 3, 16, 30, 31], [700, 4096], [512], ["f16"]),
    *itertools.product([0, 2, 7, 29, 31], [1024], [128], ["q8_0"]),
    *itertools.product([5, 30, 31], [2048], [32], ["q4_0"]),
]


@pytest.mark.parametrize(("n_ctx", "n_batch", "kv"), CPU)
def test_the_processor_alone(n_ctx: int, n_batch: int, kv: str) -> None:
    settings: dict[str, Any] = {"n_ctx": n_ctx, "n_batch": n_batch, "type_k": kv, "type_v": kv}
    plan = predict_memory(n_gpu_layers=0, **settings)
    compare(plan, load(n_gpu_layers=0, **settings))


@pytest.mark.parametrize(("layers", "n_ctx", "n_batch", "kv"), DEVICE)
def test_layers_on_a_device(device: Device, layers: int, n_ctx: int, n_batch: int, kv: str) -> None:
    settings: dict[str, Any] = {
        "n_ctx": n_ctx,
        "n_batch": n_batch,
        "type_k": kv,
        "type_v": kv,
        "n_gpu_layers": layers,
        "devices": [device],
    }
    plan = predict_memory(**settings)
    compare(plan, load(**settings))
    assert plan.layers_on[device.name] == plan.n_gpu_layers == layers


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"offload_kqv": False},
        {"split_mode": 0, "main_gpu": 1},
        {"tensor_split": [1, 3]},
        {"tensor_split": [3, 1], "n_ubatch": 64},
    ],
    ids=str,
)
def test_several_devices_and_further_settings(
    two_devices: list[Device], extra: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"n_ctx": 1024, "n_gpu_layers": 21, "devices": two_devices}
    plan = predict_memory(**settings, **extra)
    compare(plan, load(**settings, model_kwargs=extra))
    assert sum(plan.layers_on.values()) == 31


def test_without_flash_attention(device: Device) -> None:
    settings: dict[str, Any] = {"n_ctx": 2048, "n_gpu_layers": 20, "devices": [device]}
    plan = predict_memory(flash_attn=False, **settings)
    compare(plan, load(model_kwargs={"flash_attn": False}, **settings))
    assert plan.total_mib > predict_memory(**settings).total_mib + 10


def test_a_file_that_is_read_instead_of_mapped(device: Device) -> None:
    settings: dict[str, Any] = {"n_ctx": 512, "n_gpu_layers": 10, "devices": [device]}
    plan = predict_memory(use_mmap=False, **settings)
    compare(plan, load(use_mmap=False, **settings))
    assert plan.by_device["CPU"]["weights"] < predict_memory(**settings).by_device["CPU"]["weights"]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_types_that_the_processor_rearranges(kind: str, device: Device, tmp_path: Path) -> None:
    model = tmp_path / f"{kind}.gguf"
    quantize(default_model(), kind, model, allow_requantize=True)
    for layers in (0, 12, 31):
        settings: dict[str, Any] = {"n_ctx": 512, "n_gpu_layers": layers}
        if layers:
            settings["devices"] = [device]
        compare(predict_memory(model, **settings), load(model, **settings))
