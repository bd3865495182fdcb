"""The public functions: predict the memory of a load, or the layers that fit."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.checks import check_range
from helpers.load_options import LoadOptions
from helpers.memory.plan import MemoryPlan
from helpers.memory.planner import Planner
from helpers.memory.targets import checked_devices, offload_devices
from helpers.models import default_model, inspect_model
from helpers.native import Device
from helpers.parameters import load_settings
from helpers.warn import warn_caller


def predict_memory(
    model: str | os.PathLike[str] | None = None,
    *,
    n_ctx: int | None = None,
    n_batch: int = LoadOptions.n_batch,
    n_gpu_layers: int = -1,
    type_k: str | int | None = None,
    type_v: str | int | None = None,
    flash_attn: bool | None = None,
    n_parallel: int = 1,
    devices: Sequence[Device] | None = None,
    margin_mib: float | None = None,
    use_mmap: bool = True,
    embeddings: bool = False,
    **settings: Any,
) -> MemoryPlan:
    """Predict what loading a model takes on each device, without loading it.

    Weights and cache come from the file's own table of tensors; the compute buffers from a load
    that llama.cpp simulates (about 0.1 s, remembered), or from a formula for a device that is not
    here, which the plan then says.

    Args:
        model: A GGUF file; None for the embedded model.
        n_ctx: Tokens of context; None for 4096 or what the model was trained with, if less.
        n_batch: Tokens handed over in one decode, 1 to `n_ctx`.
        n_gpu_layers: Layers for devices, 0 to all; -1 for all.
        type_k: Type of the cached keys ("f16", "q8_0" …); None for f16.
        type_v: Type of the cached values; None for f16.
        flash_attn: True, False, or None for llama.cpp's choice.
        n_parallel: Sequences of a batch, which get a context beside that of single calls; 1 plans
            for single calls.
        devices: Devices that take layers; None for this machine's. A `Device` of your own making
            plans for a card that you do not have.
        margin_mib: MiB to stay free on each device; None for an eighth of it, 1024 at most.
        use_mmap: The file is mapped instead of read.
        embeddings: Plan for `LlamaCppEmbeddings` or `LlamaCppReranker`, whose `n_ctx` is 2048 or
            what the model was trained with, if less. The plan has the room that a text of `n_ctx`
            tokens needs: llama.cpp keeps one number for each token of the text and each of the
            vocabulary, and allocates it when such a text comes.
        settings: Further options of `helpers.load_options.LoadOptions`: `tensor_split`, `main_gpu`,
            `n_ubatch`, `n_cpu_moe`, `offload_kqv`, `swa_full`, `speculate` …

    Returns:
        A `MemoryPlan`; print it, show it, or draw it with `plot_memory`.

    Raises:
        ModelFileError: The file is no model that llama.cpp can load.
        DeviceError: A device has gone.
        ValueError: A value has no meaning.
        TypeError: An unknown setting.

    >>> predict_memory(n_ctx=2048, n_gpu_layers=0).by_device["CPU"]["kv"]
    45.0
    """
    planner = make_planner(
        model,
        n_ctx=n_ctx,
        n_batch=n_batch,
        type_k=type_k,
        type_v=type_v,
        flash_attn=flash_attn,
        n_parallel=n_parallel,
        devices=devices,
        margin_mib=margin_mib,
        use_mmap=use_mmap,
        embeddings=embeddings,
        **settings,
    )
    check_range("n_gpu_layers", n_gpu_layers, -1, 2**31 - 1, "; -1 is all layers")
    if n_gpu_layers > 0 and not planner.devices:
        warn_caller(
            f"n_gpu_layers={n_gpu_layers}, but no device here takes layers: the plan is for the "
            "CPU alone. Pass devices=[…] with a practice accelerator, or a Device of your own "
            "making, to plan for one."
        )
    elif n_gpu_layers > planner.n_layers:
        warn_caller(
            f"n_gpu_layers={n_gpu_layers} is more than this model's {planner.n_layers} layers "
            f"({planner.n_layers - 1} blocks and the output); the plan is for all of them."
        )
    return planner.plan(n_gpu_layers)


def suggest_gpu_layers(
    model: str | os.PathLike[str] | None = None,
    *,
    devices: Sequence[Device] | None = None,
    **settings: Any,
) -> int:
    """The largest `n_gpu_layers` that fits the devices' free memory.

    Args:
        model: A GGUF file; None for the embedded model.
        devices: Devices that take layers; None for this machine's.
        settings: As in `predict_memory`.

    Returns:
        0 (without a device, or where nothing fits) to all layers, the output layer counted.

    Raises:
        ModelFileError: The file is no model that llama.cpp can load.
        DeviceError: A device has gone.
        ValueError: A value has no meaning.
        TypeError: An unknown setting.

    >>> suggest_gpu_layers(devices=[])
    0
    """
    return make_planner(model, devices=devices, **settings).largest()


def make_planner(
    model: str | os.PathLike[str] | None = None,
    *,
    devices: Sequence[Device] | None = None,
    margin_mib: float | None = None,
    **settings: Any,
) -> Planner:
    """A `Planner` for checked values; the arguments are those of `predict_memory`.

    Equal arguments give the same planner, which has its simulated loads already.
    """
    path = Path(default_model() if model is None else model).expanduser().absolute()
    if margin_mib is not None:
        check_range("margin_mib", margin_mib, 0.0, 1e12, " MiB, or None")
    for name in ("model_path", "n_gpu_layers", "isolate"):
        if name in settings:
            raise TypeError(
                f"{name}={settings[name]!r} is not a setting here: the file is the first argument, "
                "and a plan answers for any number of layers."
            )
    options = LoadOptions(model_path=str(path), **{"n_parallel": 1} | load_settings(settings))
    state = path.stat()
    return _planner(
        options.for_model(inspect_model(path).n_ctx_train),
        offload_devices() if devices is None else checked_devices(devices),
        margin_mib,
        state.st_mtime_ns,
        state.st_size,
    )


@functools.lru_cache(maxsize=64)
def _planner(
    options: LoadOptions,
    devices: tuple[Device, ...],
    margin_mib: float | None,
    _changed: int,
    _size: int,
) -> Planner:
    return Planner(options, devices, margin_mib)
