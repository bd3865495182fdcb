"""Ask llama.cpp itself: a load that lays all buffers out and allocates none, in a child process."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.children import Child
from helpers.errors import HelpersError
from helpers.native import Device

_SECONDS = 60.0
"""A simulated load takes a tenth of a second; a big vocabulary, on a slow disk, some more."""
_KEPT = 256

_child = Child("helpers.memory.simulate_child", role="simulated a load")


@dataclass(frozen=True)
class Simulation:
    """What a simulated load says.

    Attributes:
        compute: MiB of compute and output buffers by device.
        caches: `(MiB, layers)` of each cache.
        layers: Device of each layer; the output layer is the last.
        flash_attn: Whether flash attention would be used.
    """

    compute: Mapping[str, float]
    caches: tuple[tuple[float, tuple[int, ...]], ...]
    layers: tuple[str, ...]
    flash_attn: bool


def simulate_load(
    path: Path,
    *,
    n_gpu_layers: int,
    devices: Sequence[Device],
    n_ctx: int,
    n_seq: int = 1,
    n_batch: int = 512,
    n_ubatch: int = 512,
    type_k: int | None = None,
    type_v: int | None = None,
    flash_attn: bool | None = None,
    model_settings: Sequence[tuple[str, Any]] = (),
    context_settings: Sequence[tuple[str, Any]] = (),
) -> Simulation | None:
    """Simulate a load; about 0.1 s, and nothing when the same was asked before.

    Args:
        path: The model file.
        n_gpu_layers: Layers on devices; -1 for all.
        devices: The devices that take them, all of which must exist.
        n_ctx: Tokens of context per sequence.
        n_seq: Sequences side by side.
        n_batch: Tokens handed over in one decode.
        n_ubatch: Tokens computed at once.
        type_k: ggml type of the keys; None for f16.
        type_v: ggml type of the values; None for f16.
        flash_attn: True, False, or None for llama.cpp's choice.
        model_settings: Further fields of `ModelParams`, as pairs.
        context_settings: Further fields of `llama_context_params`, as pairs.

    Returns:
        What the load said; None where it failed or ended its process.
    """
    state = path.stat()
    request = {
        "path": str(path),
        "model": {"n_gpu_layers": n_gpu_layers, **dict(model_settings)},
        "devices": [(device.name, device.endpoint) for device in devices] if n_gpu_layers else [],
        "n_ctx": n_ctx,
        "n_seq": n_seq,
        "n_batch": n_batch,
        "n_ubatch": n_ubatch,
        "type_k": type_k,
        "type_v": type_v,
        "flash_attn": flash_attn,
        "settings": list(context_settings),
    }
    return _ask(json.dumps(request, sort_keys=True), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=_KEPT)
def _ask(line: str, _changed: int, _size: int) -> Simulation | None:
    try:
        answer = _child.ask(json.loads(line), _SECONDS)
    except (HelpersError, TimeoutError):
        return None
    return Simulation(
        compute=answer["compute"],
        caches=tuple((size, tuple(layers)) for size, layers in answer["caches"]),
        layers=tuple(answer["layers"]),
        flash_attn=answer["flash_attn"],
    )
