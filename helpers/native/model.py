"""A loaded model: weights and vocabulary, without a context."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import DeviceError, HelpersError, ModelFileError
from helpers.native.library import fast, llama, return_freed_memory
from helpers.native.log import capture_log
from helpers.native.registry import device_pointer


@dataclass(frozen=True)
class ModelParams:
    """How to load a model file; the names are llama.cpp's.

    Attributes:
        n_gpu_layers: Layers to place on devices; -1 for all (the output layer counts as one).
        devices: Names of the devices to use, in order; None for llama.cpp's own choice.
        split_mode: 0 no split, 1 by layer, 2 by row.
        main_gpu: Index of the device used when `split_mode` is 0.
        tensor_split: Proportion of the model for each device, or None.
        use_mmap: Map the file instead of reading it.
        use_mlock: Keep the weights from being swapped out.
        vocab_only: Load the vocabulary alone.
        no_alloc: Simulate: read the header and reckon, without memory for the weights.
        check_tensors: Look for invalid numbers in the weights while loading (slower).
        kv_overrides: `(key, value)` pairs that replace metadata of the file.
    """

    n_gpu_layers: int = 0
    devices: tuple[str, ...] | None = None
    split_mode: int = 1
    main_gpu: int = 0
    tensor_split: tuple[float, ...] | None = None
    use_mmap: bool = True
    use_mlock: bool = False
    vocab_only: bool = False
    check_tensors: bool = False
    no_alloc: bool = False
    kv_overrides: tuple[tuple[str, bool | int | float | str], ...] = field(default=())


class Model:
    """Weights and vocabulary of one GGUF file, owned by this object until `close()`.

    Args:
        path: The file; it must have passed `helpers.models.check_model_file`.
        params: How to load it.

    Raises:
        ModelFileError: llama.cpp refuses the file; the message carries its own words.
        DeviceError: A device of `params.devices` does not exist, or has too little memory.
    """

    def __init__(self, path: str, params: ModelParams) -> None:
        module = llama()
        native = module.llama_model_default_params()
        keep: list[Any] = [native]
        native.n_gpu_layers = 0x7FFFFFFF if params.n_gpu_layers < 0 else params.n_gpu_layers
        native.split_mode = params.split_mode
        native.main_gpu = params.main_gpu
        native.vocab_only = params.vocab_only
        native.check_tensors = params.check_tensors
        native.no_alloc = params.no_alloc
        if hasattr(native, "load_mode"):
            native.load_mode = params.use_mmap * 1 + params.use_mlock * 2
        else:  # before llama.cpp had load modes
            native.use_mmap, native.use_mlock = params.use_mmap, params.use_mlock
        if params.tensor_split:
            keep.append((ctypes.c_float * module.LLAMA_MAX_DEVICES)(*params.tensor_split))
            native.tensor_split = keep[-1]
        if params.kv_overrides:
            keep.append(_overrides(module, params.kv_overrides))
            native.kv_overrides = keep[-1]
        if params.devices is not None:
            keep.append(_device_array(params.devices))
            native.devices = ctypes.cast(keep[-1], ctypes.c_void_p)
        interrupted: list[BaseException] = []
        native.progress_callback = _progress_callback(module, interrupted)
        started = time.perf_counter()
        with capture_log() as log:
            pointer = module.llama_model_load_from_file(path.encode("utf-8"), native)
        self.load_ms = (time.perf_counter() - started) * 1000
        self.log = log.lines
        if interrupted:
            if pointer:
                module.llama_model_free(pointer)
            raise interrupted[0]
        if not pointer:
            reason = "; ".join(log.errors[-4:]) or "no reason was logged"
            if "unable to allocate" in reason:
                raise DeviceError(
                    f"The weights do not fit a device's memory: {reason}. Use fewer n_gpu_layers "
                    "(helpers.suggest_gpu_layers says how many fit), or a smaller model."
                )
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {reason}. Check the file with "
                "helpers.inspect_model(path), or load it with fewer layers on the device."
            )
        self.pointer = pointer
        self.vocab = module.llama_model_get_vocab(pointer)
        self.n_vocab: int = module.llama_vocab_n_tokens(self.vocab)
        self.n_layer: int = module.llama_model_n_layer(pointer)
        self.n_ctx_train: int = module.llama_model_n_ctx_train(pointer)
        self.bos: int = module.llama_vocab_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._in_use = threading.Lock()  # so that close() cannot free what tokenize() reads
        self._is_eog = fast().llama_vocab_is_eog

    @property
    def generates(self) -> bool:
        """True for a decoder-only model: what this engine can generate text with."""
        module = llama()
        return bool(
            module.llama_model_has_decoder(self.pointer)
            and not module.llama_model_has_encoder(self.pointer)
        )

    @property
    def description(self) -> str:
        """llama.cpp's one-line description, for example `llama 256M Q4_1`."""
        buffer = ctypes.create_string_buffer(256)
        llama().llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool = True, special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text.
            add_special: Add what the vocabulary wants around a prompt (BOS and the like).
            special: Read `<|im_start|>` and its kind as the one token they name.

        Returns:
            The token ids; empty for an empty text where nothing is added.
        """
        module = llama()
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The prompt has half of a surrogate pair at character {error.start}, which no "
                'tokenizer can read. Repair it with text.encode("utf-8", "replace").decode().'
            ) from None
        size = len(raw) + 8
        with self._in_use:
            if not self.pointer:
                raise HelpersError("This model has been closed. Make a new one to go on.")
            while True:
                tokens = (ctypes.c_int32 * size)()
                count = module.llama_tokenize(
                    self.vocab, raw, len(raw), tokens, size, add_special, special
                )
                if count >= 0:
                    return list(tokens[:count])
                size = -count

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            buffer = ctypes.create_string_buffer(512)
            count = llama().llama_token_to_piece(self.vocab, token, buffer, 512, 0, False)
            if count < 0:
                buffer = ctypes.create_string_buffer(-count)
                count = llama().llama_token_to_piece(self.vocab, token, buffer, -count, 0, False)
            piece = self._pieces[token] = buffer.raw[: max(count, 0)]
        return piece

    def is_end(self, token: int) -> bool:
        """True if the token ends a generation (end of text, end of turn …)."""
        return bool(self._is_eog(self.vocab, token))

    def lora(self, path: str) -> Any:
        """Load a LoRA adapter made for this model.

        Raises:
            ModelFileError: The file is missing or does not fit this model.
        """
        with capture_log() as log:
            adapter = llama().llama_adapter_lora_init(self.pointer, path.encode("utf-8"))
        if not adapter:
            reason = "; ".join(log.errors[-3:]) or "no reason was logged"
            raise ModelFileError(
                f"The LoRA adapter {path} cannot be used with this model: {reason}. "
                "It must be a GGUF made from the same base model (convert_lora_to_gguf.py)."
            )
        return adapter

    def close(self) -> None:
        """Free the weights. The contexts made from this model must be closed before."""
        with self._in_use:
            if self.pointer:
                with capture_log():
                    llama().llama_model_free(self.pointer)
                self.pointer = None
                return_freed_memory()


def _progress_callback(module: Any, interrupted: list[BaseException]) -> Any:
    """Let Ctrl-C stop a load: Python sees the signal while it is in this callback."""

    def report(_progress: float, _user_data: object) -> bool:
        return not interrupted

    def guarded(progress: float, user_data: object) -> bool:
        try:
            return report(progress, user_data)
        except BaseException as error:  # must not escape into native code
            interrupted.append(error)
            return False

    return module.llama_progress_callback(guarded)


def _device_array(names: Sequence[str]) -> Any:
    pointers = []
    for name in names:
        pointer = device_pointer(name)
        if pointer is None:
            from helpers.native.registry import devices

            known = ", ".join(device.name for device in devices())
            raise DeviceError(
                f"There is no device {name!r}. Devices here: {known}. "
                "Pass devices=None to let llama.cpp choose."
            )
        pointers.append(pointer)
    return (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)


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
