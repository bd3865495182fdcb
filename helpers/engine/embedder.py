"""Texts to vectors: which of them go into one decode, and the decode, one caller at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from helpers.errors import HelpersError
from helpers.load_options import LoadOptions
from helpers.native import Context, DecodeAborted, Model, Vectors
from helpers.threads import aside

BATCH_TOKENS = 512
"""Most tokens that short texts fill a decode with: each looks at all others' and ignores them."""

TEXTS_AT_ONCE = 128
"""Most texts of one decode."""


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


class Embedder:
    """A context for texts of which nothing is kept; used from any number of threads.

    Args:
        model: The loaded model.
        options: How to make the context; `n_ctx` is a number.

    Raises:
        DeviceError: The buffers cannot be allocated.
    """

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self._model = model
        self.context = Context(model, options, min(TEXTS_AT_ONCE, options.n_ctx or 1))
        self._turn = threading.Lock()  # held while the context computes, or is freed
        self._watching = threading.Lock()  # for `_owner`: who stops ends his own decode alone
        self._owner: object = None
        self._closed = False

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of one batch of texts.

        Raises:
            KeyboardInterrupt: The kernel was interrupted; the next call works.
            HelpersError: It was closed.
            DeviceError: The device ran out of memory or refused.
        """
        me = object()
        stopped = threading.Event()

        def work() -> list[Vectors]:
            with self._turn:
                if self._closed or stopped.is_set() or not self._model.usable:
                    raise HelpersError("This model has been closed. Make a new one to go on.")
                with self._watching:
                    self._owner = me
                    self.context.rearm()
                try:
                    return self.context.embed(texts)
                except DecodeAborted as error:
                    raise HelpersError("The embedding was stopped.") from error
                finally:
                    with self._watching:
                        self._owner = None

        def stop() -> None:
            stopped.set()
            with self._watching:
                if self._owner is me:
                    self.context.abort()

        return aside(work, stop)

    def close(self) -> None:
        """Stop what is computed and free the context."""
        self._closed = True
        with self._watching:
            if self._owner is not None:
                self.context.abort()
        with self._turn:
            self.context.close()
