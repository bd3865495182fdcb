"""`python -m helpers bench --sweep` as a reader runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from helpers import SweepResult

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "helpers", "bench"]
TINY = ["--prompt-tokens", "8", "--new-tokens", "3", "--repeats", "1", "--ctx", "256"]


def bench(*arguments: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_table_is_printed_and_the_file_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    status, lines, error = bench("--sweep", *TINY, "--batch", "16,64", "--json", str(file))
    assert status == 0, error
    assert lines[0].split()[:4] == ["layers", "batch", "threads", "KV"]
    assert [line.split()[1] for line in lines[1:3]] == ["16", "64"]
    assert any(line.startswith("best for eval: llm = LlamaCpp(") for line in lines)
    status, lines, _ = bench("--best", *TINY, "--batch", "16,64,128", "--json", str(file))
    assert status == 0
    assert len(SweepResult.load(file).rows) >= 2
    assert json.loads(file.read_text(encoding="utf-8"))["planned"] >= 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "--repeats", "0"], "error: repeats=0 is out of range"),
        (["--sweep", "--layers", "0,x"], "invalid list of whole numbers value: '0,x'"),
        (["--sweep", "--kv", "f17"], "'f17' is not a KV cache type"),
        (["--sweep", "--device", "CUDA9"], "there is no such device"),
        (["--sweep", "--goal", "fast"], "invalid goal value"),
        (["--best", "--max-trials", "0"], "max_trials=0 is out of range"),
        (["--sweep", "--model", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_bad_arguments_are_status_2(arguments: list[str], words: str) -> None:
    status, lines, error = bench(*arguments)
    assert status == 2
    assert lines == []
    assert words in error and "Traceback" not in error


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_prints_what_is_there() -> None:
    child = subprocess.Popen(
        [*COMMAND, "--sweep", *TINY, "--batch", "16,64", "--new-tokens", "250", "--repeats", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    head, first = child.stdout.readline(), child.stdout.readline()
    assert "layers" in head and first.split()[1] == "16"
    mine = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    rest, error = child.communicate(timeout=30)
    assert child.returncode == 130, error
    assert "interrupted after 1 of 2 settings" in rest
    assert "best for eval: llm = LlamaCpp(" in rest
    assert psutil.wait_procs(mine, timeout=5)[1] == []
