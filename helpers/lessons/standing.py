"""Who is where in a class, from the lines that checkpoints write: `python -m helpers progress`."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers.lessons.progress import LONGEST, checkpoints
from helpers.tables import html_table, text_lines

if TYPE_CHECKING:
    from pandas import DataFrame

LEGEND = "✓ reached, ~ begun, · not begun; a mark for each exercise"
_LARGEST = 16 * 2**20


class Call(NamedTuple):
    """A call of a checkpoint; `exercise` is its number, or an aim if it is not the suite's."""

    learner: str
    notebook: str
    exercise: str
    reached: int
    aims: int
    time: datetime.datetime


@dataclass(frozen=True)
class ClassStanding:
    """Who is where; prints as a table, with a row for each learner.

    Attributes:
        best: For each learner and exercise, the call that reached most; the first of equals.
        seen: When each learner last called a checkpoint.
        skipped: What could not be read, a line each.
        time: When this was read.
    """

    best: tuple[Call, ...]
    seen: Mapping[str, datetime.datetime]
    skipped: tuple[str, ...]
    time: datetime.datetime

    def table(self) -> tuple[dict[str, str], list[list[str]]]:
        """Columns and rows as `helpers.tables` wants them: notebooks that someone has begun."""
        suite = {(notebook, number) for notebook, number, _ in checkpoints()}
        known = {notebook for notebook, _ in suite}
        marks = {one[:3]: "✓" if one.reached == one.aims else "~" for one in self.best}
        notebooks = sorted({one.notebook for one in self.best})
        exercises = sorted(suite | {one[1:3] for one in self.best})
        columns = {"learner": "<", "last seen": ">"}
        columns |= {name[:2] if name in known else name: "<" for name in notebooks}
        rows = [
            [name, _ago(self.time - self.seen[name])]
            + [
                "".join(marks.get((name, *one), "·") for one in exercises if one[0] == notebook)
                for notebook in notebooks
            ]
            for name in sorted(self.seen)
        ]
        return columns, rows

    def __str__(self) -> str:
        """Return the table as lines of text."""
        columns, rows = self.table()
        names = ["learner", *(row[0] for row in rows)]
        del columns["learner"]  # this one is aligned here: many names take two columns a letter
        rest = text_lines(columns, [row[1:] for row in rows])
        width = max(map(_width, names))
        lines = [
            name + " " * (width - _width(name)) + f"  {line}"
            for name, line in zip(names, rest, strict=True)
        ]
        return "\n".join([*lines, f"Learners: {len(rows)}. {LEGEND}", *self.skipped])

    def _repr_html_(self) -> str:
        """Return the table for Jupyter; what learners wrote is escaped."""
        columns, rows = self.table()
        caption = [f"Learners: {len(rows)}, at {self.time.astimezone():%H:%M:%S}"]
        return html_table(columns, rows, caption=caption, notes=[LEGEND, *self.skipped])


def class_standing(folder: str | os.PathLike[str]) -> ClassStanding:
    """Read the files of a class.

    Args:
        folder: Where the learners' files are (`*.jsonl`).

    Returns:
        Who is where; it prints as a table.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder of learners", str(place))
    best: dict[tuple[str, ...], Call] = {}
    seen: dict[str, datetime.datetime] = {}
    skipped = []
    for path in sorted(place.glob("*.jsonl")):
        try:
            if not path.is_file() or path.stat().st_size > _LARGEST:
                raise OSError(errno.EFBIG, f"no file, or more than {_LARGEST >> 20} MiB")
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            skipped.append(f"skipped {printable(path.name)}: {error.strerror}")
            continue
        calls = list(_calls(lines))
        if len(calls) < len(lines):
            skipped.append(f"skipped {len(lines) - len(calls)} lines of {printable(path.name)}")
        for one in calls:
            known = best.setdefault(one[:3], one)
            if one.reached / one.aims > known.reached / known.aims:
                best[one[:3]] = one
            seen[one.learner] = max(one.time, seen.get(one.learner, one.time))
    now = datetime.datetime.now(datetime.UTC)
    return ClassStanding(tuple(sorted(best.values())), seen, tuple(skipped), now)


def _calls(lines: list[str]) -> Iterator[Call]:
    """The lines that are whole: a full disk may have cut one."""
    for line in lines:
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            data = json.loads(line)
            texts = (printable(data[key]) for key in ("learner", "notebook", "exercise"))
            who, notebook, exercise = texts
            done, aims = data["reached"], data["aims"]
            at = datetime.datetime.fromisoformat(data["time"])
            if type(done) is type(aims) is int and 0 <= done <= aims > 0 and at.tzinfo:
                yield Call(who, notebook, exercise, done, aims, at)


def printable(text: str, most: int = LONGEST) -> str:
    """A text from somebody's file, without what would steer a terminal."""
    return "".join(char if str.isprintable(char) else " " for char in text)[:most]


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def _ago(span: datetime.timedelta) -> str:
    minutes = span.total_seconds() / 60
    for size, unit in ((1440, "d"), (60, "h"), (1, "min")):
        if minutes >= size:
            return f"{minutes // size:.0f} {unit} ago"
    return "now"  # or later, by a clock that is ahead


def reached(folder: str | os.PathLike[str]) -> DataFrame:
    """What each learner has reached, for a table of one's own or for certificates.

    Args:
        folder: As for `class_standing`.

    Returns:
        A row for each learner and exercise begun, with the columns of `Call` and `done`.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    import pandas as pd  # not at the top: a terminal's table needs no environment

    frame = pd.DataFrame(class_standing(folder).best, columns=[*Call._fields])
    return frame.assign(done=frame["reached"] == frame["aims"])


def show(folder: str | os.PathLike[str], *, watch: bool = False) -> int:
    """Print who is where; with `watch`, again whenever it changes, until Ctrl-C."""
    clear = "\x1b[2J\x1b[H" if watch and sys.stdout.isatty() and os.name != "nt" else ""
    shown = ""
    with contextlib.suppress(KeyboardInterrupt):
        while not shown or watch:
            text = str(class_standing(folder))
            if text != shown:
                print(clear + text, flush=True)
            shown = text
            time.sleep(2 if watch else 0)
    return 0
