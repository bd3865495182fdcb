"""Record what another model answers in chosen cells of the notebooks.

    python tests/notebooks/record_answers.py MODEL [NN…]

Runs the notebooks that have cells with a tag `record:NAME` (or those given) with MODEL, a file or
a name that `find_model` knows, and writes what these cells printed to notebooks/data/answers.json,
with the model's file name, the day and the machine. The notebooks show it beside their own
answers (`helpers.recorded_answers`). Nothing else writes that file.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

import nbformat
from check_form import find_notebooks
from form_rules import output_texts
from machine_traces import machine_traces_in
from run_notebook import RunError, execute, select

from helpers import HelpersError, environment_summary, find_model
from helpers.lessons import RecordedAnswer, write_answers

PREFIX = "record:"


def names_in(node: Any) -> dict[str, Any]:
    """Return the cells of a notebook that are to be recorded, by their names."""
    return {
        tag.removeprefix(PREFIX): cell
        for cell in node.cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(PREFIX)
    }


def record(path: Path, model: Path) -> list[RecordedAnswer]:
    """Run one notebook with a model and return what its chosen cells printed.

    Raises:
        RunError: The notebook did not run to its end, or a text shows this machine.
    """
    summary = environment_summary()
    machine = f"{summary.devices[0].partition(': ')[2]}, {summary.cores_physical} cores"
    answers = []
    for name, cell in names_in(execute(path, model=model, timeout_s=3600)).items():
        text = "\n".join(output_texts(cell)).rstrip()
        traces = list(machine_traces_in(text))
        if traces:
            raise RunError(f"{name!r} shows this machine: {traces}")
        answers.append(RecordedAnswer(name, model.name, datetime.date.today(), machine, text))
    return answers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a GGUF file, or a name that find_model knows")
    parser.add_argument("names", nargs="*", help="numbers of notebooks (default: all with cells)")
    options = parser.parse_args(arguments)
    try:
        model = find_model(options.model)
        paths = select(options.names) if options.names else find_notebooks()
    except (HelpersError, RunError) as error:
        parser.error(str(error))
    failed = 0
    for path in paths:
        if not names_in(nbformat.v4.reads(path.read_text("utf-8"))):
            continue
        try:
            answers = record(path, model)
        except RunError as error:
            failed += 1
            print(f"[FAIL] {path.name}, {error}", flush=True)
        else:
            write_answers(answers)
            print(f"[ OK ] {path.name}: {', '.join(one.name for one in answers)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
