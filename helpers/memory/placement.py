"""Which layer goes where, and what it weighs there: from the header alone, by llama.cpp's rules.

The rules are those of `llama_model_base::load_tensors` (src/llama-model.cpp): the last
`n_gpu_layers` layers go to devices, the output layer counting as the last of all; the input
embeddings always stay on the CPU.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from helpers.models import ModelInfo, Tensor
from helpers.models.info import INPUT_TENSORS
from helpers.native import Device, cpu_features
from helpers.native.parameters import EXPERT_WEIGHTS

CPU = "CPU"

_EMBEDDINGS = "token_embd.weight"
_BLOCK = re.compile(r"^blk\.(\d+)\.")
_EXPERTS = re.compile(EXPERT_WEIGHTS)
_ALIGNMENT = 128
"""Bytes to which devices align tensors (CUDA's number; the largest of the common backends)."""
_MIB = 1024 * 1024

# Types whose matrices the CPU backend stores rearranged, in memory of its own, by the processor's
# features, and the number of rows that a matrix must be a multiple of
# (ggml_repack_get_optimal_repack_type, ggml/src/ggml-cpu/repack.cpp).
_REPACKED: dict[str, dict[str, int]] = {
    "AVX2": {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8},
    "AVX512": {"Q2_K": 8},
    "DOTPROD": {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4},
}


def place_layers(
    n_blocks: int,
    n_gpu_layers: int,
    devices: Sequence[Device],
    *,
    tensor_split: Sequence[float] | None = None,
    split_mode: int = 1,
    main_gpu: int = 0,
) -> tuple[str, ...]:
    """Which device holds each layer.

    Args:
        n_blocks: Transformer blocks of the model.
        n_gpu_layers: Layers for devices, 0 to `n_blocks` + 1; -1 for all.
        devices: Devices that take layers, in llama.cpp's order; none for the CPU alone.
        tensor_split: A share for each device; None (or zeros) for their free memory.
        split_mode: 0 puts everything on `main_gpu`; otherwise it is split.
        main_gpu: Index of that device.

    Returns:
        `n_blocks` + 1 names; the last is that of the output layer.

    Raises:
        ValueError: There is no device `main_gpu`.

    >>> place_layers(3, 2, [])
    ('CPU', 'CPU', 'CPU', 'CPU')
    """
    layers = n_blocks + 1
    count = layers if n_gpu_layers < 0 else min(n_gpu_layers, layers)
    if not devices or not count:
        return (CPU,) * layers
    if split_mode == 0:
        if main_gpu >= len(devices):
            raise ValueError(
                f"main_gpu={main_gpu} is not a device: there are {len(devices)}, counted from 0."
            )
        devices, tensor_split = [devices[main_gpu]], None
    shares = list(tensor_split or ())[: len(devices)]
    if not any(shares):
        shares = [device.free_mib for device in devices]
    shares += [0.0] * (len(devices) - len(shares))
    if not any(shares):
        shares = [1.0] * len(devices)
    ends = np.cumsum(np.array(shares, np.float32))
    ends /= ends[-1]
    first = layers - count
    wanted = np.searchsorted(ends, np.arange(count, dtype=np.float32) / count, side="right")
    chosen = np.minimum(wanted, len(devices) - 1)
    return (CPU,) * first + tuple(devices[int(index)].name for index in chosen)


def weights_mib(
    info: ModelInfo,
    placement: Sequence[str],
    *,
    mapped: Sequence[str] = (CPU,),
    n_cpu_moe: int = 0,
) -> dict[str, float]:
    """MiB of weights on each device.

    Args:
        info: The model.
        placement: What `place_layers` returned.
        mapped: Devices that use the file where it is mapped into memory: there the whole stretch
            of the file from the first to the last of their tensors counts.
        n_cpu_moe: Blocks whose experts stay on the CPU.

    Returns:
        MiB by device name.
    """
    sizes: Counter[str] = Counter()
    stretches: dict[str, list[int]] = {}
    for tensor in info.tensors:
        is_input = tensor.name.startswith(INPUT_TENSORS)
        for device in _homes(info, tensor, placement, n_cpu_moe):
            repacked = device == CPU and not is_input and _repackable(tensor)
            if device in mapped and info.n_parts == 1 and not repacked:
                ends = (tensor.offset, tensor.offset + tensor.n_bytes)
                stretches.setdefault(device, []).extend(ends)
            else:
                sizes[device] += -(-tensor.n_bytes // _ALIGNMENT) * _ALIGNMENT
        if tensor.name == _EMBEDDINGS and info.tied_output and placement[-1] == CPU:
            # For the output layer the CPU stores them once more, rearranged.
            sizes[CPU] += tensor.n_bytes * _repackable(tensor)
    for device, stretch in stretches.items():
        sizes[device] += max(stretch) - min(stretch)
    return {device: size / _MIB for device, size in sizes.items()}


def expert_mib(info: ModelInfo) -> float:
    """MiB of the experts' weights of a mixture of experts; 0 for another model."""
    return sum(t.n_bytes for t in info.tensors if _EXPERTS.search(t.name)) / _MIB


def _homes(
    info: ModelInfo, tensor: Tensor, placement: Sequence[str], n_cpu_moe: int
) -> tuple[str, ...]:
    """The devices that get a tensor: tied embeddings are needed twice."""
    match = _BLOCK.match(tensor.name)
    if match and int(match[1]) < info.n_layers:
        stays = int(match[1]) < n_cpu_moe and bool(_EXPERTS.search(tensor.name))
        return (CPU if stays else placement[int(match[1])],)
    if tensor.name.startswith(INPUT_TENSORS):
        if info.tied_output and tensor.name == _EMBEDDINGS and placement[-1] != CPU:
            return (CPU, placement[-1])
        return (CPU,)
    return (placement[-1],)


def _repackable(tensor: Tensor) -> bool:
    """Whether the CPU stores a tensor rearranged when it multiplies with it."""
    rows = _repacked_types().get(tensor.type)
    return (
        rows is not None
        and len(tensor.shape) > 1
        and tensor.shape[1] % rows == 0
        and tensor.name.endswith(".weight")
    )


def reclaimable_mib(
    info: ModelInfo,
    placement: Sequence[str],
    *,
    mapped: Sequence[str] = (CPU,),
    n_cpu_moe: int = 0,
) -> float:
    """MiB of the mapped file that count on the CPU and are not used there.

    The stretch that is mapped also covers tensors of other devices, and those that were stored
    rearranged; the system drops these pages when it needs the memory.
    """
    if CPU not in mapped or info.n_parts > 1:
        return 0.0
    counted, used = (
        weights_mib(info, placement, mapped=where, n_cpu_moe=n_cpu_moe).get(CPU, 0.0)
        for where in (mapped, ())
    )
    return max(0.0, counted - used)


@functools.cache
def _repacked_types() -> dict[str, int]:
    known = [types.items() for feature, types in _REPACKED.items() if feature in cpu_features()]
    return dict(itertools.chain(*known))
