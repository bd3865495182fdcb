"""An index that is killed while it works: nothing half is seen, and the next run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.documents.retrieval import WAYS
from tests.documents.support import content, index, texts, write
from tests.support import ROOT

_KILLS = 20
_DRAW = random.Random(15)


def _text() -> str:
    return "\n".join(
        " ".join(_DRAW.choices(["river", "bread", "cloud", "stone", "wind"], k=9)) + f" {n}"
        for n in range(_DRAW.randint(1, 20))
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork")
def test_kills_while_indexing(tmp_path: Path) -> None:
    notes, place = tmp_path / "notes", tmp_path / "index"
    said: dict[str, list[list[str]]] = {}

    def change(count: int) -> None:
        for _ in range(count):
            name = f"{_DRAW.randrange(40)}.md"
            if name in said and _DRAW.random() < 0.2:
                (notes / name).unlink(missing_ok=True)
            else:
                write(notes, {name: (text := _text())})
                said.setdefault(name, []).append(text.split("\n"))

    change(60)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.documents.indexing_child", notes, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None and child.stdout is not None
    killed = number = 0
    longest = 0.02
    with child:
        while killed < _KILLS and number < 4 * _KILLS:
            number += 1
            # By turns at some moment, and between two statements: a moment hardly meets that.
            fatal = _DRAW.randint(1, 25) if number % 2 else 0
            child.stdin.write(f"{fatal}\n")
            child.stdin.flush()
            process = int(child.stdout.readline())
            if not fatal:
                time.sleep(_DRAW.uniform(0, longest))
                with suppress(ProcessLookupError):  # it was done before
                    os.kill(process, signal.SIGKILL)
            hit = int(child.stdout.readline()) == -signal.SIGKILL
            killed += hit
            if not fatal:  # however fast the machine is
                longest = min(2 * longest, 0.3) if hit else longest / 2
            with index(place) as ours:
                seen: dict[str, list[str]] = {}
                for passage in ours.passages():
                    seen.setdefault(passage.metadata["source"], []).append(passage.page_content)
                # Each source as it was at some time, as a whole.
                assert all(lines in said[name] for name, lines in seen.items())
                everything = sorted(line for lines in seen.values() for line in lines)
                assert sorted(texts(ours.search("x", 10_000, by="vectors"))) == everything
                words = "river bread cloud stone wind"
                assert sorted(texts(ours.search(words, 10_000, by="words"))) == everything
                with ours._passages._use() as db:
                    db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            change(4)
        child.stdin.close()
    assert killed == _KILLS

    for one in (place, tmp_path / "other"):
        with index(one) as ours:
            ours.sync(notes)
    with index(place) as ours, index(tmp_path / "other") as whole:
        assert content(ours) == content(whole) and len(ours) > 200
        assert (ours.vectors() == whole.vectors()).all()
        assert len(ours._store) == len(whole._store)  # type: ignore[arg-type]
        for by in WAYS:
            for question in ("river stone", "bread 7", "wind wind cloud 3"):
                assert ours.search(question, 20, by=by) == whole.search(question, 20, by=by)
