"""`python -m helpers site`: the notebooks, the workshop and the API as web pages, by Sphinx.

`docs/conf.py` gathers the sources and holds the settings. Every warning is an error, and so is a
link inside the site that leads nowhere, or anything that a page would fetch from elsewhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.environment import ensure_extra
from helpers.install.paths import REPOSITORY
from helpers.publish.links import faults

DOCS = REPOSITORY / "docs"
HTML = DOCS / "_build" / "html"


def main(arguments: Sequence[str]) -> int:
    """Build the site; open it, or ask the sites that it links to, if that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m helpers site", description=__doc__)
    parser.add_argument("--open", action="store_true", help="show it in a browser")
    parser.add_argument(
        "--check", action="store_true", help="follow the links to other sites too (needs a network)"
    )
    options = parser.parse_args(list(arguments))
    ensure_extra(REPOSITORY, "site")
    build()
    print(f"{HTML / 'index.html'}: {len(list(HTML.rglob('*.html')))} pages")
    if options.check:
        sphinx("linkcheck", DOCS / "_build" / "linkcheck")
    if options.open:
        webbrowser.open((HTML / "index.html").as_uri())
    return 0


def languages() -> list[str]:
    """Return the languages of the site, English first; `docs/locale` has the others."""
    return ["en", *sorted(path.parent.name for path in DOCS.glob("locale/*/LC_MESSAGES"))]


def build(out: Path = HTML) -> Path:
    """Build the site in all its languages, English in the folder itself, and return the folder.

    Raises:
        InstallError: If Sphinx warns of anything, or a link leads nowhere.
    """
    shown = f"languages={','.join(languages())}"
    for language in languages():
        folder = out if language == "en" else out / language
        sphinx("html", folder, "-A", shown, language=language)
        if _remove_stale(folder, DOCS / "_build" / f"source-{language}"):
            sphinx("html", folder, "-a", "-A", shown, language=language)  # others list them still
    wrong = faults(out)
    if wrong:
        lines = "\n  ".join(wrong[:20])
        raise InstallError(f"{len(wrong)} links of the site are wrong:\n  {lines}")
    return out


def _remove_stale(folder: Path, source: Path) -> bool:
    """Remove what Sphinx leaves, the pages whose sources have gone; say whether there were any."""
    pages = {path.relative_to(source).with_suffix(".html") for path in source.rglob("*.*")}
    pages |= {Path(name) for name in ("genindex.html", "search.html", "py-modindex.html")}
    stale = [
        path
        for path in folder.rglob("*.html")
        if (page := path.relative_to(folder)) not in pages
        and page.parts[0] not in {"_static", *languages()}
    ]
    for path in stale:
        path.unlink()
    return bool(stale)


def sphinx(builder: str, out: Path, *arguments: str, language: str = "en") -> None:
    """Run Sphinx on the gathered sources, every warning an error.

    Args:
        builder: Sphinx's name of what to make: `html`, `linkcheck`, `gettext`.
        out: The folder to write to.
        arguments: Further arguments for `sphinx-build`.
        language: The language of the pages.

    Raises:
        InstallError: If Sphinx warns of anything.
    """
    source = DOCS / "_build" / f"source-{language}"
    source.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-c", str(DOCS)]
    command += ["-d", str(DOCS / "_build" / f"doctrees-{language}")]
    command += ["-W", "--keep-going", "-n", "-q", "-j", "auto"]
    command += ["-D", f"language={language}", *arguments, str(source), str(out)]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise InstallError(f"Sphinx's {builder} found what is written above: correct it")
