"""Arguments that a template writes each by itself: how, from known ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from helpers.chat.cuts import head, whole
from helpers.chat.format import Fields
from helpers.chat.probe import LETTERS

Write = Callable[[Mapping[str, Any]], str | None]
A, B, *_ = LETTERS
_ONE, _TWO, _LONG = "vone", "vtwo", "long<&\nvalue"


def derive_fields(write: Write) -> Iterator[tuple[int, Iterator[Fields]]]:
    """Find out how a template writes arguments one by one.

    Args:
        write: Renders a call with arguments, and returns what stands behind its last name or id.

    Yields:
        How much fixed text stands between a call's last name or id and its arguments, and forms
        that may be theirs, likelier ones first.
    """
    bare = write({})
    texts = _cut(write({A: _ONE, B: _TWO}), [A, _ONE, B, _TWO])
    numbers = _cut(write({A: 1111, B: 2222}), [A, "1111", B, "2222"])
    if bare is None or texts is None or numbers is None:
        return
    start, name_end, between, rest = numbers[0], numbers[1], numbers[2], numbers[4]
    common = head(texts[1], name_end)
    string_begin, value_begin = texts[1][len(common) :], name_end[len(common) :]
    string_end = texts[2].removesuffix(between)
    if texts[2] != string_end + between or texts[3] != texts[1] or A in between or A in rest:
        return
    form = Fields(
        name_end=common, string_begin=string_begin, string_end=string_end, value_begin=value_begin
    )
    cuts = range(len(head(bare, start)), -1, -1)
    for cut in sorted(cuts, key=lambda cut: not between_marks(bare, cut)):
        closing = bare[cut:]
        name_begin, value_end = start[cut:], rest[: len(rest) - len(closing)]
        if start[:cut] != bare[:cut] or not rest.endswith(closing):
            continue
        fitted = _fit(between, value_end, name_begin)
        if fitted is not None:
            full = replace(form, name_begin=name_begin, value_end=value_end, between=fitted)
            yield cut, _variants(write, full)


def between_marks(text: str, cut: int) -> bool:
    """Whether a cut stands beside tags, brackets or a line's end, and not inside a tag."""
    return whole(text, cut) and (
        cut == len(text) or text[cut] in "<[{()}]\n" or text[cut - 1 : cut] in tuple(">[{()}]\n")
    )


def _fit(between: str, value_end: str, name_begin: str) -> str | None:
    inner = len(between) - len(value_end) - len(name_begin)
    if inner < 0 or not between.startswith(value_end) or not between.endswith(name_begin):
        return None
    return between[len(value_end) : len(value_end) + inner]


def _variants(write: Write, form: Fields) -> Iterator[Fields]:
    forms = [form]
    if form.string_begin == form.string_end == '"':
        forms.insert(0, replace(form, strings="json", string_begin="", string_end=""))
    if form.string_end + form.value_end in ("'", '"'):
        forms.remove(form)  # it cannot be read back: a string holds them, too, and not escaped
    elif wrap := _wrap(write, form):
        forms.append(replace(form, wrap_begin=wrap[0], wrap_end=wrap[1]))
    for variant in forms:
        for deep in (False, True):
            for values in ("json", "mixed", "python"):
                yield replace(variant, values=values, deep=deep)


def _wrap(write: Write, form: Fields) -> tuple[str, str] | None:
    plain, wrapped = (_cut(write({A: text}), [A, text]) for text in (_ONE, _LONG))
    if plain is None or wrapped is None or plain == wrapped:
        return None
    return wrapped[1].removeprefix(plain[1]), wrapped[2].removesuffix(plain[2])


def _cut(text: str | None, parts: list[str]) -> list[str] | None:
    """The texts before, between and after some parts."""
    pieces = []
    for part in parts:
        before, found, text = (text or "").partition(part)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, text or ""]
