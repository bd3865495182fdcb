"""How a model is loaded: every setting, its default and its range, said once.

`LlamaCpp`'s fields, its `model_kwargs`, the engine, memory plans, sweeps and child processes share
`LoadOptions`; `helpers.native.parameters` translates it to llama.cpp's structures. A further option
of llama.cpp is one line here: its name, default and range, and the structure that it belongs to.
`model_kwargs` and plans then know it; to be a field of `LlamaCpp` as well, it gets a line there.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.checks import check_choice, check_path, check_range
from helpers.install.paths import prefix_folder
from helpers.kv_types import kv_type

MAX_THREADS = 512
"""`GGML_MAX_N_THREADS`: more threads than that is an assertion inside ggml."""

MAX_SEQUENCES = 256
"""`LLAMA_MAX_SEQ`."""

DEFAULT_CONTEXT = 4096
"""Tokens of context where the user names none, if the model was trained for as many."""

DEFAULT_EMBEDDING_CONTEXT = 2048
"""The same for embeddings, where a text is computed in one piece, and all its tokens at once."""

TEXTS_AT_ONCE = 128
"""Most texts that embeddings compute in one decode, each a sequence of its own."""

POOLINGS = ("none", "mean", "cls", "last", "rank")
"""How the tokens of a text become one vector, by the numbers of `enum llama_pooling_type`."""

MAX_DEVICES = 16
"""`LLAMA_MAX_DEVICES`."""

_Check = Callable[[str, Any], Any]


def _number(low: float, high: float, *, or_none: bool = False, hint: str = "") -> _Check:
    def check(name: str, value: Any) -> Any:
        return None if or_none and value is None else check_range(name, value, low, high, hint)

    return check


def _one_of(*choices: Any) -> _Check:
    return lambda name, value: check_choice(name, value, choices)


def _layers(name: str, value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"{name}={value!r} must be a number or 'auto'.")
    return value if value == "auto" else check_range(name, value, -1, 2**31 - 1)


def _path_or_none(name: str, value: Any) -> Any:
    return None if value is None else check_path(name, value)


def _folder(name: str, value: Any) -> Any:
    if value is None or value is False:
        return None
    path = prefix_folder() if value is True else Path(check_path(name, value))
    if "\0" in str(path) or value == "":
        raise ValueError(f"{name}={value!r} cannot be the path of a folder.")
    return str(path.absolute())


def _speculate(name: str, value: Any) -> Any:
    if value in (None, False, "lookup"):
        return value or None
    if value == "mtp":
        raise ValueError(
            f"{name}='mtp': a file's own heads for the tokens after the next can be asked through "
            "llama.cpp's C++ alone, not through the functions of its C interface. Use 'lookup', or "
            "the path of a draft model."
        )
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{name}={value!r} must be 'lookup', the path of a draft model, or None.")
    return check_path(name, value)


def _shares(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name}={value!r} must be a list of shares, one for each device.")
    shares = tuple(check_range(name, share, 0.0, 1e30) for share in value)
    if len(shares) > MAX_DEVICES:
        raise ValueError(f"{name}={value!r} must be up to {MAX_DEVICES} shares of 0 or more.")
    return shares or None


def _pairs(name: str, value: Any) -> Any:
    try:
        pairs = dict(value or {})
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} must be a dict of metadata keys and values.") from None
    for key, one in pairs.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}={value!r}: metadata keys are strings.")
        if not isinstance(one, bool | int | float | str):
            raise ValueError(f"{name}: {one!r} must be a bool, a number or a string.")
    return tuple(sorted(pairs.items()))


_SWITCH = _one_of(True, False)
_MODEL, _CONTEXT = "model", "context"


def _option(default: Any, check: _Check | None = None, *, of: str = "", as_is: bool = True) -> Any:
    """A field, its check, and which of llama.cpp's structures it belongs to.

    `as_is` if the structure has a field of the same name that takes the value as it is; what needs
    more than that is in `helpers.native.parameters`.
    """
    return field(default=default, metadata={"check": check, "of": of, "as_is": as_is})


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load a model. Two engines with equal options share one loaded model.

    Attributes:
        model_path: The GGUF file; `str` or `PathLike`, `~` is expanded.
        n_ctx: Tokens of context per sequence; 0 for what the model was trained with; None for
            4096 or the model's own if smaller.
        n_batch: Tokens handed to llama.cpp in one decode, 1 to `n_ctx`.
        n_ubatch: Tokens computed at once, at most `n_batch`.
        n_gpu_layers: Layers on devices; -1 all; "auto" what fits (0 without such a device).
        n_cpu_moe: The experts of so many blocks, counted from the first, stay on the CPU, whatever
            device has the rest of those blocks; for mixtures of experts.
        devices: `(name, endpoint)` of the devices to use, or None for all; the endpoint is the
            `host:port` of an RPC server, else None.
        split_mode: 0 no split, 1 by layer, 2 by row.
        main_gpu: Index of the device used when `split_mode` is 0.
        tensor_split: A share of the layers for each device; None for their free memory.
        n_threads: Compute threads for single tokens; None for the physical cores this process
            may use.
        n_threads_batch: Compute threads for prompts; None for the same.
        n_parallel: Most sequences decoded side by side, 1 to 256.
        continuous_batching: Make the context of all `n_parallel` sequences at the load, and let
            calls join and leave it at any token: for a server.
        type_k: Type of the K cache, one of `KV_TYPES`, by name or number; None for f16.
        type_v: Type of the V cache, likewise.
        flash_attn: True, False, or None to use it where the backend has it.
        swa_full: Layers with a sliding window keep the whole context, instead of the window and
            one micro-batch: more memory, and a prompt that goes back by more than that need not be
            computed again.
        offload_kqv: The KV cache of a layer is on the layer's device; False keeps it on the CPU.
        op_offload: Large matrices of layers on the CPU may be computed by a device.
        rope_freq_base: Base frequency of the rotary positions; 0 for the file's own.
        rope_freq_scale: Scale of the rotary positions; 0 for the file's own.
        rope_scaling_type: -1 the file's own, 0 none, 1 linear, 2 YaRN, 3 LongRoPE.
        yarn_ext_factor: YaRN's extrapolation mix; None for the file's own, as for the next four.
        yarn_attn_factor: YaRN's magnitude scaling.
        yarn_beta_fast: YaRN's low correction dimension.
        yarn_beta_slow: YaRN's high correction dimension.
        yarn_orig_ctx: YaRN's original context, in tokens.
        embeddings: Make vectors of texts instead of text.
        pooling_type: How a text's tokens become one vector: -1 the file's own, 0 none (a vector
            for each token); with `embeddings` also 1 mean, 2 the first token, 3 the last token,
            4 a score (rerankers).
        attention_type: -1 the file's own, 0 causal; with `embeddings` also 1, in both directions.
        no_perf: llama.cpp keeps no times; `Timings` then lack its counters.
        use_mmap: Map the file instead of reading it.
        use_mlock: Keep the weights from being swapped out.
        check_tensors: Look for invalid numbers in the weights while loading (slower).
        vocab_only: Load the vocabulary alone: tokens can be counted, nothing generated.
        speculate: Guess the next tokens and check them together: "lookup" guesses what followed the
            same text before, the path of a GGUF what that smaller model of the same vocabulary
            (the draft model) would write; None does not. The answers are the same.
        kv_overrides: Metadata in place of the file's, as a dict or as pairs.
        lora_path: A LoRA adapter in GGUF form, likewise, or None.
        lora_scale: Strength of the adapter.
        cache_dir: Folder for the computed states of long prompts; True for one in the suite's
            cache, None for none.
        cache_dir_mib: Most MiB of files in that folder.
        isolate: Run in a child process: True, False, or "auto" (as soon as a device other than
            the CPU is used).

    Raises:
        TypeError: A value is of the wrong kind.
        ValueError: A value has no meaning. What depends on the file is checked when it is loaded.
    """

    model_path: str = _option(dataclasses.MISSING, check_path)
    n_ctx: int | None = _option(
        None, _number(0, 2**31 // MAX_SEQUENCES, or_none=True), of=_CONTEXT, as_is=False
    )
    n_batch: int = _option(512, _number(1, 2**20), of=_CONTEXT, as_is=False)
    n_ubatch: int = _option(512, _number(1, 2**20), of=_CONTEXT, as_is=False)
    n_gpu_layers: int | str = _option("auto", _layers, of=_MODEL, as_is=False)
    n_cpu_moe: int = _option(0, _number(0, 2**16), of=_MODEL, as_is=False)
    devices: tuple[tuple[str, str | None], ...] | None = _option(None, of=_MODEL, as_is=False)
    split_mode: int = _option(1, _number(0, 3), of=_MODEL)
    main_gpu: int = _option(0, _number(0, 1023), of=_MODEL)
    tensor_split: tuple[float, ...] | None = _option(None, _shares, of=_MODEL, as_is=False)
    n_threads: int | None = _option(None, _number(1, MAX_THREADS, or_none=True), of=_CONTEXT)
    n_threads_batch: int | None = _option(None, _number(1, MAX_THREADS, or_none=True), of=_CONTEXT)
    n_parallel: int = _option(8, _number(1, MAX_SEQUENCES))
    continuous_batching: bool = _option(False, _SWITCH)
    type_k: str | int | None = _option(None, kv_type, of=_CONTEXT)
    type_v: str | int | None = _option(None, kv_type, of=_CONTEXT)
    flash_attn: bool | None = _option(None, _one_of(True, False, None), of=_CONTEXT, as_is=False)
    swa_full: bool = _option(False, _SWITCH, of=_CONTEXT)
    offload_kqv: bool = _option(True, _SWITCH, of=_CONTEXT)
    op_offload: bool = _option(True, _SWITCH, of=_CONTEXT)
    rope_freq_base: float = _option(0.0, _number(0.0, 1e30), of=_CONTEXT)
    rope_freq_scale: float = _option(0.0, _number(0.0, 1e30), of=_CONTEXT)
    rope_scaling_type: int = _option(-1, _number(-1, 3), of=_CONTEXT)
    yarn_ext_factor: float | None = _option(None, _number(-1.0, 1e6, or_none=True), of=_CONTEXT)
    yarn_attn_factor: float | None = _option(None, _number(-1.0, 1e6, or_none=True), of=_CONTEXT)
    yarn_beta_fast: float | None = _option(None, _number(-1.0, 1e6, or_none=True), of=_CONTEXT)
    yarn_beta_slow: float | None = _option(None, _number(-1.0, 1e6, or_none=True), of=_CONTEXT)
    yarn_orig_ctx: int | None = _option(None, _number(0, 2**31 - 1, or_none=True), of=_CONTEXT)
    embeddings: bool = _option(False, _SWITCH, of=_CONTEXT)
    pooling_type: int = _option(-1, _number(-1, 4), of=_CONTEXT)
    attention_type: int = _option(-1, _number(-1, 1), of=_CONTEXT)
    no_perf: bool = _option(False, _SWITCH, of=_CONTEXT)
    use_mmap: bool = _option(True, _SWITCH)
    use_mlock: bool = _option(False, _SWITCH)
    check_tensors: bool = _option(False, _SWITCH, of=_MODEL)
    vocab_only: bool = _option(False, _SWITCH, of=_MODEL)
    speculate: str | None = _option(None, _speculate, of=_CONTEXT, as_is=False)
    kv_overrides: tuple[tuple[str, Any], ...] = _option((), _pairs, of=_MODEL, as_is=False)
    lora_path: str | None = _option(None, _path_or_none)
    lora_scale: float = _option(1.0, _number(-1e6, 1e6))
    cache_dir: str | bool | None = _option(None, _folder)
    cache_dir_mib: int = _option(2048, _number(1, 2**31))
    isolate: bool | str = _option("auto", _one_of(True, False, "auto"))

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for name in () if self.embeddings else ("pooling_type", "attention_type"):
            if getattr(self, name) > 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} is for embeddings; to generate text, leave it "
                    "at -1 or 0."
                )

    def for_model(self, n_ctx_train: int) -> LoadOptions:
        """The same options with numbers for `n_ctx`, `n_batch` and `n_ubatch` that suit a model.

        Args:
            n_ctx_train: Tokens that the model was trained for; 0 where its file does not say.
        """
        trained = n_ctx_train or DEFAULT_CONTEXT
        usual = DEFAULT_EMBEDDING_CONTEXT if self.embeddings else DEFAULT_CONTEXT
        n_ctx = min(usual, trained) if self.n_ctx is None else self.n_ctx or trained
        # What is read in both directions, or pooled, must be computed in one piece.
        n_batch = n_ctx if self.embeddings else min(self.n_batch, n_ctx)
        n_ubatch = n_ctx if self.embeddings else min(self.n_ubatch, n_batch)
        return dataclasses.replace(self, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch)

    def for_layers(self, n_gpu_layers: int | str) -> LoadOptions:
        """The same options for so many layers on devices."""
        flash_attn = self.flash_attn
        if self.embeddings and flash_attn is None and n_gpu_layers == 0:
            # From 64 tokens on, the CPU's flash attention rounds so coarsely that a text among
            # others has another vector than alone: cosines of 0.996 were seen, and 1 - 1e-7
            # without it.
            flash_attn = False
        return dataclasses.replace(self, n_gpu_layers=n_gpu_layers, flash_attn=flash_attn)

    @property
    def draft_path(self) -> str | None:
        """The draft model's file; None where there is none."""
        return None if self.speculate == "lookup" else self.speculate

    def for_draft(self) -> LoadOptions:
        """How the draft model is loaded: with the same context, on the same devices."""
        assert self.draft_path is not None
        return LoadOptions(
            **{name: getattr(self, name) for name in _OF_DRAFTS},
            model_path=self.draft_path,
            n_gpu_layers=0 if self.n_gpu_layers == 0 else -1,
            n_parallel=1,
        )

    @property
    def n_texts(self) -> int:
        """Sequences of a context for embeddings: none is without a token."""
        return min(TEXTS_AT_ONCE, self.n_ctx or 1)

    def as_is(self, structure: str) -> dict[str, Any]:
        """What one of llama.cpp's structures takes as it is, by the names there.

        Args:
            structure: "model" or "context".
        """
        values = {name: getattr(self, name) for name in _AS_IS[structure]}
        return {name: value for name, value in values.items() if value is not None}

    def placement(self) -> dict[str, Any]:
        """What decides the size and the place of every buffer, where it is not the default."""
        return {
            name: value
            for name in ("model_path", *_OF[_MODEL], *_OF[_CONTEXT])
            if (value := getattr(self, name)) != getattr(LoadOptions, name, None)
        }

    def model_key(self) -> tuple[Any, ...]:
        """What two loads of the same weights in the same places have in common."""
        return (self.model_path, *(getattr(self, name) for name in _OF[_MODEL]))


def check_option(name: str, value: Any) -> Any:
    """Check a value as `LoadOptions` would; returns it in its own form.

    Raises:
        TypeError: It is of the wrong kind.
        ValueError: It has no meaning.

    >>> check_option("n_batch", 512)
    512
    """
    return _CHECKS[name](name, value)


_METADATA = {f.name: f.metadata for f in dataclasses.fields(LoadOptions) if f.metadata}
_CHECKS: dict[str, _Check] = {
    name: data["check"] for name, data in _METADATA.items() if data["check"] is not None
}
_OF = {
    structure: [name for name, data in _METADATA.items() if data["of"] == structure]
    for structure in (_MODEL, _CONTEXT)
}
_AS_IS = {
    structure: [name for name in names if _METADATA[name]["as_is"]]
    for structure, names in _OF.items()
}
_OF_DRAFTS = (
    "n_ctx", "n_batch", "n_ubatch", "devices", "split_mode", "main_gpu", "n_threads",
    "n_threads_batch", "flash_attn", "offload_kqv", "op_offload", "no_perf", "use_mmap",
    "use_mlock", "check_tensors", "isolate",
)  # fmt: skip
"""What a draft model has in common with the model that it guesses for."""
