"""Proof of what is installed and active; each fault comes with the command that mends it.

The rooms behind it: `checks` (the doctor's lines), `report` (what the installed llama-cpp-python
is, and what it did when it was asked), `explain` (what that proves, and typical traps), `proof`
(the child process that really loads and runs a model).

All but `proof` need the standard library alone: the doctor runs in any state of the environment.
"""

from __future__ import annotations

from helpers.doctor.checks import (
    MODEL_BYTES,
    MODEL_FILE,
    MODEL_SHA256,
    check_model,
    examine,
    main,
)
from helpers.doctor.explain import explain
from helpers.doctor.report import BackendReport, DeviceFacts, Run, backend_report
from helpers.doctor.shapes import FAIL, NOTE, OK, Check

__all__ = [
    "FAIL",
    "MODEL_BYTES",
    "MODEL_FILE",
    "MODEL_SHA256",
    "NOTE",
    "OK",
    "BackendReport",
    "Check",
    "DeviceFacts",
    "Run",
    "backend_report",
    "check_model",
    "examine",
    "explain",
    "main",
]
