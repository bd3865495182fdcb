"""A real cluster on this machine, in processes of its own: the short form of `cluster_soak`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import httpx
import psutil
import pytest

from helpers.serve import serve
from tests.support import ROOT

LEARNERS = 8
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform == "win32",
    reason="Ray is not installed, or it is Windows, where its clusters do not run",
)


@needs_ray
@pytest.mark.timeout(900)
def test_no_half_answer_whatever_dies_and_nothing_queued_is_lost() -> None:
    command = [sys.executable, "-m", "tests.serve.cluster_soak", "2", str(LEARNERS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.splitlines() or [""])[-1]
    assert last.startswith("{"), (done.stdout + done.stderr)[-3000:]
    report = json.loads(last)
    assert report["wrong"] == [], done.stdout
    assert report["node killed"].get("whole", 0) >= LEARNERS - 2


@needs_ray
@pytest.mark.timeout(600)
def test_a_cluster_that_the_command_has_started_ends_with_it() -> None:
    server = serve(cluster="local", replicas=1, parallel=2, n_ctx=512, n_gpu_layers=0)
    try:
        processes = psutil.Process(server.pid).children(recursive=True)
        answer = httpx.post(
            f"{server.url}/v1/completions", json={"prompt": "The sea", "max_tokens": 4}, timeout=300
        )
        assert answer.json()["usage"]["completion_tokens"] >= 1
        assert any("raylet" in process.name() for process in processes)
    finally:
        server.close()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
