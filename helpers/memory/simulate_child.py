"""The child process of `helpers.memory.simulate`: loads that compute sizes and allocate nothing.

llama.cpp reads the file's header and lays its buffers out (`no_alloc`), so a model of 40 GB takes
no longer than a small one. In a child, because a device's driver allocates memory for every
process that opens it, and because what is wrong with a file may end the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.children import Parent
from helpers.load_options import LoadOptions
from helpers.native import (
    Context,
    Model,
    reach,
    read_buffers,
    read_caches,
    read_flash_attention,
    read_layers,
    renamed,
)


class _Simulator:
    """Keeps the last model: another context for it costs a tenth."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._key: object = None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Simulate one load and return what its log says."""
        devices = [(name, endpoint) for name, endpoint in request["devices"]]
        names, aliases = reach(devices, keep=False)
        options = LoadOptions(
            **request["options"],
            devices=tuple((name, None) for name in names) if names else None,
        )
        model = self._get_model(options)
        context = Context(model, options, request["n_seq"])
        context.close()
        log = renamed(context.log, aliases)
        asked = dict(zip(names, (name for name, _ in devices), strict=True))
        return {
            "compute": {name: kinds["compute"] for name, kinds in read_buffers(log).items()},
            "caches": read_caches(log),
            "layers": [asked.get(name, name) for name in read_layers(model.log)],
            "flash_attn": read_flash_attention(log),
        }

    def _get_model(self, options: LoadOptions) -> Model:
        state = Path(options.model_path).stat()
        key = (options.model_key(), state.st_mtime_ns, state.st_size)
        if self._model is None or key != self._key:
            if self._model is not None:
                self._model.close()
                self._model = None
            self._model, self._key = Model(options, no_alloc=True), key
        return self._model


if __name__ == "__main__":
    Parent().serve(_Simulator().load)
