"""Does llama.cpp accept this model file? Asked in a process of its own, which the answer may end.

`python -m helpers.native.probe` reads a line of JSON, `{"path": …, "kv_overrides": [[key, value],
…]}`, loads the model without memory for its weights (`no_alloc`), makes a small context for it, and
answers with `{"error": …}`: null, or why not.
"""

from __future__ import annotations

import json
import os
import sys

from helpers.errors import HelpersError
from helpers.native.context import Context, ContextParams
from helpers.native.model import Model, ModelParams


def main() -> None:
    """Answer one question and end."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints is not the answer
    request = json.loads(sys.stdin.readline())
    params = ModelParams(
        devices=(),
        use_mmap=False,
        no_alloc=True,
        kv_overrides=tuple((key, value) for key, value in request["kv_overrides"]),
    )
    error = None
    try:
        # Making a context builds the graphs, and with them runs most of llama.cpp's assertions.
        Context(Model(request["path"], params), ContextParams(n_ctx=256))
    except HelpersError as refusal:
        error = str(refusal)
    reply.write(json.dumps({"error": error}) + "\n")
    reply.flush()
    os._exit(0)  # freeing may fail where loading did not


if __name__ == "__main__":
    main()
