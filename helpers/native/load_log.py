"""What a load's log says: buffers, layers and caches by device, the same words in every version.

The lines are those of llama.cpp's `load_tensors`, `llama_kv_cache`, `llama_memory_recurrent`,
`llama_context` and `sched_reserve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BUFFER = re.compile(r"^\w+:\s+(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_FLASH = re.compile(r"Flash Attention (enabled|disabled)|flash_attn\s+= (enabled|disabled)")
_ASSIGNED = re.compile(r"layer +\d+ assigned to device (\S+?),")
_CACHED = re.compile(r"^llama_(?:kv_cache|memory_recurrent).*: layer +(\d+): dev = ")
_CACHE = re.compile(r"^llama_(?:kv_cache|memory_recurrent).*: size = +([\d.]+) MiB \(")
_KINDS = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "compute"}
_SUFFIXES = re.compile(r"(_Mapped|_REPACK|_Private|_Shared|_Split)$")


def read_buffers(log: Sequence[tuple[int, str]]) -> dict[str, dict[str, float]]:
    """MiB by device and kind from the lines `... buffer size = X MiB` of a load's log."""
    found: dict[str, dict[str, float]] = {}
    for _, line in log:
        match = _BUFFER.match(line)
        if match:
            buffer, kind, size = match.groups()
            # Pinned host memory of a GPU's backend is the system's memory, not the GPU's.
            device = "CPU" if buffer.endswith("_Host") else _SUFFIXES.sub("", buffer)
            kinds = found.setdefault(device, {"weights": 0.0, "kv": 0.0, "compute": 0.0})
            kinds[_KINDS[kind]] += float(size)
    return found


def read_offloaded(log: Sequence[tuple[int, str]]) -> tuple[int, int] | None:
    """`(layers on devices, layers)` from a load's log, or None if it does not say."""
    found = _first(_OFFLOADED, log)
    return (int(found[1]), int(found[2])) if found else None


def read_flash_attention(log: Sequence[tuple[int, str]]) -> bool:
    """Whether the context uses flash attention, from a load's log."""
    found = _first(_FLASH, reversed(log))  # what was decided last
    return found is not None and "enabled" in found.groups()


def _first(pattern: re.Pattern[str], log: Iterable[tuple[int, str]]) -> re.Match[str] | None:
    return next((match for _, line in log if (match := pattern.search(line))), None)


def read_layers(log: Sequence[tuple[int, str]]) -> list[str]:
    """The device of each layer, the output layer last, as `load_tensors` assigned them."""
    return [match[1] for _, line in log if (match := _ASSIGNED.search(line))]


def read_caches(log: Sequence[tuple[int, str]]) -> list[tuple[float, list[int]]]:
    """Each cache that a context made: its size in MiB, and the layers that it serves.

    A model with windowed layers has two, one with recurrent layers has one of its own for them.
    """
    found: list[tuple[float, list[int]]] = []
    layers: list[int] = []
    for _, line in log:
        if match := _CACHED.match(line):
            layers.append(int(match[1]))
        elif (match := _CACHE.match(line)) and layers:
            found.append((float(match[1]), layers))
            layers = []
    return found
