"""Proof of what is installed and active; each fault comes with the command that fixes it.

The rooms behind it: `checks` (the doctor's lines), `report` (what the installed llama-cpp-python
is, and what it did when it was asked), `explain` (what that proves, and typical traps), `proof`
(the child process that really loads and runs a model), `summary` (the first cell of a notebook),
`machine` (a report for a teacher), `room` (all machines' reports in one table).

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
    read_options,
)
from helpers.doctor.explain import FAIL, NOTE, OK, Check, explain
from helpers.doctor.machine import report_path
from helpers.doctor.report import BackendReport, DeviceFacts, Run, backend_report
from helpers.doctor.summary import EnvironmentSummary, environment_summary

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
    "EnvironmentSummary",
    "Run",
    "backend_report",
    "check_model",
    "environment_summary",
    "examine",
    "explain",
    "main",
    "read_options",
    "report_path",
]
