"""How likely a model finds a text: the logits of every token, not of the last one alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from helpers.native.context import Context
from helpers.native.model import Model


class ScoringContext(Context):
    """A context that keeps a row of logits for each token of a decode.

    The rows take `window` x vocabulary x 4 bytes (96 MiB for 512 tokens of the embedded model):
    too much for generating, which reads one row.

    Args:
        model: A loaded model.
        window: Tokens per decode, which is also how many a token can look back.
    """

    def __init__(self, model: Model, window: int) -> None:
        options = replace(model.options, n_ctx=window, n_batch=window, n_ubatch=window)
        super().__init__(model, options, n_outputs=window)

    def log_probabilities(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Natural logarithms of the probabilities of the second token on, from all before it.

        Args:
            tokens: 2 to `window` token ids; nothing of an earlier call is looked at.
        """
        count = len(tokens)
        self.clear()
        batch = self._batch
        batch.token[:count] = tokens
        batch.position[:count] = batch.ramp[:count]
        batch.sequence[:count] = 0
        batch.logits[:count] = 1
        self._run(count)
        result = np.empty(count - 1)
        for row in range(count - 1):
            logits = self.logits(row).astype(np.float64)
            logits -= logits.max()
            result[row] = logits[tokens[row + 1]] - np.log(np.exp(logits).sum())
        return result
