"""Does llama.cpp accept this model file? Asked in a process of its own, which the answer may end.

A request has fields of `LoadOptions`. The model is loaded without memory for its weights
(`no_alloc`), and a small context is made for it; with `"decode": true` the weights are loaded, and
the context decodes a short text and one token more.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from helpers.children import Parent
from helpers.load_options import LoadOptions
from helpers.native.context import Context
from helpers.native.model import Model

# Words, and every character that has one byte or two, for the tokenizer's sake.
_TEXT = "Hello, world!\n" + "".join(map(chr, range(2048))) + "\u4e16\u754c\U0001f999"


def try_file(request: dict[str, Any]) -> None:
    """Load the model, make a context, use it: raises where llama.cpp refuses."""
    decode = request.pop("decode", False)
    options = LoadOptions(**request, n_ctx=256, n_gpu_layers=0)
    model = Model(options, no_alloc=not decode)
    tokens = model.tokenize(_TEXT) if decode else []
    if options.vocab_only:
        return
    # Making a context builds the graphs, and with them runs most of llama.cpp's assertions.
    context = Context(model, options)
    if options.embeddings:
        if decode:
            context.embed([tokens[:16] or [0], tokens[:3] or [0]][: context.n_seq])
        return
    if options.lora_path:
        context.set_adapter(model.lora(options.lora_path), 1.0)
    if decode:
        # Not one token at a time: operations on many have code of their own.
        read = tokens[:16] or [0]
        context.decode(read, 0, 0, logits=True)
        context.decode(read[-1:], len(read), 0, logits=True)
        context.logits(0)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # Linux: before anybody else is ended for lack of memory
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    Parent().serve(try_file)
