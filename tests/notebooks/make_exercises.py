"""Write the exercises of the notebooks, and their solutions, from one source.

    python tests/notebooks/make_exercises.py [--check] [NN…]

notebooks/exercises/NN_name.md has the three exercises of a notebook: what to do, a starter, a
checkpoint and a solution. From it come the cells of the notebook's section "Exercises" (without
the solutions) and the notebook solutions/NN_name.ipynb. What did not change keeps its outputs;
run_notebook.py brings the others. --check changes nothing: exit status 1 if something differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from check_form import NOTEBOOKS, find_notebooks, normalise
from form_rules import EXERCISE_KINDS, EXERCISES, canonical_text
from machine_traces import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

TAG = "exercise"
INTRODUCTION = (
    "Each has a starter that runs as it stands, and a checkpoint that says what is still to do. "
    "The cell below is all that they need: come back to it after a restart. One way to solve "
    "them: [solutions/{name}](solutions/{name}.ipynb)."
)
_BLOCK = re.compile(r"^```python (setup|starter|checkpoint|solution)\n(.*?)^```$", re.M | re.S)


class ExerciseError(Exception):
    """A file of exercises is not in the form that this program reads."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        title: Its kind and its name, such as "Predict: where does it end?".
        task: What to do, in Markdown.
        starter: Code to begin with; it runs as it stands.
        checkpoint: Code that calls `checkpoint` and names what it returns `done`.
        solution: Code in place of the starter.
        remark: Why it is so, in Markdown; shown under the solution alone.
    """

    title: str
    task: str
    starter: str
    checkpoint: str
    solution: str
    remark: str


def read(path: Path) -> tuple[str, list[Exercise]]:
    """Return the setup's code and the exercises of a file.

    Raises:
        ExerciseError: The file has another form; the message says where.
    """
    head, *parts = re.split(r"^## ", path.read_text("utf-8"), flags=re.M)
    setup = _blocks(head).get("setup")
    if setup is None:
        raise ExerciseError(f"{path.name}: there is no block ```python setup before the exercises")
    return setup, [_exercise(path.name, part) for part in parts]


def _blocks(text: str) -> dict[str, str]:
    """The blocks of code by their kinds, as `ruff format` wants them in a notebook."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "--stdin-filename", "cell.py"]
    command = [sys.executable, "-m", "ruff", "format", "--quiet", *settings, "-"]
    return {
        kind: subprocess.run(
            command, input=code, capture_output=True, text=True, check=True
        ).stdout.strip("\n")
        for kind, code in _BLOCK.findall(text)
    }


def _exercise(file: str, text: str) -> Exercise:
    title, _, body = text.partition("\n")
    blocks = _blocks(body)
    found = [kind for kind, _ in _BLOCK.findall(body)]
    if found != ["starter", "checkpoint", "solution"]:
        raise ExerciseError(
            f"{file}: {title!r} has the blocks {found}, not starter, checkpoint, solution"
        )
    if "done = checkpoint(" not in blocks["checkpoint"]:
        raise ExerciseError(f"{file}: the checkpoint of {title!r} has no `done = checkpoint(…)`")
    task, *_, remark = _BLOCK.split(body)
    return Exercise(title.strip(), task.strip(), **blocks, remark=remark.strip())


def section(name: str, setup: str, exercises: list[Exercise]) -> list[Any]:
    """Return the cells of a notebook's section of exercises."""
    cells = [
        _markdown(f"## {EXERCISES}\n\n{INTRODUCTION.format(name=name)}", "exercises"),
        _code(setup, "exercises-setup"),
    ]
    for n, one in enumerate(exercises, start=1):
        cells += [
            _markdown(f"### {n}. {one.title}\n\n{one.task}", f"exercise-{n}"),
            _code(one.starter, f"exercise-{n}-starter"),
            _code(one.checkpoint, f"exercise-{n}-checkpoint"),
        ]
    return cells


def solutions(name: str, title: str, setup: str, exercises: list[Exercise]) -> Any:
    """Return the notebook of a notebook's solutions, without outputs."""
    cells = [
        _markdown(
            f"# Solutions: {title}\n\nOne way to solve the exercises of "
            f"[{name}](../{name}.ipynb). Try them there first: a checkpoint says what is missing.",
            "title",
        ),
        _code("from helpers import environment_summary\n\nenvironment_summary()", "summary"),
        _markdown("What all three need:", "setup-text"),
        _code(setup, "setup"),
    ]
    for n, one in enumerate(exercises, start=1):
        cells += [
            _markdown(f"## {n}. {one.title}\n\n{one.task}", f"task-{n}"),
            _code(one.solution, f"solution-{n}"),
            _code(f"{one.checkpoint}\nassert done", f"checkpoint-{n}"),
        ]
        cells += [_markdown(one.remark, f"remark-{n}")] if one.remark else []
    cells.append(_markdown(f"**Back** to [{name}](../{name}.ipynb)", "back"))
    for cell in cells:
        cell.metadata.pop("tags", None)
    return new_notebook(cells=cells)


def _markdown(source: str, identity: str) -> Any:
    return new_markdown_cell(source, id=identity, metadata={"tags": [TAG]})


def _code(source: str, identity: str) -> Any:
    return new_code_cell(source, id=identity, metadata={"tags": [TAG]})


def with_section(lesson: Any, cells: list[Any]) -> Any:
    """Return a lesson with these exercises, before its last cell, in place of those it has."""
    rest = [cell for cell in lesson.cells if TAG not in cell.metadata.get("tags", [])]
    return new_notebook(cells=[*rest[:-1], *cells, *rest[-1:]], metadata=lesson.metadata)


def keep_outputs(node: Any, old: Any | None) -> Any:
    """Give code cells the outputs that the same cells had before."""
    before = {(cell.id, cell.source): cell for cell in old.cells} if old else {}
    for cell in node.cells:
        same = before.get((cell.id, cell.source))
        if cell.cell_type == "code" and same is not None:
            cell.outputs, cell.execution_count = same.outputs, same.execution_count
    return node


def make(lesson: Path) -> dict[Path, str]:
    """Return what the files of a lesson and of its solutions have to be.

    Raises:
        ExerciseError: The lesson has no file of exercises, or it has another form.
    """
    source = lesson.parent / "exercises" / f"{lesson.stem}.md"
    if not source.exists():
        raise ExerciseError(f"there is no notebooks/exercises/{source.name}")
    setup, exercises = read(source)
    kinds = [exercise.title.partition(":")[0] for exercise in exercises]
    if kinds != list(EXERCISE_KINDS):
        raise ExerciseError(f"{source.name}: the exercises are {kinds}, not {EXERCISE_KINDS}")
    node = _read(lesson)
    title = node.cells[0].source.splitlines()[0].removeprefix("# ")
    solved = lesson.parent / "solutions" / lesson.name
    made = {
        lesson: with_section(node, section(lesson.stem, setup, exercises)),
        solved: solutions(lesson.stem, title, setup, exercises),
    }
    return {
        path: canonical_text(normalise(keep_outputs(one, _read(path) if path.exists() else None)))
        for path, one in made.items()
    }


def _read(path: Path) -> Any:
    return nbformat.v4.reads(path.read_text("utf-8"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; say what differs")
    parser.add_argument("names", nargs="*", help="numbers or beginnings of names (default: all)")
    options = parser.parse_args(arguments)
    names = tuple(options.names) or ("",)
    lessons = [path for path in find_notebooks() if path.name.startswith(names)]
    wrong = 0
    for lesson in lessons:
        try:
            files = make(lesson)
        except ExerciseError as error:
            print(error)
            wrong += 1
            continue
        for path, text in files.items():
            if path.exists() and path.read_text("utf-8") == text:
                continue
            where = path.relative_to(NOTEBOOKS.parent).as_posix()
            if options.check:
                print(f"{where} differs from its source: python tests/notebooks/make_exercises.py")
                wrong += 1
            else:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
                print(f"wrote {where}")
    known = {path.stem for path in find_notebooks()}
    for folder, kind in (("exercises", "*.md"), ("solutions", "*.ipynb")):
        for path in sorted((NOTEBOOKS / folder).glob(kind)):
            if path.stem not in known:
                print(f"notebooks/{folder}/{path.name} belongs to no notebook")
                wrong += 1
    print(f"{len(lessons)} notebooks, {wrong} problem{'s' * (wrong != 1)}")
    return 1 if wrong or not lessons else 0


if __name__ == "__main__":
    sys.exit(main())
