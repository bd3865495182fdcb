"""Texts to vectors: which of them go into one decode, and the decode, one caller at a time."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence

from helpers.engine.thread import engine_thread
from helpers.errors import HelpersError
from helpers.load_options import TEXTS_AT_ONCE, LoadOptions
from helpers.native import Context, DecodeAborted, Model, Vectors
from helpers.threads import get

BATCH_TOKENS = 128
"""Most tokens that short texts fill a decode with on the CPU.

Each token looks at all others of the decode, and ignores those of other texts: with 512, passages
of 60 tokens took 1.6 times as long as with 128 (a BERT of 6 blocks, 2 cores), where they were as
fast as one by one; texts of 10 tokens were twice as fast as one by one.
"""

DEVICE_BATCH_TOKENS = 512
"""The same on a device, which few tokens do not keep busy."""


def pack(lengths: Sequence[int], n_tokens: int, n_texts: int = TEXTS_AT_ONCE) -> list[list[int]]:
    """Put texts together into batches, by their tokens and not by their number.

    The longest come first, so that a batch holds texts of about one length, and a lack of memory
    shows at once.

    Args:
        lengths: Tokens of each text.
        n_tokens: Most tokens of a batch; a longer text gets a batch of its own.
        n_texts: Most texts of a batch.

    Returns:
        The batches, as numbers of texts; each text is in one of them.

    >>> pack([5, 900, 7, 4], n_tokens=12)
    [[1], [2, 0], [3]]
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[index] > room or len(batches[-1]) == n_texts:
            batches.append([])
            room = n_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


class _Batch:
    """Texts that one decode computes, and where their vectors go."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.stopped = False
        self.outcome: queue.SimpleQueue[list[Vectors] | BaseException] = queue.SimpleQueue()


class Embedder:
    """A context for texts of which nothing is kept; used from any number of threads.

    It computes in the engine thread, a decode a turn, beside the models that generate there.

    Args:
        model: The loaded model.
        options: How to make the context; `n_ctx` is a number.

    Raises:
        DeviceError: The buffers cannot be allocated.
    """

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self._model = model
        self.context = Context(model, options, options.n_texts)
        self._waiting: deque[_Batch] = deque()
        self._current: _Batch | None = None
        self._closing = False
        self._closed = threading.Event()
        self._thread = engine_thread()
        self._thread.add(self)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of one batch of texts.

        Raises:
            KeyboardInterrupt: The kernel was interrupted; the next call works.
            HelpersError: It was closed.
            DeviceError: The device ran out of memory or refused.
        """
        batch = _Batch(texts)
        with self._thread.wake:
            if self._closing or not self._model.usable:
                raise _closed()
            self._waiting.append(batch)
            self._thread.wake.notify()
        try:
            outcome = get(batch.outcome)
        except BaseException:
            self._stop(batch)
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        found: list[Vectors] = outcome
        return found

    def _stop(self, batch: _Batch) -> None:
        with self._thread.wake:
            batch.stopped = True
            if self._current is batch:
                self.context.abort()

    def close(self) -> None:
        """Stop what is computed, fail what waits, and free the context."""
        with self._thread.wake:
            self._closing = True
            if self._current is not None:
                self.context.abort()
            self._thread.wake.notify()
        if not self._thread.is_current:
            self._closed.wait()

    # -- in the engine thread -------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a turn would do anything."""
        return self._closing or bool(self._waiting)

    def turn(self) -> None:
        """Compute one batch; at the end, free the context."""
        if self._closing:
            self._end()
        elif self._waiting:
            self._compute()

    def _compute(self) -> None:
        with self._thread.wake:
            self._current = batch = self._waiting.popleft()
            self.context.rearm()
        outcome: list[Vectors] | BaseException
        try:
            outcome = _closed() if batch.stopped else self.context.embed(batch.texts)
        except DecodeAborted:
            outcome = _closed()
        except Exception as error:
            outcome = error
        with self._thread.wake:
            self._current = None
        batch.outcome.put(outcome)

    def _end(self) -> None:
        with self._thread.wake:
            waiting, self._waiting = self._waiting, deque()
        for batch in waiting:
            batch.outcome.put(_closed())
        self.context.close()
        self._thread.remove(self)
        self._closed.set()


def _closed() -> HelpersError:
    return HelpersError("This model has been closed. Make a new one to go on.")
