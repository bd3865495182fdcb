"""Checkpoints never raise, and only what was recorded is shown."""

from __future__ import annotations

import datetime
from pathlib import Path

import nbformat
import pytest

from helpers import checkpoint, default_model, recorded_answers
from helpers.lessons import RecordedAnswer, read_answers, write_answers
from tests.notebooks import record_answers


def test_a_checkpoint_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint({"a number": lambda: 3, "a text": lambda: "x"}) is True
    assert capsys.readouterr().out == "✓ a number\n✓ a text\n"
    assert checkpoint({"nothing yet": lambda: "", "a number": lambda: 3}) is False
    assert capsys.readouterr().out == "still to do: nothing yet\n✓ a number\n"


@pytest.mark.parametrize(
    "look",
    [
        lambda: never_defined,  # type: ignore[name-defined]  # noqa: F821
        lambda: 1 / 0,
        lambda: None + 1,  # type: ignore[operator]
        lambda: [][0],
    ],
)
def test_what_raises_is_still_to_do(look: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint({"it": look}) is False  # type: ignore[dict-item]
    assert capsys.readouterr().out.startswith("still to do: it (")


def test_ctrl_c_ends_a_checkpoint() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint({"it": interrupted})


def answer(name: str, model: str, text: str) -> RecordedAnswer:
    return RecordedAnswer(name, model, datetime.date(2026, 11, 26), "a processor", text)


def test_answers_are_kept_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    assert "No other model has been recorded" in repr(recorded_answers("x", path))
    write_answers([answer("x", "a.gguf", "old"), answer("y", "a.gguf", "다른 답")], path)
    write_answers([answer("x", "a.gguf", "new"), answer("x", "b.gguf", "other")], path)
    assert [one.text for one in read_answers(path)] == ["new", "다른 답", "other"]
    assert repr(recorded_answers("x", path)).startswith("a.gguf, 2026-11-26, a processor:\nnew\n\n")
    assert "No other model" in repr(recorded_answers("z", path))


def test_recording_runs_the_notebook_and_keeps_its_cells(tmp_path: Path) -> None:
    node = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("from helpers import default_model"),
            nbformat.v4.new_code_cell(
                "print(default_model().stem)", metadata={"tags": ["record:its-name"]}
            ),
        ]
    )
    path = tmp_path / "00_any_name.ipynb"
    path.write_text(nbformat.v4.writes(node))
    (found,) = record_answers.record(path, default_model())
    assert (found.name, found.text) == ("its-name", default_model().stem)
    assert found.model == default_model().name and found.date == datetime.date.today()
    assert "core" in found.machine and "outputs" in node.cells[1]
    assert path.read_text() == nbformat.v4.writes(node), "the notebook stays as it is"
