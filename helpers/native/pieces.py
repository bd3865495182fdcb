"""Prompts whose control tokens come from a template alone, made into tokens piece by piece.

llama.cpp reads a text with or without control tokens, as a whole. Here they are found in the parts
that the template wrote, by llama.cpp's own rule, and what lies between them is made into tokens
without any: the same tokens, unless somebody typed a control token.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from helpers.native.library import fast, llama

_KEPT_BYTES = 2**24
_BLANKS = b" \t\n\v\f\r"  # what C calls white space

Tokenize = Callable[[bytes, bool], list[int]]


@dataclass(frozen=True)
class _Control:
    """A control token."""

    text: bytes
    token: int
    eats_left: bool
    eats_right: bool


_Place = tuple[int, _Control]


class _Kept:
    """Lists by text; what was not used for longest is forgotten when they take too much memory."""

    def __init__(self) -> None:
        self._lists: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes, make: Callable[[bytes], Iterable[int]]) -> tuple[int, ...]:
        """The kept list of a text, or a new one."""
        found = self._lists.get(key)
        if found is not None:
            self._lists.move_to_end(key)
            return found
        made = tuple(make(key))
        if _size(key, made) < _KEPT_BYTES // 4:  # a whole book would push out all others
            self._lists[key] = made
            self._bytes += _size(key, made)
        while self._bytes > _KEPT_BYTES:
            self._bytes -= _size(*self._lists.popitem(last=False))
        return made


def _size(key: bytes, numbers: tuple[int, ...]) -> int:
    return 250 + len(key) + 40 * len(numbers)  # of CPython's objects, about


class Pieces:
    """Makes prompts into tokens, for one vocabulary and one thread at a time.

    Args:
        vocab: llama.cpp's vocabulary.
        tokenize: Makes tokens of a text without control tokens; True adds what the vocabulary
            wants around a prompt.
    """

    def __init__(self, vocab: int, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._fragments, self._cuts = _Kept(), _Kept()
        self._by_token = {one.token: one for one in _controls(vocab)}
        self._find = _finder(self._by_token.values())
        self._around = self._added()

    def _added(self) -> tuple[list[int], list[int]]:
        """What the vocabulary wants before a prompt, and behind it."""
        bare, full = self._tokenize(b"a", False), self._tokenize(b"a", True)
        for at in range(len(full) - len(bare) + 1):
            if full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
        return full[:0], full[:0]

    def tokens(self, parts: Iterable[tuple[bytes, bool]], add_special: bool) -> list[int]:
        """Token ids of a prompt.

        Args:
            parts: Its texts in UTF-8, and whether control tokens may be read there.
            add_special: Add what the vocabulary wants around a prompt.
        """
        before, behind = self._around if add_special else ([], [])
        found = list(before)
        parts = list(parts)
        raw = b"".join(text for text, _ in parts)
        at, eats = 0, False
        for start, control in itertools.chain(self._places(parts), [(len(raw), None)]):
            text = raw[at:start]
            if eats:
                text = text.lstrip(_BLANKS)
            if control is not None and control.eats_left:
                text = text.rstrip(_BLANKS)
            if text:
                found += self._fragments.get(text, self._plain)
            if control is not None:
                found.append(control.token)
                at, eats = start + len(control.text), control.eats_right
        return found + behind

    def _places(self, parts: Iterable[tuple[bytes, bool]]) -> Iterator[_Place]:
        """Where the prompt's control tokens are."""
        at = 0
        for text, own in parts:
            cut = self._cuts.get(text, self._cut) if own else ()
            for place, token in zip(cut[::2], cut[1::2], strict=True):
                yield at + place, self._by_token[token]
            at += len(text)

    def _cut(self, text: bytes) -> Iterable[int]:
        """Places and tokens, in turn, of the control tokens in a part that the template wrote."""
        for place, control in _accepted(self._find(text), len(text)):
            yield from (place, control.token)

    def _plain(self, text: bytes) -> list[int]:
        """Tokens of a text without control tokens, not even by a merge of ordinary ones."""
        tokens = self._tokenize(text, False)
        typed = {self._by_token[token].text for token in tokens if token in self._by_token}
        # A vocabulary whose control token for what it does not know is found where nobody typed it.
        typed = {one for one in typed if one in text}
        if not typed:
            return tokens
        for one in typed:
            text = text.replace(one, one[:1] + b"\xff" + one[1:])  # no byte of UTF-8
        return [token for half in text.split(b"\xff") for token in self._tokenize(half, False)]


def _controls(vocab: int) -> list[_Control]:
    """The tokens that llama.cpp finds in a text only where it is told to."""
    module, library = llama(), fast()
    wanted = module.LLAMA_TOKEN_ATTR_CONTROL | module.LLAMA_TOKEN_ATTR_UNKNOWN
    left, right = module.LLAMA_TOKEN_ATTR_LSTRIP, module.LLAMA_TOKEN_ATTR_RSTRIP
    found = []
    for token in range(module.llama_vocab_n_tokens(vocab)):
        attributes = library.llama_vocab_get_attr(vocab, token)
        if attributes & wanted:
            text = module.llama_vocab_get_text(vocab, token)
            found.append(_Control(text, token, bool(attributes & left), bool(attributes & right)))
    return found


def _finder(controls: Iterable[_Control]) -> Callable[[bytes], list[_Place]]:
    """What finds all places of some tokens in a text, those that overlap too."""
    known: dict[bytes, _Control] = {}
    sizes: dict[int, set[int]] = {}
    for one in controls:
        if one.text:
            known.setdefault(one.text, one)
            sizes.setdefault(one.text[0], set()).add(len(one.text))
    if not known:
        return lambda text: []
    first = re.compile(b"[%b]" % b"".join(re.escape(bytes([byte])) for byte in sorted(sizes)))

    def find(text: bytes) -> list[_Place]:
        return [
            (at, control)
            for at in (match.start() for match in first.finditer(text))
            for size in sizes[text[at]]
            if (control := known.get(text[at : at + size])) is not None
        ]

    return find


def _accepted(places: list[_Place], size: int) -> list[_Place]:
    """Those that llama.cpp finds: the longer before the shorter, then from left to right."""
    taken, found = bytearray(size), []
    for at, control in sorted(places, key=lambda p: (-len(p[1].text), p[1].token, p[0])):
        end = at + len(control.text)
        if taken.find(1, at, end) < 0:
            taken[at:end] = b"\1" * (end - at)
            found.append((at, control))
    return sorted(found, key=lambda place: place[0])
