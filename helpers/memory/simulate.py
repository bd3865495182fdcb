"""Ask llama.cpp itself: a load that lays all buffers out and allocates none, in a child process."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.children import Child
from helpers.errors import EngineCrashed, HelpersError
from helpers.load_options import LoadOptions
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
    options: LoadOptions, devices: Sequence[Device] = (), *, n_seq: int = 1
) -> Simulation | None:
    """Simulate a load; about 0.1 s, and nothing when the same was asked before.

    Args:
        options: How to load, with numbers for `n_ctx` and `n_gpu_layers`; its `devices` do not
            count.
        devices: The devices that take layers, all of which must exist.
        n_seq: Sequences side by side.

    Returns:
        What the load said; None where it failed or ended its process.
    """
    state = Path(options.model_path).stat()
    request = {
        "options": replace(options, devices=None).placement(),
        "devices": [(device.name, device.endpoint) for device in devices],
        "n_seq": n_seq,
    }
    try:
        return _ask(json.dumps(request, sort_keys=True), state.st_mtime_ns, state.st_size)
    except (EngineCrashed, TimeoutError):  # not remembered: what was in the way may pass
        return None


@functools.lru_cache(maxsize=_KEPT)
def _ask(line: str, _changed: int, _size: int) -> Simulation | None:
    try:
        answer = _child.ask(json.loads(line), _SECONDS)
    except EngineCrashed:
        raise
    except HelpersError:
        return None
    return Simulation(
        compute=answer["compute"],
        caches=tuple((size, tuple(layers)) for size, layers in answer["caches"]),
        layers=tuple(answer["layers"]),
        flash_attn=answer["flash_attn"],
    )
