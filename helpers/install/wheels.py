"""Fetching a prebuilt wheel: a short try that ends in a wheel or in a reason."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from helpers.install import steps
from helpers.install.backends import WHEEL_INDEX
from helpers.install.commands import DISTRIBUTION
from helpers.install.paths import make_folder, pip_environment

_TIMEOUT_SECONDS = 10


def index_address(name: str) -> str:
    """Return the address of a wheel index; `LLAMA_NOTEBOOKS_WHEEL_INDEX` replaces its host."""
    base = os.environ.get("LLAMA_NOTEBOOKS_WHEEL_INDEX") or WHEEL_INDEX
    return f"{base.rstrip('/')}/{name}"


def _timeout() -> str:
    own = os.environ.get("LLAMA_NOTEBOOKS_WHEEL_TIMEOUT", "")
    return own if own.isdigit() and int(own) else str(_TIMEOUT_SECONDS)


def _reason(text: str) -> str:
    """Say in a few words why pip fetched no wheel."""
    if re.search(r"timed out|Timeout", text):
        return "the index does not answer"
    if re.search(r"NewConnectionError|refused|resolution|getaddrinfo|unreachable", text):
        return "the index cannot be reached"
    if re.search(r"(?i)is invalid|BadZipFile|not a zip|has an invalid wheel|hash", text):
        return "the index sent a damaged wheel"
    if "No matching distribution" in text or "Could not find a version" in text:
        return "the index has none for this version and machine"
    return "pip could not fetch one"


def fetch(
    python: Path,
    version: str,
    index: str,
    cache: Path,
    hold: int | None = None,
    platforms: Sequence[str] = (),
) -> Path | str:
    """Fetch llama-cpp-python's wheel from a wheel index.

    Args:
        python: Python whose pip is used and for which the wheel must fit.
        version: Exact version.
        index: Name of the index, e.g. `cpu` or `cu124`.
        cache: The suite's cache folder.
        hold: Lock to hand down.
        platforms: Platforms of another system that it is for, as wheels' names write them.

    Returns:
        The wheel, alone in its folder; or the reason why there is none.
    """
    folder = cache / "prebuilt"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder, "the prebuilt wheel")
    command = [str(python), "-m", "pip", "--no-input", "download", "--no-deps"]
    command += ["--timeout", _timeout(), "--retries", "1"]
    command += ["--only-binary", ":all:", "--index-url", index_address(index)]
    command += ["-d", str(folder), f"{DISTRIBUTION}=={version}"]
    for platform in platforms:
        command += ["--platform", platform]
    # With one retry, pip says why an index failed. Without its cache, a wheel that was replaced
    # under the same address is seen.
    outcome = steps.run(
        [*command, "--no-cache-dir"],
        title=f"Looking for a prebuilt wheel ({index})",
        log=cache / "logs" / "prebuilt.log",
        env=pip_environment(),
        hold=hold,
    )
    found = sorted(folder.glob("*.whl"))
    if outcome.status or not found:
        return _reason(outcome.log.read_text(encoding="utf-8", errors="replace"))
    try:
        with zipfile.ZipFile(found[0]) as archive:
            sound = archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        sound = False
    return found[0] if sound else "the index sent a damaged wheel"
