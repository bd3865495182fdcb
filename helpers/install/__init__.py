"""Making the suite's environment, with the standard library alone.

The public face is the table of backends and two functions that read it; the rooms behind it are
`backends` (the data), `commands` (lines to type), `detect` (which backend suits this machine),
`flags` (CMake flags, dead ones translated), `paths` (where things are), `steps` (running a
command with progress), `build` (llama-cpp-python from source) and `environment` (`.venv`).
"""

from __future__ import annotations

from helpers.install.backends import BACKENDS
from helpers.install.commands import install_command
from helpers.install.detect import Detection, detect_backend
from helpers.install.shapes import Backend

__all__ = ["BACKENDS", "Backend", "Detection", "detect_backend", "install_command"]
