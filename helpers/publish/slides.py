"""`python -m helpers slides`: the notebooks as slides, for a room without a network.

`outline.py` says which cells become which slides. The speaker's notes come from the instructor's
(`workshop/notes/NN_*.md`); the key S shows them in a window of their own. The folder that is
written holds everything, reveal.js too, and opens from a disk.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import re
import shutil
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert.exporters import SlidesExporter
from traitlets.config import Config

from helpers.errors import InstallError
from helpers.install.environment import ensure_extra
from helpers.install.paths import REPOSITORY
from helpers.publish.notebooks import published
from helpers.publish.outline import HEIGHT, WIDTH, headings, outline, unlinked

NOTEBOOKS = REPOSITORY / "notebooks"
NOTES = REPOSITORY / "workshop" / "notes"
OUT = REPOSITORY / "docs" / "_build" / "slides"
_STYLE = Path(__file__).with_name("slides.css")
_TEMPLATE = Path(__file__).with_name("slides.html.j2")


def main(arguments: Sequence[str]) -> int:
    """Write the slides of some notebooks, or of all."""
    parser = argparse.ArgumentParser(prog="python -m helpers slides", description=__doc__)
    parser.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks, as in 20")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--open", action="store_true", help="show them in a browser")
    options = parser.parse_args(list(arguments))
    chosen = find(options.numbers)
    ensure_extra(REPOSITORY, "site")
    written = write(chosen, options.out)
    for path in written:
        print(path)
    print("The key S opens the speaker's notes, F fills the screen, ? lists the other keys.")
    if options.open:
        first = written[0] if len(written) == 1 else options.out / "index.html"
        webbrowser.open(first.resolve().as_uri())
    return 0


def find(numbers: Sequence[str]) -> list[Path]:
    """Return the notebooks with these numbers, or all of them.

    Raises:
        InstallError: If there is none with a number.
    """
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    known = {path.name[:2]: path for path in every}
    for number in numbers:
        if number not in known:
            raise InstallError(f"there is no notebook {number!r}: choose from {', '.join(known)}")
    return [known[number] for number in numbers] or every


def write(notebooks: Sequence[Path], out: Path, notes: Path = NOTES) -> list[Path]:
    """Write the slides of notebooks into a folder, and return their files.

    Args:
        notebooks: Files of notebooks, with their outputs.
        out: The folder; it need not exist.
        notes: The folder of the instructor's notes.

    Raises:
        InstallError: If notes are written for a section that a notebook does not have.
    """
    out.mkdir(parents=True, exist_ok=True)
    _copy_reveal(out / "reveal.js")
    exporter = SlidesExporter(
        config=Config(CSSHTMLHeaderPreprocessor={"style": "a11y-high-contrast-light"}),
        template_file="slides.html.j2",
        extra_loaders=[DictLoader({"slides.html.j2": _TEMPLATE.read_text(encoding="utf-8")})],
        reveal_width=str(WIDTH),
        reveal_height=str(HEIGHT),
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    titles = {}
    for path in notebooks:
        notebook = published(nbformat.read(path, as_version=4), NOTEBOOKS / "data")
        slides = outline(notebook, read_notes(path, notes))
        resources = {
            "metadata": {"name": _title(notebook), "path": str(path.parent)},
            "slides_css": _STYLE.read_text(encoding="utf-8"),
        }
        body, _ = exporter.from_notebook_node(slides, resources)
        (out / f"{path.stem}.html").write_text(body, encoding="utf-8")
        titles[f"{path.stem}.html"] = _title(notebook)
    _write_index(out, titles)
    return [out / name for name in titles]


def read_notes(notebook: Path, folder: Path) -> dict[str, str]:
    """Read what the speaker of a notebook wants to see, by section; "" is the title.

    Under `## Slides` the notes have a heading `###` for each section that they speak of; all else
    is shown with the title.

    Raises:
        InstallError: If there is no such section in the notebook.
    """
    found: dict[str, str] = {}
    for path in folder.glob(f"{notebook.stem[:2]}_*.md"):
        known = headings(nbformat.read(notebook, as_version=4))
        opening = []
        text = unlinked(path.read_text(encoding="utf-8"))
        for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            if part.splitlines()[0].strip() != "Slides":
                opening.append(f"### {part.strip()}")
                continue
            for piece in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
                section, _, text = piece.partition("\n")
                if section.strip() not in known:
                    raise InstallError(
                        f"{path.name} has notes for {section.strip()!r}, and {notebook.name} has "
                        f"no such section: it has {', '.join(known)}"
                    )
                found[section.strip()] = text.strip()
        found[""] = "\n\n".join(opening)
    return found


def _copy_reveal(target: Path) -> None:
    """Copy reveal.js from the package that brings it."""
    package = importlib.util.find_spec("sphinx_revealjs")
    places = list(package.submodule_search_locations or ()) if package else []
    scripts = [found for place in places for found in Path(place).rglob("dist/reveal.js")]
    if not scripts:
        raise InstallError(
            'reveal.js is not installed: python -m pip install -c constraints.txt -e ".[site]"'
        )
    for name in ("dist", "plugin/notes"):
        shutil.copytree(scripts[0].parents[1] / name, target / name, dirs_exist_ok=True)


def _title(notebook: nbformat.NotebookNode) -> str:
    return str(notebook.cells[0].source.partition("\n")[0].lstrip("# "))


def _write_index(out: Path, titles: Mapping[str, str]) -> None:
    links = "\n".join(
        f'<li><a href="{name}">{html.escape(title)}</a></li>' for name, title in titles.items()
    )
    head = '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Slides</title>\n'
    text = f"{head}<h1>Slides</h1>\n<ul>\n{links}\n</ul>\n"
    (out / "index.html").write_text(text, encoding="utf-8")
