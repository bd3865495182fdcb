"""Does everything that a folder of pages refers to exist, and in that folder?"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"""url\(\s*["']?([^"')\s]+)|@import\s+["']([^"']+)""")
# What a browser fetches by itself; the rest of the links wait for a click.
_FETCHED = {"script", "img", "iframe", "source", "video", "audio", "embed", "object", "input"}


class _Page(HTMLParser):
    """The places of a page that can be linked to, and what it refers to: (address, is fetched)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places = {"", "top"}
        self.targets: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        fetched = tag in _FETCHED or (
            tag == "link" and {"stylesheet", "icon", "preload"} & {*values.get("rel", "").split()}
        )
        for name in ("href", "src", "data", "poster"):
            if name in values:
                self.targets.append((values[name], bool(fetched)))
        for part in values.get("srcset", "").split(","):
            if part.strip():
                self.targets.append((part.split()[0], True))
        self.targets += [(address, True) for address in _in_css(values.get("style", ""))]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.targets += [(address, True) for address in _in_css(data)]


def _in_css(text: str) -> list[str]:
    return [first or second for first, second in _URL.findall(text)]


def faults(folder: Path) -> list[str]:
    """Return what is wrong with the links of all pages and style sheets below a folder.

    A link inside the folder has to lead to a file, and to a place that is there. What a browser
    fetches by itself (scripts, styles, fonts, pictures) has to be in the folder. Links to other
    sites are not followed: that needs a network.
    """
    folder = folder.resolve()
    pages = {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.html")
        if "_static" not in path.parts  # there lie templates of a theme
    }
    refer = [(path, page.targets) for path, page in pages.items()]
    for path in folder.rglob("*.css"):
        addresses = _in_css(path.read_text(encoding="utf-8"))
        refer.append((path, [(address, True) for address in addresses]))
    found = []
    for path, targets in refer:
        for address, fetched in dict.fromkeys(targets):
            what = _fault(path, address, fetched, pages, folder)
            if what:
                found.append(f"{path.relative_to(folder)}: {address} {what}")
    return sorted(found)


def _fault(
    path: Path, address: str, fetched: bool, pages: dict[Path, _Page], folder: Path
) -> str | None:
    parts = urlsplit(address)
    if parts.scheme in {"data", "blob", "javascript", "about"}:
        return None
    if parts.scheme or parts.netloc:
        return "is fetched from another site" if fetched else None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(folder):
        return "leads out of the folder"
    if not target.exists():
        return "leads nowhere"
    if target in pages and unquote(parts.fragment) not in pages[target].places:
        return "names a place that is not there"
    return None
