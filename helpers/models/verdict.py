"""What the lists here do not know is not wrong: llama.cpp itself decides, in a child process."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from helpers.children import Child
from helpers.errors import EngineCrashed, HelpersError, ModelFileError

_FOLDERS = r"\S*[/\\]"
_SECONDS = 60.0
"""The question takes half a second; a big vocabulary on a slow disk, some more."""


class Doubt(str):
    """A problem that only llama.cpp can judge: it may be newer than the lists of `helpers`.

    A subclass of `str`, so that rules yield it beside problems that the header alone proves.
    """


class NotAccepted(ModelFileError):
    """The installed llama.cpp does not accept a file that a later one may accept."""


def uphold(
    problem: str | None, file: Path, valid_for: object, overrides: Sequence[tuple[str, Any]] = ()
) -> str | None:
    """Return a problem if it stands; a `Doubt` stands where llama.cpp does not accept the file.

    Args:
        problem: What was found, or None.
        file: The model file.
        valid_for: Sizes and times of its parts: an answer is kept as long as they are the same.
        overrides: `kv_overrides` of the load.
    """
    if not isinstance(problem, Doubt):
        return problem
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        said = "llama-cpp-python is not installed, so llama.cpp could not be asked"
    else:
        request = {"model_path": str(file), "kv_overrides": overrides}
        try:
            refusal = _ask(json.dumps(request), valid_for, version)
        except TimeoutError:  # not remembered: what was in the way may pass
            refusal = f"did not finish with it within {_SECONDS:g} s"
        if refusal is None:
            return None
        said = f"llama.cpp (llama-cpp-python {version}) {refusal}"
    return Doubt(
        f"{problem}. {said.rstrip('.')}. Upgrade llama-cpp-python if the model is newer than it. "
        "Otherwise the file is damaged, or not a model for llama.cpp: download it again, or choose "
        "another."
    )


@functools.lru_cache(maxsize=64)
def _ask(request: str, _valid_for: object, _version: str) -> str | None:
    """Let `helpers.native.probe_child` try the file; None if llama.cpp accepts it."""
    try:
        # One process for each question: freeing may fail where loading did not.
        with closing(Child("helpers.native.probe_child", role="tried the file")) as child:
            child.ask(json.loads(request), _SECONDS)
    except EngineCrashed as error:
        return f"ended its process on it: {last_word(error)}"
    except HelpersError as error:
        return f"refuses it: {_essence(str(error))}"
    return None


def last_word(error: EngineCrashed) -> str:
    """What a process said last, without the folders in which llama.cpp was built."""
    words = error.native_log[-1] if error.native_log else f"exit status {error.exit_status}"
    return re.sub(_FOLDERS, "", words)[:300]


def _essence(error: str) -> str:
    """Pick the cause from what llama.cpp logged."""
    causes = re.findall(r"(?:error loading model[\w ]*: )+(.*?)(?:; llama_|$)", error)
    if causes and "failed to load" not in causes[-1]:
        return " ".join(causes[-1].split())
    return re.sub(r"^llama\.cpp cannot load .*?: (?=\w+: )", "", error).partition(";")[0]
