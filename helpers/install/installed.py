"""What is installed in an environment, read from its files: quick, and without starting it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from email.parser import HeaderParser
from pathlib import Path

from helpers.install.paths import current_system, inside, pip_environment, venv_python


def canonical(name: str) -> str:
    """Return a distribution's name in the one spelling that compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def venv_fault(where: Path) -> str | None:
    """Return what is wrong with the environment at `where`, or None."""
    config, python = where / "pyvenv.cfg", venv_python(where)
    if not where.exists():
        return "is not there"
    try:
        text = config.read_text(encoding="utf-8")
    except OSError:
        return "is incomplete"
    match = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", text, re.MULTILINE)
    if match and (int(match[1]), int(match[2])) != sys.version_info[:2] and not inside(where):
        return "belongs to Python {}.{}, not {}.{}".format(
            match[1], match[2], *sys.version_info[:2]
        )
    script = where / ("Scripts" if current_system() == "windows" else "bin") / "activate"
    try:
        if script.exists() and str(where) not in script.read_text(encoding="utf-8"):
            return "was made for another folder"
    except (OSError, UnicodeDecodeError):
        return "is damaged"
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "--version"],
            env=pip_environment(),
            capture_output=True,
            check=False,
        )
    except OSError:
        return "has no working Python"
    return None if done.returncode == 0 else "has no working pip"


def installed(packages: Path, name: str) -> str | None:
    """Return the installed version of a distribution, read from the files alone."""
    for folder in packages.glob("*.dist-info"):
        stem, _, version = folder.name[: -len(".dist-info")].rpartition("-")
        if canonical(stem) == canonical(name) and (folder / "RECORD").exists():
            return version
    return None


def is_upstream(packages: Path) -> bool | None:
    """Say whether the installed llama-cpp-python is the original; None if there is none.

    A fork publishes under the same name and author. What differs is where its metadata points,
    and modules that only the fork has.
    """
    for folder in packages.glob("llama_cpp_python-*.dist-info"):
        try:
            text = (folder / "METADATA").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        addresses = " ".join(HeaderParser().parsestr(text).get_all("Project-URL") or [])
        foreign = any(
            (packages / "llama_cpp" / name).exists()
            for name in ("llama_multimodal.py", "llama_embedding.py")
        )
        return "github.com/abetlen/llama-cpp-python" in addresses and not foreign
    return None


def libraries(packages: Path) -> set[str]:
    """Return the stems of llama-cpp-python's shared libraries, e.g. `ggml-cpu`."""
    found = set()
    for path in (packages / "llama_cpp" / "lib").glob("*"):
        match = re.fullmatch(
            r"(?:lib)?([\w-]+?)(?:\.so[\d.]*|(?:\.[\d.]+)?\.dylib|\.dll)", path.name
        )
        if match:
            found.add(match[1])
    return found


def editable_here(packages: Path, root: Path) -> bool:
    """Say whether the suite is installed, editable, from `root`."""
    for record in packages.glob("llama_notebooks-*.dist-info/direct_url.json"):
        try:
            url = json.loads(record.read_text(encoding="utf-8")).get("url")
        except (OSError, ValueError):
            continue
        if url == root.as_uri():
            return True
    return False


def pip_cached_wheel(name: str = "llama-cpp-python") -> Path | None:
    """Return the newest wheel of a distribution that pip built here and keeps, or None."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "cache", "list", name, "--format", "abspath"],
            env=pip_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    paths = [Path(line.strip()) for line in done.stdout.splitlines() if line.strip()]
    found = [path for path in paths if path.suffix == ".whl" and path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
