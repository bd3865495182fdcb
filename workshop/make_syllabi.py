"""Write the tables of the syllabi and of the certificate.

    python workshop/make_syllabi.py [--check]

`syllabi.toml` says what is taught in which order; a notebook says how long it takes: its line
**Time** has the minutes to read, its metadata the `run_seconds` of its last whole run. A section's
share of the reading is its share of the words, its share of the running that of the code cells.
--check changes nothing. Exit status 1 if a plan cannot be held, or, with --check, a file differs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parent / "notebooks"
WITHOUT_BREAK = 90  # minutes that a room bears


class SyllabusError(Exception):
    """A plan names what does not exist, or a file says too little."""


@dataclass(frozen=True)
class Lesson:
    """What a notebook says about itself: words and code cells by section, exercises by kind."""

    read_minutes: int
    run_seconds: int
    aims: list[str]
    words: Counter[str]
    cells: Counter[str]
    exercises: dict[str, str]

    def minutes(self, sections: list[str]) -> float:
        """Minutes to read and to run these sections; those to read leave the exercises out."""
        words = self.words.total() - self.words["Exercises"]
        read = self.read_minutes * sum(self.words[title] for title in sections) / words
        cells = sum(self.cells[title] for title in sections) / self.cells.total()
        return read + self.run_seconds / 60 * cells


@cache
def read_lesson(name: str) -> Lesson:
    """Read a notebook; a SyllabusError if there is none, or it does not say how long it takes."""
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        there = ", ".join(sorted(one.stem for one in NOTEBOOKS.glob("*.ipynb")))
        raise SyllabusError(f"there is no notebook {name!r}; there are: {there}")
    node = json.loads(path.read_text("utf-8"))
    opening = "".join(node["cells"][0]["source"])
    read = re.search(r"^\*\*Time\*\* (\d+) minutes to read", opening, re.M)
    seconds = node["metadata"].get("run_seconds")
    if read is None or seconds is None:
        raise SyllabusError(f"{name}: **Time** has no minutes, or run_notebook.py has not run it")
    aims = opening.partition("**What you'll learn**")[2].partition("**What you'll need**")[0]
    aims_found = re.findall("^- (.+)", aims, re.M)
    lesson, here = Lesson(int(read[1]), seconds, aims_found, Counter(), Counter(), {}), ""
    for cell in node["cells"]:
        text, code = "".join(cell["source"]), cell["cell_type"] == "code"
        prose = "" if code else re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        for part in [text] if code else re.split(r"^(?=##)", prose, flags=re.M):
            if not code and (found := re.match(r"## (.+)", part)):
                here = found[1]
            elif not code and (found := re.match(r"### (\d\. (\w+): .+)", part)):
                lesson.exercises[found[2]] = found[1]
            if here:
                lesson.words[here] += len(part.split())
                lesson.cells[here] += code
    return lesson


@dataclass(frozen=True)
class Syllabus:
    """One format; `syllabi.toml` explains the fields."""

    file: str
    minutes: int
    slack: int
    pace: float
    exercise: dict[str, int]
    block: list[dict[str, Any]]

    def needs(self, block: dict[str, Any]) -> int:
        """Minutes that a block needs at least; SyllabusError where it names what is not there."""
        if block["kind"] == "exercise":
            kinds = _known(block, "exercises", read_lesson(block["notebook"]).exercises)
            return sum(self.exercise[kind] for kind in kinds)
        if block["kind"] == "teach":
            lesson = read_lesson(block["notebook"])
            minutes = lesson.minutes(_known(block, "sections", lesson.words))
            return 5 * math.ceil(self.pace * minutes / 5)
        return int(block["minutes"])

    def times(self) -> list[tuple[dict[str, Any], int]]:
        """The blocks, each with the minutes that its plan gives, or else those that it needs."""
        return [(block, block.get("minutes") or self.needs(block)) for block in self.block]

    def problems(self) -> list[str]:
        """Say why this plan cannot be held."""
        found, since, total = [], 0, 0
        for block, minutes in self.times():
            total += minutes
            since = 0 if block["kind"] == "break" else since + minutes
            if since - minutes <= WITHOUT_BREAK < since:
                found.append(f"over {WITHOUT_BREAK} minutes without a break: {_what(block)}")
            if minutes < self.needs(block):
                found.append(f"{minutes} minutes; {self.needs(block)} needed: {_what(block)}")
        if not self.minutes - self.slack <= total <= self.minutes:
            found.append(f"{total} minutes, not {self.minutes - self.slack} to {self.minutes}")
        return [f"{self.file}: {problem}" for problem in found]

    def table(self) -> str:
        """The table with the clock, and what it adds up to."""
        lines, clock = ["| clock | | what | minutes |", "|---|---|---|---|"], 0
        spent: Counter[str] = Counter()
        for block, minutes in self.times():
            at, kind = f"{clock // 60}:{clock % 60:02}", block["kind"]
            lines.append(f"| {at} | {kind} | {_what(block)} | {minutes} |")
            clock, spent[kind] = clock + minutes, spent[kind] + minutes
        lines.append(f"| {clock // 60}:{clock % 60:02} | | left over | {self.minutes - clock} |")
        names = {block["notebook"] for block in self.block if "notebook" in block}
        runs = math.ceil(sum(read_lesson(name).run_seconds for name in names) / 60)
        parts = ", ".join(f"{kind} {minutes}" for kind, minutes in spent.items())
        lines += ["", f"In minutes: {parts}. Two cores run all of its notebooks once in {runs}."]
        return "\n".join(lines)


def _known(block: dict[str, Any], key: str, known: Any) -> list[str]:
    for one in (wanted := list(block[key])):
        if one not in known:
            raise SyllabusError(f"{block['notebook']} has no {one!r}; it has: {', '.join(known)}")
    return wanted


def _what(block: dict[str, Any]) -> str:
    if "notebook" not in block:
        return str(block["title"])
    name = block["notebook"]
    parts = block.get("sections") or [read_lesson(name).exercises[x] for x in block["exercises"]]
    return f"[{name}](../notebooks/{name}.ipynb): {' · '.join(parts)}"


def syllabi() -> list[Syllabus]:
    """Read the plans."""
    data = tomllib.loads((HERE / "syllabi.toml").read_text("utf-8"))
    return [Syllabus(pace=data["pace"], exercise=data["exercise"], **x) for x in data["syllabus"]]


def make(plans: list[Syllabus]) -> dict[Path, str]:
    """Return what the files have to be: between the marks what is generated, around it as it is."""
    aims = ["| notebook | what was learned | solved |", "|---|---|---|"]
    for name in sorted({b["notebook"] for plan in plans for b in plan.block if "notebook" in b}):
        lesson = read_lesson(name)
        boxes = " ".join(f"☐ {kind}" for kind in lesson.exercises)
        aims.append(f"| {name} | {'; '.join(lesson.aims)} | {boxes} |")
    tables = {plan.file: plan.table() for plan in plans} | {"certificate.md": "\n".join(aims)}
    return {HERE / name: _filled(HERE / name, table) for name, table in tables.items()}


def _filled(path: Path, table: str) -> str:
    before, begin, rest = path.read_text("utf-8").partition("<!-- generated -->\n")
    _, end, after = rest.partition("<!-- /generated -->")
    if not end:
        raise SyllabusError(f"{path.name}: no <!-- generated --> and <!-- /generated -->")
    return f"{before}{begin}{table}\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or say what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; say what differs")
    check = parser.parse_args(arguments).check
    try:
        plans = syllabi()
        problems = [problem for plan in plans for problem in plan.problems()]
        files = make(plans)
    except SyllabusError as error:
        raise SystemExit(str(error)) from error
    for path, text in files.items():
        if check and path.read_text("utf-8") != text:
            problems.append(f"{path.name} is out of date: python workshop/make_syllabi.py")
        elif not check:
            path.write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(problems) or "the syllabi are in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
