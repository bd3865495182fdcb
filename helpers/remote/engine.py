"""An engine whose model a server has loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from helpers.engine import Engine, LoadOptions
from helpers.engine.embedder import pack
from helpers.errors import ServerError
from helpers.native import Vectors
from helpers.remote.address import Address
from helpers.remote.core import RemoteCore

_TOKENS_AT_ONCE = 2048
"""Tokens of texts to embed in one request: the server makes its own batches of them, and a bar here
moves on with each request."""


class RemoteEngine(Engine):
    """An engine on another machine. Those of one address and key share their connections.

    Its `options` name the header of the server's model, in which all is said of it that is not a
    weight.

    Args:
        address: The server.
        embeddings: Whether its model for vectors is wanted, or the one that writes.

    Raises:
        ServerError: It is not there, is none of ours, or refuses the key.
        ModelFileError: What it says of its model cannot be read.
    """

    def __init__(self, address: Address, *, embeddings: bool = False) -> None:
        self._address, self._embeddings = address, embeddings
        self._fingerprint = ""
        super().__init__(LoadOptions(model_path=address.url))

    def _attach(self) -> None:
        address, embeddings = self._address, self._embeddings
        key = (address, embeddings, os.getpid())
        self._use(key, lambda: RemoteCore(address, embeddings=embeddings))
        core = self._shared.core
        assert isinstance(core, RemoteCore)
        fingerprint = self._fingerprint or core.served.fingerprint
        if core.served.fingerprint != fingerprint:
            self._detach()
            raise ServerError(
                f"The server at {address.url} has another model than before, {core.served.id}. "
                "Make the model anew: its template and its tokens are others.",
                code="model_not_found",
            )
        self._fingerprint = fingerprint
        try:
            self.options = LoadOptions(
                model_path=str(core.served.header),
                n_ctx=core.load_report.n_ctx,
                embeddings=embeddings,
            )
        except ValueError as error:
            raise ServerError(f"The server at {address.url} says: {error}") from None

    @property
    def files(self) -> tuple[Any, ...]:
        """The server and the fingerprint of its model."""
        return (self._address.url, self._fingerprint)

    def embed(
        self, texts: Sequence[Sequence[int]], room: int = _TOKENS_AT_ONCE
    ) -> Iterator[tuple[int, Vectors]]:
        """Compute texts; how many go into one decode is the server's."""
        for batch in pack([len(tokens) for tokens in texts], max(room, _TOKENS_AT_ONCE)):
            yield from zip(batch, self._core.embed([texts[n] for n in batch]), strict=True)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy shares the connections; a pickle carries the address, and no key."""
        return (_remote_engine, (self._address, self._embeddings))


def _remote_engine(address: Address, embeddings: bool) -> RemoteEngine:
    return RemoteEngine(address, embeddings=embeddings)
