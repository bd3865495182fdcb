"""`Prompt`: a text that knows which parts of it may name control tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, SupportsIndex

from helpers.checks import check_text


class Prompt(str):
    r"""A rendered prompt: what the template wrote, and what users, tools and documents supplied.

    It is a `str` like any other, and is read by a model with a difference: `<|im_start|>` and its
    kind are control tokens only where the template wrote them. Elsewhere they are plain text, as
    any other characters. Text that is added to it counts as supplied. What is cut from it by an
    index or by `strip` and its kind is a `Prompt` again; all else makes a plain `str`.

    Args:
        parts: Pairs of a text and whether the template wrote it, in their order.

    Attributes:
        parts: The same, no part empty, and no two of a kind beside each other.

    >>> prompt = Prompt([("<|im_start|>user\n", True), ("Hi!", False)]) + " <|im_end|>"
    >>> prompt.parts
    (('<|im_start|>user\n', True), ('Hi! <|im_end|>', False))
    """

    parts: tuple[tuple[str, bool], ...]

    def __new__(cls, parts: Iterable[tuple[str, bool]]) -> Prompt:
        """Join the parts."""
        merged: list[tuple[str, bool]] = []
        for text, trusted in parts:
            if not text:
                continue
            if merged and merged[-1][1] == trusted:
                text = merged.pop()[0] + text
            merged.append((str.__str__(text), bool(trusted)))
        made = super().__new__(cls, "".join(text for text, _ in merged))
        made.parts = tuple(merged)
        return made

    @property
    def key(self) -> str:
        """What tells it, for a cache, from prompts with the same text and other parts."""
        return ",".join(f"{'+' if trusted else '-'}{len(text)}" for text, trusted in self.parts)

    def __add__(self, other: str) -> Prompt:
        return Prompt([*self.parts, *_parts(other)])

    def __radd__(self, other: str) -> Prompt:
        return Prompt([*_parts(other), *self.parts])

    def _cut(self, start: int, stop: int) -> Prompt:
        cut, at = [], 0
        for text, trusted in self.parts:
            cut.append((text[max(start - at, 0) : max(stop - at, 0)], trusted))
            at += len(text)
        return Prompt(cut)

    def __getitem__(self, key: SupportsIndex | slice) -> Prompt:
        chosen = range(len(self))[key]
        if isinstance(chosen, int):
            return self._cut(chosen, chosen + 1)
        if chosen.step == 1:
            return self._cut(chosen.start, chosen.stop)
        return Prompt(part for at in chosen for part in self._cut(at, at + 1).parts)

    def lstrip(self, chars: str | None = None, /) -> Prompt:
        """Cut characters off its beginning."""
        return self._cut(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> Prompt:
        """Cut characters off its end."""
        return self._cut(0, len(super().rstrip(chars)))

    def strip(self, chars: str | None = None, /) -> Prompt:
        """Cut characters off both ends."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> Prompt:
        """Cut a text off its beginning."""
        return self._cut(len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> Prompt:
        """Cut a text off its end."""
        return self._cut(0, len(super().removesuffix(suffix)))

    def __str__(self) -> Prompt:
        """Itself, so that `str(prompt)` loses nothing."""
        return self

    def __reduce__(self) -> tuple[partial[Prompt], tuple[tuple[tuple[str, bool], ...]]]:
        return partial(Prompt), (self.parts,)


def check_prompt(name: str, value: Any) -> str:
    """Check a prompt.

    Returns:
        A `Prompt` as one; any other text as `check_text` does.

    Raises:
        TypeError: It is not a text.

    >>> check_prompt("prompt", Prompt([("Hi", False)])).parts
    (('Hi', False),)
    """
    return Prompt(value.parts) if isinstance(value, Prompt) else check_text(name, value)


def _parts(text: str) -> Iterable[tuple[str, bool]]:
    return text.parts if isinstance(text, Prompt) else [(text, False)]
