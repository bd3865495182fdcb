"""Guesses at the next tokens, to check several in one decode: whence, how many, whether it pays.

A decode of several tokens takes less time than as many decodes of one: each weight is read once.
So what may come next is guessed, computed together with the last token, and kept as far as it is
what the model then chooses by itself, from the same logits, with the same settings and the same
random numbers (Leviathan et al. 2022; prompt lookup: Saxena 2023). A wrong guess costs time, never
a token: whatever is chosen is chosen by the model.

On a CPU a guess is not free. A second token was seen to cost three quarters of a first one, eight
together four times as much, so that only long runs of right guesses pay. `Economy` measures both as
it goes, and stops where they do not.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Protocol

from helpers.native import MOST_GUESSES, Model

_SIZES = (1, 2, 4, 8, 16, 32)
"""Tokens of a decode whose cost is remembered; between them lies a line."""

_LEARNED = 0.2
"""Weight of what was seen last."""

_STAKE = 1.5
"""Decodes of one token that guesses may lose before they have won any, once for a loaded model."""

_MOST_STAKE = 9.0
"""As many that they may lose after they have won more: a long run costs that if its first token is
wrong."""

_SHARE = 0.02
"""Share of the tokens that guesses may cost on top of that."""

_MARGIN = 1.05
"""What is expected must be so much more than without guesses: both are estimates."""


Allowed = Callable[[list[int]], int]


class Source(Protocol):
    """Where guesses come from."""

    priors: dict[int, float]
    """The share of right guesses of each grade, before any was checked."""
    seconds: float
    """What it took lately to guess a token; 0 where that is nothing beside a decode."""
    free: bool
    """Whether that is never more than nothing."""

    def guess(self, tokens: Sequence[int], most: int) -> tuple[list[int], list[int]]:
        """Guess how an answer goes on.

        Args:
            tokens: The prompt and the answer so far.
            most: Most guesses, 1 or more.

        Returns:
            The guesses, and the grade of each: which of `priors` it is counted with.
        """


class Economy:
    """What decodes of one context cost, and what guesses have won or lost in it.

    The unit is a decode of one token. Guesses that are all wrong lose the stake and 2 % of the
    tokens, no more: a guess is not made where it could lose more than is left of that.

    Args:
        on_cpu: Whether the CPU computes, where each guess costs; what is expected before anything
            was measured.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        slope = 0.45 if on_cpu else 0.03
        self._costs = [1 + slope * (size - 1) for size in _SIZES]
        self._one = 0.0  # seconds
        self.balance = _STAKE

    def cost(self, tokens: int) -> float:
        """What a decode of so many tokens costs."""
        at = bisect.bisect_left(_SIZES, tokens)
        if at == len(_SIZES) or _SIZES[at] == tokens:
            return self._costs[min(at, len(_SIZES) - 1)]
        low, high = _SIZES[at - 1], _SIZES[at]
        share = (tokens - low) / (high - low)
        return self._costs[at - 1] * (1 - share) + self._costs[at] * share

    def note(
        self, pending: int, guessed: int, right: int, seconds: float, drafting: float = 0.0
    ) -> None:
        """Learn from a decode.

        Args:
            pending: Tokens of the answer that it computed.
            guessed: Guesses that it computed as well.
            right: How many of them turned out right.
            seconds: What the decode took.
            drafting: Seconds that it took to guess.
        """
        tokens = pending + guessed
        if tokens > _SIZES[-1]:
            return  # mostly tokens that a grammar leaves no choice for
        if tokens == 1:
            seen = min(seconds, 2 * self._one) if self._one else seconds  # others are at work, too
            self._one += (_LEARNED if self._one else 1.0) * (seen - self._one)
        if tokens > 1 and self._one:
            expected = self.cost(tokens)
            seen = min(seconds / self._one, 2 * expected)  # a pause is no cost of the guesses
            size = min(range(1, len(_SIZES)), key=lambda n: abs(_SIZES[n] - tokens))
            self._costs[size] *= 1 + _LEARNED * max(seen / expected - 1, -0.5)
            if guessed:
                self.balance += right - (seen - self.cost(pending)) - drafting / self._one
        self.balance = min(self.balance + _SHARE * (right + 1), _MOST_STAKE)

    def allows(self, pending: int) -> bool:
        """Whether a guess may be lost beside so many tokens that are decoded in any case."""
        return self.cost(pending + 1) - self.cost(pending) <= self.balance

    def worth(self, pending: int, chances: Sequence[float], drafting: float = 0.0) -> int:
        """How many guesses to check.

        Args:
            pending: Tokens that are decoded in any case.
            chances: How likely each guess is right if all before it are.
            drafting: Seconds that it takes to guess a token.

        Returns:
            The number with the most tokens for the time; 0 where none is expected to pay, or more
            could be lost than may be.
        """
        each = drafting / self._one if self._one else 0.0
        best, most, expected, all_right = _MARGIN, 0, 1.0, 1.0
        for count, chance in enumerate(chances, 1):
            all_right *= chance
            expected += all_right
            extra = self.cost(pending + count) - self.cost(pending) + each * count
            if extra > self.balance:
                break
            if expected / (1 + extra) > best:
                best, most = expected / (1 + extra), count
        return most


class Speculation:
    """The guesses of one answer.

    Args:
        source: Where they come from.
        economy: What they cost in the context of the answer.
        tokens: The prompt.

    Attributes:
        tokens: The prompt and the answer so far.
        guessed: How many tokens were guessed and checked.
        right: How many of them were right.
    """

    def __init__(self, source: Source, economy: Economy, tokens: Sequence[int]) -> None:
        self._source, self._economy = source, economy
        self.tokens = list(tokens)
        # For each grade, how many were right and how many were tried; two trials are assumed.
        self._seen = {grade: [2 * share, 2.0] for grade, share in source.priors.items()}
        self._grades: list[int] = []
        self._unchecked: tuple[int, int] | None = None  # a guess, and the place of its token
        self.guessed = self.right = 0

    def guess(self, pending: int, most: int, allowed: Allowed | None = None) -> list[int]:
        """Guesses that are worth a check; none where that does not pay.

        A source that costs nothing is asked in any case: its first guess is compared with the token
        that follows, which tells how good its guesses are where none are made.

        Args:
            pending: How many of the last tokens are yet to be decoded.
            most: Most guesses.
            allowed: Says how many of some guesses a grammar allows, from the first on.
        """
        self._unchecked = None
        each, most = self._source.seconds, min(most, MOST_GUESSES)
        pays = self._economy.allows(pending)
        if each and pays:  # would it pay if the source were sure of itself?
            most = self._economy.worth(pending, [self._chance(max(self._seen))] * most, each)
        if most < 1 or not (pays or self._source.free):
            return []
        guesses, self._grades = self._source.guess(self.tokens, most)
        chances = [*map(self._chance, self._grades)] if pays else []
        count = self._economy.worth(pending, chances, each)
        tried = guesses[: max(count, 1)]
        if allowed is not None and tried:
            del tried[allowed(tried) :]
        if tried and not count:
            self._unchecked = tried[0], len(self.tokens)
        return tried[:count]

    def _chance(self, grade: int) -> float:
        right, tried = self._seen[grade]
        return right / tried

    def note(self, pending: int, guessed: int, right: int, seconds: float) -> None:
        """Learn from a decode in which guesses, if any, were checked.

        Args:
            pending: Tokens of the answer that it computed.
            guessed: How many guesses it computed as well.
            right: How many of them were right, from the first on.
            seconds: What the decode took.
        """
        drafting = self._source.seconds * guessed
        self._economy.note(pending, guessed, right, seconds, drafting)
        self.guessed += guessed
        self.right += right
        for place, grade in enumerate(self._grades[: min(right + 1, guessed)]):
            self._learn(grade, place < right)
        if self._unchecked is not None and not guessed:
            guess, place = self._unchecked
            self._unchecked = None  # beside others no new one is made, and it counts once
            if place < len(self.tokens):
                self._learn(self._grades[0], self.tokens[place] == guess)

    def _learn(self, grade: int, right: bool) -> None:
        seen = self._seen[grade]
        seen[:] = 0.95 * seen[0] + right, 0.95 * seen[1] + 1


class Lookup:
    """Guesses that what followed the same text before follows it again.

    The text is compared, not the tokens: a name that begins a quotation is another token there than
    within a sentence. The longest match of the last few counts, from 6 bytes on.

    Args:
        model: Whose tokens they are.
    """

    priors = {3: 0.4, 4: 0.55, 5: 0.75, 6: 0.9, 7: 0.96}
    """By the number of binary digits of the length of the match in bytes: 6, 8, 16, 32, 64."""

    seconds = 0.0
    free = True

    _LENGTHS = (64, 32, 16, 8, 6)
    _PLACES = 6

    def __init__(self, model: Model) -> None:
        self._model = model
        self._text = bytearray()
        self._ends: list[int] = [0]  # where each token ends in the text

    def guess(self, tokens: Sequence[int], most: int) -> tuple[list[int], list[int]]:
        """Guess how an answer goes on: see `Source`."""
        for token in tokens[len(self._ends) - 1 :]:
            self._text += self._model.piece(token)
            self._ends.append(len(self._text))
        length, first = self._longest_match()
        guesses: list[int] = []
        grades: list[int] = []
        for token in tokens[first : first + most] if length else ():
            piece = self._model.piece(token)
            if not piece:  # a control token: what follows it is another part of the chat
                break
            grades.append(min(length, self._LENGTHS[0]).bit_length())
            guesses.append(token)
            length += len(piece)
        return guesses, grades

    def _longest_match(self) -> tuple[int, int]:
        """Bytes before the end that stand at an earlier place, too, and the token after that."""
        text, size = self._text, len(self._text)
        shortest = self._LENGTHS[-1]
        suffix = bytes(text[-shortest:])
        best, end = (0, 0), size - 1
        for _ in range(self._PLACES if size > shortest else 0):
            place = text.rfind(suffix, 0, end)
            if place < 0:
                break
            end = place + len(suffix)
            token = bisect.bisect_left(self._ends, end)
            if self._ends[token] == end:
                length = next(n for n in self._LENGTHS if text[max(end - n, 0) : end] == text[-n:])
                best = max(best, (length, token), key=lambda found: found[0])
            end -= 1
        return best
