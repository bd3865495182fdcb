"""Does llama.cpp accept this model file? Asked in a process of its own, which the answer may end.

A request is `{"model_path": …, "kv_overrides": [[key, value], …]}`, fields of `LoadOptions`. The
model is loaded without memory for its weights (`no_alloc`), and a small context is made for it.
"""

from __future__ import annotations

from typing import Any

from helpers.children import Parent
from helpers.load_options import LoadOptions
from helpers.native.context import Context
from helpers.native.model import Model


def try_file(request: dict[str, Any]) -> None:
    """Load the model and make a context: raises where llama.cpp refuses."""
    options = LoadOptions(**request, n_ctx=256, n_gpu_layers=0)
    # Making a context builds the graphs, and with them runs most of llama.cpp's assertions.
    Context(Model(options, no_alloc=True), options)


if __name__ == "__main__":
    Parent().serve(try_file)
