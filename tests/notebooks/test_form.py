"""The form of the suite's notebooks; each rule is seen to fail on a notebook broken on purpose."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_form
import form_rules
import machine_traces
import make_exercises
import nbformat
import pytest
import run_notebook
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOUND = check_form.find_notebooks()
SOLUTIONS = check_form.find_notebooks(check_form.NOTEBOOKS / "solutions")
KOREAN = check_form.find_notebooks(check_form.NOTEBOOKS / "ko")


def test_the_notebooks_are_those_of_the_readme() -> None:
    problems = check_form.list_problems(check_form.way_through(), check_form.listed_in())
    assert problems == []


@pytest.mark.parametrize(
    "path",
    [*FOUND, *SOLUTIONS, *KOREAN],
    ids=[f"{path.parent.name}-{path.stem}" for path in FOUND + SOLUTIONS + KOREAN],
)
def test_form(path: Path) -> None:
    assert [str(problem) for problem in form_rules.check_notebook(path)] == []


def test_every_notebook_has_solutions() -> None:
    assert [path.name for path in SOLUTIONS] == [path.name for path in FOUND]


# --- a good notebook, and what breaks it ---------------------------------------------------------


def good() -> Any:
    def code(source: str, **metadata: Any) -> Any:
        return new_code_cell(source, metadata=metadata)

    node = new_notebook(
        metadata=form_rules.METADATA,
        cells=[
            new_markdown_cell(
                "# Count to three\n\n**What you'll do**\n\nYou count.\n\n**What you'll learn**\n\n"
                "- to begin\n- to go on\n- to end\n\n**What you'll need**: a machine\n\n"
                "**Time**: 5 minutes to read, 10 s to run\n\n**Hardware**: any"
            ),
            code(
                "from helpers import environment_summary\n\n"
                "summary = environment_summary()\nsummary"
            ),
            new_markdown_cell("## Begin\n\nHere is the first number. [Data](data/numbers.txt)"),
            code("one = 1\ntwo = 2\nprint(one)"),
            code("assert one == 1\nassert two == 2\nprint('✓')"),
            new_markdown_cell("## Elsewhere\n\nOthers count from zero."),
            code("zero = 0\nassert zero < one\nprint('✓')"),
            new_markdown_cell(
                "## What you learned\n\n- you began\n- you went on\n- you ended\n\n"
                "```\n# a comment, no title\n```"
            ),
            new_markdown_cell("## Exercises\n\nThese need one cell."),
            code("from helpers import checkpoint\n\nnumber = 3"),
            *(
                cell
                for n, kind in enumerate(form_rules.EXERCISE_KINDS, start=1)
                for cell in (
                    new_markdown_cell(f"### {n}. {kind}: one more\n\nCount one further."),
                    code("answer = 3\nanswer\nprint(answer)"),
                    code("done = checkpoint(\n    {'four': lambda: answer == 4}\n)"),
                )
            ),
            new_markdown_cell(
                "**Related** [Counting](https://example.org)\n\n"
                "**Next** [Count on](10_count_further.ipynb)"
            ),
        ],
    )
    for n, cell in enumerate((c for c in node.cells if c.cell_type == "code"), start=1):
        cell.execution_count = n
        text = "still to do: four\n" if "checkpoint(" in cell.source else "✓\n"
        cell.outputs = [new_output("stream", name="stdout", text=text)]
    return check_form.normalise(node)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "numbers.txt").write_text("1")
    (tmp_path / "10_count_further.ipynb").write_text("{}")
    return tmp_path


def rules_broken(folder: Path, node: Any, name: str = "00_count_things.ipynb") -> set[str]:
    path = folder / name
    check_form.write(path, node)
    return {problem.rule for problem in form_rules.check_notebook(path)}


def test_the_good_notebook_is_good(folder: Path) -> None:
    assert rules_broken(folder, good()) == set()


def change(cell: int, old: str, new: str) -> Callable[[Any], None]:
    def apply(node: Any) -> None:
        assert old in node.cells[cell].source
        node.cells[cell].source = node.cells[cell].source.replace(old, new)

    return apply


def output(text: str, cell: int = 3) -> Callable[[Any], None]:
    def apply(node: Any) -> None:
        node.cells[cell].outputs = [new_output("stream", name="stdout", text=text)]

    return apply


def put(target: Callable[[Any], Any], key: str, value: Any) -> Callable[[Any], None]:
    return lambda node: target(node).__setitem__(key, value)


def insert(at: int, *cells: Any) -> Callable[[Any], None]:
    def apply(node: Any) -> None:
        node.cells[at:at] = cells
        count = 0
        for n, cell in enumerate(node.cells):
            cell.id = f"id-{n}"
            if cell.cell_type == "code":
                count += 1
                cell.execution_count = count

    return apply


def html(text: str) -> Callable[[Any], None]:
    result = new_output("display_data", data={"text/html": text})
    return put(lambda node: node.cells[3], "outputs", [result])


LEARN = "- to begin\n- to go on\n- to end"
LONG = "answer = 3\n" + "\n".join(f"x{n} = {n}" for n in range(14))
SMALL = "a = 1\nb = 2\nc = 3"

BROKEN: dict[str, list[Callable[[Any], None]]] = {
    "format-version": [lambda node: node.update(nbformat_minor=4)],
    "ids": [
        lambda node: node.cells[2].pop("id"),
        lambda node: node.cells[2].update(id=node.cells[3].id),
    ],
    "metadata": [
        put(lambda node: node.metadata, "language_info", {"name": "python", "version": "3.11.7"}),
        put(lambda node: node.metadata.kernelspec, "name", "my-env"),
        put(lambda node: node.metadata, "widgets", {}),
        put(lambda node: node.metadata, "run_seconds", 12.5),
        put(lambda node: node.metadata, "run_seconds", 0),
        put(lambda node: node.cells[3].metadata, "execution", {"iopub.status.busy": "now"}),
        put(lambda node: node.cells[3].metadata, "scrolled", True),
    ],
    "whitespace": [
        change(3, "one = 1", "one = 1  "),
        change(2, "numbers.txt)", "numbers.txt)\n\n\t"),
    ],
    "title": [
        change(0, "# Count", "Count"),
        change(2, "## Begin", "# Begin"),
        insert(0, new_markdown_cell("A word before the title.")),
    ],
    "opening": [
        *(change(0, f"**{part}**", "") for part in form_rules._OPENING),
        change(0, LEARN, "- to begin\n- to end"),
        change(0, LEARN, "\n".join("- to count" for _ in range(6))),
        change(0, "5 minutes to read, 10 s to run", "not long"),
        change(0, ": a machine", ""),
        lambda node: (
            change(0, "**Time**", "**XX**")(node),
            change(0, "**Hardware**", "**Time**")(node),
            change(0, "**XX**", "**Hardware**")(node),
            change(0, ": any", ": 3 min")(node),
        ),
    ],
    "first-code": [
        change(1, "environment_summary()", "3"),
        change(1, "from helpers import", "from elsewhere import"),
        lambda node: node.update(cells=[c for c in node.cells if c.cell_type != "code"]),
    ],
    "closing": [
        change(7, "What you learned", "Summary"),
        change(7, "\n- you ended", ""),
        change(19, "**Next**", "Later"),
        change(19, "[Count on](10_count_further.ipynb)", ""),
        change(19, "**Related**", "See"),
        change(19, "https://example.org", "10_count_further.ipynb"),
        change(5, "## Elsewhere", "## Otherwise"),
        lambda node: node.cells.append(new_markdown_cell("One more thing.", id="more")),
    ],
    "exercise": [
        change(8, "## Exercises", "## Tasks"),
        change(10, "### 1. Predict", "### 1. Guess"),
        change(13, "### 2. ", "### 3. "),
        lambda node: node.cells.__delitem__(slice(16, 19)),
        lambda node: node.cells.pop(11),
        lambda node: node.cells.insert(7, node.cells.pop(18)),
        lambda node: node.cells.insert(18, node.cells.pop(7)),
        change(12, "done = checkpoint", "print"),
        change(12, "done = ", "assert done\ndone = "),
        change(12, "done = ", "if not done: raise SystemExit\ndone = "),
        output("✓ four\n", cell=15),
        put(lambda node: node.cells[11], "metadata", {"jupyter": {"source_hidden": True}}),
    ],
    "words": [
        change(2, "Here is", "word " * 80 + "is"),
        insert(4, new_markdown_cell("word " * 41)),
        insert(4, new_markdown_cell("*term* " + "word " * 81)),
    ],
    "code-length": [
        change(3, "one = 1", "\n".join(f"x{n} = {n}" for n in range(25)) + "\none = 1"),
        lambda node: [change(n, "answer = 3", LONG)(node) for n in (11, 14)],
        change(3, "one = 1\ntwo = 2\nprint(one)", ""),
        lambda node: [c.update(source="x = 1") for c in node.cells if c.cell_type == "code"],
    ],
    "prose": [
        insert(4, new_code_cell(SMALL)),
        lambda node: node.cells.pop(2),
        change(2, "\n\nHere is the first number. [Data](data/numbers.txt)", ""),
        lambda node: node.cells.pop(0),
    ],
    "section-asserts": [
        change(6, "assert zero < one", "zero < one"),
        change(4, "assert one == 1\nassert two == 2", "one == 1\ntwo == 2"),
        change(4, "assert one == 1\nassert two == 2", "# assert one == 1\n'assert'"),
    ],
    "links": [
        change(2, "data/numbers.txt", "data/absent.txt"),
        change(19, "10_count_further.ipynb", "11_count_further.ipynb#begin"),
        change(2, "[Data](data/numbers.txt)", "<img src='data/absent.png'>"),
        change(2, "[Data](data/numbers.txt)", "[Data]\n\n[Data]: absent.txt"),
    ],
    "executed": [
        lambda node: node.cells[3].update(execution_count=None),
        lambda node: node.cells[3].update(execution_count=7),
        lambda node: node.cells[1].update(execution_count=2),
    ],
    "errors": [
        put(
            lambda node: node.cells[3],
            "outputs",
            [new_output("error", ename="ValueError", evalue="no", traceback=["no"])],
        )
    ],
    "progress-junk": [
        output("\x1b[31mred\x1b[0m"),
        output(" 10%|#   \r 20%|##  \r"),
        html("<pre>\x1b[1mbold</pre>"),
    ],
    "machine-traces": [
        output("saved in /" + "root/.cache/models"),
        output("/" + "work/project/file.py:3: Warning"),
        output("'/home/someone/model.gguf'"),
        output("/Users/someone/model.gguf"),
        output("C:\\Users\\someone\\model.gguf"),
        output("'c:\\\\Users\\\\someone'"),
        output("File /tmp/ipykernel_123/456.py"),
        output("/usr/lib/python3.11/site.py"),
        output("Looking in indexes: somewhere"),
        output("https://packages.example.internal/a.whl"),
        output("https://registry.example.com/api/pypi/simple/"),
        output("https://user:word@example.com/"),
        change(2, "Here is", "See /home/someone/x: here is"),
        change(3, "one = 1", "one = '/" + "root/x'"),
        html("<td>/home/someone/x</td>"),
        lambda node: output(f"in {machine_traces.ROOT}")(node),
    ],
}


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        pytest.param(rule, spoil, id=f"{rule}-{n}")
        for rule, spoils in BROKEN.items()
        for n, spoil in enumerate(spoils, start=1)
    ],
)
def test_each_rule_can_fail(folder: Path, rule: str, spoil: Callable[[Any], None]) -> None:
    node = good()
    spoil(node)
    assert rule in rules_broken(folder, node)


def test_every_rule_is_broken_on_purpose_somewhere_here() -> None:
    elsewhere = {"name", "size", "canonical", "solved"}
    assert set(form_rules.RULES) == set(BROKEN) | elsewhere


@pytest.mark.parametrize(
    "text",
    [
        "word " * 40,
        "## New\n\n" + "word " * 80,
        "A *term* " + "word " * 78,
        "Rows:\n\n" + "| a table of words |\n" * 40,
        "Points:\n\n" + "- a point of the list\n" * 40,
        "```\n" + "code " * 90 + "end\n```\n\nWords about it.",
    ],
)
def test_what_may_be_longer(folder: Path, text: str) -> None:
    node = good()
    insert(5, new_markdown_cell(text.strip()))(node)
    assert rules_broken(folder, node) == set()


# --- solutions -----------------------------------------------------------------------------------

EXERCISES = """# Exercises

```python setup
from helpers import checkpoint
```
""" + "".join(
    f"""
## {kind}: one more

Count one further.

```python starter
two = 2
answer = 3
print(answer)
```

```python checkpoint
done = checkpoint({{"four": lambda: answer == 4}})
```

```python solution
two = 2
answer = 4
print(answer)
```

It follows three.
"""
    for kind in form_rules.EXERCISE_KINDS
)


@pytest.fixture
def lesson(folder: Path) -> Path:
    """A notebook without exercises, and their source."""
    node = good()
    del node.cells[8:19]
    path = folder / "00_count_things.ipynb"
    check_form.write(path, node)
    (folder / "exercises").mkdir()
    (folder / "exercises" / "00_count_things.md").write_text(EXERCISES)
    return path


def written(lesson: Path) -> dict[str, Any]:
    """The files that come of a lesson, as they are on the disk afterwards."""
    files = make_exercises.make(lesson)
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return {path.parent.name: nbformat.v4.reads(text) for path, text in files.items()}


def test_exercises_and_solutions_come_from_one_source(lesson: Path) -> None:
    files = written(lesson)
    shown = [cell.source for cell in files[lesson.parent.name].cells]
    solved = [cell.source for cell in files["solutions"].cells]
    starters = [sum("answer = 3" in text for text in texts) for texts in (shown, solved)]
    answers = [sum("answer = 4" in text for text in texts) for texts in (shown, solved)]
    assert (starters, answers) == ([3, 0], [0, 3])
    assert sum(text.endswith("assert done") for text in solved) == 3
    assert solved.count("It follows three.") == 3 and "It follows three." not in shown
    assert make_exercises.make(lesson) == {
        path: path.read_text("utf-8")
        for path in (lesson, lesson.parent / "solutions" / lesson.name)
    }, "a second run has nothing to do"


def test_both_run_and_keep_the_rules(lesson: Path) -> None:
    written(lesson)
    for path in (lesson, lesson.parent / "solutions" / lesson.name):
        run_notebook.run(path)
        assert [str(problem) for problem in form_rules.check_notebook(path)] == [], path
    outputs = [cell.get("outputs") for cell in written(lesson)["solutions"].cells]
    assert sum("✓ four" in str(output) for output in outputs) == 3, "they are kept"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("answer = 4", "answer = 5"),
        ("answer = 4", "pass"),
        ('done = checkpoint({"four"', 'print("✓"); done = checkpoint({"four"'),
    ],
)
def test_a_solution_that_does_not_solve_is_seen(lesson: Path, old: str, new: str) -> None:
    source = lesson.parent / "exercises" / "00_count_things.md"
    source.write_text(EXERCISES.replace(old, new).replace("answer == 4", "answer == 4 + 0 * 1"))
    written(lesson)
    solved = lesson.parent / "solutions" / lesson.name
    if new.startswith("print"):
        node = nbformat.v4.reads(solved.read_text("utf-8"))
        for cell in node.cells:
            cell.source = cell.source.replace("\nassert done", "")
        check_form.write(solved, node)
        run_notebook.run(solved)
        assert {problem.rule for problem in form_rules.check_notebook(solved)} == {"solved"}
    else:
        with pytest.raises(run_notebook.RunError, match=r"AssertionError|NameError"):
            run_notebook.run(solved)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("```python setup", "```python", "no block ```python setup"),
        ("```python solution", "```python answer", "not starter, checkpoint, solution"),
        ("done = checkpoint", "done = check", "has no `done = checkpoint"),
        ("## Predict", "## Guess", "the exercises are"),
    ],
)
def test_a_wrong_source_is_refused(lesson: Path, old: str, new: str, message: str) -> None:
    source = lesson.parent / "exercises" / "00_count_things.md"
    source.write_text(EXERCISES.replace(old, new))
    with pytest.raises(make_exercises.ExerciseError, match=message):
        make_exercises.make(lesson)


def test_the_suites_exercises_are_those_of_their_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_exercises.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["start_here.ipynb", "0_start_here.ipynb", "00_start.ipynb", "00_Start_here.ipynb"]
)
def test_wrong_names(folder: Path, name: str) -> None:
    assert rules_broken(folder, good(), name) == {"name"}


def test_too_large_a_file(folder: Path) -> None:
    node = good()
    node.cells[3].outputs = [
        new_output("display_data", data={"image/png": "A" * form_rules.MAX_BYTES})
    ]
    assert rules_broken(folder, node) == {"size"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: json.dumps(json.loads(text), indent=2),
        lambda text: text + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n",  # ASCII only
    ],
)
def test_another_form_of_the_same_file(folder: Path, spoil: Callable[[str], str]) -> None:
    path = folder / "00_count_things.ipynb"
    text = spoil(form_rules.canonical_text(good()))
    path.write_text(text, encoding="utf-8", newline="")
    assert {problem.rule for problem in form_rules.check_notebook(path)} == {"canonical"}
    assert check_form.fix(path)
    assert form_rules.check_notebook(path) == []


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"cells": 3}'])
def test_what_is_no_notebook(folder: Path, text: str) -> None:
    path = folder / "00_count_things.ipynb"
    path.write_text(text)
    assert [problem.rule for problem in form_rules.check_notebook(path)] == ["valid"]


def test_harmless_texts_are_no_machine_traces() -> None:
    for text in (
        "https://github.com/someone/work/tree/root/home/x",
        "and/or, 3/4, /v1/completions, n_gpu_layers=-1/31",
        "http://127.0.0.1:50052 and http://localhost:8888",
        "RPC0[127.0.0.1:50052] · C: drive",
        "pip install --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cu124 x",
    ):
        assert list(machine_traces.machine_traces_in(text)) == [], text


def test_any_other_package_index_is_a_trace() -> None:
    for text in (
        "pip install --extra-index-url https://mirror.example.org/whl/cu124 x",
        "pip install --index-url https://abetlen.example.org/llama-cpp-python/whl/cpu x",
        "index-url = here",
    ):
        assert list(machine_traces.machine_traces_in(text)), text


def test_package_registry_of_this_machine_is_a_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example.org:8443/pypi/")
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = https://second.example.net/\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    machine_traces._own_traces.cache_clear()
    try:
        for host in ("mirror.example.org", "second.example.net"):
            assert list(machine_traces.machine_traces_in(f"from {host}, 77 MB")) == [host]
    finally:
        machine_traces._own_traces.cache_clear()


# --- the list ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "listed", "message"),
    [
        ([], ["00_a_b.ipynb"], "no notebook in notebooks"),
        (["00_a_b.ipynb"], [], "lists no notebook"),
        (["00_a_b.ipynb", "10_c_d.ipynb"], ["00_a_b.ipynb"], "10_c_d.ipynb is not in"),
        (["00_a_b.ipynb"], ["00_a_b.ipynb", "10_c_d.ipynb"], "10_c_d.ipynb, which does not exist"),
        (["00_a_b.ipynb"], ["00_a_b.ipynb"] * 2, "twice"),
        (["00_a_b.ipynb", "10_c_d.ipynb"], ["10_c_d.ipynb", "00_a_b.ipynb"], "not in the order"),
    ],
)
def test_each_fault_of_the_list(found: list[str], listed: list[str], message: str) -> None:
    assert any(message in problem for problem in check_form.list_problems(found, listed))


def test_the_way_follows_the_links(folder: Path) -> None:
    def page(name: str, following: str) -> None:
        node = new_notebook(
            cells=[new_markdown_cell(f"**Related** [x](y)\n\n**Next** {following}")]
        )
        check_form.write(folder / name, node)

    page("00_a_b.ipynb", "[on](20_e_f.ipynb), or [there](10_count_further.ipynb)")
    page("20_e_f.ipynb", "[back](11_c_d.ipynb)")
    page("10_count_further.ipynb", "the end")
    page("11_c_d.ipynb", "[again](20_e_f.ipynb)")
    names = ["00_a_b", "20_e_f", "11_c_d", "10_count_further"]
    assert check_form.way_through(folder) == [f"{name}.ipynb" for name in names]


def test_only_rows_of_a_table_list_a_notebook(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "See [this](notebooks/99_not_listed.ipynb).\n\n| notebook | time |\n|---|---|\n"
        "| [00_a_b](notebooks/00_a_b.ipynb) | 5 min |\n"
    )
    assert check_form.listed_in(readme) == ["00_a_b.ipynb"]


# --- --fix and the command -----------------------------------------------------------------------


def test_fix_mends_all_that_needs_no_thought_and_nothing_else(folder: Path) -> None:
    node = good()
    outputs = json.dumps([cell.get("outputs") for cell in node.cells], sort_keys=True)
    for rule in ("format-version", "ids", "metadata", "whitespace"):
        for spoil in BROKEN[rule]:
            spoil(node)
    path = folder / "00_count_things.ipynb"
    path.write_text(json.dumps(node), encoding="utf-8")
    assert check_form.fix(path)
    assert [str(problem) for problem in form_rules.check_notebook(path)] == []
    assert not check_form.fix(path), "a second run has nothing to do"
    fixed = nbformat.v4.reads(path.read_text("utf-8"))
    kept = [cell.get("outputs") for cell in fixed.cells]
    assert json.dumps(kept, sort_keys=True) == outputs
    assert fixed.cells[3].metadata == {}


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "00_count_things.ipynb"
    node = good()
    node.metadata.kernelspec.name = "my-env"
    check_form.write(path, node)
    assert check_form.main([str(path)]) == 1
    assert "00_count_things.ipynb: the metadata is not" in capsys.readouterr().out
    assert check_form.main(["--fix", str(path)]) == 0
    assert "fixed 00_count_things.ipynb" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        check_form.main([str(folder / "absent.ipynb")])


def test_command_runs_from_any_folder(folder: Path) -> None:
    path = folder / "00_count_things.ipynb"
    check_form.write(path, good())
    script = Path(check_form.__file__).resolve()
    done = subprocess.run(
        [sys.executable, str(script), str(path)], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1 notebook, 0 problems\n")


# --- run_notebook --------------------------------------------------------------------------------


def small(*sources: str) -> Any:
    return check_form.normalise(new_notebook(cells=[new_code_cell(source) for source in sources]))


def test_run_writes_real_outputs_in_canonical_form(folder: Path) -> None:
    path = folder / "00_count_things.ipynb"
    node = small("for n in range(3):\n    print(n, flush=True)", "open('data/numbers.txt').read()")
    node.cells[0].execution_count = 9
    check_form.write(path, node)
    assert run_notebook.run(path) > 0
    text = path.read_text("utf-8")
    written = nbformat.v4.reads(text)
    assert [cell.execution_count for cell in written.cells] == [1, 2]
    assert [output.text for output in written.cells[0].outputs] == ["0\n1\n2\n"]
    assert written.cells[1].outputs[0].data["text/plain"] == "'1'"
    assert text == form_rules.canonical_text(written)
    assert written.metadata.pop("run_seconds") >= 1
    assert written.metadata == form_rules.METADATA


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os; print(os.path.expanduser('/home/someone/x'))", "shows this machine"),
        ("import time; time.sleep(60)", "CellTimeoutError"),
    ],
)
def test_run_that_fails_leaves_the_file_as_it_was(folder: Path, source: str, message: str) -> None:
    path = folder / "00_count_things.ipynb"
    check_form.write(path, small("x = 1", source))
    before = path.read_bytes()
    with pytest.raises(run_notebook.RunError, match=message) as caught:
        run_notebook.run(path, timeout_s=10)
    assert "cell 2" in str(caught.value)
    assert path.read_bytes() == before


def test_selection_by_number_name_and_path(folder: Path) -> None:
    (folder / "10_count_further.ipynb").unlink()
    for name in ("00_a_b", "10_c_d", "11_e_f"):
        shutil.copy(folder / "data" / "numbers.txt", folder / f"{name}.ipynb")

    def chosen(*names: str) -> list[str]:
        return [path.stem[:2] for path in run_notebook.select(list(names), folder)]

    assert chosen() == ["00", "10", "11"]
    assert chosen("1") == ["10", "11"]
    assert chosen("11", "00_a") == ["11", "00"]
    assert chosen("00_a_b.ipynb", "0", str(folder / "11_e_f.ipynb")) == ["00", "11"]
    with pytest.raises(run_notebook.RunError, match="'77'"):
        chosen("77")
