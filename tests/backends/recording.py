"""The rows of `notebooks/data/backends.json`: what was built, with what, and what it then did."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from building import Built

from helpers.doctor import BackendReport, Run
from helpers.install.backends import BACKENDS
from helpers.install.build import cores
from helpers.install.commands import install_command
from helpers.install.paths import REPOSITORY, current_system

TABLE = REPOSITORY / "notebooks" / "data" / "backends.json"
RUN, COMPILED, NOT_HERE = "built and run", "compiled, not run", "not run here"
_RANK = (NOT_HERE, COMPILED, RUN)


def _first_line(*command: str) -> str:
    """Return the first line that a program prints, or an empty text."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]


def without_paths(flag: str) -> str:
    """Return a flag with absolute paths cut to their last part: they mean nothing elsewhere."""
    path = r"(?:[A-Za-z]:)?(?:[\\/][^\\/=\s]+)+[\\/]([^\\/=\s]+)"
    return re.sub(rf"(?:(?<=-I)|(?<=-L)|(?<![\w.])){path}", r"…/\1", flag)


def _vulkan_headers(flags: tuple[str, ...]) -> str:
    given = [flag.partition("=")[2] for flag in flags if flag.startswith("-DVulkan_INCLUDE_DIR=")]
    for folder in [*given, "/usr/include"]:
        try:
            text = (Path(folder) / "vulkan" / "vulkan_core.h").read_text(encoding="utf-8")
        except OSError:
            continue
        complete = re.search(r"VK_MAKE_API_VERSION\(0, (\d+), (\d+), VK_HEADER_VERSION\)", text)
        patch = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
        if complete and patch:
            return f"{complete[1]}.{complete[2]}.{patch[1]}"
    return ""


def _cuda_packages(folders: tuple[Path, ...]) -> str:
    """Return the versions of NVIDIA's pip packages whose libraries were linked."""
    found = set()
    for folder in folders:
        for parent in folder.parents:
            found |= {
                info.name.removesuffix(".dist-info") for info in parent.glob("nvidia_*.dist-info")
            }
    return ", ".join(sorted(found))


def versions(built: Built) -> dict[str, str]:
    """Return what the build was made with, as far as programs and headers say it."""
    backend, flags = built.recipe.backend, built.recipe.flags
    found = {
        "llama-cpp-python": built.recipe.version,
        "Python": platform.python_version(),
        "compiler": _first_line("c++", "--version"),
        "CMake": _first_line("cmake", "--version").removeprefix("cmake version "),
    }
    if backend == "openblas":
        found["OpenBLAS"] = _first_line("pkg-config", "--modversion", "openblas")
    if backend == "vulkan":
        found["Vulkan headers"] = _vulkan_headers(flags)
        found["glslc"] = _first_line("glslc", "--version")
    if backend == "cuda":
        lines = subprocess.run(
            ["nvcc", "--version"], capture_output=True, text=True, check=False
        ).stdout
        release = re.search(r"V[\d.]+", lines)
        found["nvcc"] = release[0] if release else ""
        found["NVIDIA packages"] = _cuda_packages(built.library_folders)
    return {name: value for name, value in found.items() if value}


def usual_system(backend: str) -> str:
    """Return this system if the backend exists here, else the first on which it does."""
    systems = BACKENDS[backend].systems
    return current_system() if current_system() in systems else systems[0]


def base_row(backend: str, version: str, system: str) -> dict[str, Any]:
    """Return what every row has."""
    return {
        "backend": backend,
        "on": system,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "script": f"python tests/backends/build_and_run.py {backend}",
        "command": install_command(backend, system, reinstall=True, version=version),
    }


def not_here(backend: str, version: str, system: str, reason: str) -> dict[str, Any]:
    """Return the row of a backend that this machine cannot build."""
    return {
        **base_row(backend, version, system),
        "outcome": NOT_HERE,
        "reason": without_paths(reason),
    }


def speed(run: Run) -> dict[str, Any]:
    """Return what a run measured, as a small row."""
    return {
        "where": ", ".join(run.devices) or "CPU alone",
        "layers": run.offloaded[0] if run.offloaded else 0,
        "prompt_tokens": run.prompt_tokens,
        "prompt_per_second": run.prompt_per_second,
        "eval_per_second": run.eval_per_second,
    }


def built_row(
    built: Built, report: BackendReport, outcome: str, reason: str, variables: dict[str, str]
) -> dict[str, Any]:
    """Return the row of a backend that was built, with what its report says."""
    row = base_row(built.recipe.backend, built.recipe.version, current_system())
    text = report.runs[0].text if report.runs else ""
    own = [device for device in report.devices if device.kind != "cpu"]
    shown = own or (report.devices if outcome == RUN else ())
    return {
        **row,
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
        "outcome": outcome,
        "reason": reason,
        "cmake_flags": [without_paths(flag) for flag in built.recipe.flags],
        "variables": variables,
        "versions": versions(built),
        "build_seconds": round(built.seconds),
        "compiler_cache": built.cached,
        "libraries": built.members,
        "device": "; ".join(device.description for device in shown),
        "text": text,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "texts_equal": len({run.text for run in report.runs}) == 1 if report.runs else None,
        "log": _excerpt(report),
        "speeds": [speed(run) for run in report.runs],
        "report": report.to_dict(),
    }


def _excerpt(report: BackendReport) -> list[str]:
    """Return llama.cpp's lines of the run with the most layers on devices."""
    return list(report.runs[-1].log) if report.runs else []


def record(row: dict[str, Any], table: Path = TABLE) -> bool:
    """Put a row into the table in place of the one before; say whether that was done.

    A row that says less (not run here) never takes the place of one that says more.
    """
    rows: list[dict[str, Any]] = []
    if table.exists():
        rows = json.loads(table.read_text(encoding="utf-8"))
    key = (row["backend"], row["on"])
    before = next((old for old in rows if (old["backend"], old["on"]) == key), None)
    if before and _RANK.index(row["outcome"]) < _RANK.index(before["outcome"]):
        return False
    kept = [old for old in rows if (old["backend"], old["on"]) != key] + [row]
    kept.sort(key=lambda item: (list(BACKENDS).index(item["backend"]), item["on"]))
    partial = table.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(table)
    return True
