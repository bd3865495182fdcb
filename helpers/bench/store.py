"""A sweep as a JSON file: written whole or not at all, read with a message for each fault."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.bench.rows import SweepRow, goal_weight
from helpers.errors import HelpersError
from helpers.files import replace_text

FORMAT = "llama-notebooks sweep"
VERSION = 1

_ROW_KINDS: dict[str, tuple[type, ...]] = {
    "n_gpu_layers": (int,),
    "n_batch": (int,),
    "n_threads": (int,),
    "type_kv": (str,),
    "prompt_runs": (list,),
    "eval_runs": (list,),
    "load_ms": (int, float, type(None)),
    "memory": (dict,),
    "reason": (str,),
    "seconds": (int, float),
}
_RARER_KINDS: dict[str, tuple[type, ...]] = {
    "n_threads_batch": (int, type(None)),
    "n_ubatch": (int,),
    "flash_attn": (bool, type(None)),
    "n_cpu_moe": (int,),
    "speculate": (str, type(None)),
}
"""Written where they were changed."""


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the fields of a `SweepResult`.

    Raises:
        HelpersError: It cannot be written there.
    """
    model = {**result["model"], "code": result["model"].get("code_elsewhere", "")}
    model.pop("code_elsewhere", None)
    rows = [_row_to_json(row) for row in result["rows"]]
    content = {"format": FORMAT, "version": VERSION, **result, "model": model, "rows": rows}
    try:
        replace_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise HelpersError(
            f"The sweep cannot be written to {path}: {error.strerror or error}. "
            "Give the name of a file in a folder that exists."
        ) from None


def _row_to_json(row: SweepRow) -> dict[str, Any]:
    content = dataclasses.asdict(row)
    for name in ("prompt_runs", "eval_runs"):
        content[name] = [round(value, 2) for value in content[name]]
    content["load_ms"] = None if row.load_ms is None else round(row.load_ms, 1)
    content["seconds"] = round(row.seconds, 2)
    for name in _RARER_KINDS:
        if content[name] == getattr(SweepRow, name):
            del content[name]
    return content


def read(path: Path) -> dict[str, Any]:
    """Read the fields of a `SweepResult` from a file that `write` made.

    Raises:
        HelpersError: There is no such file, or it is damaged, or no sweep.
    """
    remedy = "Give another name, or delete the file to start over."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HelpersError(f"There is no sweep at {path}. Save one there first.") from None
    except OSError as error:
        raise HelpersError(f"{path} cannot be read: {error.strerror or error}. {remedy}") from None
    except ValueError as error:
        raise HelpersError(f"{path} is damaged, or no JSON: {error}. {remedy}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise HelpersError(f"{path} is JSON, but not a sweep. {remedy}")
    if content.get("version") != VERSION:
        raise HelpersError(
            f"{path} is a sweep of version {content.get('version')!r}; this one reads {VERSION}. "
            f"{remedy}"
        )
    try:
        return _result(content)
    except (KeyError, TypeError, ValueError) as error:
        raise HelpersError(f"{path} is a damaged sweep: {error}. {remedy}") from None


def _result(content: dict[str, Any]) -> dict[str, Any]:
    model, setup, machine = (_dict(content, name) for name in ("model", "setup", "machine"))
    if not isinstance(content["rows"], list):
        raise TypeError("rows is not a list")
    goal_weight(content["goal"])
    return {
        "model": model,
        "setup": setup,
        "machine": {str(name): str(value) for name, value in machine.items()},
        "rows": [_row_from_json(row) for row in content["rows"]],
        "notes": [str(note) for note in content["notes"]],
        "planned": int(content["planned"]),
        "trials": int(content["trials"]),
        "goal": content["goal"],
        "stopped": str(content["stopped"]),
    }


def _dict(content: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(content[name], dict):
        raise TypeError(f"{name} is not an object")
    return dict(content[name])


def _row_from_json(content: Any) -> SweepRow:
    if not isinstance(content, dict) or content.keys() - _RARER_KINDS != _ROW_KINDS.keys():
        raise ValueError(f"a row has other fields than {', '.join(_ROW_KINDS)}")
    for name, value in content.items():
        kinds = (_ROW_KINDS | _RARER_KINDS)[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} of a row is {value!r}")
    runs = {name: tuple(float(v) for v in content[name]) for name in ("prompt_runs", "eval_runs")}
    return SweepRow(**{**content, **runs})
