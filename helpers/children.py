"""How child processes of this package are started: they find it, and no Ctrl-C reaches them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def child_environment(**more: str) -> dict[str, str]:
    """The environment in which a child finds this very `helpers`.

    Args:
        more: Further variables.
    """
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1", "PYTHONUTF8": "1", **more}


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the package; no module of the user's folder is found."""
    return [sys.executable, "-P", "-m", module, *arguments]


def apart() -> dict[str, Any]:
    """Options of `Popen` that keep an interrupt from the child: its parent decides what to do."""
    if sys.platform == "win32":
        return {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}
