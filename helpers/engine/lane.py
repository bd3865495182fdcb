"""A context, and which tokens each of its sequences holds: what need not be computed again."""

from __future__ import annotations

from helpers.engine.sequence import Sequence
from helpers.native import Context

_WORTH_COPYING = 64
"""Shared prompt tokens from which copying a sequence's KV cache beats computing them again."""


class Lane:
    """A context and what each of its sequences holds.

    Args:
        context: The context.
        n_ctx: Tokens that each sequence may hold.
    """

    def __init__(self, context: Context, n_ctx: int) -> None:
        self.context = context
        self.n_ctx = min(n_ctx, context.n_ctx)
        self.held: list[list[int]] = [[] for _ in range(context.params.n_seq_max)]
        self.active: dict[int, Sequence] = {}

    def forget(self) -> None:
        """Empty every sequence: used after anything went wrong inside a decode."""
        self.context.clear()
        for tokens in self.held:
            tokens.clear()

    def free_slot(self, tokens: list[int]) -> int:
        """The idle sequence that already holds most of these tokens."""
        idle = [slot for slot in range(len(self.held)) if slot not in self.active]
        return max(idle, key=lambda slot: _shared(self.held[slot], tokens))

    def reuse(self, slot: int, tokens: list[int]) -> int:
        """Make `slot` hold as much of the prompt as is computed anywhere; returns how much.

        The last two tokens of the prompt are always computed again: the logits of the last are
        needed, and see `portion` for the other.
        """
        limit = max(0, len(tokens) - 2)
        own = min(_shared(self.held[slot], tokens), limit)
        others = [
            (min(_shared(held, tokens), limit), index) for index, held in enumerate(self.held)
        ]
        best, source = max(others)
        if best >= own + _WORTH_COPYING:
            self.context.copy_sequence(source, slot)
            self.held[slot] = list(self.held[source])
            own = best
        if len(self.held[slot]) > own and not self.context.truncate(slot, own):
            self.context.truncate(slot, 0)
            own = 0
        del self.held[slot][own:]
        return own


def _shared(held: list[int], tokens: list[int]) -> int:
    """Length of the common beginning of two token lists."""
    length = min(len(held), len(tokens))
    if held[:length] == tokens[:length]:
        return length
    low, high = 0, length  # bisect: slices compare at C speed
    while high - low > 1:
        middle = (low + high) // 2
        if held[low:middle] == tokens[low:middle]:
            low = middle
        else:
            high = middle
    return low


def portion(remaining: int, n_batch: int, n_ubatch: int) -> int:
    """How many tokens of a prompt to decode next, so that none is computed alone.

    A token on its own goes another way through ggml's attention once the cache holds more than
    256 tokens (`use_split_kv_path`), and is rounded differently there. In company, a prompt's
    tokens get the same values however much of it was cached.

    >>> portion(61, 512, 60), portion(513, 512, 60), portion(2, 512, 60), portion(1, 512, 60)
    (59, 511, 2, 1)
    """
    most = min(remaining, n_batch)
    for size in range(most, max(most - 4, 0), -1):
        if size % n_ubatch != 1 and remaining - size != 1:
            return size
    return most
