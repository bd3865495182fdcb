"""Check, and with --fix fix, the form of the notebooks.

    python tests/notebooks/check_form.py [--fix] [paths]

Without paths: every notebook in notebooks/, its solutions and its translations, and whether the
README's table lists just the first.
--fix fixes what can be fixed without thinking: ids, kernelspec, other metadata, whitespace, the
order of keys in the file. It never touches outputs. Exit status 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from form_rules import (
    CELL_METADATA,
    METADATA,
    RUN_SECONDS,
    Notebook,
    canonical_text,
    check_notebook,
    is_seconds,
    tidy,
)
from machine_traces import ROOT

NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"


def find_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks of a folder in the order of their numbers."""
    return sorted(folder.glob("*.ipynb"))


def listed_in(readme: Path = README) -> list[str]:
    """Return the file names of the notebooks that the README's table links to, in its order."""
    rows = [
        line for line in readme.read_text("utf-8").splitlines() if line.lstrip().startswith("|")
    ]
    return [name for row in rows for name in re.findall(r"\]\(notebooks/([^)\s]+\.ipynb)\)", row)]


def way_through(folder: Path = NOTEBOOKS) -> list[str]:
    """Return the notebooks in the order in which a reader meets them.

    That is the way along the links of **Next** from the first one, then the others, which are
    pages of a platform, by their numbers.
    """
    way: list[str] = []
    found = [path.name for path in find_notebooks(folder)]
    here = found[0] if found else ""
    while here in found and here not in way:
        way.append(here)
        last = nbformat.v4.reads((folder / here).read_text("utf-8")).cells[-1].source
        following = re.search(r"\]\(([^)\s]+\.ipynb)\)", last.partition("**Next**")[2])
        here = following[1] if following else ""
    return [*way, *(name for name in found if name not in way)]


def list_problems(found: list[str], listed: list[str]) -> list[str]:
    """Compare the notebooks that exist, in the order of the way, with those of the README."""
    problems = []
    if not found:
        problems.append("there is no notebook in notebooks/")
    if not listed:
        problems.append("the README's table lists no notebook")
    problems += [f"{n} is not in the README's table" for n in found if n not in listed]
    problems += [
        f"the README's table lists {n}, which does not exist" for n in listed if n not in found
    ]
    twice = sorted({n for n in listed if listed.count(n) > 1})
    problems += [f"the README's table lists {n} twice" for n in twice]
    if not problems and listed != found:
        problems.append("the README's tables are not in the order of the way through the notebooks")
    return problems


def normalise(node: Any) -> Any:
    """Fix in place what needs no thought, and return the notebook."""
    node.nbformat, node.nbformat_minor = 4, 5
    seconds = node.metadata.get(RUN_SECONDS)
    node.metadata = nbformat.from_dict(METADATA)
    if is_seconds(seconds):
        node.metadata[RUN_SECONDS] = seconds
    used: set[str] = set()
    for n, cell in enumerate(node.cells):
        cell.source = tidy(cell.source)
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in CELL_METADATA and value}
        )
        if not cell.get("id") or cell.id in used:
            cell.id = _new_id(f"{n}\n{cell.source}", used)
        used.add(cell.id)
    return node


def _new_id(text: str, used: set[str]) -> str:
    # From the content, so that two runs of --fix give the same file.
    while True:
        text_id = hashlib.sha256(text.encode()).hexdigest()[:8]
        if text_id not in used:
            return text_id
        text += "'"


def write(path: Path, node: Any) -> None:
    """Write a notebook in its one canonical form, on every system with the same line ends."""
    path.write_text(canonical_text(node), encoding="utf-8", newline="\n")


def fix(path: Path) -> bool:
    """Fix one notebook file; return True if it was changed."""
    notebook = Notebook.read(path)
    text = canonical_text(normalise(notebook.node))
    if text == notebook.text:
        return False
    path.write_text(text, encoding="utf-8", newline="\n")
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="fix what needs no thought")
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all)")
    options = parser.parse_args(arguments)
    paths: list[Path] = options.paths or find_notebooks()
    if not options.paths:
        paths = [*paths, *(p for f in ("solutions", "ko") for p in find_notebooks(NOTEBOOKS / f))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(map(str, missing))}")

    problems: list[object] = []
    if not options.paths:
        problems += list_problems(way_through(), listed_in())
    for path in paths:
        if options.fix:
            try:
                changed = fix(path)
            except (ValueError, TypeError, AttributeError, KeyError):
                changed = False  # the check below says what is wrong with it
            if changed:
                print(f"fixed {path.name}")
        problems += check_notebook(path)
    for problem in problems:
        print(problem)
    count = len(problems)
    print(f"{len(paths)} notebook{'s' * (len(paths) != 1)}, {count} problem{'s' * (count != 1)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
