"""A real cluster on this machine, in processes of its own: the short form of `cluster_soak`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.support import ROOT

LEARNERS = 8


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="Ray's clusters do not run on Windows")
@pytest.mark.timeout(900)
def test_no_half_answer_whatever_dies_and_nothing_queued_is_lost() -> None:
    command = [sys.executable, "-m", "tests.serve.cluster_soak", "2", str(LEARNERS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.splitlines() or [""])[-1]
    assert last.startswith("{"), (done.stdout + done.stderr)[-3000:]
    report = json.loads(last)
    assert report["wrong"] == [], done.stdout
    assert report["node killed"].get("whole", 0) >= LEARNERS - 2
