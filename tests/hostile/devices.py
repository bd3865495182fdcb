"""A device that goes away; the practice accelerator stands for any that can fail."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

from helpers import Device, practice_accelerator, predict_memory, suggest_gpu_layers
from tests.hostile.base import (
    FRANCE,
    NO_END,
    STORY,
    Gives,
    OnToken,
    Raises,
    Says,
    Uses,
    error,
    in_threads,
    make,
    works,
)

use = Uses("devices")


def _accelerated() -> tuple[Any, Device]:
    accelerator = practice_accelerator()
    return accelerator, accelerator.start()


@use(
    "closed before the model is made",
    Says("DeviceError", "No practice accelerator answers", "Start it again"),
)
def closed_before_the_model_is_made() -> object:
    accelerator, device = _accelerated()
    accelerator.close()
    return error(lambda: make(devices=[device], n_gpu_layers=5))


@use(
    "killed while a model generates",
    Says("EngineCrashed", "RPC server was lost", "DeviceError", "True"),
    posix=True,
)
def killed_while_a_model_generates() -> object:
    accelerator, device = _accelerated()
    llm = make(devices=[device], n_gpu_layers=-1, n_ctx=4096, max_tokens=None, logit_bias=NO_END)
    kill = OnToken(lambda t: os.kill(accelerator.pid, signal.SIGKILL))
    first = error(lambda: llm.invoke(STORY, config={"callbacks": [kill]}))
    second = error(lambda: llm.invoke(FRANCE))
    with make() as other:
        return f"{first} {second} {works(other)}"


@use("killed and started again", Gives((False, True, True, True)), posix=True)
def killed_and_started_again() -> object:
    accelerator, device = _accelerated()
    os.kill(accelerator.pid, signal.SIGKILL)
    again = accelerator.start()
    with make(devices=[again], n_gpu_layers=3) as llm:
        here = works(llm)
    accelerator.close()
    with accelerator as third, make(devices=[third], n_gpu_layers=3) as llm:
        return again.endpoint == device.endpoint, here, works(llm), accelerator.start() is third


@use("killed between prediction and load", Gives(["DeviceError", "DeviceError"]), posix=True)
def killed_between_prediction_and_load() -> object:
    accelerator, device = _accelerated()
    predict_memory(devices=[device])
    os.kill(accelerator.pid, signal.SIGKILL)
    return [
        error(lambda: make(devices=[device])).split(":")[0],
        error(lambda: suggest_gpu_layers(devices=[device])).split(":")[0],
    ]


@use("in this process", Raises("DeviceError", "another process", "isolate"))
def in_this_process() -> object:
    _accelerator, device = _accelerated()
    make(devices=[device], n_gpu_layers=3, isolate=False)


@use("a context far beyond its memory", Says("fewer n_gpu_layers", "True True"), posix=True)
def a_context_far_beyond_its_memory() -> object:
    accelerator, device = _accelerated()
    accelerator.close()
    accelerator = practice_accelerator(64)
    device = accelerator.start()
    # It is refused, or the server dies of it; the device is there again either way.
    first = error(lambda: make(devices=[device], n_gpu_layers=-1, n_ctx=8192))
    with make(devices=[device]) as llm:
        return f"{first} {llm.load_report.n_gpu_layers < 31} {works(llm)}"


@use("four models at once", Gives([True] * 4))
def four_models_at_once() -> object:
    _accelerator, device = _accelerated()

    def act(i):
        with make(devices=[device], n_gpu_layers=i * 10) as llm:
            return works(llm)

    return in_threads(4, act)


@use("no device at all by that name", Says("DeviceError", "CUDA7", "Devices here"))
def no_device_at_all_by_that_name() -> object:
    _accelerator, device = _accelerated()
    made_up = dataclasses.replace(device, name="CUDA7", endpoint=None)
    return error(lambda: make(devices=[made_up], n_gpu_layers=3))


@use("forked with a simulator and an accelerator", Gives((0, True)), posix=True)
def forked_with_a_simulator_and_an_accelerator() -> object:
    _accelerator, device = _accelerated()
    predict_memory(devices=[device])
    pid = os.fork()
    if pid == 0:
        plan = error(lambda: predict_memory(n_ctx=256, n_gpu_layers=0))
        os._exit(0 if getattr(plan, "fits", False) else 1)
    return os.waitpid(pid, 0)[1], predict_memory(n_ctx=300, devices=[device]).fits
