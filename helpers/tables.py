r"""Tables for people: the same rows as lines of text and as HTML for a notebook.

Columns map a name to a format specification: `">8,.1f"` is aligned right, takes at least 8
characters of a text, and writes numbers with one decimal. A cell that is None stays empty. A row
may be shorter than the columns: its last cell takes the rest of the line.

>>> print("\n".join(text_lines({"device": "<8", "MiB": ">6.1f"}, [("CPU", 12.34)])))
device       MiB
CPU         12.3
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import repeat

Columns = Mapping[str, str]
Cells = Sequence[str | float | None]

_SIDES = {"<": "left", ">": "right"}
_SPECIFICATION = re.compile(r"([<>])(\d*)(.*)")


class Code(str):
    """A cell to be typed, or to be read character by character."""

    __slots__ = ()


class FactSheet(ABC):
    """What shows itself as labels with their texts; a subclass says which, in `rows()`."""

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """Return what `str()` and the notebook show, as (label, text)."""

    def __str__(self) -> str:
        """Return the table as lines of text."""
        return "\n".join(text_lines(_FACTS, self.rows())[1:])

    def _repr_html_(self) -> str:
        """Return the table for Jupyter."""
        return html_table(_FACTS, self.rows())


_FACTS = {"": "<", " ": "<"}


def text_lines(columns: Columns, rows: Iterable[Cells]) -> list[str]:
    """Write a table for a terminal: a line of names, and one for each row."""
    lines = [list(columns), *(_written(columns, row) for row in rows)]
    aligned = [line if len(line) == len(columns) else line[:-1] for line in lines]
    forms = []
    for place, (side, width, _) in enumerate(_specifications(columns)):
        found = [len(cells[place]) for cells in aligned if place < len(cells)]
        forms.append(f"{side}{max(width, *found)}")
    return [
        "  ".join([*map(format, cells, forms), *line[len(cells) :]]).rstrip()
        for line, cells in zip(lines, aligned, strict=True)
    ]


def html_table(
    columns: Columns,
    rows: Iterable[Cells],
    *,
    caption: Iterable[str] = (),
    notes: Iterable[str] = (),
    strong: int | None = None,
    style: str = "",
) -> str:
    """Write a table for a notebook; it sets no colours, so it suits every theme.

    Args:
        columns: Names and format specifications. A first column without a name holds the headings
            of the rows; where no column has a name there is no head.
        rows: The cells, to be escaped here.
        caption: Lines above the table.
        notes: Lines below the table.
        strong: Index of a row to set in bold.
        style: CSS for all cells of the rows.
    """
    looks = [f"text-align:{_SIDES[side]}" for side, _, _ in _specifications(columns)]
    names = list(columns)
    head = "".join(map(_html_cell, repeat("th"), names, looks)) if "".join(names).strip() else ""
    body = ""
    for index, row in enumerate(rows):
        cells = _written(columns, row)
        tags = ["td" if names[0] else "th", *repeat("td", len(cells) - 1)]
        styles = [f"{look};{style}" if style else look for look in looks[: len(cells)]]
        spans = [1] * len(cells)
        if len(cells) < len(names):
            styles[-1], spans[-1] = "text-align:left", len(names) - len(cells) + 1
        bold = " style='font-weight:bold'" if index == strong else ""
        body += f"<tr{bold}>{''.join(map(_html_cell, tags, cells, styles, spans))}</tr>"
    # Not a <caption>: that would be as narrow as the table, or make the table as wide as itself.
    above, below = ("<br>".join(map(escape, lines)) for lines in (caption, notes))
    return (
        (f"<div>{above}</div>" if above else "")
        + "<table>"
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table>"
        + (f"<p>{below}</p>" if below else "")
    )


def _html_cell(tag: str, text: str, style: str, span: int = 1) -> str:
    shown = escape(text)
    if text and isinstance(text, Code):
        shown = f"<code style='white-space:pre-wrap'>{shown}</code>"
    wide = f" colspan='{span}'" if span > 1 else ""
    return f"<{tag} style='{style}'{wide}>{shown}</{tag}>"


def _specifications(columns: Columns) -> list[tuple[str, int, str]]:
    """The side, the least width, and the form of numbers of each column."""
    found = [_SPECIFICATION.fullmatch(text) for text in columns.values()]
    return [(one[1], int(one[2] or 1), one[3]) for one in found if one]


def _written(columns: Columns, row: Cells) -> list[str]:
    forms = [form for _, _, form in _specifications(columns)]
    return [
        "" if cell is None else cell if isinstance(cell, str) else format(cell, form)
        for cell, form in zip(row, forms, strict=False)
    ]
