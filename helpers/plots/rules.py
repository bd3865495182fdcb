"""A grammar's rules as railroad diagrams: every way along the tracks spells a text.

Literal texts have round ends, names of other rules are in boxes with corners. The drawing is one
SVG with a transparent background, in a grey that can be read on light and dark pages.
"""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING, Any

from helpers.errors import HelpersError
from helpers.grammars.gbnf import syntax
from helpers.plots.style import INK

if TYPE_CHECKING:
    from helpers.grammars import Grammar

_MAX_RULES = 60
_MAX_NODES = 1500
_MAX_TEXT = 48
_NAME_HEIGHT = 22
_STYLE = f"""
.rules path {{ stroke-width: 2; stroke: {INK}; fill: none; }}
.rules rect {{ stroke-width: 2; stroke: {INK}; fill: none; }}
.rules text {{ font: 13px monospace; text-anchor: middle; fill: {INK}; }}
.rules text.comment {{ font: italic 12px monospace; }}
.rules text.name {{ font: bold 14px monospace; text-anchor: start; }}
"""


class RulesDrawing:
    """Rules as one SVG; Jupyter shows it by itself.

    Attributes:
        svg: The drawing.
        names: The rules that are drawn, from top to bottom.
    """

    def __init__(self, svg: str, names: tuple[str, ...]) -> None:
        self.svg = svg
        self.names = names

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Railroad diagrams of {len(self.names)} rules: {', '.join(self.names)}>"


def plot_rules(grammar: Grammar, *names: str) -> RulesDrawing:
    """Draw a grammar's rules as railroad diagrams.

    Args:
        grammar: The grammar.
        names: Rules to draw, in this order; default: all, or as many as one picture can hold.

    Returns:
        The drawing.

    Raises:
        HelpersError: The package that draws is not installed, or the grammar has no GBNF rules.
        ValueError: A rule of this name does not exist.
    """
    rules = grammar.rules
    if rules is None:
        raise HelpersError(
            "This grammar has no GBNF rules to draw: look at its schema, grammar.schema."
        )
    for name in names:
        if name not in rules:
            raise ValueError(f"There is no rule {name!r}; there are {', '.join(rules)}.")
    try:
        import railroad
    except ImportError as error:
        raise HelpersError(
            "Drawing rules needs the package railroad-diagrams: pip install 'llama-notebooks[lab]'"
        ) from error
    drawn: list[str] = []
    parts: list[str] = []
    width, top, nodes = 0, 0, 0
    for name in names or tuple(rules)[:_MAX_RULES]:
        nodes += sum(1 for _ in syntax.walk(rules[name]))
        if nodes > _MAX_NODES and not names:
            break
        body, right, height = _one_rule(railroad, rules[name], top + _NAME_HEIGHT)
        parts.append(f'<text class="name" x="4" y="{top + 16}">{escape(name)}</text>{body}')
        drawn.append(name)
        top += _NAME_HEIGHT + height
        width = max(width, right, 12 + 9 * len(name))
    left_out = 0 if names else len(rules) - len(drawn)
    if left_out:
        words = f"… and {left_out} more rules, not drawn"
        parts.append(f'<text class="name" x="4" y="{top + 16}">{words}</text>')
        top += _NAME_HEIGHT
        width = max(width, 9 * len(words))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rules" width="{width}" height="{top}" '
        f'viewBox="0 0 {width} {top}" role="img" aria-label="Railroad diagrams of '
        f'{escape(", ".join(drawn), quote=True)}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )
    return RulesDrawing(svg, tuple(drawn))


def _one_rule(railroad: Any, node: syntax.Node, top: int) -> tuple[str, int, int]:
    """The SVG of one rule moved to its place, its width and its height."""
    diagram = railroad.Diagram(_item(railroad, node)).format(paddingTop=4, paddingLeft=8)
    width, height = int(float(diagram.attrs["width"])) + 1, int(float(diagram.attrs["height"])) + 1
    buffer = io.StringIO()
    # Its own <svg> is left out: everything becomes one picture with one style.
    for child in diagram.children:
        if isinstance(child, str):
            buffer.write(escape(child))
        else:
            child.writeSvg(buffer.write)
    return f'<g transform="translate(0 {top})">{buffer.getvalue()}</g>', width, height


def _item(railroad: Any, node: syntax.Node) -> Any:
    if isinstance(node, syntax.Literal):
        return railroad.Terminal(literal_text(node.text)) if node.text else railroad.Skip()
    if isinstance(node, syntax.Ref):
        return railroad.NonTerminal(node.name)
    if isinstance(node, syntax.Sequence):
        return railroad.Sequence(*(_item(railroad, item) for item in node.items))
    if isinstance(node, syntax.Choice):
        return railroad.Choice(0, *(_item(railroad, option) for option in node.options))
    if isinstance(node, syntax.Repeat):
        return _repeat(railroad, node)
    return railroad.Terminal(_short(syntax.show(node)))


def _repeat(railroad: Any, node: syntax.Repeat) -> Any:
    item = _item(railroad, node.item)
    if node.high == 0:
        return railroad.Skip()
    if node.high != 1 or node.low > 1:
        words = repeat_words(node.low, node.high)
        item = railroad.OneOrMore(item, railroad.Comment(words) if words else None)
    return railroad.Optional(item) if node.low == 0 else item


def repeat_words(low: int, high: int | None) -> str:
    """How often, in words; empty where the tracks alone show it.

    >>> repeat_words(0, None), repeat_words(3, 3), repeat_words(2, 5), repeat_words(4, None)
    ('', '3 times', '2 to 5 times', '4 times or more')
    """
    if high is None:
        return f"{low} times or more" if low > 1 else ""
    if low == high:
        return f"{low} times"
    return f"{low} to {high} times" if low > 1 else f"at most {high} times"


def literal_text(text: str) -> str:
    r"""A literal in quotation marks, with readable escapes; letters of all scripts stay themselves.

    >>> literal_text('a"\n한')
    '"a\\"\\n한"'
    """
    shown = "".join(
        char if char.isprintable() and char not in '"\\' else syntax.quote(char)[1:-1]
        for char in text
    )
    return _short(f'"{shown}"')


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
