"""Keys and values: what the context of one or more sequences takes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.kv_types import bytes_per_value
from helpers.models import ModelInfo

_MIB = 1024 * 1024


def padded_context(n_ctx: int) -> int:
    """Tokens that llama.cpp makes room for: the next multiple of 256."""
    return -(-n_ctx // 256) * 256


def kv_mib_by_layer(
    info: ModelInfo,
    n_ctx: int,
    type_k: int | None = None,
    type_v: int | None = None,
    *,
    n_seq: int = 1,
    swa_full: bool = True,
    n_ubatch: int = 512,
) -> tuple[float, ...]:
    """MiB of keys and values (or of the recurrent state) of each block.

    A layer with attention keeps `KV heads x (key length + value length)` values a token. A layer
    with a sliding window needs no more than the window and one batch, if `swa_full` is off. A
    recurrent layer keeps a state of fixed size for each sequence.

    Args:
        info: The model.
        n_ctx: Tokens of context per sequence.
        type_k: ggml type of the keys; None for f16.
        type_v: ggml type of the values; None for f16.
        n_seq: Sequences side by side, each with `n_ctx` tokens.
        swa_full: Windowed layers keep the whole context (llama.cpp's default).
        n_ubatch: Tokens computed at once, for windowed layers.

    Returns:
        One number for each block. Which layers are windowed or recurrent is known where the
        header says so; others count in full.
    """
    cells = padded_context(n_ctx)
    windowed = _windowed(info)
    per_k, per_v = bytes_per_value(type_k), bytes_per_value(type_v)
    if f"{info.architecture}.attention.key_length_mla" in info.metadata:
        per_v = 0.0  # multi-head latent attention: the values are part of the keys
    state = n_seq * _recurrent_mib(info)
    interval = int(info.metadata.get(f"{info.architecture}.full_attention_interval", 0))
    sizes = []
    for layer, (heads, window) in enumerate(zip(info.n_kv_heads, windowed, strict=True)):
        if not heads or (interval and (layer + 1) % interval):
            sizes.append(state)
            continue
        length = cells
        if window and not swa_full and info.sliding_window:
            length = min(cells, padded_context(info.sliding_window + n_ubatch))
        values = heads * (info.key_length * per_k + info.value_length * per_v)
        sizes.append(n_seq * length * values / _MIB)
    return tuple(sizes)


def _windowed(info: ModelInfo) -> tuple[bool, ...]:
    """Which blocks see a sliding window only, where the header tells."""
    pattern = info.sliding_window_pattern
    if not info.sliding_window or pattern is None:
        return (False,) * info.n_layers
    if isinstance(pattern, Sequence):
        return tuple(pattern[: info.n_layers]) + (False,) * (info.n_layers - len(pattern))
    # llama_hparams::set_swa_pattern: every n-th layer sees everything.
    return tuple(not pattern or layer % pattern < pattern - 1 for layer in range(info.n_layers))


def _recurrent_mib(info: ModelInfo) -> float:
    """MiB of one recurrent layer's state for one sequence (llama_hparams::n_embd_r, n_embd_s).

    Both parts are stored as 32-bit numbers. 0 where the header has no `ssm.` keys.
    """
    keys = info.recurrent
    inner, state = keys.get("ssm.inner_size", 0), keys.get("ssm.state_size", 0)
    kernel, groups = keys.get("ssm.conv_kernel", 0), keys.get("ssm.group_count", 0)
    convolution = max(kernel - 1, 0) * (inner + 2 * groups * state)
    return float(4 * (convolution + state * inner) / _MIB)
