# ruff: noqa: D102 - the methods are those of `str`, and of Jinja's compiler
"""`MarkedText`: a text in which a template's own characters are told from all others.

Jinja's code is taught to carry the marks by `MarkedCode` and `MarkedEnvironment`. The rule is on
the safe side: a plain `str` is content, whoever made it, so an operation that loses the marks makes
a template's text plain, and never a user's text the template's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import make_attrgetter
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.utils import pass_environment
from markupsafe import Markup, escape

Parts = tuple[tuple[str, bool], ...]


class MarkedText(str):
    """A text of which a template wrote some characters at least.

    It does what a `str` does, and what is cut from it or made with it keeps the marks where that is
    possible. Where a result has none of the template's characters, it is a plain `str`. Templates
    see no attribute that a `str` does not have: the sandbox hides what begins with an underscore.

    >>> text = marked("<|user|> ") + "Hi!"
    >>> parts_of(text[5:].upper())
    (('R|> ', True), ('HI!', False))
    """

    _parts: Parts

    def __new__(cls, text: object = "") -> str:  # type: ignore[misc]
        """The text alone: only `marked` and `joined` make marks."""
        return str.__str__(str(text))

    # -- cutting ----------------------------------------------------------------------------------

    def _cut(self, start: int, stop: int) -> str:
        if _whole(self):
            return marked(self._parts[0][0][start:stop])
        found, at = [], 0
        for text, own in self._parts:
            found.append((text[max(0, start - at) : max(0, stop - at)], own))
            at += len(text)
        return joined(found)

    def _cut_at(self, pieces: Iterable[str], gap: int = 0) -> list[str]:
        """The marked forms of pieces that stand one behind the other, so far apart."""
        found, at = [], 0
        for piece in pieces:
            found.append(self._cut(at, at + len(piece)))
            at += len(piece) + gap
        return found

    def _cut_words(self, words: Iterable[str]) -> list[str]:
        """The marked forms of pieces with nothing but white space between them."""
        found, at = [], 0
        for word in words:
            at = str.find(self, word, at)
            found.append(self._cut(at, at + len(word)))
            at += len(word)
        return found

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if _whole(self):
            return marked(str.__getitem__(self, key))
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._cut(start, max(start, stop))
            flags = self._flags()
            return joined((self._at(i), flags[i]) for i in range(start, stop, step))
        self._at(key)  # raises where there is none
        place = key.__index__() % len(self)
        return self._cut(place, place + 1)

    def _at(self, place: SupportsIndex) -> str:
        return str.__getitem__(self, place)

    def _flags(self) -> list[bool]:
        return [own for text, own in self._parts for _ in text]

    def __iter__(self) -> Iterator[str]:
        for text, own in self._parts:
            yield from map(marked, text) if own else text

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._cut(0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(str.lstrip(self, chars))
        return self._cut(start, start + len(str.strip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._cut(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self._cut(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = str.split(self, sep, maxsplit)
        return self._cut_words(pieces) if sep is None else self._cut_at(pieces, len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = str.rsplit(self, sep, maxsplit)
        return self._cut_words(pieces) if sep is None else self._cut_at(pieces, len(sep))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._cut_at(str.splitlines(self, True))
        if keepends:
            return lines
        kept = str.splitlines(self)
        return [line[: len(text)] for line, text in zip(lines, kept, strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._cut_at(str.partition(self, sep))
        return before, found, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._cut_at(str.rpartition(self, sep))
        return before, found, after

    # -- putting together -------------------------------------------------------------------------

    def __str__(self) -> str:
        return self

    def __add__(self, other: str, /) -> str:
        # What knows HTML escapes the other side of a sum itself.
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented
        return joined([*self._parts, *parts_of(other)])

    def __radd__(self, other: str, /) -> str:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented
        return joined([*parts_of(other), *self._parts])

    def __mul__(self, count: SupportsIndex, /) -> str:
        whole = str.__mul__(self, count)
        if _whole(self):
            return marked(whole)
        return joined(self._parts * count.__index__())

    __rmul__ = __mul__

    def join(self, texts: Iterable[str], /) -> str:
        return _join(self, texts)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:  # between all characters
            return _same(str.replace(self, old, new, count), self, new)
        return _join(new, self.split(old, count))

    # -- other characters in the same places ------------------------------------------------------

    def _changed(self, change: Callable[[str], str]) -> str:
        text = change(self)
        if _whole(self):
            return marked(text)
        if len(text) == len(self):
            return joined((text[at : at + len(part)], own) for at, part, own in self._places())
        parts = [(change(part), own) for part, own in self._parts]
        return joined(parts) if "".join(part for part, _ in parts) == text else text

    def _places(self) -> Iterator[tuple[int, str, bool]]:
        at = 0
        for text, own in self._parts:
            yield at, text, own
            at += len(text)

    def upper(self) -> str:
        return self._changed(str.upper)

    def lower(self) -> str:
        return self._changed(str.lower)

    def casefold(self) -> str:
        return self._changed(str.casefold)

    def swapcase(self) -> str:
        return self._changed(str.swapcase)

    def title(self) -> str:
        return self._changed(str.title)

    def capitalize(self) -> str:
        return self._changed(str.capitalize)

    # -- more of them -----------------------------------------------------------------------------

    def center(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return _same(str.center(self, width, fill), self, fill)

    def ljust(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return _same(str.ljust(self, width, fill), self, fill)

    def rjust(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return _same(str.rjust(self, width, fill), self, fill)


def marked(text: str) -> MarkedText:
    """A text that the template wrote."""
    made = str.__new__(MarkedText, text)
    made._parts = ((str.__str__(text), True),)
    return made


def joined(parts: Iterable[tuple[str, bool]]) -> str:
    """One text of parts, whose texts are plain."""
    runs: list[tuple[list[str], bool]] = []
    for text, own in parts:
        if not text:
            continue
        if runs and runs[-1][1] is own:
            runs[-1][0].append(text)
        else:
            runs.append(([text], own))
    merged = tuple(("".join(texts), own) for texts, own in runs)
    if len(merged) < 2:
        text, own = merged[0] if merged else ("", True)
        return marked(text) if own else text
    made = str.__new__(MarkedText, "".join(text for text, _ in merged))
    made._parts = merged
    return made


def parts_of(text: str) -> Parts:
    """Pairs of a plain text and whether the template wrote it; a plain text is content."""
    if type(text) is MarkedText or (type(text) is _SafeText and text._parts):
        return text._parts
    return ((str.__str__(text), False),)


def _whole(text: MarkedText) -> bool:
    """Whether the template wrote all of it."""
    return len(text._parts) == 1


def concat(texts: Iterable[str]) -> str:
    """What Jinja puts an output together with."""
    return joined(part for text in texts for part in parts_of(text))


def _join(sep: str, texts: Iterable[str]) -> str:
    texts = list(texts)
    str.join("", texts)  # raises where one is no text
    between = parts_of(sep) if sep else ()
    return joined(
        part
        for number, text in enumerate(texts)
        for part in (*(between if number else ()), *parts_of(text))
    )


def _same(text: str, *sources: str) -> str:
    """A text made from others: the template's where all of them are, and in doubt content."""
    own = all(type(source) is MarkedText and _whole(source) for source in sources)
    return marked(text) if own else str.__str__(text)


class _SafeText(Markup):
    """What `|safe` makes: a text which escapes for HTML what is added to it, and keeps marks."""

    _parts: Parts = ()

    @staticmethod
    def of(parts: Iterable[tuple[str, bool]]) -> _SafeText:
        parts = tuple(parts)
        made = _SafeText("".join(text for text, _ in parts))
        made._parts = parts
        return made

    def __str__(self) -> str:
        return joined(parts_of(self))

    def __add__(self, other: str, /) -> _SafeText:  # type: ignore[override]
        escaped = _escaped(other)
        return NotImplemented if escaped is None else _SafeText.of([*parts_of(self), *escaped])

    def __radd__(self, other: str, /) -> _SafeText:  # type: ignore[override]
        escaped = _escaped(other)
        return NotImplemented if escaped is None else _SafeText.of([*escaped, *parts_of(self)])


def _escaped(text: Any) -> Parts | None:
    if isinstance(text, Markup):
        return parts_of(text)
    if not isinstance(text, str):
        return None
    return tuple((str.__str__(escape(part)), own) for part, own in parts_of(text))


def _safe(value: Any) -> _SafeText:
    return _SafeText.of(parts_of(value if isinstance(value, str) else str(value)))


class _Formatter(SandboxedFormatter):
    """`str.format` whose fixed text keeps its mark."""

    def vformat(self, form: str, args: Any, kwargs: Any) -> str:
        plain = super().vformat(form, args, kwargs)
        if type(form) is not MarkedText or not _whole(form):
            return plain
        found: list[str] = []
        number = 0
        for text, name, spec, conversion in self.parse(form):
            found.append(marked(text))
            if name is None:
                continue
            if name == "" or name[0] in ".[":
                name, number = f"{number}{name}", number + 1
            value, _ = self.get_field(name, args, kwargs)
            if conversion:
                value = self.convert_field(value, conversion)
            bare = type(value) is MarkedText and not spec
            found.append(value if bare else format(value, spec or ""))
        text = concat(found)
        return text if text == plain else plain  # a rare form, which is read otherwise


class MarkedCode(CodeGenerator):
    """Writes the code of a template, whose constants are the template's own texts."""

    environment: MarkedEnvironment

    def _constant(self, value: Any) -> str:
        if isinstance(value, str) and not isinstance(value, Markup):
            self.environment.texts.append(marked(value))
            return f"environment.texts[{len(self.environment.texts) - 1}]"
        if isinstance(value, list):
            return f"[{', '.join(map(self._constant, value))}]"
        if isinstance(value, tuple):
            return f"({''.join(self._constant(one) + ', ' for one in value)})"
        if isinstance(value, dict):
            pairs = (f"{self._constant(k)}: {self._constant(v)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
        return repr(value)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._constant("".join(map(str, group)))

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        value = node.as_const(frame.eval_ctx)
        self.write(str(value) if isinstance(value, float) else self._constant(value))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        if frame.eval_ctx.autoescape or frame.eval_ctx.volatile:
            super().visit_Concat(node, frame)
            return
        self.write("concat(map(str, (")
        for one in node.nodes:
            self.visit(one, frame)
            self.write(", ")
        self.write(")))")


class MarkedEnvironment(SandboxedEnvironment):
    """Jinja's sandbox, in which an output tells the template's characters from all others."""

    code_generator_class = MarkedCode
    concat = staticmethod(concat)

    def __init__(self, **settings: Any) -> None:
        """Take Jinja's settings."""
        super().__init__(**settings)
        self.texts: list[MarkedText] = []
        self.filters.update(join=_do_join, safe=_safe)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replace `format` of a marked text."""
        owner = getattr(value, "__self__", None)
        plain = super().wrap_str_format(value)
        if plain is None or type(owner) is not MarkedText:
            return plain
        if value.__name__ == "format_map":
            return plain
        return lambda *args, **kwargs: _Formatter(self).vformat(owner, args, kwargs)


@pass_environment
def _do_join(
    environment: MarkedEnvironment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return _join(str(d), map(str, value))
