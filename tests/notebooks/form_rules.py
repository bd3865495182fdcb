"""The rules that every notebook of the suite keeps, one small function each.

A rule takes a `Notebook` and yields problems as (cell number or None, message). Cell numbers are
the places in the file, from 1. `check_form.py` is the command, `test_form.py` the tests.
"""

from __future__ import annotations

import ast
import copy
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from machine_traces import machine_traces_in

MAX_BYTES = 3 * 1024 * 1024
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
METADATA = {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
RUN_SECONDS = "run_seconds"  # of a lesson's last whole run; workshop/make_syllabi.py reads it
CELL_METADATA = {"jupyter", "tags"}

Found = Iterator[tuple[int | None, str]]


@dataclass(frozen=True)
class Problem:
    """A rule that a notebook breaks, and where."""

    path: Path
    cell: int | None
    rule: str
    message: str

    def __str__(self) -> str:
        where = self.path.name + ("" if self.cell is None else f", cell {self.cell}")
        return f"{where}: {self.message} [{self.rule}]"


@dataclass(frozen=True)
class Notebook:
    """A notebook file as text and as cells."""

    path: Path
    text: str
    node: Any

    @classmethod
    def read(cls, path: Path) -> Notebook:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        # Not nbformat.read: it would fix and convert what the rules are to see.
        return cls(path, text, nbformat.v4.reads(text))

    @property
    def cells(self) -> list[tuple[int, Any]]:
        return list(enumerate(self.node.cells, start=1))

    @property
    def code(self) -> list[tuple[int, Any]]:
        return [(n, cell) for n, cell in self.cells if cell.cell_type == "code"]

    @property
    def markdown(self) -> list[tuple[int, Any]]:
        return [(n, cell) for n, cell in self.cells if cell.cell_type == "markdown"]


Rule = Callable[[Notebook], Found]
RULES: dict[str, Rule] = {}
# What a notebook of solutions, generated from the source of the exercises, has to keep as well.
OF_SOLUTIONS = {
    "name", "size", "canonical", "format-version", "ids", "metadata", "whitespace", "title",
    "first-code", "links", "executed", "errors", "progress-junk", "machine-traces", "solved",
}  # fmt: skip
# What a translation keeps; for the rest its words are others, and its cells those of the original.
OF_TRANSLATIONS = OF_SOLUTIONS - {"solved"}


def rule(function: Rule) -> Rule:
    RULES[function.__name__.replace("_", "-")] = function
    return function


def is_solutions(path: Path) -> bool:
    """Say whether a notebook is one of solutions, by its folder."""
    return path.parent.name == "solutions"


def check_notebook(path: Path) -> list[Problem]:
    """Return every problem of one notebook file."""
    try:
        notebook = Notebook.read(path)
        _validate(notebook.node)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        message = f"not a valid notebook: {str(error).splitlines()[0]}"
        return [Problem(path, None, "valid", message)]
    rules = set(RULES) - {"solved"}
    if is_solutions(path):
        rules = OF_SOLUTIONS
    elif path.parent.name == "ko":
        rules = OF_TRANSLATIONS
    return [
        Problem(path, cell, name, message)
        for name, check in RULES.items()
        if name in rules
        for cell, message in check(notebook)
    ]


def _validate(node: Any) -> None:
    node = copy.deepcopy(node)
    node.nbformat_minor = 5
    for n, cell in enumerate(node.cells):
        cell["id"] = f"cell-{n}"  # ids have a rule of their own, with a clearer message
    nbformat.validate(node, version=4, version_minor=5)


def source_text(cell: Any) -> str:
    return str(cell.source)


def output_texts(cell: Any) -> Iterator[str]:
    """Yield every text of a code cell's outputs; pictures are no texts, SVG is."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join([output.evalue, *output.traceback])
        else:
            for kind, value in output.data.items():
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    yield value if isinstance(value, str) else str(value)


# --- the file ----------------------------------------------------------------------------------


@rule
def name(notebook: Notebook) -> Found:
    if not re.fullmatch(r"\d{2}_[a-z0-9]+(_[a-z0-9]+)+\.ipynb", notebook.path.name):
        yield None, "the name is not NN_verb_object.ipynb in small letters"


@rule
def size(notebook: Notebook) -> Found:
    if (size := len(notebook.text.encode())) > MAX_BYTES:
        yield None, f"the file has {size / 2**20:.1f} MiB; 3 are allowed"


@rule
def canonical(notebook: Notebook) -> Found:
    if notebook.text != canonical_text(notebook.node):
        yield None, "the file is not in nbformat's own form (check_form.py --fix writes it)"


def canonical_text(node: Any) -> str:
    """Return the text that a notebook's file has to have: sorted keys, one space, one line end."""
    return str(nbformat.v4.writes(node)).rstrip("\n") + "\n"


@rule
def format_version(notebook: Notebook) -> Found:
    version = (notebook.node.nbformat, notebook.node.nbformat_minor)
    if version != (4, 5):
        yield None, f"the format is {version[0]}.{version[1]}, not 4.5"


@rule
def ids(notebook: Notebook) -> Found:
    seen: set[str] = set()
    for n, cell in notebook.cells:
        if not cell.get("id"):
            yield n, "the cell has no id"
        elif cell.id in seen:
            yield n, f"the id {cell.id} is used twice"
        seen.add(cell.get("id", ""))


@rule
def metadata(notebook: Notebook) -> Found:
    rest = dict(notebook.node.metadata)
    seconds = rest.pop(RUN_SECONDS, 1)
    if rest != METADATA:
        yield None, "the metadata is not exactly the one kernelspec and language without version"
    if not is_seconds(seconds):
        yield None, f"{RUN_SECONDS} is {seconds!r}; run_notebook.py writes whole seconds"
    for n, cell in notebook.cells:
        extra = sorted(set(cell.metadata) - CELL_METADATA)
        if extra:
            yield n, f"metadata that changes from run to run or tool to tool: {', '.join(extra)}"


@rule
def whitespace(notebook: Notebook) -> Found:
    for n, cell in notebook.cells:
        if source_text(cell) != tidy(source_text(cell)):
            yield n, "there is whitespace at the end of a line or of the cell"


def is_seconds(value: object) -> bool:
    return type(value) is int and value >= 1


def tidy(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.splitlines()).strip("\n")


# --- opening and closing -------------------------------------------------------------------------

_OPENING = ("What you'll do", "What you'll learn", "What you'll need", "Time", "Hardware")


def _find(text: str, title: str) -> re.Match[str] | None:
    """Find a title, as **bold** at the beginning of a line or as a heading."""
    title = title.replace("'", "['\N{RIGHT SINGLE QUOTATION MARK}]")
    return re.search(rf"^(?:\*\*{title}[:.]?\*\*|#{{2,4}} {title}$)[:.]?", text, re.MULTILINE)


def _part(text: str, title: str) -> str | None:
    """Return the text under a title up to the next title; None without the title."""
    begin = _find(text, title)
    if not begin:
        return None
    rest = text[begin.end() :]
    end = re.search(r"^(?:\*\*[^*\n]+\*\*|#{1,4} )", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def _bullets(text: str) -> int:
    return len(re.findall(r"^(?:[-*+]|\d+\.) ", text, re.MULTILINE))


def _opening(notebook: Notebook) -> str:
    first_code = min((n for n, _ in notebook.code), default=10**6)
    return "\n\n".join(source_text(cell) for n, cell in notebook.markdown if n < first_code)


@rule
def title(notebook: Notebook) -> Found:
    first = notebook.node.cells[0] if notebook.node.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield 1, "the first cell does not begin with a title (# …)"
    for n, cell in notebook.markdown:
        titles = re.findall(r"^# .+", _without_code(source_text(cell)), re.MULTILINE)
        if len(titles) > (n == 1):
            yield n, "there is more than one title (# …)"


@rule
def opening(notebook: Notebook) -> Found:
    text = _opening(notebook)
    places = []
    for part in _OPENING:
        content = _part(text, part)
        if content is None:
            yield 1, f"the opening lacks **{part}**"
            continue
        begin = _find(text, part)
        places.append(begin.start() if begin else 0)
        if not content.strip():
            yield 1, f"**{part}** is empty"
    if places != sorted(places):
        yield 1, f"the parts of the opening are not in the order {', '.join(_OPENING)}"
    aims = _part(text, "What you'll learn")
    if aims is not None and not 3 <= _bullets(aims) <= 5:
        yield 1, f"**What you'll learn** has {_bullets(aims)} points, not 3 to 5"
    time = _part(text, "Time")
    if time is not None and time.strip() and not re.search(r"\d", time):
        yield 1, "**Time** does not give a number"


@rule
def first_code(notebook: Notebook) -> Found:
    if not notebook.code:
        yield None, "there is no code cell"
        return
    n, cell = notebook.code[0]
    source = source_text(cell)
    if "environment_summary()" not in source or not re.search(
        r"^from helpers import", source, re.M
    ):
        yield n, "the first code cell does not import environment_summary from helpers and call it"


@rule
def closing(notebook: Notebook) -> Found:
    text = "\n\n".join(source_text(cell) for _, cell in notebook.markdown)
    learned = _part(text, "What you learned")
    aims = _part(_opening(notebook), "What you'll learn")
    if learned is None:
        yield None, "the closing lacks **What you learned**"
    elif aims is not None and _bullets(learned) != _bullets(aims):
        yield (
            None,
            f"**What you learned** has {_bullets(learned)} points, "
            f"**What you'll learn** has {_bullets(aims)}",
        )
    last = notebook.node.cells[-1] if notebook.node.cells else None
    following = _part(last.source, "Next") if last and last.cell_type == "markdown" else None
    if not (following or "").strip():
        yield len(notebook.node.cells), "the last cell is not **Next**"
    if last and not re.search(r"\]\(https?://", _part(last.source, "Related") or ""):
        yield len(notebook.node.cells), "the last cell has no **Related** with a link to elsewhere"
    if not any(re.search(r"^## Elsewhere$", cell.source, re.M) for _, cell in notebook.markdown):
        yield None, "there is no section ## Elsewhere, the same with what the reader will meet"


EXERCISES = "Exercises"
EXERCISE_KINDS = ("Predict", "Change", "Build")


@rule
def exercise(notebook: Notebook) -> Found:
    """Three exercises at the end; make_exercises.py --check compares them with their source."""
    headings = [(n, line) for n, line in _headings(notebook) if n > _place(notebook, EXERCISES)]
    if not headings:
        yield None, f"there is no section ## {EXERCISES}"
        return
    starts = [n for n, _ in headings]
    titles = [line for _, line in headings]
    wanted = [f"### {n}. {kind}: " for n, kind in enumerate(EXERCISE_KINDS, start=1)]
    if len(titles) != 3 or not all(map(str.startswith, titles, wanted)):
        yield starts[0], f"the exercises are {titles}, not {wanted}"
        return
    if starts[0] < _place(notebook, "What you learned"):
        yield starts[0], "the exercises come before **What you learned**"
    for start, end in zip(starts, [*starts[1:], 10**6], strict=True):
        code = [(n, cell) for n, cell in notebook.code if start < n < end]
        if len(code) != 2:
            yield start, f"the exercise has {len(code)} code cells, not starter and checkpoint"
            continue
        check, checkpoint = code[1]
        if "done = checkpoint(" not in checkpoint.source:
            yield check, "the checkpoint does not call `checkpoint`"
        if _has(checkpoint.source, (ast.Assert, ast.Raise)):
            yield check, "the checkpoint of the exercise can raise (assert or raise)"
        if "still to do" not in "".join(output_texts(checkpoint)):
            yield check, "the starter has solved the exercise already"
    for n, cell in notebook.code:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            yield n, "a folded cell: solutions belong into solutions/"


@rule
def solved(notebook: Notebook) -> Found:
    checked = [(n, cell) for n, cell in notebook.code if "checkpoint(" in cell.source]
    if len(checked) < 3:
        yield None, "there are not three checkpoints"
    for n, cell in checked:
        text = "".join(output_texts(cell))
        if "✓" not in text or "still to do" in text:
            yield n, "the solution does not satisfy its checkpoint"
        if not _has(cell.source, (ast.Assert,)):
            yield n, "nothing asserts that the checkpoint is satisfied"


def _headings(notebook: Notebook) -> list[tuple[int, str]]:
    return [
        (n, line)
        for n, cell in notebook.markdown
        for line in re.findall(r"^### .+", _without_code(source_text(cell)), re.MULTILINE)
    ]


def _place(notebook: Notebook, title: str) -> int:
    """Number of the cell with a title; past the end without it."""
    return next((n for n, cell in notebook.markdown if _find(cell.source, title)), 10**6)


# --- reading: prose, length of cells, asserts ----------------------------------------------------


@rule
def code_length(notebook: Notebook) -> Found:
    lengths = []
    for n, cell in notebook.code:
        length = sum(1 for line in source_text(cell).splitlines() if line.strip())
        lengths.append(length)
        if length == 0:
            yield n, "the code cell is empty"
        if (whole := len(source_text(cell).splitlines())) > 25:
            yield n, f"the code cell has {whole} lines, blank ones too; 25 are allowed"
    if lengths and not 3 <= statistics.median(lengths) <= 5:
        yield None, f"the median code cell has {statistics.median(lengths):g} lines, not 3 to 5"
    long = sum(length > 15 for length in lengths)
    if long > 0.1 * len(lengths):
        yield None, f"{long} of {len(lengths)} code cells have over 15 lines; one in ten may"


@rule
def prose(notebook: Notebook) -> Found:
    in_a_row = 0
    for n, cell in notebook.cells:
        if cell.cell_type != "code":
            in_a_row = 0
            continue
        in_a_row += 1
        if in_a_row > 2:
            yield n, "more than two code cells in a row"
        before = notebook.node.cells[n - 2] if n > 1 else None
        if in_a_row == 1 and (before is None or not _is_prose(before)):
            yield n, "there is no prose before the code cell (a heading alone is none)"


WORDS = 40
WORDS_OF_A_CONCEPT = 80


@rule
def words(notebook: Notebook) -> Found:
    """Little to read between two cells; more where a section begins or an *italic term* is new."""
    last = len(notebook.node.cells)
    for n, cell in notebook.markdown:
        if n == 1 or n == last or _find(cell.source, "What you learned"):
            continue
        lines = _without_code(source_text(cell)).splitlines()
        text = " ".join(line for line in lines if not re.match(r"#|\||[-*] |\d+\. ", line))
        count = len(text.split())
        new = any(line.startswith("#") for line in lines) or re.search(
            r"(?<!\*)\*[^*\s][^*]*\*(?!\*)", text
        )
        if count > (WORDS_OF_A_CONCEPT if new else WORDS):
            yield (
                n,
                f"{count} words of prose; {WORDS} are allowed, {WORDS_OF_A_CONCEPT} for a concept",
            )


def _is_prose(cell: Any) -> bool:
    lines = source_text(cell).splitlines()
    text = " ".join(line for line in lines if not line.startswith("#"))
    return cell.cell_type == "markdown" and len(re.findall(r"\w+", text)) >= 3


@rule
def section_asserts(notebook: Notebook) -> Found:
    heading: int | None = None
    title_of, code, checked = "", False, False
    for n, cell in [*notebook.cells, (0, None)]:
        begins = None
        if cell is not None and cell.cell_type == "markdown":
            begins = re.search(r"^## (.+)", _without_code(source_text(cell)), re.MULTILINE)
        if cell is None or begins:
            if heading is not None and code and not checked and title_of != EXERCISES:
                yield heading, f"no assert checks the section {title_of!r}"
            if begins:
                heading, title_of, code, checked = n, begins[1], False, False
        elif cell.cell_type == "code":
            code = True
            checked = checked or _has(source_text(cell), (ast.Assert,))


def _without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def _has(source: str, kinds: tuple[type[ast.AST], ...]) -> bool:
    """True if Python code has a statement of these kinds; lines for IPython alone are left out."""
    if source.startswith("%%"):
        source = source.partition("\n")[2]
    python = re.sub(r"^(\s*)[%!?].*", r"\1pass", source, flags=re.MULTILINE)
    try:
        tree = ast.parse(python)
    except SyntaxError:
        return any(kind.__name__.lower() in python.split() for kind in kinds)
    return any(isinstance(node, kinds) for node in ast.walk(tree))


@rule
def links(notebook: Notebook) -> Found:
    for n, cell in notebook.markdown:
        text = _without_code(source_text(cell))
        targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
        targets += re.findall(r"(?:src|href)=[\"']([^\"']+)[\"']", text)
        targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
        for target in targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            if not (notebook.path.parent / unquote(parts.path)).exists():
                yield n, f"the link to {target} leads nowhere"


# --- outputs -------------------------------------------------------------------------------------


@rule
def executed(notebook: Notebook) -> Found:
    counts = [cell.execution_count for _, cell in notebook.code]
    if counts != list(range(1, len(counts) + 1)):
        yield None, f"the cells were not executed in order by one run: {counts}"


@rule
def errors(notebook: Notebook) -> Found:
    for n, cell in notebook.code:
        if any(output.output_type == "error" for output in cell.outputs):
            yield n, "the output is an error"


@rule
def progress_junk(notebook: Notebook) -> Found:
    for n, cell in notebook.code:
        text = "".join(output_texts(cell))
        if "\x1b" in text:
            yield n, "the output has terminal colour codes"
        if "\r" in text.replace("\r\n", "\n") or "\b" in text:
            yield n, "the output has a progress bar that overwrites itself"


@rule
def machine_traces(notebook: Notebook) -> Found:
    for n, cell in notebook.cells:
        outputs = output_texts(cell) if cell.cell_type == "code" else ()
        for where, text in [
            ("source", source_text(cell)),
            *(("output", output) for output in outputs),
        ]:
            for trace in dict.fromkeys(machine_traces_in(text)):
                yield n, f"the {where} shows this machine: {trace!r}"
