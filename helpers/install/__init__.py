"""Making the suite's environment, with the standard library alone.

The public face is the table of backends and two functions that read it; the rooms behind it are
`backends` (the data), `commands` (lines to type), `detect` (which backend suits this machine),
`flags` (CMake flags, dead ones translated), `paths` (where things are), `steps` (running a
command with progress), `build` (llama-cpp-python from source), `environment` (`.venv`),
`requirements` (what a build needs, checked), `cards` (your card, your line), `records` (which
backends were really built and run), `configure` (what CMake says to flags), `cache_trial` (what
pip's cache does to changed flags) and `kit` (all of it without a network).
"""

from __future__ import annotations

from helpers.install.backends import BACKENDS, Backend
from helpers.install.cards import card_lines
from helpers.install.commands import install_command
from helpers.install.detect import Detection, detect_backend
from helpers.install.records import recorded_backends
from helpers.install.requirements import check_requirements

__all__ = [
    "BACKENDS",
    "Backend",
    "Detection",
    "card_lines",
    "check_requirements",
    "detect_backend",
    "install_command",
    "recorded_backends",
]
