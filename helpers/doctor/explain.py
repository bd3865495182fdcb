"""What a report proves, in the doctor's lines, and the traps that it shows.

Every judgement here is made from a report and from facts about the machine, so that it can be
made of reports recorded elsewhere, too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.doctor.report import BackendReport, Run
from helpers.errors import InstallError
from helpers.install.backends import BACKENDS
from helpers.install.commands import install_command
from helpers.install.detect import Machine, detect_backend, look_at_machine
from helpers.install.flags import asked_backends

OK, FAIL, NOTE = " OK ", "FAIL", "NOTE"
_GPU_BACKENDS = ("cuda", "vulkan", "rocm", "sycl", "metal")


@dataclass(frozen=True)
class Check:
    """One line of the doctor: `status` is `OK`, `FAIL` or `NOTE`; `fix` a command or hint."""

    status: str
    name: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the line as it is printed, with the fix on a line of its own."""
        line = f"[{self.status}] {self.name}: {self.detail}"
        return f"{line}\n       -> {self.fix}" if self.fix else line


def explain(
    report: BackendReport,
    machine: Machine | None = None,
    cmake_args: str = "",
    cached: Path | None = None,
) -> list[Check]:
    """Say what a report proves, and which trap it shows.

    Args:
        report: What the installed llama-cpp-python is and did.
        machine: What the machine has; None looks at this one.
        cmake_args: The user's `CMAKE_ARGS`.
        cached: The llama-cpp-python wheel in pip's cache, if there is one.

    >>> [check.name for check in explain(backend_report())]  # doctest: +SKIP
    ['Build', 'Device', 'Speed', 'GPU']
    """
    machine = machine or look_at_machine()
    return [
        *_devices(report),
        *_offload(report),
        *_accelerators(report),
        *_practice(report),
        *_speed(report),
        *_no_gpu(report, machine),
        *_flags(report, machine, cmake_args, cached),
    ]


def _devices(report: BackendReport) -> list[Check]:
    built = ", ".join(("cpu", *report.builds))
    checks = [Check(OK, "Build", f"{built} (registered: {', '.join(report.backends)})")]
    return checks + [Check(OK, "Device", str(device)) for device in report.devices]


def _offload(report: BackendReport) -> list[Check]:
    """A GPU that is listed must take all layers of a real model, and give the same text."""
    if not report.gpus or not report.runs:
        return []
    names = ", ".join(device.name for device in report.gpus)
    run = _full(report)
    if run is None or run.offloaded is None or run.offloaded[0] != run.offloaded[1]:
        said = "{} of {}".format(*run.offloaded) if run and run.offloaded else "none"
        return [
            Check(
                FAIL,
                "Offload",
                f"{names} is listed, but of the embedded model's layers it took {said}",
                "update the driver; then build again with --force-reinstall --no-cache-dir",
            )
        ]
    checks = [Check(OK, "Offload", "offloaded {}/{} layers to ".format(*run.offloaded) + names)]
    if run.text != report.runs[0].text:
        checks.append(
            Check(
                NOTE,
                "Offload",
                f"the text differs from the processor's: {run.text!r}, {report.runs[0].text!r}",
                "rounding may do that late in a text; nonsense points to the driver",
            )
        )
    return checks


def _full(report: BackendReport) -> Run | None:
    return next((run for run in report.runs if run.n_gpu_layers < 0), None)


def _accelerators(report: BackendReport) -> list[Check]:
    """A BLAS library must be given pieces of the prompt's graph."""
    checks = []
    for device in report.devices:
        if device.kind != "accel" or not report.runs:
            continue
        pieces = report.runs[0].splits.get(device.backend, 0)
        total = sum(report.runs[0].splits.values())
        if pieces:
            line = f"{device.name} reads prompts: {pieces} of the {total} pieces of their graph"
            checks.append(Check(OK, "Accelerator", line))
        else:
            line = f"{device.name} is there, but llama.cpp gives it nothing to do"
            checks.append(Check(NOTE, "Accelerator", line))
    return checks


def _practice(report: BackendReport) -> list[Check]:
    if report.gpus or "rpc" not in report.builds:
        return []
    run = _full(report)
    if run is None:
        line = "RPC is built in, but no practice accelerator could be started"
        return [Check(NOTE, "Practice accelerator", line)] if report.runs else []
    layers = "{}/{} layers".format(*run.offloaded) if run.offloaded else "no layers"
    return [Check(OK, "Practice accelerator", f"offloaded {layers} to {', '.join(run.devices)}")]


def _speed(report: BackendReport) -> list[Check]:
    parts = [
        f"{'processor' if run.n_gpu_layers == 0 else ', '.join(run.devices)}: {run.speed}"
        for run in report.runs
        if run.speed
    ]
    return [Check(OK, "Speed", "; ".join(parts) + " tokens/s")] if parts else []


def _no_gpu(report: BackendReport, machine: Machine) -> list[Check]:
    """Say why no graphics card is used, where none is."""
    suited = detect_backend(machine)
    notes = [Check(NOTE, "GPU", note) for note in suited.notes]
    if report.gpus:
        return notes
    built = [name for name in _GPU_BACKENDS if name in report.builds]
    if built:
        titles = " and ".join(BACKENDS[name].title for name in built)
        detail = f"this build is for {titles}, but it finds no device"
        return [
            Check(NOTE, "GPU", detail, "check the driver, and that the card is visible here"),
            *notes,
        ]
    if suited.backend == "cpu":
        detail = f"none; the processor does all the work ({suited.reason})"
        return [Check(NOTE, "GPU", detail), *notes]
    detail = (
        f"{suited.reason}; but this llama-cpp-python is a build for the processor, which cannot "
        "use it: n_gpu_layers changes nothing"
    )
    return [Check(NOTE, "GPU", detail, f"python -m helpers lab --backend {suited.backend}"), *notes]


def _flags(
    report: BackendReport, machine: Machine, cmake_args: str, cached: Path | None
) -> list[Check]:
    """Flags that ask for what the installed build does not have: the trap of pip's cache."""
    try:
        asked = asked_backends(cmake_args)
    except InstallError:
        return []  # reported elsewhere, with the fix
    checks = []
    for name in asked:
        if name in report.builds:
            continue
        backend = BACKENDS[name]
        why = "pip's cache knows a wheel by name and version, not by CMAKE_ARGS"
        if cached is not None:
            why += f"; it holds {cached.name}"
        detail = (
            f"CMAKE_ARGS asks for {backend.title}, and the installed build has no "
            f"{', '.join(backend.libraries)}: your flags did nothing ({why})"
        )
        if machine.system in backend.systems:
            fix = install_command(name, machine.system, reinstall=True, python=sys.executable)
        else:
            fix = f"remove the flag: {backend.title} does not exist on {machine.system}"
        checks.append(Check(NOTE, "Build flags", detail, fix))
    return checks
