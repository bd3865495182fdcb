"""A context, and which tokens each of its sequences holds: what need not be computed again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from helpers.engine.sequence import Sequence
from helpers.engine.speculation import Economy
from helpers.load_options import LoadOptions
from helpers.native import Context

WORTH_COPYING = 64
"""Shared prompt tokens from which copying a sequence's KV cache beats computing them again."""


TILE = 128
"""Tokens of a prompt that are computed together on the CPU, counted from its beginning.

From 64 queries on (`GGML_FA_TILE_Q` in ggml-cpu) attention is computed in tiles: faster, and
rounded differently from fewer. Which tokens of a prompt go which way must not depend on what was
cached, or a warm cache would change the text: whole blocks of this size are tiled, the rest never.
In a long prompt all are (see `DEEP`).
"""

DEEP = 1024
"""Tokens of a prompt from which all of it is tiled.

What a token is rounded to in a tile does not depend on the others in it, so a decode may begin
anywhere if it has `FULL` tokens: 64 tiled ones cost there as much as a dozen that are not, and
after 3,000 tokens an eighth of the time per token was measured.
"""

FULL = 64
"""Fewest tokens of a decode that is tiled."""

SMALL = 60
"""Most tokens of a decode that is not tiled."""


class Lane:
    """A context and what each of its sequences holds.

    Args:
        context: The context.
        n_ctx: Tokens that each sequence may hold.
        on_cpu: Whether the CPU computes, where the number of tokens in a decode decides how they
            are rounded (see `TILE`).

    Attributes:
        economy: What guesses cost there, and have won or lost.
    """

    def __init__(self, context: Context, n_ctx: int, *, on_cpu: bool = True) -> None:
        self.context = context
        room = min(context.n_batch, context.n_ubatch)
        self._tile = TILE if on_cpu and room >= TILE else 0
        self._small = min(SMALL, room) if on_cpu else context.n_batch
        # While others wait for their next token. On the CPU a tile takes a quarter of the time of a
        # micro-batch, and as much per token.
        self.piece = self._tile or room
        self.n_ctx = min(n_ctx, context.n_ctx)
        self.economy = Economy(on_cpu=on_cpu)
        self.held: list[list[int]] = [[] for _ in range(context.n_seq)]
        self.tiled = [0] * context.n_seq  # of the held: computed in tiles, from the beginning
        self.cold = [0] * context.n_seq  # of the held: a prompt, before anything was answered
        self.active: dict[int, Sequence] = {}
        self._asked = [0] * context.n_seq  # tokens of the last prompt there
        self._left = [0] * context.n_seq  # when the last answer ended there
        self._answers = 0

    def leave(self, slot: int) -> Sequence:
        """Take a sequence out that has ended; what it holds stays, for prompts that go on there."""
        self._answers += 1
        self._left[slot] = self._answers
        return self.active.pop(slot)

    def forget(self, slot: int | None = None) -> None:
        """Empty a sequence, or all: used after anything went wrong inside a decode."""
        if slot is None:
            self.context.clear()
        else:
            self.context.truncate(slot, 0)
        for index in range(len(self.held)) if slot is None else (slot,):
            self.held[index].clear()
            self.tiled[index] = self.cold[index] = self._asked[index] = self._left[index] = 0

    def drop_unfinished(self, slot: int) -> None:
        """Remove what an aborted decode left behind; where that is refused, all of it."""
        if not self.context.truncate(slot, len(self.held[slot])):
            self.forget(slot)

    def free_slot(self, tokens: list[int]) -> int:
        """The idle sequence for a prompt: its own conversation's, or the one unused for longest.

        A prompt that goes on from the last one that a sequence had is the next turn of the
        conversation there. What others merely begin with, too (the same system text), is copied,
        and theirs stays.
        """
        idle = [slot for slot in range(len(self.held)) if slot not in self.active]
        shared = {slot: common(self.held[slot], tokens) for slot in idle}
        least = max(self.shared(tokens) - WORTH_COPYING, 1)

        def continues(slot: int) -> bool:
            # A template may write the end of a prompt differently once an answer follows it.
            asked = self._asked[slot]
            return shared[slot] >= max(least, asked - min(16, asked // 8))

        if own := [slot for slot in idle if continues(slot)]:
            return max(own, key=lambda slot: (shared[slot], self._left[slot]))
        return min(idle, key=lambda slot: self._left[slot])

    def shared(self, tokens: list[int]) -> int:
        """How many tokens of the beginning of a prompt a sequence holds."""
        return max(common(held, tokens) for held in self.held)

    def fill(self, slot: int, state: npt.NDArray[np.uint8], tokens: list[int], tiled: int) -> bool:
        """Make a sequence hold a prompt whose computed state was kept; False if it cannot be."""
        self.forget(slot)
        if not self.context.restore(slot, state, len(tokens)):
            return False
        self.held[slot] = list(tokens)
        self.tiled[slot], self.cold[slot] = tiled, len(tokens)
        return True

    def most_reused(self, tokens: list[int]) -> int:
        """Of how many tokens of a prompt the computed state can be used."""
        return max(0, len(tokens) - (FULL if self._is_deep(tokens) else 2))

    def to_read(self, tokens: list[int]) -> int:
        """How many tokens of a prompt are to be computed, about, if it were read now."""
        return len(tokens) - min(self.shared(tokens), self.most_reused(tokens))

    def _is_deep(self, tokens: list[int]) -> bool:
        return bool(self._tile) and len(tokens) >= DEEP

    def reuse(self, slot: int, tokens: list[int]) -> tuple[int, int]:
        """Make `slot` hold as much of the prompt as is computed anywhere.

        The last tokens of the prompt are always computed again, as many as a decode needs: the
        logits of the last one, two for `portion`, or a tile.

        Returns:
            How many tokens are there, and how many from the beginning are to be in tiles.
        """
        limit = self.most_reused(tokens)
        own = min(common(self.held[slot], tokens), limit)
        others = [(min(common(held, tokens), limit), index) for index, held in enumerate(self.held)]
        best, source = max(others)
        if best >= own + WORTH_COPYING:
            self.context.copy_sequence(source, slot)
            self.held[slot] = list(self.held[source])
            self.tiled[slot], self.cold[slot] = self.tiled[source], self.cold[source]
            own = best
        tiled = self.tiled[slot]
        deep = self._is_deep(tokens)
        tiles = len(tokens) if deep else limit // self._tile * self._tile if self._tile else 0
        cold = tiles
        if own > self.cold[slot]:
            # A chat goes on after an answer of its own. The answer was computed token by token, and
            # is not computed again only to be rounded as if it had come with the prompt.
            tiles = tiled
        else:
            if tiled != tiles:
                own = min(own, tiled, tiles)
            if own < tiles and not deep:
                own -= own % self._tile
        if len(self.held[slot]) > own and not self.context.truncate(slot, own):
            self.context.truncate(slot, 0)
            own, tiles = 0, cold
        del self.held[slot][own:]
        self._asked[slot] = len(tokens)
        self.tiled[slot], self.cold[slot] = min(tiled, own, tiles), min(self.cold[slot], own)
        return own, tiles

    def next_part(self, slot: int, tokens: list[int], tiles: int, most: int) -> list[int]:
        """The tokens of a prompt to decode next, given what the slot holds.

        Args:
            slot: Where the prompt is read.
            tokens: The prompt.
            tiles: How many tokens from its beginning are to be in tiles, as `reuse` said.
            most: Most tokens, `piece` or more.
        """
        done = len(self.held[slot])
        micro = min(self.context.n_batch, self.context.n_ubatch, most)
        if self._is_deep(tokens):
            rest = len(tokens) - done
            if micro < rest < micro + FULL:
                micro -= FULL
            return tokens[done : done + micro]
        if done < tiles:
            return tokens[done : done + min(tiles - done, micro // self._tile * self._tile)]
        return tokens[done : done + portion(len(tokens) - done, min(self._small, most))]

    def hold(self, slot: int, part: list[int], tiles: int) -> None:
        """Note that a part of a prompt was computed."""
        if self.cold[slot] == len(self.held[slot]):
            self.cold[slot] += len(part)
        self.held[slot].extend(part)
        self.tiled[slot] = max(self.tiled[slot], min(tiles, len(self.held[slot])))


def sequences_at_load(options: LoadOptions) -> int:
    """Sequences of the context that is made with the model."""
    return options.n_parallel if options.continuous_batching else 1


def common(held: list[int], tokens: list[int]) -> int:
    """Length of the common beginning of two token lists."""
    if held[:1] != tokens[:1]:
        return 0
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


def portion(remaining: int, most: int) -> int:
    """How many tokens of a prompt to decode next, so that none is computed alone.

    A token on its own goes another way through ggml's attention once the cache holds more than
    256 tokens (`use_split_kv_path`), and is rounded differently there. Decoded with others, a
    prompt's tokens get the same values however much of it was cached.

    >>> portion(61, 60), portion(60, 60), portion(2, 60), portion(1, 60)
    (59, 60, 2, 1)
    """
    if remaining <= most:
        return remaining
    return most - 1 if remaining == most + 1 and most > 2 else most
