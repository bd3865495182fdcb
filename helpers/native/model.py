"""A loaded model: weights and vocabulary, without a context."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterable
from typing import Any

from helpers.errors import DeviceError, HelpersError, ModelFileError
from helpers.load_options import LoadOptions
from helpers.models.watch import Watch
from helpers.native.library import fast, llama, return_freed_memory
from helpers.native.log import capture_log
from helpers.native.parameters import model_parameters
from helpers.native.pieces import Pieces
from helpers.native.registry import available_mib
from helpers.prompt import Prompt
from helpers.threads import busy

MAX_TEXT_BYTES = 2**24
"""More text than that is not tokenized at once: about four million tokens."""

_TOKENIZER_MIB = 120
"""MiB that llama.cpp needs for a MiB of text: 115 were measured, for nothing but blanks."""


class Model:
    """Weights and vocabulary of one GGUF file, owned by this object until `close()`.

    Args:
        options: How to load; the file has passed `helpers.models.check_model_file`, and
            `n_gpu_layers` is a number.
        no_alloc: Simulate: read the header and compute sizes, without memory for the weights.
        stop: Ends the load when it is set.
        watch: Who knows whether the file is changed; let go with the model.

    Raises:
        HelpersError: It was stopped.
        ModelFileError: llama.cpp refuses the file; the message carries its own words.
        DeviceError: A device does not exist, or has too little memory.
    """

    def __init__(
        self,
        options: LoadOptions,
        *,
        no_alloc: bool = False,
        stop: threading.Event | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        module, path = llama(), options.model_path
        self.options = options
        native, self._keep = model_parameters(options, no_alloc=no_alloc)
        if stop is not None:
            native.progress_callback = module.llama_progress_callback(lambda *_: not stop.is_set())
        started = time.perf_counter()
        with capture_log() as log:
            pointer = module.llama_model_load_from_file(path.encode("utf-8"), native)
        self.load_ms = (time.perf_counter() - started) * 1000
        self.log = log.lines
        if stop is not None and stop.is_set():
            if pointer:
                module.llama_model_free(pointer)
            raise HelpersError("The load was stopped before it had ended.")
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
        self.window: int = module.llama_model_n_swa(pointer)
        """Tokens that layers with a sliding window look back; 0 where there are none."""
        self.bos: int = module.llama_vocab_bos(self.vocab)
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._by_pieces: Pieces | None = None  # made for the first prompt with parts
        self._in_use = threading.Lock()  # so that close() cannot free what tokenize() reads
        self._is_eog = fast().llama_vocab_is_eog

    @property
    def usable(self) -> bool:
        """False once the weights were freed, or are no longer what was loaded."""
        return bool(self.pointer) and not (self.watch is not None and self.watch.changed)

    @property
    def generates(self) -> bool:
        """True for a decoder-only model: what this engine can generate text with."""
        module = llama()
        return bool(
            module.llama_model_has_decoder(self.pointer)
            and not module.llama_model_has_encoder(self.pointer)
        )

    @property
    def keeps_every_token(self) -> bool:
        """Whether the memory of a sequence has each token by itself: no windows, no one state."""
        module = llama()
        return not (
            self.window
            or module.llama_model_is_recurrent(self.pointer)
            or module.llama_model_is_hybrid(self.pointer)
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
            text: Any text. Of a `Prompt`, the parts that the template wrote may name control
                tokens, and no others.
            add_special: Add what the vocabulary wants around a prompt (BOS and the like).
            special: Read `<|im_start|>` and its kind as the one token they name.

        Returns:
            The token ids; empty for an empty text where nothing is added.
        """
        try:
            raw = text[: MAX_TEXT_BYTES + 1].encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The prompt has half of a surrogate pair at character {error.start}, which no "
                'tokenizer can read. Repair it with text.encode("utf-8", "replace").decode().'
            ) from None
        if len(raw) > MAX_TEXT_BYTES:
            raise ValueError(
                f"The text has {len(text):,} characters, more than the {MAX_TEXT_BYTES:,} bytes "
                "that are made into tokens at once. Split it."
            )
        needed = _TOKENIZER_MIB * len(raw) // 2**20
        if needed and needed > available_mib():
            raise DeviceError(
                f"A text of {len(raw):,} bytes needs up to {needed:,} MiB to be made into tokens, "
                f"but {available_mib():,.0f} MiB are available. Split it."
            )
        with busy(), self._in_use:
            if not self.pointer:
                raise HelpersError("This model has been closed. Make a new one to go on.")
            if not isinstance(text, Prompt) or not special:
                return self._tokens(raw, add_special, special)
            if self._by_pieces is None:
                self._by_pieces = Pieces(self.vocab, self._tokens)
            parts = ((part.encode("utf-8"), own) for part, own in text.parts)
            return self._by_pieces.tokens(parts, add_special)

    def _tokens(self, raw: bytes, add_special: bool, special: bool = False) -> list[int]:
        size = len(raw) + 8
        while True:
            tokens = (ctypes.c_int32 * size)()
            count = llama().llama_tokenize(
                self.vocab, raw, len(raw), tokens, size, add_special, special
            )
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def piece(self, token: int, *, control: bool = False) -> bytes:
        """The bytes that a token stands for.

        Args:
            token: The token.
            control: Whether control tokens have a text, too; else it is empty.
        """
        piece = self._pieces.get((token, control))
        if piece is None:
            size = 512
            while True:
                buffer = ctypes.create_string_buffer(size)
                count = llama().llama_token_to_piece(self.vocab, token, buffer, size, 0, control)
                if count >= 0:
                    break
                size = -count
            piece = self._pieces[token, control] = buffer.raw[:count]
        return piece

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]:
        """The control tokens that some texts name, and the text of each."""
        found = {t for text in texts for t in self.tokenize(text, add_special=False)}
        return {token: self.piece(token, control=True) for token in found if not self.piece(token)}

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
            if self.watch is not None:
                self.watch.close()
