"""Run notebooks from top to bottom and keep their real outputs.

    python tests/notebooks/run_notebook.py [--model FILE] [NN… | paths]

A number means a lesson and its solutions. Without arguments: all. Each is run in a new kernel with
its folder as the working directory, as a reader runs it. A notebook whose run raises, or whose
outputs show this machine's paths, is not written: nothing is scrubbed. The time of each is
printed; a lesson's is kept in its metadata, for the workshop's syllabi. With --model, another model
is at work, and nothing is written: it only shows whether the notebooks run to their ends. Exit
status 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from check_form import NOTEBOOKS, find_notebooks, normalise, write
from form_rules import RUN_SECONDS, is_solutions, output_texts
from machine_traces import machine_traces_in
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from helpers.models.default import MODEL_VARIABLE

CELL_TIMEOUT_S = 180
LIMIT_S = 90  # of a whole notebook, on 2 cores


class RunError(Exception):
    """A notebook did not run to its end, or its outputs cannot be published."""


def run(path: Path, *, timeout_s: int = CELL_TIMEOUT_S) -> float:
    """Execute one notebook and write it back with its outputs.

    Args:
        path: The notebook; its folder is the working directory.
        timeout_s: Seconds that one cell may take.

    Returns:
        Seconds that the run took, the start of the kernel included.

    Raises:
        RunError: It failed; the file is as it was.
    """
    begin = time.monotonic()
    node = execute(path, timeout_s=timeout_s)
    seconds = time.monotonic() - begin
    traces = [
        f"cell {n} shows this machine: {trace!r}"
        for n, cell in enumerate(node.cells, start=1)
        if cell.cell_type == "code"
        for text in output_texts(cell)
        for trace in machine_traces_in(text)
    ]
    if traces:
        raise RunError("\n".join(traces))
    if not is_solutions(path):
        node.metadata[RUN_SECONDS] = max(1, round(seconds))
    write(path, normalise(node))
    return seconds


def execute(path: Path, *, model: Path | None = None, timeout_s: int = CELL_TIMEOUT_S) -> Any:
    """Return a notebook with the outputs of a run; the file stays as it is.

    Args:
        path: The notebook; its folder is the working directory.
        model: The model at work, in place of the embedded one.
        timeout_s: Seconds that one cell may take.

    Raises:
        RunError: A cell raised, took too long, or ended the kernel.
    """
    node = normalise(nbformat.v4.reads(path.read_text("utf-8")))
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        node,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,  # one text per cell, not one per token
        record_timing=False,
        store_widget_state=False,
    )
    env = {key: value for key, value in os.environ.items() if key != MODEL_VARIABLE}
    if model is not None:
        env[MODEL_VARIABLE] = str(model.absolute())
    try:
        client.execute(env=env)
    except CellExecutionError as error:
        raise RunError(f"{_failed_cell(node)}\n{error}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise RunError(f"{_failed_cell(node)}\n{type(error).__name__}: {error}") from error
    return node


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if is_solutions(path) else path.name


def _failed_cell(node: Any) -> str:
    code = [(n, cell) for n, cell in enumerate(node.cells, start=1) if cell.cell_type == "code"]
    begun = [n for n, cell in code if cell.execution_count or cell.outputs]
    return f"in cell {begun[-1] if begun else code[0][0] if code else 1}:"


def select(names: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks that are meant: a path, or the beginning of a name such as `20`."""
    solved = folder / "solutions"
    if not names:
        return [*find_notebooks(folder), *find_notebooks(solved)]
    chosen: list[Path] = []
    for name in names:
        path = Path(name)
        matches = (
            [path]
            if path.is_file()
            else [
                match
                for place in (folder, solved)
                for match in sorted(place.glob(f"{path.stem}*.ipynb"))
            ]
        )
        if not matches:
            raise RunError(f"no notebook begins with {name!r}")
        chosen += [match for match in matches if match not in chosen]
    return chosen


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, metavar="FILE", help="run with it, write nothing")
    parser.add_argument("names", nargs="*", help="numbers, beginnings of names, or paths")
    options = parser.parse_args(arguments)
    try:
        paths = select(options.names)
    except RunError as error:
        parser.error(str(error))
    failed = 0
    for path in paths:
        try:
            begin = time.monotonic()
            if options.model:
                execute(path, model=options.model)
            else:
                run(path)
        except RunError as error:
            failed += 1
            print(f"[FAIL] {_shown(path)} was not written, {error}", flush=True)
        else:
            seconds = time.monotonic() - begin
            slow = f", over the {LIMIT_S} s that are allowed" if seconds > LIMIT_S else ""
            print(f"[ OK ] {_shown(path)}: {seconds:.1f} s{slow}", flush=True)
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
