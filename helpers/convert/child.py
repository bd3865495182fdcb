"""The child process of `helpers.convert`: what may end it runs here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from helpers.children import Parent
from helpers.errors import HelpersError, ModelFileError

_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_FALLBACKS = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")


def _quantize(parent: Parent, *, source: str, target: str, number: int, requantize: bool) -> Any:
    from helpers.native import usable_cores
    from helpers.native.quantization import quantize_file

    said: list[str] = []

    def on_text(text: str) -> None:
        said.append(text)
        os.write(2, text.encode())
        step = _STEP.match(text)
        if step:
            parent.progress(int(step[1]), int(step[2]))

    status = quantize_file(
        source,
        target,
        number,
        requantize=requantize,
        n_threads=usable_cores(),
        on_text=on_text,
    )
    log = "".join(said)
    if status:
        words = [line.strip() for line in log.splitlines() if re.search(r"(?i)error|fail", line)]
        raise ModelFileError(
            f"llama.cpp cannot quantize this file: {'; '.join(words[-3:]) or 'no reason given'}. "
            "Choose another type, or the F16 file of the model."
        )
    found = _FALLBACKS.search(log)
    return {"fallbacks": int(found[1]) if found else 0}


def _score(parent: Parent, *, options: dict[str, Any], text: str, window: int) -> list[float]:
    import numpy as np

    from helpers.load_options import LoadOptions
    from helpers.native import Model
    from helpers.native.scoring import ScoringContext

    model = Model(LoadOptions(**options))
    if not model.generates:
        raise ModelFileError(
            "This model does not generate text, so it has no perplexity: choose a language model."
        )
    tokens = np.asarray(model.tokenize(text, special=False), np.int32)
    if len(tokens) < 2:
        raise HelpersError("The text has fewer than two tokens: there is nothing to predict in it.")
    size = max(2, min(window, len(tokens), model.n_ctx_train))
    context = ScoringContext(model, size)
    scores: list[float] = []
    # Each window begins with the last token of the one before: every token but the very first is
    # predicted exactly once.
    for start in range(0, len(tokens) - 1, size - 1):
        scores += context.log_probabilities(tokens[start : start + size]).tolist()
        parent.progress(min(start + size, len(tokens)), len(tokens))
    return scores


_TASKS: dict[str, Callable[..., Any]] = {"quantize": _quantize, "score": _score}

if __name__ == "__main__":
    parent = Parent()
    parent.serve(lambda request: _TASKS[request.pop("task")](parent, **request))
