"""A notebook as it is published: pictures where widgets were, and words for every picture."""

from __future__ import annotations

import base64
import re
from copy import deepcopy
from pathlib import Path

from nbformat import NotebookNode

from helpers.errors import InstallError

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_PICTURES = {
    "ChatBox": "widget_chat.png",
    "DocumentChat": "widget_documents.png",
    "GpuTuner": "widget_tuner.png",
    "GrammarPlayground": "widget_playground.png",
    "ModelChooser": "widget_chooser.png",
}
_MADE = re.compile(rf"\b({'|'.join(_PICTURES)})\(")


def published(notebook: NotebookNode, data: Path) -> NotebookNode:
    """Return a notebook that can be read where no kernel runs.

    A widget becomes its picture, unless the text around it shows that picture already. The words
    that a figure has for itself become the alternative text of its picture.

    Args:
        notebook: The notebook, in nbformat's version 4; it stays as it is.
        data: The folder with the pictures of the widgets, `notebooks/data`.

    Raises:
        InstallError: If there is no picture of a widget.
    """
    notebook = deepcopy(notebook)
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if WIDGET_VIEW in output.get("data", {}):
                name, picture = _picture_of(cell.source)
                if picture in prose:
                    continue
                png = _read(data / picture)
                output.data = {
                    "image/png": base64.b64encode(png).decode(),
                    "text/plain": f"<Figure: {name} at work>",
                }
                output.metadata = {"image/png": _size(png)}
            _describe(cell, output)
            kept.append(output)
        cell.outputs = kept
    return notebook


def _picture_of(source: str) -> tuple[str, str]:
    made = _MADE.search(source)
    if made is None:
        raise InstallError(
            f"a cell shows a widget, and makes none of {', '.join(_PICTURES)}: {source[:60]!r}; "
            "add its picture to helpers/publish/notebooks.py"
        )
    return made[1], _PICTURES[made[1]]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise InstallError(
            f"{path.name} is missing in {path.parent.name}: git restore notebooks/data, or take "
            "it again (CONTRIBUTING.md says how)"
        ) from None


def _size(png: bytes) -> dict[str, int]:
    """The size to show; the pictures have two points for one."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # the IHDR chunk
    return {"width": width // 2, "height": height // 2}


def _describe(cell: NotebookNode, output: NotebookNode) -> None:
    """Write down a picture's words and size where nbconvert and MyST-NB look for them."""
    found = output.get("data", {})
    if not any(kind.startswith("image/") for kind in found):
        return
    words = found.get("text/plain", "")
    words = words.removeprefix("<Figure: ").removesuffix(">") or "A picture made by this cell"
    output.metadata["alt"] = words
    image = {"alt": words}
    width = output.metadata.get("image/png", {}).get("width")
    if width:
        image["width"] = f"{width}px"
    cell.metadata.setdefault("mystnb", {})["image"] = image
