"""Watches the reasoning of an answer, so that it ends when its tokens are used up."""

from __future__ import annotations

from helpers.engine.options import ReasoningBudget
from helpers.native import Model


class ReasoningWatch:
    """Follows an answer token by token.

    Args:
        budget: Where reasoning begins and ends, and how many tokens it may have.
        model: The loaded model.
    """

    def __init__(self, budget: ReasoningBudget, model: Model) -> None:
        self._budget, self._model = budget, model
        self._begin, self._end = (text.strip().encode() for text in (budget.begin, budget.end))
        self._open = budget.open
        self._over = not (budget.open or self._begin)
        self._left = budget.tokens
        self._tail = b""

    def accept(self, token: int) -> bool:
        """Take note of a token; True if the reasoning has used up its tokens with it."""
        if self._over:
            return False
        self._tail += self._model.piece(token, control=True)
        if not self._open:
            said = self._tail.lstrip()
            if said.startswith(self._begin):
                self._open, self._tail = True, said[len(self._begin) :]
            elif not self._begin.startswith(said):
                self._over = True  # it begins with something else
            return self._open and self._left == 0
        self._left -= 1
        if self._end in self._tail:
            self._over = True
            return False
        self._tail = self._tail[-len(self._end) :]
        return self._left <= 0

    def closing(self) -> list[int]:
        """The tokens that end the reasoning now, which has used up its own; else none."""
        if self._over or not self._open or self._left > 0:
            return []
        self._over = True
        end = self._budget.end.encode()
        # The model may just have begun to write it.
        texts = (end, end.lstrip())
        written = max(_overlap(self._tail, text) for text in texts)
        rest = next(text for text in texts if _overlap(self._tail, text) == written)[written:]
        return self._model.tokenize(rest.decode("utf-8", "ignore"), add_special=False)


def _overlap(text: bytes, mark: bytes) -> int:
    """Length of the longest end of a text that is a beginning of a mark, and not all of it."""
    lengths = range(min(len(text), len(mark) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(mark[:length])), 0)
