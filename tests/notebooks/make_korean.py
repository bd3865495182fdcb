"""Make the Korean notebooks and pages from gettext's files.

    python tests/notebooks/make_korean.py update|make|check [--site FOLDER] [PATH…]

docs/locale/ko/LC_MESSAGES/FOLDER/NAME.po belongs to FOLDER/NAME.ipynb or .md; what has such a file
is translated. `update` takes over what changed in the English text (a new PATH begins a file): a
message whose English changed becomes fuzzy, which is to say stale. `make` writes FOLDER/ko/NAME.
`check` changes nothing and counts; exit status 1 if a file differs from what it is made of, or a
translation lost some code, a link or an emphasis. With --site, `make` writes under that folder,
with the names and the links of the English pages, which these then replace.

A message is what Sphinx's gettext builder takes for one: a heading, a paragraph, an item of a list,
a cell of a table; and here a block of code without a language. In code cells the comments, the
docstrings of one line, and the names that `checkpoint` prints are messages too; all else stays as
it is, but for the relative paths of files. What is not translated, or stale, is shown in English,
and counted under the title.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import os
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import nbformat
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from form_rules import canonical_text
from machine_traces import ROOT
from markdown_it import MarkdownIt

LOCALE = ROOT / "docs" / "locale" / "ko" / "LC_MESSAGES"
MARKDOWN = MarkdownIt("commonmark").enable("table")
# The other headers have the time of a run, or say nothing.
_HEADERS = ("#", "msg", '"Language:', '"Plural', '"MIME', '"Content')
_NO_WORDS = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+|\b\d\d_\w+|[\W\d_]")
_DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|ruff:|pragma)")
_TARGET = re.compile(r"(\]\(<?|(?:src|href)=[\"'])([^)\s>\"']+)")
_KEPT = ("code_inline", "strong_open", "em_open", "link_open", "image", "html_inline")


class Span(NamedTuple):
    """A message, or the path of a file, and its place in a source."""

    start: int
    end: int
    text: str
    kind: str  # "text", "cell of a table", "block", "comment", "string" or "path"


class Count(NamedTuple):
    """How many messages a page has, and how many of them are shown in English."""

    messages: int
    untranslated: int
    stale: int


# --- where the messages are ----------------------------------------------------------------------


def prose(source: str) -> Iterator[Span]:
    """Yield the messages of a Markdown text, in order."""
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    at, kind = 0, "text"
    for token in MARKDOWN.parse(source):
        at = max(at, starts[token.map[0]] if token.map else 0)
        if token.type.endswith("_open"):
            kind = "cell of a table" if token.type in ("th_open", "td_open") else "text"
        if token.type == "fence" and token.map and not token.info:
            text = token.content.rstrip("\n")
            at = source.index(text, at)
            yield Span(at, at + len(text), text, "block")
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
        yield Span(found.start(), at, token.content.replace("\n", " ").strip(), kind)


def words_of_code(source: str, folder: Path) -> Iterator[Span]:
    """Yield the messages of a cell that is all Python, and the paths of files in a folder."""
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        return
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]
    shown: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "checkpoint":
            shown += [key for each in node.args if isinstance(each, ast.Dict) for key in each.keys]
        elif isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            shown.append(node.body[0])
    before = [(one.lineno, lines[one.lineno - 1].encode()[: one.col_offset]) for one in shown]
    places = {(row, len(text.decode())) for row, text in before}
    for token in tokens:
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.type == tokenize.COMMENT and not _DIRECTIVE.match(token.string):
            yield Span(start, end, token.string.removeprefix("#").strip(), "comment")
        elif token.type == tokenize.STRING and re.fullmatch(r"[\"'].*", token.string):
            text = ast.literal_eval(token.string)
            if token.start in places:
                yield Span(start, end, text, "string")
            elif text.strip("./") and (folder / text).exists():
                yield Span(start, end, text, "path")


@functools.cache
def spans(cell_type: str, source: str, folder: Path) -> tuple[Span, ...]:
    """Return the messages and paths of a cell."""
    return tuple(prose(source) if cell_type == "markdown" else words_of_code(source, folder))


def messages(page: Path) -> dict[str, list[str]]:
    """Return the messages of a page that have words, each with the places where it stands."""
    text = page.read_text("utf-8")
    cells = [("", "markdown", text)]
    if page.suffix == ".ipynb":
        cells = [(f" in {c.id}", c.cell_type, c.source) for c in nbformat.v4.reads(text).cells]
    found: dict[str, list[str]] = {}
    for place, cell_type, source in cells:
        for span in spans(cell_type, source, page.parent):
            if span.kind != "path" and _NO_WORDS.sub("", span.text):
                found.setdefault(span.text, []).append(span.kind + place)
    return found


# --- gettext's files -----------------------------------------------------------------------------


def po_file(page: Path) -> Path:
    """Return where the translation of a page is."""
    return LOCALE / page.relative_to(ROOT).with_suffix(".po")


def pages() -> list[Path]:
    """Return the English files of the pages that have a translation."""
    stems = [ROOT / path.relative_to(LOCALE).with_suffix("") for path in LOCALE.rglob("*.po")]
    both = [stem.with_suffix(suffix) for stem in stems for suffix in (".ipynb", ".md")]
    return sorted(path for path in both if path.exists())


def read_catalog(page: Path) -> Catalog:
    """Return the translation of a page; empty where there is none."""
    text = po_file(page).read_bytes() if po_file(page).exists() else b""
    return read_po(io.BytesIO(text), locale="ko", abort_invalid=True)


def translations(page: Path) -> dict[str, str]:
    """Return the messages whose translation is there and not stale."""
    return {
        str(one.id): str(one.string)
        for one in read_catalog(page)
        if one.id and one.string and not one.fuzzy
    }


def updated(page: Path, memory: dict[str, str]) -> str:
    """Return what gettext's file of a page has to be, for its English text of today.

    Args:
        page: The English file.
        memory: Translations of other pages, for the messages that have none here.
    """
    catalog, template = read_catalog(page), Catalog(locale="ko")
    for text, places in messages(page).items():
        template.add(text, auto_comments=list(dict.fromkeys(places)))
    catalog.update(template)
    for one in catalog:
        if one.id in memory and (one.fuzzy or not one.string):
            one.string, one.previous_id = memory[str(one.id)], []
            one.flags.discard("fuzzy")
    catalog.header_comment, catalog.fuzzy = (
        f"# Korean of {page.relative_to(ROOT).as_posix()}",
        False,
    )
    file = io.BytesIO()
    write_po(file, catalog, width=0, include_previous=True, ignore_obsolete=True)
    head, _, body = file.getvalue().decode().partition("\n\n")
    kept = [line for line in head.splitlines() if line.startswith(_HEADERS) or line == '""']
    return "\n".join([*kept, "", body.rstrip("\n"), ""])


# --- the Korean page -----------------------------------------------------------------------------


def rewrite(source: str, found: tuple[Span, ...], replace: Callable[[Span], str]) -> str:
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
            quotes = old[: 3 if old.startswith('"""') else 1]
            new = quotes + new.replace("\\", r"\\").replace('"', r"\"") + quotes
        parts += [source[at : span.start], new]
        at = span.end
    return "".join([*parts, source[at:]])


def moved(target: str, page: Path) -> str:
    """Return a link or a path of a page as its Korean, one folder further down, has to write it."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not parts.path:
        return target
    aim = Path(os.path.normpath(page.parent / parts.path))
    if aim.is_relative_to(ROOT) and po_file(aim).exists():
        aim = aim.parent / "ko" / aim.name
    path = Path(os.path.relpath(aim, page.parent / "ko")).as_posix()
    return path + (f"#{parts.fragment}" if parts.fragment else "")


def count(page: Path) -> Count:
    """Count the messages of a page, and those without a translation that holds."""
    catalog, ready, found = read_catalog(page), translations(page), messages(page)
    left = [text for text in found if text not in ready]
    stale = sum(bool((one := catalog.get(text)) and one.string) for text in left)
    return Count(len(found), len(left) - stale, stale)


def korean(page: Path, *, site: bool = False) -> str:
    """Return the text of the Korean file of a page.

    Args:
        page: The English notebook or page.
        site: Keep the links as they are, for a file that takes the place of the English one.

    Raises:
        ValueError: A translation changes the structure of its text.
    """
    ready, counted = translations(page), count(page)
    below = "" if site else f"\n\n[영어 원문](../{page.name})"
    if counted.untranslated or counted.stale:
        below += (
            f"\n\n문장 {counted.messages}개 가운데 번역하지 않은 것이 {counted.untranslated}개, "
            f"번역한 뒤에 원문이 바뀐 것이 {counted.stale}개입니다. 이 부분은 영어로 보입니다."
        )

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
            raise ValueError(f"{po_file(page)}: {set(wanted) - set(got)} becomes something else")
        blocks = re.split(r"^(```.*?^```)", text, flags=re.M | re.S)
        if not site:
            blocks[::2] = [_TARGET.sub(lambda m: m[1] + moved(m[2], page), b) for b in blocks[::2]]
        return "".join(blocks)

    def titled(text: str) -> str:
        return re.sub(r"^# .+", lambda title: title[0] + below, text, count=1, flags=re.M)

    if page.suffix == ".md":
        return titled(cell("markdown", page.read_text("utf-8")))
    node = nbformat.v4.reads(page.read_text("utf-8"))
    for one in node.cells:
        found = spans(one.cell_type, one.source, page.parent)
        names = {span.text: replace(span) for span in found if span.kind == "string"}
        one.source = cell(one.cell_type, one.source)
        for output in one.get("outputs", []):
            if output.output_type == "stream":
                output.text = printed(output.text, names)
    node.cells[0].source = titled(node.cells[0].source)
    return canonical_text(node)


def printed(text: str, names: dict[str, str]) -> str:
    """Return what `checkpoint` prints, with other names of its conditions."""
    line = re.compile(r"^(✓ |still to do: )(.+?)(?= \(\w+|$)", re.M)
    return line.sub(lambda match: match[1] + names.get(match[2], match[2]), text)


# --- what is checked -----------------------------------------------------------------------------


def shape(text: str) -> Counter[tuple[str, str]]:
    """Return what a translation has to keep of a message: code, links, pictures, emphasis."""
    tokens = MARKDOWN.parseInline(text)[0].children or []
    return Counter(
        (one.type, str(one.attrs.get("href") or one.attrs.get("src") or one.content))
        for one in tokens
        if one.type in _KEPT
    )


def losses(page: Path) -> Iterator[str]:
    """Yield what is wrong with translations that differ from their messages in more than words."""
    places = messages(page)
    for text, string in translations(page).items():
        lost, added = shape(text) - shape(string), shape(string) - shape(text)
        if places.get(text, [""])[0].startswith(("text", "cell")) and (lost or added):
            yield f"{po_file(page).name}: {string!r} lacks {list(lost)} and adds {list(added)}"


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
        known = (pair for page in pages() for pair in translations(page).items())
        # One or two words mean one thing here and another one there.
        memory = {text: string for text, string in known if len(text.split()) > 2}
        files |= {po_file(page): updated(page, memory) for page in chosen}
    if options.action != "update":
        for page in chosen:
            name = page.relative_to(ROOT)
            print(name.as_posix(), *(f"{key}={n}" for key, n in count(page)._asdict().items()))
            problems += losses(page)
            at = options.site / name if options.site else page.parent / "ko" / page.name
            files[at] = korean(page, site=bool(options.site))
    for path, text in files.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if options.action == "check":
            problems.append(
                f"{path.relative_to(ROOT)} is not what it is made of: update, then make"
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path}")
    print(*problems, f"{len(chosen)} pages, {len(problems)} problems", sep="\n")
    return 1 if problems or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
