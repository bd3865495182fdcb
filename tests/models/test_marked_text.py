"""Marked texts do what `str` does, and never take a content's character for the template's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.marked_text import (
    MarkedEnvironment,
    MarkedText,
    concat,
    joined,
    marked,
    parts_of,
)

# No character of one is, in any case, one of the other: it tells who wrote it.
OWN = "Aa<|\n Ω"
CONTENT = "XxßŉǆΣσς>{\t"  # noqa: RUF001
OWNERS = {
    c for own in OWN for c in (own, *own.upper(), *own.lower(), *own.title(), *own.casefold())
}

own = st.text(OWN, max_size=4)
content = st.text(CONTENT, max_size=4)
texts = st.lists(own.map(marked) | content, max_size=5).map(concat)
counts = st.integers(-2, 6)

EXACT: dict[str, Callable[..., Any]] = {
    "[i:j]": lambda t, a, i, j: t[i:j],
    "[i:j:-1]": lambda t, a, i, j: t[i:j:-1],
    "[i:j:2]": lambda t, a, i, j: t[i:j:2],
    "[i]": lambda t, a, i, j: t[i] if -len(t) <= i < len(t) else "",
    "list": lambda t, a, i, j: list(t),
    "+": lambda t, a, i, j: t + a,
    "radd": lambda t, a, i, j: a + t,
    "*": lambda t, a, i, j: t * i,
    "r*": lambda t, a, i, j: i * t,
    "str": lambda t, a, i, j: str(t),
    "strip": lambda t, a, i, j: t.strip(),
    "strip of": lambda t, a, i, j: t.strip(a),
    "lstrip": lambda t, a, i, j: t.lstrip(a),
    "rstrip": lambda t, a, i, j: t.rstrip(a),
    "removeprefix": lambda t, a, i, j: t.removeprefix(t[:i]),
    "removesuffix": lambda t, a, i, j: t.removesuffix(t[i:]),
    "split": lambda t, a, i, j: t.split(None, i),
    "split at": lambda t, a, i, j: t.split(a[:1] or "|", i),
    "rsplit": lambda t, a, i, j: t.rsplit(None, i),
    "rsplit at": lambda t, a, i, j: t.rsplit(a[:1] or "|", i),
    "splitlines": lambda t, a, i, j: t.splitlines(),
    "splitlines, ends": lambda t, a, i, j: t.splitlines(True),
    "partition": lambda t, a, i, j: t.partition(t[i:j] or "<"),
    "rpartition": lambda t, a, i, j: t.rpartition(t[i:j] or "<"),
    "upper": lambda t, a, i, j: t.upper(),
}
"""What keeps every mark; `upper` and the like where no character depends on its neighbours."""

SAFE: dict[str, Callable[..., Any]] = {
    "join": lambda t, a, i, j: t.join([a, t, "x"]),
    "replace": lambda t, a, i, j: t.replace(t[i:j], a),
    "replace some": lambda t, a, i, j: t.replace(t[i : i + 1], a, j),
    "replace in": lambda t, a, i, j: a.replace(t[i:j], t),
    "lower": lambda t, a, i, j: t.lower(),
    "swapcase": lambda t, a, i, j: t.swapcase(),
    "title": lambda t, a, i, j: t.title(),
    "capitalize": lambda t, a, i, j: t.capitalize(),
    "casefold": lambda t, a, i, j: t.casefold(),
    "center": lambda t, a, i, j: t.center(9, a[:1] or " "),
    "ljust": lambda t, a, i, j: t.ljust(9),
    "rjust": lambda t, a, i, j: t.rjust(9),
    "zfill": lambda t, a, i, j: t.zfill(9),
    "expandtabs": lambda t, a, i, j: t.expandtabs(2),
    "translate": lambda t, a, i, j: t.translate({ord("<"): "x"}),
    "format": lambda t, a, i, j: f"{t}{a:>9}",
    "%": lambda t, a, i, j: "%s" % t,  # noqa: UP031
}
"""What may lose marks, but makes none."""


def bare(value: Any) -> Any:
    """The plain texts in a value."""
    if isinstance(value, str):
        assert type(value) is MarkedText or type(value) is str
        return str.__str__(value)
    return [bare(one) for one in value]


def check(value: Any, exact: bool) -> None:
    """Every character is known to be whose it is."""
    if not isinstance(value, str):
        for one in value:
            check(one, exact)
        return
    assert "".join(text for text, _ in parts_of(value)) == str.__str__(value)
    for text, is_own in parts_of(value):
        if is_own or exact:
            assert all((character in OWNERS) is is_own for character in text), parts_of(value)


@pytest.mark.parametrize("name", [*EXACT, *SAFE])
@settings(max_examples=150, deadline=None)
@given(text=texts, other=texts, i=counts, j=counts)
def test_the_same_text_and_nobody_else_s_marks(
    name: str, text: str, other: str, i: int, j: int
) -> None:
    action = (EXACT | SAFE)[name]
    found = action(text, other, i, j)
    assert bare(found) == bare(action(bare(text), bare(other), i, j))
    check(found, exact=name in EXACT)


@given(text=texts, other=texts)
def test_it_is_equal_to_its_text_and_hashed_as_it(text: str, other: str) -> None:
    assert text == bare(text) and hash(text) == hash(bare(text))
    assert {bare(text): 1}.get(text) == 1
    assert (text == other) is (bare(text) == bare(other))


def test_only_the_makers_make_marks() -> None:
    assert parts_of(MarkedText("<s>")) == (("<s>", False),)
    assert type(MarkedText(marked("<s>"))) is str
    assert parts_of(joined([("a", False), ("", True), ("b", False)])) == (("ab", False),)


MESSY = "  <|im_end|>&\n"
RENDERED = {
    "<u>{{ x }}</u>": [("<u>", True), (MESSY, False), ("</u>", True)],
    "{{ '<u>' ~ x ~ 5 }}": [("<u>", True), (MESSY + "5", False)],
    "{{ '<u>' + x | trim + '!' }}": [("<u>", True), ("<|im_end|>&", False), ("!", True)],
    "{{ {'a': ['<u>', ('<v>',)]}.a[1][0] }}": [("<v>", True)],
    "{% set t %}<u>{{ x }}{% endset %}{{ t | upper }}": [
        ("<U>", True), (MESSY.upper(), False),
    ],
    "{% macro m(a) %}<u>{{ a }}{{ caller() }}{% endmacro %}{% call m(x) %}<v>{% endcall %}": [
        ("<u>", True), (MESSY, False), ("<v>", True),
    ],
    "{% filter trim %} <u>{{ x }}{% endfilter %}": [("<u>", True), (MESSY.rstrip(), False)],
    "{{ ['<u>', x] | join('|') }}": [("<u>|", True), (MESSY, False)],
    "{{ '|'.join(['<u>', x]) }}": [("<u>|", True), (MESSY, False)],
    "{{ [{'a': '<u>'}, {'a': x}] | join(attribute='a') }}": [("<u>", True), (MESSY, False)],
    "{{ '<u>{}{a:>4}{{'.format(x, a='<v>') }}": [
        ("<u>", True), (MESSY + " <v>", False), ("{", True),
    ],
    "{{ '<u>{a[0]}'.format_map({'a': x}) }}": [("<u> ", False)],
    "{{ '%s<u>' % x }}": [(MESSY + "<u>", False)],
    "{{ '<u>{x}'.replace('{x}', x) }}": [("<u>", True), (MESSY, False)],
    "{{ x.replace('|', '<u>') }}": [(MESSY.replace("|", "<u>"), False)],
    "{{ '<u>' + (x | safe) }}": [("&lt;u&gt;", True), (MESSY, False)],
    "{{ ('<u>' | safe) + x }}": [
        ("<u>", True), ("  &lt;|im_end|&gt;&amp;\n", False),
    ],
    "{% set ns = namespace(t='') %}{% for c in '<u>' %}{% set ns.t = ns.t + c + x[0] %}{% endfor %}"
    "{{ ns.t }}": [
        ("<", True), (" ", False), ("u", True), (" ", False), (">", True), (" ", False),
    ],
    "{{ '<u>' ~ '<v>' }}{{ 1 + 1 }}": [("<u><v>2", True)],
    "{{ own }}{{ x.split('|')[1] }}": [("</s>", True), ("im_end", False)],
    "{{ '<u>'._parts }}{{ '<u>'.of }}": [],
}  # fmt: skip


@pytest.mark.parametrize("source", RENDERED)
def test_a_template_s_text_is_told_from_its_values(source: str) -> None:
    template = MarkedEnvironment().from_string(source)
    found = parts_of(template.render(x=MESSY, own=marked("</s>")))
    assert [part for part in found if part[0]] == RENDERED[source]
