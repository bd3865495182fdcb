"""The child process of `convert_ggml`: runs llama.cpp's converter for old files, as a script.

The converter hands over shapes in numbers of values, while the `gguf` that it comes with has
understood shapes of raw data in bytes since May 2024 (llama.cpp pull request 7483, reported as
issue 11976): unaided, it stops at quantized files and writes others with a quarter of their size.
The two are brought together here. The script itself stays as it is.
"""

from __future__ import annotations

import math
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from helpers.children import Parent


def _convert(command: list[str]) -> None:
    """Have shapes taken in bytes, then run the script."""
    script = Path(command[0])
    # The script brings its own `gguf`, which must be the one of its version.
    sys.path.insert(0, str(script.parent / "gguf-py"))
    os.environ.pop("NO_LOCAL_GGUF", None)
    import gguf
    from gguf.quants import quant_shape_to_byte_shape

    original = gguf.GGUFWriter.add_tensor

    def add_tensor(
        self: Any, name: str, tensor: Any, raw_shape: Any = None, raw_dtype: Any = None, **more: Any
    ) -> None:
        # A shape in bytes has as many as the data; that of a repaired converter is left alone.
        if raw_shape is not None and math.prod(raw_shape) != tensor.nbytes:
            raw_shape = quant_shape_to_byte_shape(raw_shape, raw_dtype)
        original(self, name, tensor, raw_shape=raw_shape, raw_dtype=raw_dtype, **more)

    gguf.GGUFWriter.add_tensor = add_tensor  # type: ignore[method-assign, assignment]
    sys.argv = command
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    Parent().serve(_convert)
