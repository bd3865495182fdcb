"""A context: the KV cache of one or more sequences, and the decoding of tokens into it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from helpers.errors import DeviceError, HelpersError
from helpers.native.library import fast, llama, system_function
from helpers.native.log import LogCapture, capture_log, recent_warnings
from helpers.native.model import Model

Tokens = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class ContextParams:
    """How to make a context; the names are llama.cpp's.

    Attributes:
        n_ctx: Tokens per sequence.
        n_seq_max: Sequences, each in a KV stream of its own, so that none changes another's text.
        n_batch: Most tokens handed over in one decode.
        n_ubatch: Most tokens computed at once.
        n_threads: Threads for single tokens.
        n_threads_batch: Threads for prompts.
        flash_attn: True, False, or None to use it where the backend has it.
        type_k: ggml type of the K cache, or None for f16.
        type_v: ggml type of the V cache, or None for f16.
        settings: Further fields of `llama_context_params`, for example `rope_freq_base`.
    """

    n_ctx: int
    n_seq_max: int = 1
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int = 1
    n_threads_batch: int = 1
    flash_attn: bool | None = None
    type_k: int | None = None
    type_v: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class PerfCounters(NamedTuple):
    """llama.cpp's own counters since the last reset (counts are at least 1 there)."""

    load_ms: float
    prompt_ms: float
    eval_ms: float
    prompt_tokens: int
    eval_tokens: int


class DecodeAborted(HelpersError):
    """The decode in progress was stopped by `Context.abort`."""


class Context:
    """KV cache and compute buffers on a `Model`; used by one thread at a time.

    Raises:
        DeviceError: The buffers cannot be allocated, or the combination is refused.
    """

    def __init__(self, model: Model, params: ContextParams) -> None:
        module = llama()
        native = module.llama_context_default_params()
        native.n_ctx = params.n_ctx * params.n_seq_max
        native.n_seq_max = params.n_seq_max
        native.n_batch = params.n_batch
        native.n_ubatch = min(params.n_ubatch, params.n_batch)
        native.n_threads = params.n_threads
        native.n_threads_batch = params.n_threads_batch
        native.flash_attn_type = -1 if params.flash_attn is None else int(params.flash_attn)
        native.kv_unified = False
        native.no_perf = False
        if hasattr(native, "n_outputs_max"):
            # One row of logits a sequence is all we read; the default reserves n_batch rows.
            native.n_outputs_max = params.n_seq_max
        if params.type_k is not None:
            native.type_k = params.type_k
        if params.type_v is not None:
            native.type_v = params.type_v
        for name, value in params.settings:
            setattr(native, name, value)
        # strlen is the abort callback: it returns 1 as soon as this buffer holds a character. A
        # Python callback would be called, with the GIL, for every node of every graph.
        self._abort_flag = ctypes.create_string_buffer(2)
        native.abort_callback = ctypes.cast(system_function("strlen"), module.ggml_abort_callback)
        native.abort_callback_data = ctypes.addressof(self._abort_flag)
        self._keep = native
        with capture_log() as log:
            pointer = module.llama_init_from_model(model.pointer, native)
        self.log = log.lines
        if not pointer:
            raise DeviceError(_context_failure(params, log))
        self.pointer = pointer
        self.params = params
        self.n_ctx: int = int(module.llama_n_ctx(pointer)) // params.n_seq_max
        self.n_vocab = model.n_vocab
        self._memory = module.llama_get_memory(pointer)
        self._batch = _Batch(module, params.n_batch)
        self._decode = module.llama_decode
        self._synchronize = module.llama_synchronize
        self._logits_of = fast().llama_get_logits_ith
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def decode(self, tokens: Tokens, position: int, sequence: int, *, logits: bool) -> None:
        """Compute consecutive tokens of one sequence.

        Args:
            tokens: 1 to `n_batch` token ids.
            position: Position of the first of them.
            sequence: 0 to `n_seq_max` - 1.
            logits: Keep the logits of the last token (row -1 of `logits`).

        Raises:
            DecodeAborted: `abort` was called; what was not finished is not in the cache.
            DeviceError: The device ran out of memory or refused.
        """
        batch = self._batch
        count = len(tokens)
        batch.token[:count] = tokens
        batch.position[:count] = batch.ramp[:count] + position
        batch.sequence[:count] = sequence
        batch.logits[:count] = 0
        batch.logits[count - 1] = logits
        self._run(count)

    def decode_runs(self, runs: Sequence[tuple[Tokens, int, int]]) -> list[int]:
        """Compute the next tokens of several sequences together.

        Args:
            runs: `(tokens, position of the first, sequence)` triples; at most `n_batch` tokens.

        Returns:
            For each run, the row of `logits` that belongs to its last token.
        """
        batch = self._batch
        count, rows = 0, []
        for tokens, position, sequence in runs:
            for offset, token in enumerate(tokens):
                batch.token[count] = token
                batch.position[count] = position + offset
                batch.sequence[count] = sequence
                batch.logits[count] = 0
                count += 1
            batch.logits[count - 1] = 1
            rows.append(count - 1)
        self._run(count)
        return rows

    def _run(self, count: int) -> None:
        self._batch.native.n_tokens = count
        status = self._decode(self.pointer, self._batch.native)
        if status == 0:
            # On a GPU the decode is still running: wait for it without the GIL, so that reading
            # the logits (which would wait too) can keep it.
            self._synchronize(self.pointer)
            return
        if status == 2 or self._abort_flag.raw[0]:
            raise DecodeAborted("The decode was stopped.")
        reason = "; ".join(recent_warnings()[-3:]) or "no reason was logged"
        cause = "the KV cache is full" if status == 1 else f"status {status}"
        raise DeviceError(
            f"llama.cpp could not decode {count} tokens ({cause}): {reason}. "
            "Try a smaller n_batch, a smaller n_ctx, or fewer n_gpu_layers."
        )

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last decode: a writable view of llama.cpp's own buffer."""
        address = self._logits_of(self.pointer, row)
        if not address:
            raise DeviceError(f"llama.cpp has no logits for row {row} of the last decode.")
        view = self._views.get(address)
        if view is None:
            buffer = (ctypes.c_float * self.n_vocab).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(buffer)
        return view

    def truncate(self, sequence: int, length: int) -> bool:
        """Forget the tokens of a sequence from position `length` on.

        Returns:
            False where the model's memory cannot be cut there (recurrent layers, a sliding
            window that has moved on); nothing is changed then.
        """
        return bool(llama().llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy_sequence(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds."""
        llama().llama_memory_seq_rm(self._memory, target, -1, -1)
        llama().llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear(self) -> None:
        """Forget all sequences."""
        llama().llama_memory_clear(self._memory, False)

    def abort(self) -> None:
        """Stop the decode in progress, from any thread: on the CPU at the next graph node."""
        self._abort_flag[0] = b"x"

    def rearm(self) -> None:
        """Allow decodes again after `abort`."""
        self._abort_flag[0] = b"\0"

    def set_adapter(self, adapter: Any, scale: float) -> None:
        """Apply a LoRA adapter to this context."""
        module = llama()
        adapters = (module.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(scale)
        if module.llama_set_adapters_lora(self.pointer, adapters, 1, scales):
            raise DeviceError("llama.cpp refused the LoRA adapter. Try it without the adapter.")

    def perf(self) -> PerfCounters:
        """The native counters since `reset_perf`."""
        data = llama().llama_perf_context(self.pointer)
        return PerfCounters(
            data.t_load_ms, data.t_p_eval_ms, data.t_eval_ms, data.n_p_eval, data.n_eval
        )

    def reset_perf(self) -> None:
        """Set the native counters to zero."""
        llama().llama_perf_context_reset(self.pointer)

    def close(self) -> None:
        """Free the KV cache and the compute buffers."""
        if self.pointer:
            self._views.clear()
            with capture_log():
                llama().llama_free(self.pointer)
            self.pointer = None


class _Batch:
    """A `llama_batch` over numpy arrays that are filled in place, made once per context."""

    def __init__(self, module: Any, size: int) -> None:
        self.token = np.zeros(size, np.int32)
        self.position = np.zeros(size, np.int32)
        self.sequence = np.zeros(size, np.int32)
        self.logits = np.zeros(size, np.int8)
        self.ramp = np.arange(size, dtype=np.int32)
        self._one = np.ones(size, np.int32)
        first = self.sequence.ctypes.data
        self._sequence_pointers = (first + 4 * np.arange(size)).astype(np.uintp)
        self.native = module.llama_batch()
        kinds = dict(module.llama_batch._fields_)
        for name, array in (
            ("token", self.token),
            ("pos", self.position),
            ("n_seq_id", self._one),
            ("seq_id", self._sequence_pointers),
            ("logits", self.logits),
        ):
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kinds[name]))


def _context_failure(params: ContextParams, log: LogCapture) -> str:
    reason = "; ".join(log.errors[-4:]) or "no reason was logged"
    return (
        f"llama.cpp could not make a context of {params.n_ctx} tokens x {params.n_seq_max} "
        f"sequence(s): {reason}. Try a smaller n_ctx, a smaller n_batch, fewer n_gpu_layers, "
        "or type_k/type_v left at their defaults."
    )
