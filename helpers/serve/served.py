"""The model that is served: loaded once for text, and once more for vectors when asked for."""

from __future__ import annotations

import asyncio
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers.engine import Engine, LoadReport
from helpers.llm import ChatLlamaCpp, LlamaCppEmbeddings
from helpers.models import PLAIN_TEMPLATE, ModelInfo, find_model, inspect_model
from helpers.models.header import read_header
from helpers.remote.codec import report_to_json
from helpers.serve.problems import Problem
from helpers.serve.settings import ServeSettings


class Served:
    """A loaded model under the name that clients know it by.

    Args:
        settings: What to load, and how.

    Raises:
        ModelFileError: There is no such model, or it generates no text.
        DeviceError: It does not fit.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        path = find_model(settings.model)
        self.info: ModelInfo = inspect_model(path)
        self.name = name_of(path)
        load = dict(settings.load)
        if self.info.chat_template is None:  # a base model, which continues texts for all that
            load.setdefault("chat_template", PLAIN_TEMPLATE)
        self.chat = ChatLlamaCpp(
            model_path=str(path),
            n_ctx=settings.n_ctx,
            n_gpu_layers=settings.n_gpu_layers,
            n_threads=settings.n_threads,
            n_parallel=settings.n_parallel,
            isolate=settings.isolate,
            model_kwargs={"continuous_batching": True},
            **load,
        )
        self._report = self.chat.load_report
        self._embedder: LlamaCppEmbeddings | None = None
        self._loading = asyncio.Lock()
        self._vectors_path = path
        if settings.embeddings is not None:
            self._vectors_path = find_model(settings.embeddings)
            self._embedder = self._load_embedder()

    @property
    def engine(self) -> Engine:
        """What computes the answers."""
        return self.chat._engine

    @property
    def report(self) -> LoadReport:
        """What the last load did; asking loads nothing."""
        if self.engine._alive:
            self._report = self.chat.load_report
        return self._report

    @property
    def n_ctx(self) -> int:
        """Tokens of context of each answer."""
        return self.engine.options.n_ctx or 0

    @property
    def vectors_name(self) -> str:
        """Name of the model that makes vectors."""
        return name_of(self._vectors_path)

    def names(self) -> list[str]:
        """The names of the models, that of the text first."""
        return list(dict.fromkeys([self.name, self.vectors_name]))

    def check_name(self, given: Any, name: str) -> None:
        """Refuse a request for another model than the one that would answer.

        Raises:
            Problem: There is no such model here, or it does something else.
        """
        if given is None or given == name:
            return
        if not isinstance(given, str):
            raise Problem(400, "invalid_value", "model must be a text.", param="model")
        raise Problem(
            404,
            "model_not_found",
            f"There is no model {given[:100]!r} for this here. The name is {name!r}; it may also "
            "be left out.",
            param="model",
        )

    async def embedder(self) -> LlamaCppEmbeddings:
        """The model for vectors, loaded when first asked for."""
        async with self._loading:
            if self._embedder is None:
                self._embedder = await asyncio.to_thread(self._load_embedder)
        return self._embedder

    async def engine_of(self, given: Any) -> Engine:
        """What makes tokens for a model's name; where none is given, for text.

        Raises:
            Problem: There is no such model here.
        """
        if given in (None, self.name):
            return self.engine
        self.check_name(given, self.vectors_name)
        return (await self.embedder())._engine

    def _load_embedder(self) -> LlamaCppEmbeddings:
        settings = self._settings
        return LlamaCppEmbeddings(
            model_path=str(self._vectors_path),
            n_gpu_layers=settings.n_gpu_layers,
            n_threads=settings.n_threads,
            isolate=settings.isolate,
            show_progress=False,
        )

    def header_of(self, name: str) -> tuple[bytes, str]:
        """The file of a model without its tensors' data, and the SHA-256 of that.

        It is all that a client needs for templates and tokens.

        Raises:
            Problem: There is no such model.
        """
        if name not in self.names():
            raise Problem(
                404,
                "model_not_found",
                f"There is no model {name[:100]!r}. There are {', '.join(self.names())}.",
                param="model",
            )
        return _header(self.info.path if name == self.name else self._vectors_path)

    def card(self, name: str) -> dict[str, Any]:
        """What /v1/models says of a model.

        Raises:
            Problem: There is no such model.
        """
        fingerprint = self.header_of(name)[1]
        vectors = name != self.name
        info = inspect_model(self._vectors_path, check=False) if vectors else self.info
        face = self._embedder if vectors else self.chat
        meta: dict[str, Any] = {
            "n_ctx": (face or self.chat)._engine.options.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_params": info.n_params,
            "size_mib": round(info.file_size / 2**20, 1),
            "n_vocab": info.n_vocab,
            "n_layers": info.n_layers,
            "embeddings": vectors,
            "fingerprint": fingerprint,
        }
        if face is not None:
            meta["load_report"] = report_to_json(face.load_report)
        if name == self.vectors_name and self._embedder is not None:
            meta["vectors_report"] = report_to_json(self._embedder.load_report)
        return {
            "id": name,
            "object": "model",
            "created": int(info.path.stat().st_mtime),
            "owned_by": "llama-notebooks",
            "meta": meta,
        }

    def close(self) -> None:
        """Free the memory."""
        self.chat.close()
        if self._embedder is not None:
            self._embedder.close()


def name_of(path: Path) -> str:
    """Under which name a file is served: its own, without the ending.

    >>> name_of(Path("models/smollm2-135m-q4.gguf"))
    'smollm2-135m-q4'
    """
    return path.name.removesuffix(".gguf")


@lru_cache(maxsize=2)
def _header(path: Path) -> tuple[bytes, str]:
    """The beginning of a GGUF file, up to the tensors' data, and its SHA-256."""
    with path.open("rb") as file:
        raw = file.read(read_header(path).data_offset)
    return raw, hashlib.sha256(raw).hexdigest()
