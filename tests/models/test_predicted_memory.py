"""Predicted memory against what llama.cpp really allocates, and what the process really holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import LlamaCpp, default_model, inspect_model, recommend
from helpers.models import CATALOGUE
from tests.models.gguf_builders import tiny_llama

MIB = 2**20
CHILD = """
import json, sys
import psutil
from helpers import LlamaCpp

process = psutil.Process()
warm = LlamaCpp(model_path=sys.argv[2], n_gpu_layers=0, max_tokens=1)
warm.invoke("hello")  # what a first call loads once, whatever the model
warm.close()
before = process.memory_info().rss
llm = LlamaCpp(model_path=sys.argv[1], n_gpu_layers=0, max_tokens=4, temperature=0)
llm.invoke("The sea is wide and blue. " * 70)
print(json.dumps((process.memory_info().rss - before) / 2**20))
"""


@pytest.mark.parametrize("n_ctx", [1024, 4096])
def test_prediction_agrees_with_the_native_buffers(n_ctx: int) -> None:
    info = inspect_model(default_model())
    entry = CATALOGUE["smollm2-135m"]
    heads = sum(info.n_kv_heads)
    cache = n_ctx * heads * (info.key_length + info.value_length) * 2 / MIB
    with LlamaCpp(model_path=default_model(), n_gpu_layers=0, n_ctx=n_ctx) as llm:
        (buffers,) = llm.load_report.by_device.values()
    assert info.weight_bytes / MIB == pytest.approx(buffers["weights"], rel=0.01)
    assert entry.weights_mib() == pytest.approx(buffers["weights"], rel=0.01)
    assert cache == pytest.approx(buffers["kv"], rel=0.01)
    assert entry.kv_mib(n_ctx) == pytest.approx(buffers["kv"], rel=0.01)


def test_resident_memory_stays_below_the_prediction(tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(default_model()), str(tiny)],
        capture_output=True,
        text=True,
        check=True,
    )
    resident = json.loads(done.stdout.splitlines()[-1])
    (predicted,) = (
        one.total_mib for one in recommend(64_000, purpose="teaching") if one.name == "smollm2-135m"
    )
    assert resident < 1.05 * predicted
    # A prediction of everything for everyone would pass too: it must not be twice the truth.
    assert resident > 0.4 * predicted
