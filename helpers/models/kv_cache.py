"""What a context takes: the keys and values, or the recurrent state, of each layer.

The one place where this is computed: for the catalogue, the planner and the check before a load.
The rules are llama.cpp's (src/llama-hparams.cpp, llama-kv-cache.cpp, llama-kv-cache-iswa.cpp and
models/*.cpp of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.load_options import LoadOptions
from helpers.models.formats import TENSOR_TYPES, words
from helpers.models.info import ModelInfo

_MIB = 2**20

# Which layers of an architecture see a sliding window: what src/models/*.cpp pass to
# `load_swa_pattern`. One layer in so many sees everything (0: none), the last of them or the first.
# Other architectures with windows (gemma4, mimo2, step35 …) name each layer in the header; phi3
# names a window that llama.cpp does not use.
_PERIODS = {
    name: period
    for period, names in {
        0: "lfm2",
        2: "gemma2 gpt-oss",
        4: "afmoe cohere2 cohere2moe exaone-moe exaone4 laguna llama4 mellum muse-glimmer olmo2 "
        "smallthinker",
        5: "gemma3n",
        6: "gemma3",
        8: "plamo3",
    }.items()
    for name in names.split()
}
# What reads in both directions keeps nothing (`llama_model::create_memory`).
WITHOUT_CACHE = words(
    """
    bert dream eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llada llada-moe modern-bert
    neo-bert nomic-bert nomic-bert-moe rnd1 wavtokenizer-dec
    """
)
_DENSE_FIRST = ("cohere2moe", "laguna", "smallthinker")
_UNNAMED = {"gemma2": 4096, "llama4": 8192}  # tokens, where the header names no window


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps of a context.

    Attributes:
        keys: Numbers that it keeps of a token's keys; 0 without attention of its own.
        values: Numbers that it keeps of a token's values.
        window: Tokens that it sees; 0 for the whole context.
        state: Numbers of its recurrent state, whatever the length of the context.
    """

    keys: int = 0
    values: int = 0
    window: int = 0
    state: int = 0


def padded_context(n_ctx: int) -> int:
    """Tokens that llama.cpp makes room for: the next multiple of 256."""
    return -(-n_ctx // 256) * 256


def kv_mib_by_layer(
    layers: Sequence[LayerCache],
    n_ctx: int,
    type_k: int | None = None,
    type_v: int | None = None,
    *,
    n_seq: int = 1,
    swa_full: bool = False,
    n_ubatch: int = LoadOptions.n_ubatch,
) -> tuple[float, ...]:
    """MiB of each layer's cache.

    Args:
        layers: What the layers keep, from `layer_caches` or `Hyperparameters.layer_caches`.
        n_ctx: Tokens of context per sequence.
        type_k: ggml type of the keys; None for f16.
        type_v: ggml type of the values; None for f16.
        n_seq: Sequences side by side, each with `n_ctx` tokens.
        swa_full: Windowed layers keep the whole context, not just the window and one batch.
        n_ubatch: Tokens computed at once, for windowed layers.

    Returns:
        One number for each layer.
    """
    per_k, per_v = _bytes_per_value(type_k), _bytes_per_value(type_v)
    sizes = []
    for layer in layers:
        cells = padded_context(n_ctx)
        if layer.window and not swa_full:
            cells = min(cells, padded_context(layer.window + n_ubatch))
        attention = cells * (layer.keys * per_k + layer.values * per_v)
        sizes.append(n_seq * (attention + 4 * layer.state) / _MIB)  # states are 32-bit numbers
    return tuple(sizes)


def takes_back(info: ModelInfo, *, swa_full: bool = False) -> bool:
    """Whether the tokens of a sequence can be forgotten one by one, from the last.

    Args:
        info: The model.
        swa_full: Windowed layers keep the whole context.
    """
    return not any(one.state or (one.window and not swa_full) for one in layer_caches(info))


def layer_caches(info: ModelInfo) -> tuple[LayerCache, ...]:
    """What each layer of a model keeps, as its header and its architecture say."""
    if info.architecture in WITHOUT_CACHE:
        return (LayerCache(),) * info.n_layers
    hyper = info.metadata.count
    windows = sliding_windows(
        info.architecture,
        info.n_layers,
        # 0 says that there is none, which is not to say nothing.
        info.metadata.count_or_none("attention.sliding_window"),
        info.sliding_window_pattern,
    )
    # Multi-head latent attention: the values are part of the keys.
    latent = bool(hyper("attention.key_length_mla"))
    interval = hyper("full_attention_interval")
    # Layers after these use the cache of another one, or only draft tokens for the next step.
    shared = hyper("attention.shared_kv_layers")
    own = 20 if info.architecture == "gemma3n" else info.n_layers - shared
    own = min(own, info.n_layers - hyper("nextn_predict_layers"))
    layers = []
    for index, (heads, window) in enumerate(zip(info.n_kv_heads, windows, strict=True)):
        if index >= own:
            layers.append(LayerCache())
        elif not heads or (interval and (index + 1) % interval):
            layers.append(LayerCache(state=_state_of(info)))
        else:
            key, value = info.key_length, info.value_length
            if window:
                key = hyper("attention.key_length_swa", key)
                value = hyper("attention.value_length_swa", value)
            layers.append(LayerCache(heads * key, 0 if latent else heads * value, window))
    return tuple(layers)


def sliding_windows(
    architecture: str,
    n_layers: int,
    window: int | None,
    pattern: int | Sequence[bool] | None = None,
) -> tuple[int, ...]:
    """Tokens that each layer sees; 0 where it sees the whole context.

    Args:
        architecture: llama.cpp's name.
        n_layers: Layers of the model.
        window: Tokens that a windowed layer sees; None where the header does not say.
        pattern: As in `ModelInfo.sliding_window_pattern`; None where the architecture decides.
    """
    if window is None:
        window = _UNNAMED.get(architecture, 0)
    if pattern is None:
        pattern = _PERIODS.get(architecture, ())
    if isinstance(pattern, Sequence):
        flags = [*pattern[:n_layers], *[False] * (n_layers - len(pattern))]
    else:
        dense = 0 if architecture in _DENSE_FIRST else pattern - 1
        flags = [not pattern or layer % pattern != dense for layer in range(n_layers)]
    return tuple(window if flag else 0 for flag in flags)


def _bytes_per_value(ggml_type: int | None) -> float:
    """Bytes that one number takes, its share of the block's scale included; None is f16."""
    kind = TENSOR_TYPES[1 if ggml_type is None else ggml_type]
    return kind.size / kind.block


def recurrent_state(inner: int, state: int, kernel: int, groups: int) -> int:
    """Numbers of one recurrent layer's state (`llama_hparams::n_embd_r` and `n_embd_s`).

    Args:
        inner: Width of the layer.
        state: Numbers that each of them keeps.
        kernel: Tokens that its convolution sees.
        groups: Groups that share keys.
    """
    return max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner


def _state_of(info: ModelInfo) -> int:
    """Of one recurrent layer of a file; 0 where the header has no `ssm.` keys."""
    count = info.metadata.count
    keys = ("inner_size", "state_size", "conv_kernel", "group_count")
    return recurrent_state(*(int(count(f"ssm.{key}")) for key in keys))
