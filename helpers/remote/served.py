"""What a server has loaded: its report, and the header of its model in the suite's cache."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.engine.report import LoadReport
from helpers.errors import ModelFileError, ServerError
from helpers.install.paths import claim_cache, header_folder
from helpers.models import inspect_model
from helpers.models.cursor import MAX_HEADER_BYTES
from helpers.remote.codec import report_from_json
from helpers.remote.connection import Connection


@dataclass(frozen=True)
class Served:
    """A model that a server has loaded.

    Attributes:
        id: What the server calls it.
        report: What its load did.
        fingerprint: SHA-256 of the header.
        header: The header of its file; no weights are in it.
    """

    id: str
    report: LoadReport
    fingerprint: str
    header: Path


async def find_model(connection: Connection, *, embeddings: bool) -> Served:
    """Ask a server what it has loaded.

    Args:
        connection: To the server.
        embeddings: Whether a model for vectors is wanted, or one that writes.

    Raises:
        ServerError: It has none, is no server of ours, or is not there.
        ModelFileError: The header that it sends is none.
    """
    name, meta = _chosen(connection, await _cards(connection), embeddings)
    report = "vectors_report" if embeddings else "load_report"
    if embeddings and report not in meta:  # it is loaded when it is first asked for
        await connection.json("/v1/embeddings", {"model": name, "input": "."})
        name, meta = _chosen(connection, await _cards(connection), embeddings)
    try:
        return await _described(connection, name, meta, report_from_json(meta.get(report)))
    except ValueError as error:
        raise _foreign(connection, str(error)) from None


async def _cards(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
    """The models of a server by their names, and what it says of each."""
    listed = await connection.json("/v1/models")
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not models:
        raise _foreign(connection, "it lists no models")
    found = []
    for model in models:
        meta = model.get("meta") if isinstance(model, dict) else None
        if not isinstance(meta, dict) or not isinstance(model.get("id"), str):
            raise _foreign(connection, "it says nothing of its model but a name")
        found.append((model["id"], meta))
    return found


def _chosen(
    connection: Connection, cards: list[tuple[str, dict[str, Any]]], embeddings: bool
) -> tuple[str, dict[str, Any]]:
    """The model that writes; or the one for vectors, which may be the same one."""
    found = [card for card in cards if card[1].get("embeddings", False) is embeddings]
    if embeddings or found:
        return (found or cards)[0]
    raise ServerError(
        f"The server at {connection.url} has no model that writes text: "
        f"{', '.join(name for name, _ in cards)} makes vectors. Use LlamaCppEmbeddings.",
        code="model_not_found",
    )


async def _described(
    connection: Connection, name: str, meta: dict[str, Any], report: LoadReport
) -> Served:
    fingerprint = meta.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise _foreign(connection, "its model has no fingerprint")
    claim_cache()
    # The file's name tells the family of some models.
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", report.model).lstrip(".")[-100:] or "model.gguf"
    file = header_folder() / fingerprint[:32] / plain
    if not (file.is_file() and _sum(file.read_bytes()) == fingerprint):
        path = f"/v1/models/{quote(name, safe='')}/header"
        raw = await connection.raw(path, largest=MAX_HEADER_BYTES)
        if _sum(raw) != fingerprint:
            raise _foreign(connection, "the header that it sends is not the one that it names")
        _write(file, raw)
    info = inspect_model(file, check=False)
    if not info.architecture or not info.n_vocab:
        raise ModelFileError(
            f"The header that the server at {connection.url} sends says nothing of a model."
        )
    return Served(name, replace(report, server=connection.url), fingerprint, file)


def _sum(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _write(file: Path, raw: bytes) -> None:
    """Write a file so that others see it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".write-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _foreign(connection: Connection, what: str) -> ServerError:
    return ServerError(
        f"The server at {connection.url} is none of python -m helpers serve: {what}. Other servers "
        "that speak OpenAI's protocol have clients of their own, such as langchain-openai."
    )
