"""What layers on another machine cost: bytes and round trips of a token, from the header alone.

The rules are llama.cpp's (`ggml_backend_sched_compute_splits`, ggml/src/ggml-backend.cpp;
ggml/src/ggml-rpc/ggml-rpc.cpp, protocol 7.0 of llama-cpp-python 0.3.36; the inputs of
src/llama-graph.cpp). For one more token the graph is that of the last one, and is not sent again:
the client sends what the graph reads (`SET_TENSOR`, without an answer), the order to compute it
(`GRAPH_RECOMPUTE`, likewise) and asks for what comes out (`GET_TENSOR`): the one round trip. Not
counted is a new graph, some hundred kB, which comes with each prompt and every 256 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from helpers.checks import check_range
from helpers.memory.placement import CPU, place_layers, weights_mib
from helpers.memory.targets import checked_devices
from helpers.models import default_model, inspect_model
from helpers.models.kv_cache import layer_caches, padded_context
from helpers.native import Device, practice_split

_MIB = 1024 * 1024
_TENSOR = 296
"""Bytes of `rpc_tensor`, which describes a tensor in every message about one."""
_SET = 9 + _TENSOR + 1 + 8
"""What is sent beside the numbers: command and size, the tensor, a flag, an offset."""
_GET = 9 + _TENSOR + 8 + 8
_ANSWER = 8
_RECOMPUTE = 9 + 4


@dataclass(frozen=True)
class NetworkCost:
    """What the network adds to one generated token, and to the load.

    Attributes:
        up_bytes: Bytes to the other machines.
        down_bytes: Bytes from them.
        round_trips: How often an answer is waited for.
        ms: Milliseconds more per token.
        load_s: Seconds for the weights on their way, where the servers have none of them
            (`--cache`).
    """

    up_bytes: int
    down_bytes: int
    round_trips: int
    ms: float
    load_s: float


def network_cost(
    model: str | os.PathLike[str] | None = None,
    *,
    devices: Sequence[Device],
    round_trip_ms: float,
    mbit: float,
    n_gpu_layers: int = -1,
    context_tokens: int = 256,
    tensor_split: Sequence[float] | None = None,
    flash_attn: bool = True,
) -> NetworkCost:
    """Predict what a network adds to each generated token of a model split over machines.

    Per device: the commands, what the graph reads (position, places in the cache, the attention
    mask), the activations at each boundary (`n_embd` numbers, twice behind the CPU's layers, whose
    last addition is done by the next device), and the logits (`n_vocab` numbers) from the last.
    The devices wait for each other, so all of it adds up: `round_trips * round_trip_ms` and the
    bytes by the bandwidth. On a real link the first tokens take longer, while TCP finds its speed.
    With `offload_kqv=False` every layer's attention goes back and forth: that is not counted.

    Args:
        model: A GGUF file; None for the embedded model.
        devices: Devices that take layers, in order; those of a `remote_device`, or a `Device` of
            your own making with `backend="RPC"`, are reached over the network.
        round_trip_ms: What `ping` says, in milliseconds.
        mbit: Bandwidth in each direction, in Mbit/s.
        n_gpu_layers: Layers for devices; -1 for all.
        context_tokens: Tokens in the context: the mask grows with them.
        tensor_split: A share of the layers for each device; None for their free memory.
        flash_attn: As in the load.

    Returns:
        A `NetworkCost`.

    Raises:
        DeviceError: A device cannot take layers.
        ValueError: A value has no meaning.

    >>> other = Device("RPC0[10.0.0.2:50052]", "", "gpu", "RPC", 8000, 8000)
    >>> cost = network_cost(devices=[other], round_trip_ms=1, mbit=1000)
    >>> cost.round_trips, cost.up_bytes, cost.down_bytes
    (1, 5058, 196616)
    """
    check_range("round_trip_ms", round_trip_ms, 0.0, 1e6, " ms")
    check_range("mbit", mbit, 1e-3, 1e9, " Mbit/s")
    check_range("n_gpu_layers", n_gpu_layers, -1, 2**31 - 1, "; -1 is all layers")
    check_range("context_tokens", context_tokens, 1, 2**31 - 1)
    info = inspect_model(Path(default_model() if model is None else model).expanduser())
    chosen = checked_devices(devices)
    split = tensor_split or practice_split([(d.name, d.endpoint) for d in chosen])
    placement = place_layers(info.n_layers, n_gpu_layers, chosen, tensor_split=split)
    remote = {device.name for device in chosen if device.backend == "RPC"}

    caches = [cache for cache in layer_caches(info) if cache.keys]
    kinds = len({bool(cache.window) for cache in caches})  # a cache each, with and without window
    values = max((cache.values for cache in caches), default=0)
    mask = padded_context(context_tokens) * (2 if flash_attn else 4)
    activations = 4 * info.n_embd
    up = down = trips = 0
    for before, here in pairwise((None, *placement)):
        if here == before:
            continue
        if before in remote:
            up, down, trips = up + _GET, down + _ANSWER + activations, trips + 1
        if here in remote:
            up += _RECOMPUTE + (2 if before == CPU else 1) * (_SET + activations)
    computing = len(remote.intersection(placement[:-1]))
    up += computing * (_SET + 4)  # position
    up += computing * kinds * (3 * _SET + 8 + (8 if flash_attn else 8 * values) + mask)
    if placement[-2] in remote:
        up += _SET + 4  # which token's logits are wanted
    if placement[-1] in remote:
        up, down, trips = up + _GET, down + _ANSWER + 4 * info.n_vocab, trips + 1

    sent = sum(mib for name, mib in weights_mib(info, placement).items() if name in remote)
    seconds = 8 / (mbit * 1e6)
    return NetworkCost(
        up_bytes=up,
        down_bytes=down,
        round_trips=trips,
        ms=trips * round_trip_ms + 1000 * (up + down) * seconds,
        load_s=sent * _MIB * seconds,
    )
