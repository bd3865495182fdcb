"""The child process of `helpers.memory.simulate`: loads that compute sizes and allocate nothing.

llama.cpp reads the file's header and lays its buffers out (`no_alloc`), so a model of 40 GB takes
no longer than a small one. In a child, because a device's driver takes memory for whoever asks it,
and because what is wrong with a file may end the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.children import Parent
from helpers.native import (
    Context,
    ContextParams,
    Model,
    ModelParams,
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
        names, aliases = reach(devices)
        model = self._get_model(request, names)
        context = Context(
            model,
            ContextParams(
                n_ctx=request["n_ctx"],
                n_seq_max=request["n_seq"],
                n_batch=max(request["n_batch"], request["n_seq"]),
                n_ubatch=request["n_ubatch"],
                flash_attn=request["flash_attn"],
                type_k=request["type_k"],
                type_v=request["type_v"],
                settings=tuple((name, value) for name, value in request["settings"]),
            ),
        )
        context.close()
        log = renamed(context.log, aliases)
        asked = dict(zip(names, (name for name, _ in devices), strict=True))
        return {
            "compute": {name: kinds["compute"] for name, kinds in read_buffers(log).items()},
            "caches": read_caches(log),
            "layers": [asked.get(name, name) for name in read_layers(model.log)],
            "flash_attn": read_flash_attention(log),
        }

    def _get_model(self, request: dict[str, Any], names: tuple[str, ...]) -> Model:
        state = Path(request["path"]).stat()
        key = (request["path"], state.st_mtime_ns, state.st_size, request["model"], names)
        if self._model is None or key != self._key:
            if self._model is not None:
                self._model.close()
                self._model = None
            settings = request["model"]
            if settings.get("kv_overrides"):
                settings["kv_overrides"] = tuple(map(tuple, settings["kv_overrides"]))
            params = ModelParams(
                # No layers on a device means no device at all, as in the engine.
                devices=names if settings["n_gpu_layers"] else (),
                use_mmap=False,  # what is not mapped is not touched
                no_alloc=True,
                **settings,
            )
            self._model, self._key = Model(request["path"], params), key
        return self._model


if __name__ == "__main__":
    Parent().serve(_Simulator().load)
