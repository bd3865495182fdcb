"""Make the Korean notebooks and pages from gettext's files.

    python tests/notebooks/make_korean.py update|make|check [PATH…]
    python tests/notebooks/make_korean.py make --site FOLDER

docs/locale/ko/LC_MESSAGES/FOLDER/NAME.po belongs to FOLDER/NAME.ipynb or .md; what has such a file
is translated. `update` takes over what changed in the English text (a new PATH begins a file):
a message whose English changed becomes fuzzy, which is to say stale. `make` writes FOLDER/ko/NAME.
`check` changes nothing and counts; exit status 1 if a file differs from what it is made of, or if a
translation lost some code, a link or an emphasis. With --site, the pages are written under FOLDER
with the names and the links of the English ones, which they replace there.

A message is what Sphinx's gettext builder takes for one: a heading, a paragraph, an item of a list,
a cell of a table. In code cells the comments, the docstrings of one line, and the names that
`checkpoint` prints are messages too; everything else stays as it is, but for the relative paths of
files. What is not translated, or stale, is shown in English, and counted under the title.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import nbformat
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from form_rules import canonical_text
from machine_traces import ROOT
from markdown_it import MarkdownIt

LOCALE = ROOT / "docs" / "locale" / "ko" / "LC_MESSAGES"
MARKDOWN = MarkdownIt("commonmark").enable("table")
UPDATE = "python tests/notebooks/make_korean.py update"
_KEPT_HEADERS = ("Language:", "Plural", "MIME", "Content")
_NO_WORDS = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+|\b\d\d_\w+|[\W\d_]")
_DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|ruff:|pragma)")
_TARGET = re.compile(r"(\]\(<?|(?:src|href)=[\"'])([^)\s>\"']+)")

Kind = Literal["text", "cell of a table", "comment", "string", "path"]


@dataclass(frozen=True)
class Span:
    """A message, or the path of a file, and its place in a source."""

    start: int
    end: int
    text: str
    kind: Kind


@dataclass(frozen=True)
class Count:
    """How many messages a page has, and how many of them are shown in English."""

    messages: int
    untranslated: int
    stale: int


# --- where the messages are ----------------------------------------------------------------------


def prose(source: str) -> Iterator[Span]:
    """Yield the messages of a Markdown text, in order."""
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    at, kind = 0, "text"
    for token in MARKDOWN.parse(source):
        at = max(at, starts[token.map[0]] if token.map else 0)
        if token.type in ("th_open", "td_open"):
            kind = "cell of a table"
        elif token.type.endswith("_open"):
            kind = "text"
        if token.type != "inline" or not token.content:
            continue
        lines = [re.escape(line.strip()) for line in token.content.split("\n")]
        pattern = r"[ \t]*\n[ \t>]*".join(lines)
        if kind == "cell of a table":
            pattern = pattern.replace(r"\|", r"\\?\|")
        found = re.compile(pattern).search(source, at)
        if found is None:
            raise ValueError(f"cannot find in its source: {token.content!r}")
        at = found.end()
        yield Span(*found.span(), token.content.replace("\n", " ").strip(), kind)  # type: ignore[arg-type]


def words_of_code(source: str, folder: Path) -> Iterator[Span]:
    """Yield the messages of a code cell, and the paths of files seen from a folder, in order.

    A cell that is not Python alone has none.
    """
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        return
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]
    shown = set()
    for node in ast.walk(tree):
        keys: list[Any] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "checkpoint":
            keys = [key for each in node.args if isinstance(each, ast.Dict) for key in each.keys]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            keys = [node.body[0].value] if ast.get_docstring(node) else []  # type: ignore[attr-defined]
        for key in keys:
            before = lines[key.lineno - 1].encode()[: key.col_offset].decode()
            shown.add((key.lineno, len(before)))
    for token in tokens:
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.type == tokenize.COMMENT and not _DIRECTIVE.match(token.string):
            yield Span(start, end, token.string.removeprefix("#").strip(), "comment")
        elif (
            token.type == tokenize.STRING and token.string[0] in "\"'" and "\n" not in token.string
        ):
            text = ast.literal_eval(token.string)
            if token.start in shown:
                yield Span(start, end, text, "string")
            elif isinstance(text, str) and text.strip("./") and (folder / text).exists():
                yield Span(start, end, text, "path")


def cells(path: Path) -> list[tuple[str, str, str]]:
    """Return (id, type, source) of a notebook's cells; a page is one cell of Markdown."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return [("", "markdown", text)]
    return [(cell.id, cell.cell_type, cell.source) for cell in nbformat.v4.reads(text).cells]


def spans(kind: str, source: str, folder: Path) -> list[Span]:
    """Return the messages and paths of a cell."""
    return list(prose(source) if kind == "markdown" else words_of_code(source, folder))


def needs_words(text: str) -> bool:
    """Say whether a message has words, and is not code, numbers and names of notebooks alone."""
    return bool(_NO_WORDS.sub("", text))


def messages(path: Path) -> dict[str, list[str]]:
    """Return the messages of a page, each with the places where it stands."""
    found: dict[str, list[str]] = {}
    for identity, cell_type, source in cells(path):
        for span in spans(cell_type, source, path.parent):
            if span.kind != "path" and needs_words(span.text):
                place = span.kind + (f" in {identity}" if identity else "")
                found.setdefault(span.text, []).append(place)
    return found


# --- gettext's files -----------------------------------------------------------------------------


def po_file(page: Path) -> Path:
    """Return where the translation of a page is."""
    return LOCALE / page.relative_to(ROOT).with_suffix(".po")


def pages() -> list[Path]:
    """Return the pages that have a translation, with their English files."""
    found = []
    for path in sorted(LOCALE.rglob("*.po")):
        base = ROOT / path.relative_to(LOCALE)
        page = next((p for s in (".ipynb", ".md") if (p := base.with_suffix(s)).exists()), None)
        if page:
            found.append(page)
    return found


def read_catalog(path: Path) -> Catalog:
    """Read a file of gettext's; an absent one is empty."""
    if not path.exists():
        return Catalog(locale="ko", project="llama-notebooks", fuzzy=False)
    with path.open("rb") as file:
        return read_po(file, locale="ko", abort_invalid=True)


def translations(catalog: Catalog) -> dict[str, str]:
    """Return the messages whose translation is there and not stale."""
    return {
        str(one.id): str(one.string) for one in catalog if one.id and one.string and not one.fuzzy
    }


def updated(page: Path, memory: dict[str, str]) -> str:
    """Return what the gettext file of a page has to be, for its English text of today."""
    catalog = read_catalog(po_file(page))
    template = Catalog(locale="ko", fuzzy=False)
    for text, places in messages(page).items():
        template.add(text, auto_comments=list(dict.fromkeys(places)))
    catalog.update(template, update_header_comment=False)
    for one in catalog:
        if one.id and str(one.id) in memory and (one.fuzzy or not one.string):
            one.string = memory[str(one.id)]
            one.flags.discard("fuzzy")
            one.previous_id = []
    catalog.header_comment = f"# Korean of {page.relative_to(ROOT).as_posix()}"
    file = io.BytesIO()
    write_po(file, catalog, width=0, include_previous=True, ignore_obsolete=True)
    head, _, body = file.getvalue().decode().partition("\n\n")
    kept = [
        line
        for line in head.splitlines()
        if not line.startswith('"') or line[1:].startswith(_KEPT_HEADERS)
    ]
    return "\n".join(kept) + "\n\n" + body.rstrip("\n") + "\n"


# --- the Korean page -----------------------------------------------------------------------------


def rewrite(source: str, found: list[Span], replace: Callable[[Span], str]) -> str:
    """Return a source with other messages and paths in the same places."""
    parts, at = [], 0
    for span in found:
        new, old = replace(span), source[span.start : span.end]
        if new == span.text:
            new = old
        elif span.kind == "comment":
            new = f"# {new}"
        elif span.kind == "cell of a table":
            new = new.replace("|", r"\|")
        elif span.kind in ("string", "path"):
            quotes = re.match(r"\"\"\"|.", old)[0]  # type: ignore[index]
            new = quotes + new.replace("\\", r"\\").replace('"', r"\"") + quotes
        parts += [source[at : span.start], new]
        at = span.end
    return "".join([*parts, source[at:]])


def translated_path(page: Path) -> Path:
    """Return where the Korean of a page is."""
    return page.parent / "ko" / page.name


def moved(target: str, page: Path) -> str:
    """Return a link or a path of a page as its Korean, one folder further down, has to write it."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not parts.path:
        return target
    aim = Path(os.path.normpath(page.parent / parts.path))
    if aim.is_relative_to(ROOT) and po_file(aim).exists():
        aim = translated_path(aim)
    path = Path(os.path.relpath(aim, translated_path(page).parent)).as_posix()
    return path + (f"#{parts.fragment}" if parts.fragment else "")


def count(page: Path, catalog: Catalog) -> Count:
    """Count the messages of a page, and those without a translation that holds."""
    ready = translations(catalog)
    left = [text for text in messages(page) if text not in ready]
    stale = sum(bool((one := catalog.get(text)) and one.string) for text in left)
    return Count(len(messages(page)), len(left) - stale, stale)


def note(page: Path, counted: Count, site: bool) -> str:
    """Return what stands under the title: the way to the English, and what is still English."""
    parts = [] if site else [f"[영어 원문](../{page.name})"]
    if counted.untranslated or counted.stale:
        parts.append(
            f"문장 {counted.messages}개 가운데 번역하지 않은 것이 {counted.untranslated}개, 번역한 "
            f"뒤에 원문이 바뀐 것이 {counted.stale}개입니다. 이 부분은 영어로 보입니다."
        )
    return "".join(f"\n\n{part}" for part in parts)


def korean(page: Path, *, site: bool = False) -> str:
    """Return the text of the Korean file of a page.

    Args:
        page: The English notebook or page.
        site: Keep the links as they are, for a file that takes the place of the English one.

    Raises:
        ValueError: A translation changes the structure of its text.
    """
    catalog = read_catalog(po_file(page))
    ready = translations(catalog)

    def replace(span: Span) -> str:
        if span.kind == "path":
            return span.text if site else moved(span.text, page)
        return ready.get(span.text, span.text)

    def cell(cell_type: str, source: str) -> str:
        found = spans(cell_type, source, page.parent)
        text = rewrite(source, found, replace)
        if cell_type != "markdown":
            return text
        wanted, got = [replace(span) for span in found], [span.text for span in prose(text)]
        if wanted != got:
            differ = next(
                pair for pair in zip(wanted, [*got, ""], strict=False) if len(set(pair)) > 1
            )
            raise ValueError(f"{po_file(page)}: {differ[0]!r} is read as {differ[1]!r}")
        blocks = re.split(r"^(```.*?^```)", text, flags=re.M | re.S)
        if not site:
            blocks[::2] = [_TARGET.sub(lambda m: m[1] + moved(m[2], page), b) for b in blocks[::2]]
        return "".join(blocks)

    below = note(page, count(page, catalog), site)
    if page.suffix == ".md":
        return re.sub(
            r"^# .+",
            lambda m: m[0] + below,
            cell("markdown", page.read_text("utf-8")),
            count=1,
            flags=re.M,
        )
    node = nbformat.v4.reads(page.read_text("utf-8"))
    for one in node.cells:
        found = spans(one.cell_type, one.source, page.parent)
        one.source = cell(one.cell_type, one.source)
        names = {span.text: replace(span) for span in found if span.kind == "string"}
        for output in one.get("outputs", []):
            if output.output_type == "stream":
                output.text = _printed(output.text, names)
    node.cells[0].source = re.sub(r"^# .+", lambda m: m[0] + below, node.cells[0].source, count=1)
    return canonical_text(node)


def _printed(text: str, names: dict[str, str]) -> str:
    """What `checkpoint` prints, with other names of its conditions."""
    return re.sub(
        r"^(✓ |still to do: )(.+?)(?= \(\w+|$)",
        lambda match: match[1] + names.get(match[2], match[2]),
        text,
        flags=re.M,
    )


# --- what is checked -----------------------------------------------------------------------------


def shape(text: str) -> Counter[tuple[str, str]]:
    """Return what a translation has to keep of a message: code, links, pictures, emphasis."""
    tokens = MARKDOWN.parseInline(text)[0].children or []
    kept = ("code_inline", "strong_open", "em_open", "link_open", "image", "html_inline")
    return Counter(
        (one.type, str(one.attrs.get("href") or one.attrs.get("src") or one.content))
        for one in tokens
        if one.type in kept
    )


def losses(page: Path) -> Iterator[str]:
    """Yield the translations that differ from their message in more than words."""
    places = messages(page)
    for text, string in translations(read_catalog(po_file(page))).items():
        if not places.get(text, ["comment"])[0].startswith(("comment", "string")):
            lost, added = shape(text) - shape(string), shape(string) - shape(text)
            if lost or added:
                yield f"{string!r} lacks {sorted(lost)} and adds {sorted(added)}"
        if "\n" in string:
            yield f"{string!r} has more than one line"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["update", "make", "check"])
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="write the pages under it")
    parser.add_argument(
        "paths", nargs="*", type=Path, help="English pages (default: translated ones)"
    )
    options = parser.parse_args(arguments)
    chosen = [path.resolve() for path in options.paths] or pages()
    files: dict[Path, str] = {}
    problems: list[str] = []
    if options.action != "make":
        memory: dict[str, str] = {}
        for page in pages():
            memory = translations(read_catalog(po_file(page))) | memory
        files |= {po_file(page): updated(page, memory) for page in chosen}
    if options.action != "update":
        for page in chosen:
            counted = count(page, read_catalog(po_file(page)))
            print(f"{page.relative_to(ROOT)}: {counted}")
            problems += [f"{po_file(page).name}: {loss}" for loss in losses(page)]
            at = options.site / page.relative_to(ROOT) if options.site else translated_path(page)
            files[at] = korean(page, site=bool(options.site))
    for path, text in files.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if options.action == "check":
            problems.append(
                f"{path.relative_to(ROOT)} is not what its source gives: {UPDATE}, then make"
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path}")
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{len(chosen)} pages, {len(problems)} problem{'s' * (len(problems) != 1)}")
    return 1 if problems or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
