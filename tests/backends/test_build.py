"""The script that builds and runs a backend, on every CI run for `cpu` and `rpc`.

With a compiler cache that knows the files from the environment's own build, this takes a minute;
without one it takes as long as two installations. So it runs where `CI` is set, and elsewhere if
LLAMA_NOTEBOOKS_BUILD_TESTS=1 asks for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import make_recipe
from recording import NOT_HERE, RUN

from helpers import InstallError
from helpers.install.backends import LEAVE_OUT
from helpers.install.configure import pinned_source

SCRIPT = Path(__file__).with_name("build_and_run.py")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )


def wanted() -> str:
    """Why the builds are not made here, or an empty text."""
    if os.environ.get("LLAMA_NOTEBOOKS_BUILD_TESTS") == "1":
        return ""
    if not os.environ.get("CI"):
        return "builds take minutes: they run in CI, or with LLAMA_NOTEBOOKS_BUILD_TESTS=1"
    if shutil.which("ccache") is None:
        return "no ccache: the environment's own source build has just proven the same"
    return "" if pinned_source() else "the environment was made of a prebuilt wheel"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("backend", "runs"), [("cpu", 1), ("rpc", 3)])
def test_a_backend_is_built_and_run(backend: str, runs: int, tmp_path: Path) -> None:
    reason = wanted()
    if reason:
        pytest.skip(reason)
    table = tmp_path / "backends.json"
    done = run(backend, "--folder", str(tmp_path / "work"), "--table", str(table), CMAKE_ARGS="")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (row,) = json.loads(table.read_text(encoding="utf-8"))
    assert row["outcome"] == RUN and row["texts_equal"] is True
    assert len(row["speeds"]) == runs
    assert row["speeds"][-1]["layers"] == (31 if backend == "rpc" else 0)
    assert ("libggml-rpc.so" in row["libraries"]) == (backend == "rpc")
    assert str(tmp_path) not in table.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "darwin", reason="Metal exists here")
def test_what_cannot_be_built_here_says_so_in_its_row(tmp_path: Path) -> None:
    table = tmp_path / "backends.json"
    done = run("metal", "--table", str(table))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(table.read_text(encoding="utf-8"))
    assert row["outcome"] == NOT_HERE and row["on"] == "macos"
    assert "not macos" in row["reason"]


def test_an_unknown_backend_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run("cudaa", "--table", str(tmp_path / "t.json"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cudaa" in done.stderr


def test_flags_that_contradict_the_backend_are_refused(tmp_path: Path) -> None:
    done = run("openblas", "--folder", str(tmp_path), CMAKE_ARGS="-DGGML_BLAS=off")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "drop one of the two" in done.stderr


def test_a_recipe_has_the_backends_flags_and_no_other_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "")
    assert make_recipe("vulkan").flags == ("-DGGML_VULKAN=on", *LEAVE_OUT)
    monkeypatch.setenv("CMAKE_ARGS", "-DLLAMA_NATIVE=off")
    assert make_recipe("cpu").flags == (*LEAVE_OUT, "-DGGML_NATIVE=off")
    with pytest.raises(InstallError, match="Did you mean"):
        make_recipe("vulcan")
