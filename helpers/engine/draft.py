"""A draft model: a small one that guesses what a large one will write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.engine.lane import common
from helpers.errors import ModelFileError
from helpers.load_options import LoadOptions
from helpers.models.watch import Watch
from helpers.native import Context, Model

_GRADES = 8


class Draft:
    """Guesses the tokens that a small model of the same vocabulary finds likeliest.

    Args:
        options: How the large model is loaded; `draft_path` is the small one.
        target: The large model.

    Attributes:
        seconds: What it took lately to guess a token.

    Raises:
        ModelFileError: The small model has another vocabulary, or cannot be loaded.
        DeviceError: It does not fit the memory.
    """

    priors = {grade: (grade + 0.5) / _GRADES for grade in range(_GRADES)}
    """By what the small model itself finds a token's probability to be, in eighths."""

    free = False

    def __init__(self, options: LoadOptions, target: Model) -> None:
        own = options.for_draft()
        watch = Watch(own.model_path) if own.use_mmap else None
        try:
            self.model = Model(own, watch=watch)
        except BaseException:
            if watch is not None:
                watch.close()
            raise
        try:
            _check_vocabulary(self.model, target)
            self._common = min(self.model.n_vocab, target.n_vocab)
            self._context = Context(self.model, own)
        except BaseException:
            self.model.close()
            raise
        self.log = [*self.model.log, *self._context.log]
        self.seconds = 0.0
        self._held: list[int] = []

    def guess(self, tokens: Sequence[int], most: int) -> tuple[list[int], list[int]]:
        """Guess how an answer goes on; ends where the small model is not sure itself.

        Args:
            tokens: The prompt and the answer so far.
            most: Most guesses, 1 or more.

        Returns:
            The guesses, and the grade of each: its probability in eighths.
        """
        if self.model.watch is not None:
            self.model.watch.check()
        known = list(tokens)
        if max(known) >= self._common:  # one of the large model's own, beyond the small one's
            return [], []
        self._forget(min(common(self._held, known), len(known) - 1))
        room = self._context.n_ctx - len(known) + 1
        guesses: list[int] = []
        grades: list[int] = []
        self._read(known[len(self._held) :])
        started = time.perf_counter()
        while len(guesses) < min(most, room):
            token, grade = self._likeliest()
            unsure = guesses and grade < _GRADES // 2
            if unsure or token >= self._common or self.model.is_end(token):
                break
            guesses.append(token)
            grades.append(grade)
            if len(guesses) < min(most, room):
                self._read([token])
        if len(guesses) > 1:
            each = (time.perf_counter() - started) / len(guesses)
            self.seconds = min(self.seconds * 1.1, each) if self.seconds else each
        return guesses, grades

    def _forget(self, length: int) -> None:
        """Keep the first tokens alone."""
        if length < len(self._held):
            self._context.truncate(0, length)
            del self._held[length:]

    def _read(self, tokens: list[int]) -> None:
        most = min(self._context.n_batch, self._context.n_ubatch)
        for begin in range(0, len(tokens), most):
            part = tokens[begin : begin + most]
            try:
                self._context.decode(part, len(self._held), 0, logits=True)
            except BaseException:
                self._held.clear()
                self._context.clear()
                raise
            self._held += part

    def _likeliest(self) -> tuple[int, int]:
        """The likeliest next token, and its probability in eighths."""
        logits = self._context.logits(-1)
        token = int(logits.argmax())
        probability = 1 / float(np.exp(logits - logits[token]).sum())
        return token, min(int(probability * _GRADES), _GRADES - 1)

    def close(self) -> None:
        """Free the small model."""
        self._context.close()
        self.model.close()


def _check_vocabulary(draft: Model, target: Model) -> None:
    """Refuse a draft model whose token numbers stand for other texts."""
    fewer = min(draft.n_vocab, target.n_vocab)
    wrong = next((n for n in range(fewer) if draft.piece(n) != target.piece(n)), None)
    if wrong is None and abs(draft.n_vocab - target.n_vocab) <= _PADDING:
        return
    what = (
        f"{draft.n_vocab:,} tokens, not {target.n_vocab:,}"
        if wrong is None
        else f"token {wrong} is {draft.piece(wrong)!r}, not {target.piece(wrong)!r}"
    )
    raise ModelFileError(
        f"{Path(draft.options.model_path).name} cannot guess for "
        f"{Path(target.options.model_path).name}: its vocabulary is another one ({what}). Use a "
        'smaller model of the same family, or speculate="lookup".'
    )


_PADDING = 128
"""Tokens by which two vocabularies of a family may differ: rows without a meaning, as a rule
(`SPEC_VOCAB_MAX_SIZE_DIFFERENCE` in llama.cpp's common/speculative.cpp)."""
