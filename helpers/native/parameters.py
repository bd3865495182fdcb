"""The one translator: from `LoadOptions` to llama.cpp's structures for a model and a context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from helpers.errors import DeviceError, InstallError
from helpers.load_options import MAX_DEVICES, LoadOptions
from helpers.native.library import ggml, llama
from helpers.native.registry import device_pointer, devices, usable_cores

EXPERT_WEIGHTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""In the names of a block's expert weights (`LLM_FFN_EXPS_REGEX` in common/common.h)."""


def model_parameters(options: LoadOptions, *, no_alloc: bool = False) -> tuple[Any, list[Any]]:
    """What `llama_model_load_from_file` takes.

    Args:
        options: How to load; `n_gpu_layers` is a number.
        no_alloc: Simulate: read the header and compute sizes, without memory for the weights.

    Returns:
        The structure, and what it points to: keep that as long as the structure is used.

    Raises:
        DeviceError: A device does not exist.
        ValueError: A metadata key or text is too long for llama.cpp.
    """
    module = llama()
    native = module.llama_model_default_params()
    keep: list[Any] = []
    layers = options.n_gpu_layers
    assert isinstance(layers, int), "settle the options first"
    native.n_gpu_layers = 0x7FFFFFFF if layers < 0 else layers
    native.no_alloc = no_alloc
    _set(native, options.as_is("model"))
    # What is not allocated must not be mapped either: the simulation touches no weights.
    mapped = options.use_mmap and not no_alloc
    if hasattr(native, "load_mode"):
        native.load_mode = mapped * 1 + options.use_mlock * 2
    else:  # before llama.cpp had load modes
        native.use_mmap, native.use_mlock = mapped, options.use_mlock
    if options.tensor_split:
        keep.append((ctypes.c_float * MAX_DEVICES)(*options.tensor_split))
        native.tensor_split = keep[-1]
    if options.kv_overrides:
        keep.append(_overrides(module, options.kv_overrides))
        native.kv_overrides = keep[-1]
    if layers == 0:
        # No layers on a device means no device at all: llama.cpp would still lend it big matrices.
        keep.append(_device_array(()))
    elif options.devices is not None:
        keep.append(_device_array([name for name, _ in options.devices]))
    if layers == 0 or options.devices is not None:
        native.devices = ctypes.cast(keep[-1], ctypes.c_void_p)
    if options.n_cpu_moe and layers:
        keep.append(_experts_on_cpu(options.n_cpu_moe))
        native.tensor_buft_overrides = ctypes.cast(keep[-1], ctypes.c_void_p)
    return native, keep


def context_parameters(options: LoadOptions, n_seq: int, n_outputs: int) -> Any:
    """What `llama_init_from_model` takes, without callbacks.

    Args:
        options: How to make the context; `n_ctx` is a number.
        n_seq: Sequences, each in a KV stream of its own, so that none changes another's text.
        n_outputs: Rows of logits that are kept of a decode; llama.cpp reserves memory for them.
    """
    native = llama().llama_context_default_params()
    assert options.n_ctx, "settle the options first"
    native.n_seq_max = n_seq
    if options.embeddings:
        # Texts to embed share one stream: each is computed whole, and nothing of it is kept. Where
        # the sequences do not divide a micro-batch, llama.cpp ends the process while it reserves
        # the graph that takes the mean of their tokens.
        room = -(-options.n_ctx // n_seq) * n_seq
        native.n_ctx = native.n_batch = native.n_ubatch = room
    else:
        native.n_ctx = options.n_ctx * n_seq
        native.n_batch = max(options.n_batch, n_seq)
        native.n_ubatch = min(options.n_ubatch, native.n_batch)
    native.kv_unified = options.embeddings
    if hasattr(native, "n_outputs_max"):
        native.n_outputs_max = native.n_batch if options.embeddings else n_outputs
    native.n_threads = native.n_threads_batch = usable_cores()
    native.flash_attn_type = -1 if options.flash_attn is None else int(options.flash_attn)
    _set(native, options.as_is("context"))
    return native


def _set(native: Any, values: dict[str, Any]) -> None:
    """Set fields; an older llama-cpp-python may lack one, and ctypes would not say so."""
    known = {name for name, _ in native._fields_}
    for name, value in values.items():
        if name in known:
            setattr(native, name, value)
        elif value != getattr(LoadOptions, name):
            raise InstallError(
                f"{name}={value!r} is not known to the installed llama-cpp-python. Upgrade it: "
                "python3 -m helpers lab --check, or leave the option at its default."
            )


def _device_array(names: Sequence[str]) -> Any:
    pointers = []
    for name in names:
        pointer = device_pointer(name)
        if pointer is None:
            known = ", ".join(device.name for device in devices())
            raise DeviceError(
                f"There is no device {name!r}. Devices here: {known}. "
                "Pass devices=None to let llama.cpp choose."
            )
        pointers.append(pointer)
    return (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)


class _BufferOverride(ctypes.Structure):
    """`llama_model_tensor_buft_override`: tensors of this name go into that type of buffer."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def _experts_on_cpu(n_blocks: int) -> Any:
    base = ggml("ggml-base")
    assert base is not None
    base.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    cpu = base.ggml_backend_cpu_buffer_type()
    patterns = [rf"blk\.{block}{EXPERT_WEIGHTS}".encode() for block in range(n_blocks)]
    rows = [_BufferOverride(pattern, cpu) for pattern in patterns]
    return (_BufferOverride * (n_blocks + 1))(*rows, _BufferOverride())


def _overrides(module: Any, pairs: Sequence[tuple[str, bool | int | float | str]]) -> Any:
    array = (module.llama_model_kv_override * (len(pairs) + 1))()
    for entry, (key, value) in zip(array, pairs, strict=False):
        raw = key.encode("utf-8")
        if not raw or len(raw) > 127:
            raise ValueError(f"kv_overrides: the key {key!r} must have 1 to 127 bytes")
        entry.key = raw
        if isinstance(value, bool):
            entry.tag, entry.value.val_bool = module.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            entry.tag, entry.value.val_i64 = module.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            entry.tag, entry.value.val_f64 = module.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            text = value.encode("utf-8")
            if len(text) > 127:
                raise ValueError(f"kv_overrides: the text for {key!r} must have at most 127 bytes")
            entry.tag = module.LLAMA_KV_OVERRIDE_TYPE_STR
            offset = module.llama_model_kv_override_value.val_str.offset
            ctypes.memmove(ctypes.addressof(entry.value) + offset, text.ljust(128, b"\0"), 128)
    return array
