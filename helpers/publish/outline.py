"""Which cells of a notebook become which slides, without a tag in the notebook.

- A title and a heading `##` begin a column of slides. In it prose that leads to code begins a
  slide; below it stand the code, what the code gave, and what is said of that.
- Left out: cells that only check what was taught, where to read on ("Elsewhere", "Next"), what
  one needs, and of the exercises all but their titles.
- What has no room on a slide goes to a further one. A long output is cut, and says so.

Two tags overrule this: a cell tagged `slide-skip` is left out, one tagged `slide-keep` is shown.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

WIDTH, HEIGHT = 1280, 720
ROOM = 600
"""The height of a slide in points that its cells may fill."""

LINES, COLUMNS = 12, 104
"""What is shown of an output that is text."""

_LINE = 26  # points of a line of code; one of prose takes half as much again
_PICTURE = (1150, 430)  # the largest picture
_LEFT_OUT = {
    "Elsewhere", "Exercises", "What you'll need", "Time", "Hardware", "Next", "Related",
}  # fmt: skip
_OPENING = re.compile(
    r"^(?=\*\*(?:What you'll (?:learn|need)|Time|Hardware|Next|Related))|^(?=## )", re.MULTILINE
)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def headings(notebook: NotebookNode) -> list[str]:
    """Return the headings `##` of a notebook, in order."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", _FENCE.sub("", prose), re.MULTILINE)


def outline(notebook: NotebookNode, notes: Mapping[str, str]) -> NotebookNode:
    """Return the notebook whose cells are the parts of slides, for nbconvert.

    Args:
        notebook: A published notebook.
        notes: What the speaker reads, by the heading of the section; that of the title is "".
    """
    cells: list[NotebookNode] = []
    used, told, shown = 0, set[str](), ""
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
    chosen = list(_chosen(notebook))
    for (section, cell), after in zip_longest(chosen, chosen[1:]):
        # Prose that leads to no code has its place below what is shown already, if there is room.
        leads = cell.source.startswith("**") or (after and after[1].cell_type == "code")
        begins = "subslide" if cell.cell_type == "markdown" and leads else "-"
        if section not in told:
            begins = "slide"
        for part, height in _parts(cell, used if begins == "-" else 0):
            if begins == "-" and used + height > ROOM:
                begins = "subslide"
            if begins == "subslide" and section == shown:
                where = new_markdown_cell(f'<p class="where">{section or title}</p>')
                cells.append(_placed(where, begins))
                begins, used = "-", 0
            cells.append(_placed(part, begins))
            used = height if begins != "-" else used + height
            begins, shown = "-", section
            if section not in told and notes.get(section):
                cells.append(_placed(new_markdown_cell(notes[section]), "notes"))
            told.add(section)
    return NotebookNode(notebook, cells=cells)


def unlinked(text: str) -> str:
    """Return prose without its links to files, which are not there beside the slides."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:)[^)]+\)", r"\1", text)


def _placed(cell: NotebookNode, kind: str) -> NotebookNode:
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def _chosen(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Give the cells to be shown with their sections; prose is taken apart at its headings."""
    section, exercises = "", list[str]()
    for cell, after in zip_longest(notebook.cells, notebook.cells[1:]):
        tags = set(cell.metadata.get("tags", ()))
        for piece in _pieces(cell):
            begins = None
            if cell.cell_type == "markdown":
                begins = re.match(r"## (.+)|\*\*(.+?)\*\*", piece.source)
                exercises += re.findall(r"^### (.+)$", piece.source, re.MULTILINE)
            section = begins[1] or section if begins else section
            left_out = {section, begins[2] if begins else None} & _LEFT_OUT or _only_checks(cell)
            if after and _only_checks(after) and piece.source.endswith(":"):
                left_out = True
            if "slide-keep" in tags or not (left_out or "slide-skip" in tags):
                yield section, piece
    if exercises:
        titles = "\n".join(f"- {title}" for title in exercises)
        yield "Exercises", new_markdown_cell(f"## Exercises\n\n{titles}")


def _pieces(cell: NotebookNode) -> list[NotebookNode]:
    if cell.cell_type != "markdown":
        return [cell]
    fences = [range(*found.span()) for found in _FENCE.finditer(cell.source)]
    at = [found.start() for found in _OPENING.finditer(cell.source)]
    at = [0, *(place for place in at if place and not any(place in fence for fence in fences))]
    ends = [*at[1:], len(cell.source)]
    texts = (unlinked(cell.source[a:b].strip()) for a, b in zip(at, ends, strict=True))
    return [new_markdown_cell(text) for text in texts if text]


def _only_checks(cell: NotebookNode) -> bool:
    return (
        cell.cell_type == "code"
        and re.search(r"^assert\b", cell.source, re.MULTILINE) is not None
        and all(output.get("text", "").startswith("✓") for output in cell.outputs)
    )


def _parts(cell: NotebookNode, used: int) -> Iterator[tuple[NotebookNode, int]]:
    """Give a cell with the height that it takes; code and outputs apart if there is no room."""
    if cell.cell_type != "code":
        yield cell, _prose_height(cell.source)
        return
    shown = [_cut(output) for output in cell.outputs]
    code, below = _LINE * len(cell.source.splitlines()) + 40, sum(map(_output_height, shown))
    if used + code + below <= ROOM:
        yield new_code_cell(cell.source, outputs=shown), code + below
        return
    yield new_code_cell(cell.source), code
    for output in shown:
        alone = new_code_cell(outputs=[output], metadata={"transient": {"remove_source": True}})
        yield alone, _output_height(output)


def _prose_height(text: str) -> int:
    pictures = len(re.findall(r"!\[", text))
    lines = 0
    for line in re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).splitlines():
        lines += (2 if line.startswith("#") else 1) * max(1, -(-len(line) // 84)) if line else 0
    return lines * _LINE * 3 // 2 + pictures * _PICTURE[1]


def _cut(output: NotebookNode) -> NotebookNode:
    """Return what is shown of an output: of a text, its first lines; a picture in its size."""
    output = NotebookNode(output)
    if output.output_type == "stream":
        output.text = _first_lines(output.text)
        return output
    output.data, output.metadata = dict(output.data), dict(output.metadata)
    for kind in ("image/png", "image/svg+xml"):
        if kind in output.data:
            size = output.metadata.get(kind, {})
            width, height = size.get("width", _PICTURE[0]), size.get("height", _PICTURE[1])
            scale = min(_PICTURE[0] / width, _PICTURE[1] / height, 1.5)
            output.metadata[kind] = {"width": int(width * scale), "height": int(height * scale)}
    if set(output.data) == {"text/plain"}:
        output.data["text/plain"] = _first_lines(output.data["text/plain"])
    return output


def _first_lines(text: str) -> str:
    lines = [
        part
        for line in text.rstrip("\n").splitlines()
        for part in textwrap.wrap(line, COLUMNS, drop_whitespace=False, replace_whitespace=False)
        or [""]
    ]
    if len(lines) <= LINES:
        return "\n".join(lines)
    return "\n".join([*lines[: LINES - 1], f"… and {len(lines) - LINES + 1} more lines"])


def _output_height(output: NotebookNode) -> int:
    if output.output_type == "stream":
        return len(output.text.splitlines()) * _LINE + 30
    for kind in ("image/png", "image/svg+xml"):
        if kind in output.data:
            return int(output.metadata[kind]["height"]) + 20
    if "text/html" in output.data:
        html = str(output.data["text/html"])
        return (max(html.count("<tr"), 1) + html.count("<br>")) * _LINE * 3 // 2 + 30
    return len(output.data.get("text/plain", "").splitlines()) * _LINE + 30
