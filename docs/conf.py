"""Settings of the site, and where its sources come from.

`python -m helpers site` runs Sphinx on a folder in `docs/_build`, which is made here: the
pages of `docs/`, the notebooks, the workshop and the papers of the repository, each under the path
that it has there, so that the links among them lead to the same places; and a page for each room of
`helpers`. Nothing in that folder is written by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.pycode import ModuleAnalyzer

import helpers
from helpers.publish import published

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

project = "llama-notebooks"
release = helpers.__version__
copyright = f"the authors of {project}"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["glossary-*.md"]  # for translators
templates_path = ["_templates"]
locale_dirs = [str(DOCS / "locale")]
gettext_compact = False

nb_execution_mode = "off"  # the outputs are committed
nb_merge_streams = True
myst_heading_anchors = 4

default_role = "code"  # in docstrings, `name` is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_rtype = False
# Types of other packages, and of rooms that have no page.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "logo": {"text": project},
    "navbar_end": ["languages.html", "theme-switcher.html"],
    "secondary_sidebar_items": ["page-toc", "sourcelink"],
    "footer_start": [],
    "footer_end": [],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
linkcheck_anchors = False
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|\[::1\])\b.*"]
linkcheck_timeout = 20

PAPERS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"(\]\(<?)([^)\s>#]+)")
# A page in Korean has the English page's place in the site's other language, to which each page
# has a switch.
TO_KOREAN = re.compile(r"\[([^\]]+)\]\((?:[^)\s:]*/)?ko/[^)\s]*\)")


def gather(app: Sphinx, config: Config) -> None:
    """Fill the source folder; what has not changed keeps its time, and is not read again."""
    source = Path(app.srcdir)
    kept = set()
    for name, content in sources(str(config.language)):
        path = source / name
        kept.add(path)
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in source.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def sources(language: str) -> Iterator[tuple[str, bytes]]:
    """Give each file of the source folder as (path, content)."""
    in_korean: dict[Path, Callable[[Path], str]] = {}
    if language == "ko":
        sys.path.append(str(ROOT / "tests" / "notebooks"))
        make_korean = importlib.import_module("make_korean")
        in_korean = dict.fromkeys(make_korean.pages(), partial(make_korean.korean, site=True))
    own = [path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "_build")]
    for path in own:
        yield path.relative_to(DOCS).as_posix(), path.read_bytes()
    patterns = (*PAPERS, "notebooks/*.ipynb", "notebooks/solutions/*.ipynb", "workshop/**/*.md")
    pages = {path for pattern in patterns for path in ROOT.glob(pattern)}
    # The Korean site has its own pages under the names of the English ones.
    pages = {path for path in pages if path.parent.name != "ko"}
    linked: set[Path] = set()
    for path in sorted(pages):
        text = in_korean.get(path, read)(path)
        if path.suffix == ".ipynb":
            notebook = published(nbformat.reads(text, as_version=4), ROOT / "notebooks" / "data")
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = relinked(cell.source, path.parent, linked)
            text = nbformat.writes(notebook)
        else:
            text = relinked(text, path.parent, linked)
        yield path.relative_to(ROOT).as_posix(), text.encode()
    for path in sorted(linked - pages):
        orphan = b"---\norphan: true\n---\n" if path.suffix == ".md" else b""
        yield path.relative_to(ROOT).as_posix(), orphan + path.read_bytes()
    yield from api_pages()


def read(path: Path) -> str:
    """Return the text of a page in English."""
    return path.read_text(encoding="utf-8")


def relinked(text: str, folder: Path, linked: set[Path]) -> str:
    """Let links to folders lead to the README there, and note the files that are linked to."""
    text = TO_KOREAN.sub(r"\1", text)

    def changed(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if not target.is_relative_to(ROOT) or target == ROOT or re.match(r"\w+:", found[2]):
            return found[0]
        if target.is_dir():
            return f"{found[1]}{found[2].rstrip('/')}/README.md"
        if target.is_file():
            linked.add(target)
        return found[0]

    return LINK.sub(changed, text)


def api_pages() -> Iterator[tuple[str, bytes]]:
    """Give a page for each room of `helpers` that has public names, and one that lists them."""
    names: dict[str, list[str]] = {}
    for name in helpers.__all__:
        names.setdefault(helpers._MODULE_OF[name], []).append(name)
    rows = []
    for room, own in sorted(names.items()):
        docstring = inspect.getdoc(importlib.import_module(f"helpers.{room}")) or ""
        rows.append(f"- [{room}]({room}.md): {docstring.splitlines()[0]}")
        rows.append("  " + ", ".join(f"`{name}`" for name in own))
        lines = [f"# {room}", "```{eval-rst}", f".. automodule:: helpers.{room}", ""]
        for name in own:
            value = getattr(helpers, name)
            if inspect.isclass(value):
                kind = "exception" if issubclass(value, Exception) else "class"
                lines += [f".. auto{kind}:: helpers.{name}", "   :members:", ""]
            elif callable(value):
                lines += [f".. autofunction:: helpers.{name}", ""]
            else:
                lines += [f".. py:data:: helpers.{name}", "", f"   {words_of(room, name)}", ""]
        yield f"api/{room}.md", "\n".join([*lines, "```", ""]).encode()
    tree = ["```{toctree}", ":hidden:", *sorted(names), "```", ""]
    yield "api/README.md", "\n".join([API, *rows, "", *tree]).encode()


def words_of(room: str, name: str) -> str:
    """Return the text below a constant, from the module of the room that makes it."""
    modules = [module for module in sys.modules if f"{module}.".startswith(f"helpers.{room}.")]
    texts = [ModuleAnalyzer.for_module(module).find_attr_docs() for module in modules]
    return " ".join(next(text[("", name)] for text in texts if ("", name) in text))


API = """\
# helpers

The package that the notebooks share, room by room. Every name here comes from `helpers` itself, as
in `from helpers import LlamaCpp, default_model`; each is loaded when it is first used.
"""


def setup(app: Sphinx) -> None:
    """Gather the sources before anything is read."""
    app.connect("config-inited", gather)
