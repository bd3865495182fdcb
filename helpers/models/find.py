"""Turn whatever a reader writes for a model into one checked file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import ModelFileError
from helpers.models.catalogue import CATALOGUE, CatalogueEntry
from helpers.models.check import check_model_file
from helpers.models.default import default_model, embedded_model
from helpers.models.embedding_catalogue import EMBEDDING_MODELS
from helpers.models.hub import (
    HubName,
    HubUnreachable,
    download,
    kept_revision,
    match_quantization,
    parse_hub_name,
)
from helpers.models.stores import LocalModel, local_models, of_another_revision, places
from helpers.models.verdict import NotAccepted

_DEFAULT = "default"


def find_model(
    name: str | os.PathLike[str] | None = None, *, download_missing: bool = True
) -> Path:
    """Return the path of a model, looked for in this order; downloaded if need be, and checked.

    1. A path: `~` and environment variables are expanded.
    2. "default": `default_model()`, which the variable `LLAMA_NOTEBOOKS_MODEL` may replace.
    3. A file of the folder that `LLAMA_NOTEBOOKS_MODEL_DIR` names (a workshop without network), of
       LM Studio, of Ollama ("llama3.2:1b"), of the Hub's cache: used where it is.
    4. A name of the catalogue, such as "qwen3.5-4b" or "qwen3.5-4b:Q8_0", or of an embedding model
       or a reranker (`helpers.models.embedding_models`), such as "bge-m3".
    5. A file on the Hugging Face Hub, "owner/name/file.gguf" or "owner/name:Q4_K_M" or a link to
       one, in the revision that the link names. `HF_ENDPOINT` chooses another server,
       `HF_HUB_CACHE` another place for the files.

    A download shows its progress, resumes a broken connection where it stopped (five times), and
    is compared with the size and the checksum that the Hub announced; a file that differs is
    deleted.

    Args:
        name: See above. None is "default".
        download_missing: False never uses the network.

    Returns:
        The absolute path of a file that passed `check_model_file`.

    Raises:
        ModelFileError: Nothing was found (the message says what was looked for, where, and which
            names exist), or what was found is not a usable model.

    Example:
        >>> from helpers import find_model
        >>> find_model("default").name
        'SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    path = _as_path(name)
    if path is None:
        text = os.fspath(name) if name is not None else _DEFAULT
        path = _by_name(str(text), download_missing)
    check_model_file(path)
    return path


def _as_path(name: str | os.PathLike[str] | None) -> Path | None:
    """Understand a path: one that exists, or one that cannot be anything else."""
    if name is None or name == "":
        return None
    path = Path(os.path.expandvars(os.fspath(name))).expanduser()
    if not isinstance(name, str):
        return path.absolute()
    try:
        exists = path.exists()
    except (OSError, ValueError):  # too long, or with a zero byte: no path
        return None
    explicit = name.startswith(("~", ".", "$", "%", "/", "\\")) or path.is_absolute()
    return path.absolute() if exists or explicit else None


def _by_name(name: str, download_missing: bool) -> Path:
    if name in ("", _DEFAULT):
        return default_model()
    name = name.strip()
    entry, quantization = _from_catalogue(name)
    if entry is not None and entry.embedded:
        return embedded_model()
    hub = HubName(entry.repository, None, quantization) if entry else parse_hub_name(name)
    local = local_models()
    found = _local(name, hub, local)
    if found is not None and not (hub and download_missing and _is_damaged(found)):
        return found.path
    if hub is None:
        raise ModelFileError(f"There is no model {name!r}. {_help(name, local)}")
    if not download_missing:
        raise ModelFileError(f"{name!r} ({hub}) is not on this machine. {_help(name, local)}")
    try:
        return download(hub)
    except HubUnreachable as error:
        message = f"{name!r} is not on this machine, and {error} {_help(name, local)}"
        raise ModelFileError(message) from error


def _from_catalogue(name: str) -> tuple[CatalogueEntry | None, str | None]:
    base, _, quantization = name.partition(":")
    entry = CATALOGUE.get(base.lower()) or EMBEDDING_MODELS.get(base.lower())
    if entry is None:
        return None, None
    return entry, quantization or entry.quantization


def _is_damaged(model: LocalModel) -> bool:
    """Say whether a file of the Hub's cache should be fetched again; others are not ours."""
    if model.source != "Hub cache":
        return False
    try:
        check_model_file(model.path)
    except NotAccepted:
        return False  # a second download would bring the same file
    except ModelFileError:
        return True
    return False


def _local(name: str, hub: HubName | None, local: Sequence[LocalModel]) -> LocalModel | None:
    """Find a model on this machine by its name, its file's name, or its name on the Hub."""
    if hub is not None:
        if hub.revision != "main":
            return kept_revision(hub)
        local = [model for model in local if not of_another_revision(model.path)]
    wanted = name.lower()
    for model in local:
        label = model.name.lower()
        if wanted in (label, label.removesuffix(".gguf"), label.removesuffix(":latest")):
            return model
    for model in local:
        file = model.path.name.lower()
        if model.source != "Ollama" and wanted in (file, file.removesuffix(".gguf")):
            return model
    return _local_hub(hub, local) if hub is not None else None


def _local_hub(hub: HubName, local: Sequence[LocalModel]) -> LocalModel | None:
    """A file that was downloaded from the Hub by another program, or copied into a workshop."""
    if hub.file is None and hub.quantization is None:
        return None  # a whole repository: the Hub knows its files
    repository = hub.repository.lower()
    base = re.sub(r"[-_.]gguf$", "", repository.rpartition("/")[2])
    for model in local:
        label = model.name.lower()
        in_repository = label.startswith(f"{repository}/")
        # In a flat folder only the file's name tells which model it is.
        in_folder = model.source == "workshop folder" and _plain(base) in _plain(model.path.name)
        if not in_repository and not in_folder:
            continue
        if hub.file is not None and model.path.name.lower() == hub.file.lower().rpartition("/")[2]:
            return model
        if hub.quantization and match_quantization([model.path.name], hub.quantization):
            return model
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _help(name: str, local: Sequence[LocalModel]) -> str:
    """Say where it was looked for and which names exist."""
    known = [_DEFAULT, *CATALOGUE]
    names = known + list(EMBEDDING_MODELS) + [model.name for model in local]
    near = [] if name in names else difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    lines = [f"Did you mean {' or '.join(near)}?"] if near else []
    lines.append("Looked into: " + "; ".join(places()) + ".")
    if local:
        shown = [f"{model.name} ({model.source})" for model in local[:12]]
        rest = f" and {len(local) - 12} more" if len(local) > 12 else ""
        lines.append(f"On this machine: {', '.join(shown)}{rest}.")
    else:
        lines.append("No model was found there.")
    lines.append(f"Names of the catalogue: {', '.join(known)}.")
    lines.append(f"To search texts: {', '.join(EMBEDDING_MODELS)}.")
    lines.append("A path, 'owner/name/file.gguf' and 'owner/name:Q4_K_M' (Hub) work too.")
    return " ".join(lines)
