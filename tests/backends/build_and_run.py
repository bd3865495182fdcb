"""Build llama-cpp-python for one backend, run it, and write down what happened.

    python tests/backends/build_and_run.py BACKEND [--system NAME] [--folder DIR] [--build-only]
        [--portable]

It builds the pinned source with the flags of `BACKENDS[BACKEND]` in a throw-away environment,
loads the embedded model there with no, half of and all its layers on the device, compares the
texts, and writes the row of this backend in `notebooks/data/backends.json`. Nothing else writes
rows. Where a backend cannot be built or run on this machine the row says so, and why.

Run it with the suite's own Python (`.venv`). `CMAKE_ARGS` adds flags, for example the folder of
newer Vulkan headers: CMAKE_ARGS="-DVulkan_INCLUDE_DIR=… -DSPIRV-Headers_DIR=…".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from building import Built, build_in, missing_libraries
from recording import COMPILED, RUN, TABLE, built_row, not_here, record, speed, usual_system

from helpers.doctor import BackendReport, Run
from helpers.doctor.explain import explain
from helpers.doctor.report import ask_native, make_report
from helpers.errors import InstallError
from helpers.install.backends import BACKENDS
from helpers.install.detect import look_at_machine
from helpers.install.environment import read_project
from helpers.install.paths import REPOSITORY, current_system
from helpers.install.requirements import need_tools

_SECONDS = 900.0
_LAYERS = ("--layers", "15", "-1")  # of the embedded model's 31: half, and all
_PROOF = ("--prompt", "512", "--eval", "32", *_LAYERS)
_SHORT = ("--prompt", "64", "--eval", "8", *_LAYERS)  # for a device that is software


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _ask(built: Built, variables: dict[str, str], *arguments: str) -> BackendReport:
    with _environment(variables):
        answer, fault = ask_native(*arguments, python=str(built.python), seconds=_SECONDS)
    if fault:
        raise InstallError(f"{built.wheel.name} does not work: {fault}")
    return make_report(built.packages, answer)


def look(built: Built) -> tuple[BackendReport, dict[str, str]]:
    """Run the built library as far as there are devices; return what it did, and the variables."""
    backend = built.recipe.backend
    variables: dict[str, str] = {}
    if built.library_folders:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, built.library_folders))
    listed = _ask(built, variables, "--list")
    if backend == "vulkan" and not listed.gpus and "GGML_VK_VISIBLE_DEVICES" not in os.environ:
        # llama.cpp passes over Vulkan devices in software unless they are named.
        variables["GGML_VK_VISIBLE_DEVICES"] = "0"
        listed = _ask(built, variables, "--list")
    software = any("llvmpipe" in device.description for device in listed.gpus)
    report = _ask(built, variables, *(_SHORT if software else _PROOF))
    shown = {name: value for name, value in variables.items() if name != "LD_LIBRARY_PATH"}
    return report, shown


def compare(pythons: dict[str, str], packages: Path, rounds: int = 5) -> list[dict[str, object]]:
    """Measure several builds on the CPU in turn, and return the best run of each."""
    best: dict[str, Run] = {}
    for _ in range(rounds):
        for name, python in pythons.items():
            answer, fault = ask_native(
                "--prompt", "512", "--eval", "32", "--layers", python=python, seconds=_SECONDS
            )
            if fault:
                raise InstallError(f"{name} does not work: {fault}")
            run = make_report(packages, answer).runs[0]
            if name not in best or run.prompt_per_second > best[name].prompt_per_second:
                best[name] = run
    return [{**speed(run), "where": name} for name, run in best.items()]


def rivals(built: Built, folder: Path, portable: bool) -> dict[str, str]:
    """The builds that this one is compared with on the CPU, each with its Python."""
    if built.recipe.backend == "openblas":
        # The suite's own build has no BLAS; RPC, which it has, takes no part in this.
        return {"plain CPU": sys.executable, "CPU with OpenBLAS": str(built.python)}
    if built.recipe.backend == "cpu" and portable:
        other = build_in(folder, "cpu", "-DGGML_NATIVE=off")
        return {"GGML_NATIVE=off": str(other.python), "native": str(built.python)}
    return {}


def prove(built: Built, folder: Path, portable: bool) -> dict[str, object]:
    """Run what was built and return its row."""
    backend = built.recipe.backend
    absent = missing_libraries(built)
    if absent:
        raise InstallError(f"{built.wheel.name} has no {', '.join(absent)}")
    report, variables = look(built)
    print(report)
    for check in explain(report, look_at_machine()):
        print(check)
    if backend in {"cpu", "openblas"} or any(run.devices for run in report.runs):
        row = built_row(built, report, RUN, "", variables)
    else:
        reason = f"no {BACKENDS[backend].title} device on this machine"
        row = built_row(built, report, COMPILED, reason, variables)
    others = rivals(built, folder, portable)
    if others:
        row["comparison"] = compare(others, built.packages)
        print(json.dumps(row["comparison"], indent=1))
    return row


def main() -> int:
    """Build and run one backend; return 0 if that worked as far as this machine can show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=sorted(BACKENDS))
    parser.add_argument("--system", choices=("linux", "macos", "windows"), help="default: this one")
    parser.add_argument("--folder", type=Path, help="work here and keep it (default: thrown away)")
    parser.add_argument("--build-only", action="store_true", help="stop after the build")
    parser.add_argument(
        "--portable",
        action="store_true",
        help="cpu: compare with GGML_NATIVE=off, as in the wheels",
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="where the row goes")
    options = parser.parse_args()
    version = read_project(REPOSITORY).version
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        system = options.system or usual_system(options.backend)
        try:
            if system != current_system():
                raise InstallError(f"this machine runs {current_system()}, not {system}")
            need_tools(options.backend)
        except InstallError as error:
            print(f"error: {error}", file=sys.stderr)
            row = not_here(options.backend, version, system, str(error))
        else:
            try:
                folder = folder.resolve()
                built = build_in(folder, options.backend)
                print(f"{built.wheel.name}: built in {built.seconds:.0f} s; {built.members}")
                row = {} if options.build_only else prove(built, folder, options.portable)
            except InstallError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
    if row and record(row, options.table):
        print(f"{options.backend}: {row['outcome']}, written to {options.table.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
