"""Answers of one cell that were recorded with other models."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers.install.paths import REPOSITORY, need_suite

ANSWERS = Path("notebooks") / "data" / "answers.json"


@dataclass(frozen=True)
class RecordedAnswer:
    """The output of one cell, as it was recorded with another model.

    Attributes:
        name: The cell's name: its tag without "record:".
        model: Name of the model's file.
        date: Day of the recording.
        machine: Processor, device and memory that ran it.
        text: What the cell printed.
    """

    name: str
    model: str
    date: datetime.date
    machine: str
    text: str

    def __str__(self) -> str:
        return f"{self.model}, {self.date}, {self.machine}:\n{self.text.rstrip()}"


class RecordedAnswers(list[RecordedAnswer]):
    """A list of recorded answers that prints them, or says that there are none."""

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self)) or (
            "No other model has been recorded for this cell yet. "
            "python tests/notebooks/record_answers.py MODEL records one."
        )


def recorded_answers(name: str, path: Path | None = None) -> RecordedAnswers:
    """Return what other models answered in one cell; only what was really recorded is shown.

    `tests/notebooks/record_answers.py MODEL` runs the notebooks with a model and records the
    cells with a tag `record:NAME`.

    Args:
        name: The cell's name.
        path: File of the records; None is the suite's own.

    Returns:
        The answers, the newest last; the list prints itself.

    Example:
        >>> recorded_answers("no such cell")
        No other model has been recorded for this cell yet. ...
    """
    return RecordedAnswers(answer for answer in read_answers(path) if answer.name == name)


def read_answers(path: Path | None = None) -> list[RecordedAnswer]:
    """Return all recorded answers; none where nothing was recorded."""
    if path is None:
        need_suite("the record of other models' answers")
    path = path or REPOSITORY / ANSWERS
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    return [
        RecordedAnswer(**{**row, "date": datetime.date.fromisoformat(row["date"])}) for row in rows
    ]


def write_answers(answers: list[RecordedAnswer], path: Path | None = None) -> None:
    """Add answers to the records; those of the same cell and model replace older ones."""
    kept = {(one.name, one.model): one for one in [*read_answers(path), *answers]}
    rows = [{**asdict(one), "date": one.date.isoformat()} for one in kept.values()]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (path or REPOSITORY / ANSWERS).write_text(text + "\n", encoding="utf-8", newline="\n")
