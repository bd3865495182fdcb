"""The suggestion against llama.cpp's own automatic fit, where the installed library has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import default_model, practice_accelerator

CHILD = r"""
import ctypes, json, sys
from pathlib import Path
from helpers.native import devices
from helpers.native.registry import device_pointer
from helpers.native.library import library_folder, llama
from helpers.native.practice import register

path, endpoint, n_ctx, budget = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
module = llama()
name, _ = register(endpoint)
pointer = device_pointer(name)
here = next(d for d in devices() if d.name == name)
folder = library_folder()
library = ctypes.CDLL(str(next(p for p in [
    folder / "libllama-common.so", folder.parent.parent / "lib" / "libllama-common.so"
] if p.exists())))
fit = library[sys.argv[5]]
model = module.llama_model_default_params()
model.devices = ctypes.cast((ctypes.c_void_p * 2)(pointer, None), ctypes.c_void_p)
context = module.llama_context_default_params()
context.n_ctx, context.n_batch, context.n_ubatch = n_ctx, 512, 512
context.n_outputs_max = 1
split = (ctypes.c_float * 128)()
overrides = ctypes.create_string_buffer(1 << 20)
margins = (ctypes.c_size_t * 128)(*[int((here.free_mib - budget) * 2**20)] * 128)
status = fit(path.encode(), ctypes.byref(model), ctypes.byref(context), split, overrides,
             margins, ctypes.c_uint32(n_ctx), None, ctypes.c_int(4))
print(json.dumps([status, model.n_gpu_layers]))
"""
SYMBOL = "_Z17common_fit_paramsPKcP18llama_model_paramsP20llama_context_paramsPfP32llama_model_tensor_buft_overridePmjPK22common_fit_extra_model14ggml_log_level"  # noqa: E501


def has_symbol() -> bool:
    from helpers.native.library import library_folder

    folder = library_folder()
    for place in (folder, folder.parent.parent / "lib"):
        library = place / "libllama-common.so"
        if library.exists() and SYMBOL.encode() in library.read_bytes():
            return True
    return False


@pytest.mark.parametrize("budget", [60.0, 90.0, 140.0, 1000.0])
def test_the_suggestion_agrees(budget: float) -> None:
    if not has_symbol():
        pytest.skip("this build of llama-cpp-python has no common_fit_params")

    from helpers.load_options import LoadOptions
    from helpers.memory.planner import Planner

    path = Path(default_model())
    with practice_accelerator() as device:
        assert device.endpoint is not None
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), device.endpoint, "2048", str(budget), SYMBOL],
            capture_output=True,
            text=True,
            check=True,
        )
        status, theirs = json.loads(done.stdout.splitlines()[-1])
        assert status == 0, done.stderr
        wanted = LoadOptions(model_path=str(path), n_ctx=2048, n_parallel=1)
        planner = Planner(wanted, [device], margin_mib=0)
        fits = [n for n in range(32) if planner.plan(n).needed_mib(device.name) <= budget]
    if theirs < 0:
        theirs = 31
    assert abs(max(fits) - theirs) <= 1
