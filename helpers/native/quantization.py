"""llama.cpp's quantizer, called in a process of its own (`helpers.convert` starts one)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from helpers.native.library import llama

_DEBUG = 1


def quantize_file(
    source: str,
    target: str,
    file_type: int,
    *,
    requantize: bool,
    n_threads: int,
    on_text: Callable[[str], None],
) -> int:
    """Write a quantized copy of a model file.

    Only for a process that does nothing else: it takes over the log of the whole process, and a
    failed assertion inside ends the process.

    Args:
        source: A GGUF file (the first part, if split) that has passed `check_model_file`.
        target: The file to write; what is there is overwritten.
        file_type: Number of the recipe (`general.file_type`).
        requantize: Allow tensors that are already quantized to be quantized again.
        n_threads: Threads to use.
        on_text: Is given what the library logs, piece by piece; a piece may be half a line.

    Returns:
        llama.cpp's status: 0 for success.
    """
    module = llama()

    def receive(level: int, raw: bytes, _user_data: object) -> None:
        if level != _DEBUG:
            on_text((raw or b"").decode("utf-8", "replace"))

    callback = module.llama_log_callback(receive)  # kept alive until the call is over
    module.llama_log_set(callback, ctypes.c_void_p(0))
    params = module.llama_model_quantize_default_params()
    params.ftype = file_type
    params.allow_requantize = requantize
    params.nthread = n_threads
    try:
        return int(
            module.llama_model_quantize(
                source.encode("utf-8"), target.encode("utf-8"), ctypes.byref(params)
            )
        )
    finally:
        ignore = module.llama_log_callback(lambda _level, _raw, _user_data: None)
        module.llama_log_set(ignore, ctypes.c_void_p(0))
        _kept.append(ignore)


_kept: list[object] = []
