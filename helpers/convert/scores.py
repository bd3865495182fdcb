"""How well a model predicts a text: what quantization costs, as a number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from helpers.convert.parent import Progress, run_task
from helpers.load_options import LoadOptions
from helpers.models import check_model_file


class HasModelFile(Protocol):
    """What was made from a model file and knows it, such as a `LlamaCpp`."""

    @property
    def model_path(self) -> str | os.PathLike[str]:
        """The file."""


def perplexity(
    model: HasModelFile | str | os.PathLike[str],
    text: str,
    *,
    window: int = 512,
    type_k: str | int | None = None,
    type_v: str | int | None = None,
    progress: Progress | None = None,
) -> float:
    """Perplexity of a model on a text: between how many tokens it hesitates, on average.

    1 would be a model that knows the text by heart; the size of the vocabulary one that has no
    idea. It is the exponential of the mean negative log-probability of the text's tokens. Compare
    it only between files of the same model (the same tokens) and on the same text.

    The model is loaded anew on the CPU, in a process of its own that ends afterwards.

    Args:
        model: A model file, or a `LlamaCpp`, whose file is taken.
        text: At least two tokens; some hundred make differences visible.
        window: Tokens evaluated together. A token sees those before it in its window.
        type_k: Type of the cached keys that it sees, such as "q8_0"; None for f16.
        type_v: Type of the cached values, likewise.
        progress: Is called with (tokens done, tokens).

    Returns:
        1 or more.

    Raises:
        ModelFileError: The file is not a language model that llama.cpp can load.
        HelpersError: The text has fewer than two tokens.
        EngineCrashed: The process ended, most likely for lack of memory.

    Example:
        >>> from helpers import default_model, perplexity
        >>> perplexity(default_model(), "One, two, three, four, five.") < 20
        True
    """
    scores = log_probabilities(
        model, text, window=window, type_k=type_k, type_v=type_v, progress=progress
    )
    return float(np.exp(-scores.mean()))


def log_probabilities(
    model: HasModelFile | str | os.PathLike[str],
    text: str,
    *,
    window: int = 512,
    type_k: str | int | None = None,
    type_v: str | int | None = None,
    progress: Progress | None = None,
) -> npt.NDArray[np.float64]:
    """Log-probability (natural) of each token of a text but the first, given those before it.

    Two files of one model give as many, token for token, so that they can be compared pair by
    pair. Arguments and exceptions are those of `perplexity`.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, not {window}")
    named: str | os.PathLike[str] = (
        model if isinstance(model, (str, os.PathLike)) else model.model_path
    )
    path = Path(named).expanduser().absolute()
    check_model_file(path)
    options = LoadOptions(model_path=str(path), n_gpu_layers=0, type_k=type_k, type_v=type_v)
    task = {"options": options.placement(), "text": text, "window": window}
    return np.asarray(run_task("score", task, progress), np.float64)
