"""What is installed in an environment, read from its files: quick, and without starting it."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path

from helpers.install.paths import current_system, inside, pip_environment, venv_python
from helpers.install.steps import ask


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
    if ask(str(python), "--version", env=pip_environment()) is None:
        return "has no working Python"
    pip = ask(str(python), "-m", "pip", "--version", env=pip_environment(), seconds=None)
    return "has no working pip" if pip is None else None


def _distribution(packages: Path, name: str) -> metadata.Distribution | None:
    return next(iter(metadata.distributions(name=name, path=[str(packages)])), None)


def installed(packages: Path, name: str) -> str | None:
    """Return the installed version of a distribution, read from the files alone."""
    found = _distribution(packages, name)
    return found.version if found and found.read_text("RECORD") is not None else None


def is_upstream(packages: Path) -> bool | None:
    """Say whether the installed llama-cpp-python is the original; None if there is none.

    A fork publishes under the same name and author. What differs is where its metadata points,
    and modules that only the fork has.
    """
    found = _distribution(packages, "llama-cpp-python")
    if found is None:
        return None
    foreign = ("llama_multimodal.py", "llama_embedding.py")
    return any(
        "github.com/abetlen/llama-cpp-python" in address
        for address in found.metadata.get_all("Project-URL") or []
    ) and not any((packages / "llama_cpp" / name).exists() for name in foreign)


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
    found = _distribution(packages, "llama-notebooks")
    try:
        url = json.loads(found.read_text("direct_url.json") or "{}").get("url") if found else None
    except ValueError:
        return False
    return bool(url == root.as_uri())


def pip_cached_wheel() -> Path | None:
    """Return the newest wheel of llama-cpp-python that pip built here and keeps, or None."""
    line = [sys.executable, "-m", "pip", "cache", "list", "llama-cpp-python", "--format", "abspath"]
    listed = ask(*line, env=pip_environment(), seconds=None) or ""
    paths = [Path(line.strip()) for line in listed.splitlines() if line.strip()]
    found = [path for path in paths if path.suffix == ".whl" and path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
