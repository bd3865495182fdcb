"""A context: the KV cache of one or more sequences, and the decoding of tokens into it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from helpers.errors import DeviceError, HelpersError
from helpers.load_options import LoadOptions
from helpers.native.library import fast, llama, system_function
from helpers.native.log import LogCapture, capture_log, recent_warnings
from helpers.native.model import Model
from helpers.native.parameters import context_parameters

Tokens = Sequence[int] | npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]

MOST_GUESSES = 31
"""Most guesses of a decode (`LoadOptions.speculate`); a row of logits is kept for each."""

RANK = 4
"""The pooling type of rerankers (enum llama_pooling_type)."""


class PerfCounters(NamedTuple):
    """llama.cpp's own counters since the last reset."""

    prompt_ms: float
    eval_ms: float


class DecodeAborted(HelpersError):
    """The decode in progress was stopped by `Context.abort`."""


class Context:
    """KV cache and compute buffers on a `Model`; used by one thread at a time.

    Args:
        model: The loaded model.
        options: How to make the context; `n_ctx` is a number.
        n_seq: Sequences, each with `n_ctx` tokens in a KV stream of its own.
        n_outputs: Rows of logits to keep of a decode; None for one a sequence, which is all that
            generating reads.

    Raises:
        DeviceError: The buffers cannot be allocated, or the combination is refused.
    """

    def __init__(
        self, model: Model, options: LoadOptions, n_seq: int = 1, n_outputs: int | None = None
    ) -> None:
        module = llama()
        # Guesses are checked in one answer at a time, each with a row of its own.
        guesses = MOST_GUESSES if options.speculate else 0
        native = context_parameters(options, n_seq, n_outputs or n_seq + guesses)
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
            raise DeviceError(_context_failure(options, n_seq, log))
        self.pointer = pointer
        self.n_seq = n_seq
        self.n_batch: int = native.n_batch
        self.n_ubatch: int = native.n_ubatch
        self.n_ctx: int = int(module.llama_n_ctx(pointer))
        if not options.embeddings:
            self.n_ctx //= n_seq
        self.pooling: int = module.llama_pooling_type(pointer)
        """0 a vector for each token, 1 mean, 2 the first token, 3 the last, 4 a score."""
        outputs = (
            module.llama_model_n_cls_out
            if self.pooling == RANK
            else (module.llama_model_n_embd_out)
        )
        self.n_outputs: int = outputs(model.pointer)
        """Numbers in a vector, or scores of a text."""
        self._window = 0 if options.swa_full else model.window
        self._ring = min(self.n_ctx, -(-(self._window + self.n_ubatch) // 256) * 256)  # cells
        self.n_vocab = model.n_vocab
        self._memory = module.llama_get_memory(pointer)
        self._batch = _Batch(module, self.n_batch)
        self._decode = module.llama_decode
        self._synchronize = module.llama_synchronize
        self._logits_of = fast().llama_get_logits_ith
        self._pooled = fast().llama_get_embeddings_seq
        self._unpooled = fast().llama_get_embeddings_ith
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

    def decode_runs(self, runs: Sequence[tuple[Tokens, int, int]], guesses: int = 0) -> list[int]:
        """Compute the next tokens of several sequences together.

        Args:
            runs: `(tokens, position of the first, sequence)` triples; at most `n_batch` tokens.
            guesses: How many of the last tokens of the last run are guesses, each with a row.

        Returns:
            For each run, the row of `logits` of its last token that is no guess; those of the
            guesses follow it.
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
        batch.logits[count - 1 - guesses : count] = 1
        rows[-1] -= guesses
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

    def embed(self, texts: Sequence[Tokens]) -> list[Vectors]:
        """Compute texts, each a sequence of its own, and what the model makes of each.

        Args:
            texts: 1 to `n_seq` texts of 1 to `n_ctx` tokens, together at most `n_ctx`.

        Returns:
            For each text a vector, or a matrix with a row for each token where nothing is pooled.

        Raises:
            DecodeAborted: `abort` was called.
            DeviceError: The device ran out of memory or refused.
        """
        self.clear()
        batch = self._batch
        count, ends = 0, []
        for sequence, tokens in enumerate(texts):
            end = count + len(tokens)
            batch.token[count:end] = tokens
            batch.position[count:end] = batch.ramp[: len(tokens)]
            batch.sequence[count:end] = sequence
            count = end
            ends.append(end)
        batch.logits[:count] = 1
        self._run(count)
        if self.pooling:
            return [self._output(self._pooled(self.pointer, n), n) for n in range(len(texts))]
        rows = [self._output(self._unpooled(self.pointer, n), n) for n in range(count)]
        return [np.stack(rows[begin:end]) for begin, end in pairwise([0, *ends])]

    def _output(self, address: int | None, number: int) -> Vectors:
        if not address:
            raise DeviceError(f"llama.cpp has no vector for number {number} of the last batch.")
        buffer = (ctypes.c_float * self.n_outputs).from_address(address)
        return np.array(buffer, np.float32)

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
        if self._window and length and not self._window_allows(sequence, length):
            return False
        return bool(llama().llama_memory_seq_rm(self._memory, sequence, length, -1))

    def _window_allows(self, sequence: int, length: int) -> bool:
        """Whether the windowed layers can go back to a length.

        llama.cpp cuts tokens off there all the same. But what the next token looks back at must
        still be held; and the windowed cells are a ring, in which a cut across its end makes
        llama.cpp begin elsewhere: the sums over another order of cells are rounded differently.
        """
        module = llama()
        first = module.llama_memory_seq_pos_min(self._memory, sequence)
        last = module.llama_memory_seq_pos_max(self._memory, sequence)
        same_lap = length > last or length // self._ring == last // self._ring
        return same_lap and bool(first <= max(0, length - self._window))

    def copy_sequence(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds."""
        llama().llama_memory_seq_rm(self._memory, target, -1, -1)
        llama().llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def state_bytes(self, sequence: int) -> int:
        """The size of what `state` gives."""
        return int(llama().llama_state_seq_get_size(self.pointer, sequence))

    def state(self, sequence: int) -> npt.NDArray[np.uint8]:
        """All that a sequence holds, as bytes for `restore`.

        Raises:
            DeviceError: llama.cpp cannot copy it.
        """
        state = np.empty(self.state_bytes(sequence), np.uint8)
        copied = llama().llama_state_seq_get_data(
            self.pointer, _pointer_to(state), state.size, sequence
        )
        if copied != state.size:
            raise DeviceError("llama.cpp could not copy the state of a sequence.")
        return state

    def restore(self, sequence: int, state: npt.NDArray[np.uint8], length: int) -> bool:
        """Make a sequence hold what it held when `state` was taken of it.

        Returns:
            False where llama.cpp refuses, or where that is not `length` tokens; the sequence is
            empty then.
        """
        module = llama()
        with capture_log():  # it says what it does
            read = module.llama_state_seq_set_data(
                self.pointer, _pointer_to(state), state.size, sequence
            )
        ends = (
            module.llama_memory_seq_pos_min(self._memory, sequence),
            module.llama_memory_seq_pos_max(self._memory, sequence),
        )
        if read == state.size and ends == (0, length - 1):
            return True
        self.truncate(sequence, 0)
        return False

    def clear(self) -> None:
        """Forget all sequences."""
        if self._memory:  # encoders have none
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
        return PerfCounters(data.t_p_eval_ms, data.t_eval_ms)

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


def _pointer_to(state: npt.NDArray[np.uint8]) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _context_failure(options: LoadOptions, n_seq: int, log: LogCapture) -> str:
    reason = "; ".join(log.errors[-4:]) or "no reason was logged"
    return (
        f"llama.cpp could not make a context of {options.n_ctx} tokens x {n_seq} "
        f"sequence(s): {reason}. Try a smaller n_ctx, a smaller n_batch, fewer n_gpu_layers, "
        "or type_k/type_v left at their defaults."
    )
