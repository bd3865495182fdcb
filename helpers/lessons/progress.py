"""The line that a checkpoint writes for a class, where the learner wants that; off by default.

`LLAMA_NOTEBOOKS_PROGRESS` switches it on: a file that ends in `.jsonl`, or a folder, where each
learner has a file; a relative path is seen from the clone. `LLAMA_NOTEBOOKS_NAME` is the learner's
name there; without it, a random one is made and kept in the suite's cache.

A line has the time, that name, the notebook, the exercise, the aims reached, all aims, and the
seconds since the kernel began. Nothing is sent. Solutions count as well: this is no exam.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from helpers.files import replace_text
from helpers.install.paths import REPOSITORY, cache_dir, claim_cache

PROGRESS_VARIABLE = "LLAMA_NOTEBOOKS_PROGRESS"
NAME_VARIABLE = "LLAMA_NOTEBOOKS_NAME"
LONGEST = 60
"""Characters of a name."""
PATIENCE = 1.0
"""Seconds that an exercise waits for a slow disk, once."""

_BLOCK = re.compile(r"^```python checkpoint\n(.*?)^```$", re.M | re.S)
_CELL = re.compile(r"exercise-(\d+)-checkpoint")
_writer = threading.Thread()
_warned = False


def note(aims: Sequence[str], reached: int) -> None:
    """Write a line about a checkpoint, if the learner wants that; nothing is raised.

    Args:
        aims: What was wanted, in words.
        reached: How many of the aims are reached.
    """
    global _warned, _writer
    place = os.environ.get(PROGRESS_VARIABLE)
    if not place or _writer.is_alive():
        return
    faults: list[Exception] = []

    def write() -> None:
        try:
            path, name = _file(place)
            _append(path, _line(name, aims, reached))
        except Exception as error:
            faults.append(error)

    # In a thread: the disk may be another machine's, and hang.
    _writer = threading.Thread(target=write, name="helpers-progress", daemon=True)
    _writer.start()
    _writer.join(PATIENCE)
    if _writer.is_alive():
        faults.append(TimeoutError(f"it takes more than {PATIENCE:.0f} s"))
    if faults and not _warned:
        _warned = True
        why = getattr(faults[0], "strerror", None) or faults[0]
        print(f"({PROGRESS_VARIABLE}: your progress cannot be written: {why}. All else goes on.)")


def _line(name: str, aims: Sequence[str], reached: int) -> str:
    import psutil  # not at the top: whoever only reads needs no environment

    notebook, exercise = which_exercise(aims)
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "learner": name,
        "notebook": notebook,
        "exercise": exercise,
        "reached": reached,
        "aims": len(aims),
        "seconds": max(0, round(time.time() - psutil.Process().create_time())),
    }
    return json.dumps(line, ensure_ascii=False)


def _file(place: str) -> tuple[Path, str]:
    """The file to write to, and the learner's name."""
    path = REPOSITORY / Path(os.path.expandvars(place)).expanduser()
    name = " ".join(os.environ.get(NAME_VARIABLE, "").split())[:LONGEST]
    if path.suffix == ".jsonl":
        return path, name or path.stem
    path.mkdir(parents=True, exist_ok=True)
    name = name or _own_name()
    safe = re.sub(r"[^\w-]+", "-", name)
    return path / f"progress-{safe}.jsonl", name


def _own_name() -> str:
    """A name that says nothing, the same in all kernels of this user."""
    kept = cache_dir() / "learner"
    if not kept.exists():
        replace_text(claim_cache() / kept.name, f"learner-{secrets.token_hex(3)}")
    return kept.read_text(encoding="utf-8")[:LONGEST]


def _append(path: Path, line: str) -> None:
    """Add a line in one piece: other kernels may do so at the same time."""
    with path.open("ab") as file:
        if sys.platform == "win32":  # elsewhere, finding the end and writing there is one step
            import msvcrt

            file.seek(2**30)  # far beyond the lines, which stay readable
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        file.write(f"{line}\n".encode(errors="replace"))  # one write: it is less than the buffer


def which_exercise(aims: Sequence[str]) -> tuple[str, str]:
    """Name the notebook, and the number in it, of the exercise that has these aims.

    Their words are the same in Jupyter, in VS Code and where a notebook only runs. For others than
    the suite's exercises, it is the notebook that Jupyter names, and the first aim.

    >>> which_exercise(["the flags that are left", "the remarks"])
    ('10_install_on_cpu', '1')
    """
    for notebook, number, words in checkpoints():
        if aims and words.issuperset(aims):
            return notebook, number
    session = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    return session[:LONGEST] or "other", "".join(aims[:1])[:LONGEST]


@cache
def checkpoints() -> tuple[tuple[str, str, frozenset[str]], ...]:
    """Notebook, number and texts of each checkpoint: of the source's, then of translations."""
    folder, found = REPOSITORY / "notebooks", []
    for path in [*sorted(folder.glob("exercises/*.md")), *sorted(folder.glob("??/*.ipynb"))]:
        # A notebook is the reader's: what is half typed there is nobody's checkpoint.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, SyntaxError):
            for number, code in _codes(path):
                nodes = ast.walk(ast.parse(code))
                texts = (node.value for node in nodes if isinstance(node, ast.Constant))
                words = frozenset(text for text in texts if isinstance(text, str))
                found.append((path.stem, number, words))
    return tuple(found)


def _codes(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from ((str(n), code) for n, code in enumerate(_BLOCK.findall(text), start=1))
        return
    for cell in json.loads(text)["cells"]:
        if match := _CELL.fullmatch(cell.get("id", "")):
            yield match[1], "".join(cell["source"])
