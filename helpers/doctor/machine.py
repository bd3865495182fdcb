"""The doctor's report for a teacher: one file about a machine, and nothing about a person."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.doctor.explain import Check
from helpers.doctor.report import BackendReport
from helpers.doctor.summary import system_name
from helpers.errors import HelpersError, InstallError
from helpers.files import replace_text
from helpers.install.detect import detect_backend
from helpers.install.paths import REPOSITORY

FORMAT = "llama-notebooks doctor 1"
_LARGEST = _MIB = 2**20
_PACKAGES = ("llama-notebooks", "llama-cpp-python", "langchain-core", "jupyterlab", "ipywidgets")
_WHO = ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "JUPYTERHUB_USER", "HOSTNAME", "COMPUTERNAME")
_PARTS = r"(?:[^\s\\/\"'`;,:()<>|]+[\\/])+"
_CUTS = {
    rf"(?<=~[\\/]){_PARTS}": "…/",
    # An absolute path: not the middle of a relative one, nor an address in the web.
    rf"(?<![\w.~…/\\])(?:\\\\|(?:[A-Za-z]:)?[\\/]){_PARTS}": "…/",
    r"(?<![\w.-])[\w.-]+:\d{4,5}\b": "…",  # a machine and its port
}


def report_path(given: Path) -> Path:
    """Where a report goes: the file, or a new one in the folder, that is given.

    Raises:
        InstallError: There is no such folder, or the file is something else.
    """
    path = given.expanduser().absolute()
    if path.is_dir():
        return path / f"doctor-{secrets.token_hex(4)}.json"
    if not path.parent.is_dir():
        raise InstallError(f"there is no folder {path.parent} for the report: make it, or name one")
    if path.exists():
        try:
            read_report(path)
        except InstallError as error:
            raise InstallError(f"{path} is kept, for {error}: name another file") from error
    return path


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        InstallError: The file is none; the message says why.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise InstallError(f"it is no file, or larger than {_LARGEST // _MIB} MiB")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InstallError("it is not JSON, or cut off") from error
    except OSError as error:
        raise InstallError(f"it cannot be read ({error.strerror})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InstallError("it is not a report of this doctor")
    return data


def write_report(path: Path, checks: Sequence[Check], native: BackendReport | None) -> str:
    """Write a machine's report where `report_path` says, and return what is in it, to be printed.

    A report that is there is replaced and keeps its id.
    """
    known = read_report(path).get("id") if path.exists() else path.stem.removeprefix("doctor-")
    identity = known if re.fullmatch("[0-9a-f]{8}", str(known)) else secrets.token_hex(4)
    facts = machine_facts(native)
    lines = [
        {**vars(check), "detail": hide(check.detail), "fix": hide(check.fix)} for check in checks
    ]
    report = {"format": FORMAT, "id": identity, **facts, "checks": lines}
    replace_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    python = "py" if os.name == "nt" else "python3"
    said = [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(
        [
            f"Report {identity} is in {path}, for your teacher.",
            "In it are the lines above, less names of users and machines and the way to files, and",
            *said,
            f'After a repair, replace it: {python} -m helpers doctor --report "{path}"',
        ]
    )


def machine_facts(native: BackendReport | None) -> dict[str, Any]:
    """Facts about this machine as plain values; None is what could not be found out."""
    devices = native.devices if native else ()
    gpus = native.gpus if native else ()
    runs = [run for run in native.runs if run.eval_per_second] if native else []
    measured = runs[-1 if gpus else 0] if runs else None  # not of a practice accelerator
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": _system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "backend": gpus[0].backend if gpus else devices[0].backend if devices else None,
        "backend_suited": detect_backend().backend,
        "devices": [
            {**vars(device), "name": hide(device.name), "description": hide(device.description)}
            for device in devices
        ],
        "gpu_mib": round(sum(device.total_mib for device in gpus)),
        "cores": os.cpu_count(),
        **_memory(),
        "disk_free_mib": shutil.disk_usage(REPOSITORY).free // _MIB,
        "model": _model(),
        "eval_per_second": measured and measured.eval_per_second,
    }


def _system() -> str:
    with contextlib.suppress(OSError):  # no Linux, or one that does not say which
        known = platform.freedesktop_os_release()
        name = known["NAME"].replace(" GNU/Linux", "")
        return f"{name} {known.get('VERSION_ID', '')}".strip()
    return system_name()


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _memory() -> dict[str, int | None]:
    try:
        import psutil
    except ImportError:
        return {"memory_mib": None, "memory_free_mib": None}
    memory = psutil.virtual_memory()
    return {"memory_mib": memory.total // _MIB, "memory_free_mib": memory.available // _MIB}


def _model() -> str | None:
    with contextlib.suppress(HelpersError, ImportError, OSError):
        from helpers.models import default_model

        return hide(default_model().name)
    return None


def hide(text: str) -> str:
    """Return a text without names of the user and the machine, and without the way to files.

    What is in the clone stays, as `./…`; of other paths stay a `~` for the home and the last name.

    >>> hide("/opt/tools/bin/g++ of https://example.org/a/b")
    '…/g++ of https://example.org/a/b'
    """
    places, names = {REPOSITORY: "."}, {os.environ.get(name, "") for name in _WHO}
    with contextlib.suppress(RuntimeError):  # a user without a home
        places |= {Path.home(): "~", Path.home().resolve(): "~"}
        names.add(Path.home().name)
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        names.add(getpass.getuser())
    names |= {platform.node(), platform.node().partition(".")[0]}
    for place in sorted(places, key=lambda path: -len(str(path))):
        for form in {str(place), place.as_posix()} if place.name else ():
            text = re.sub(rf"{re.escape(form)}(?![\w-])", places[place], text, flags=re.I)
    for pattern, short in _CUTS.items():
        text = re.sub(pattern, short, text)
    for name in sorted(names - {"", "localhost"}, key=len, reverse=True):
        # A short name is too often a part of a word.
        whole = re.escape(name) if len(name) > 3 else rf"(?<!\w){re.escape(name)}(?!\w)"
        text = re.sub(whole, "…", text, flags=re.I)
    return text
