"""Models from the Hugging Face Hub, through `huggingface_hub`: its cache, its retries, its bar.

Added here is what the library lacks: the space on the disk is checked before a download, the size
and the checksum after it, and a file that is not a whole model is removed from the cache, so that
nothing half-written is ever found by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from helpers.errors import ModelFileError
from helpers.models.check import check_model_file
from helpers.models.formats import part_names
from helpers.models.stores import LocalModel, hub_cache_folder
from helpers.models.verdict import NotAccepted

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT = 10.0
# Left free on the disk beyond the file itself.
_RESERVE = 200 * 2**20


@dataclass(frozen=True)
class HubName:
    """`owner/name/file.gguf` or `owner/name:QUANT`, taken apart.

    Attributes:
        repository: `owner/name`.
        file: Path inside it, or None.
        quantization: Recipe, or None.
        revision: Branch, tag, commit or `refs/pr/N`.
    """

    repository: str
    file: str | None
    quantization: str | None
    revision: str = "main"

    def __str__(self) -> str:
        text = self.repository
        if self.file:
            text += f"/{self.file}"
        elif self.quantization:
            text += f":{self.quantization}"
        return text if self.revision == "main" else f"{text} (revision {self.revision})"


class HubUnreachable(ModelFileError):
    """There is no network, or the Hub does not answer."""


def parse_hub_name(name: str) -> HubName | None:
    """Understand a name on the Hub, or a link copied from its pages; None if it is neither.

    Raises:
        ModelFileError: It is a link, but to another server, or to no model of the Hub.
    """
    revision = "main"
    link = re.match(r"^(?:https?://|(?=(?:hf\.co|huggingface\.co)/)|(hf://))", name, re.IGNORECASE)
    if link:
        name, revision = _parse_link(name[link.end() :], name, on_hub=link[1] is not None)
    match = re.fullmatch(
        r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./ +-]+\.gguf)|:(?P<quant>[\w.-]+))?",
        name,
        re.IGNORECASE,
    )
    if match is None or ".." in name or match["repo"].lower().endswith(".gguf"):
        return None
    return HubName(match["repo"], match["file"], match["quant"], revision)


def _parse_link(link: str, whole: str, *, on_hub: bool) -> tuple[str, str]:
    """The name that a link without its scheme stands for, and the revision."""
    path = link
    if not on_hub:
        own = _endpoint().partition("://")[2]
        hubs = (own, "huggingface.co", "www.huggingface.co", "hf.co")
        hub = next((hub for hub in hubs if f"{link}/".lower().startswith(f"{hub}/".lower())), None)
        if hub is None:
            raise ModelFileError(
                f"{whole} is a link to {link.partition('/')[0]}, which is not the Hugging Face Hub "
                f"({own}). Download the file yourself and give its path, or name that server with "
                "the variable HF_ENDPOINT if it answers as the Hub does."
            )
        path = link[len(hub) :]
    path = re.split(r"[?#]", path)[0].strip("/")
    owner, _, rest = path.partition("/")
    if owner in ("datasets", "spaces"):
        raise ModelFileError(f"{whole} is a link to the Hub's {owner}, not to a model.")
    repository, *inside = rest.split("/")
    name, revision = f"{owner}/{unquote(repository)}", "main"
    if inside[:1] in (["blob"], ["resolve"], ["raw"], ["tree"]) and len(inside) > 1:
        # A revision with slashes is written with %2F, or is one of refs/pr/N and refs/convert/X.
        size = 3 if inside[1] == "refs" else 1
        kind, revision = inside[0], unquote("/".join(inside[1 : 1 + size]))
        inside = inside[1 + size :]
        if kind == "tree" and inside:  # a folder: split models lie in one of the recipe's name
            return f"{name}:{unquote(inside[-1])}", revision
    return "/".join([name, *map(unquote, inside)]), revision


def match_quantization(files: Sequence[str], quantization: str | None) -> list[str]:
    """Return the .gguf files of a recipe, all parts of a split one, image encoders left out."""
    models = [
        file
        for file in files
        if file.lower().endswith(".gguf") and "mmproj" not in file.lower().rpartition("/")[2]
    ]
    if quantization is None:
        return models
    # The recipe as a word of its own: Q4_K must not find Q4_K_M.
    word = re.compile(rf"(?:^|[-._/]){re.escape(quantization)}(?:[-./]|$)", re.IGNORECASE)
    return [file for file in models if word.search(file)]


def _first_parts(files: Sequence[str]) -> list[str]:
    """Drop the second and further parts of split models."""
    return [file for file in files if file == part_names(file)[0]]


def download(name: HubName) -> Path:
    """Return a model from the Hub, downloaded now or before.

    Raises:
        HubUnreachable: There is no network, and the cache does not have the file.
        ModelFileError: The Hub has no such file, the disk has no space, or what arrived is not a
            model.
    """
    files = part_names(name.file or _choose(name))
    metadata = [_metadata(name, file) for file in files]
    cached = [
        _cached(name.repository, file, entry) for file, entry in zip(files, metadata, strict=True)
    ]
    missing = sum(
        entry.size or 0 for entry, path in zip(metadata, cached, strict=True) if path is None
    )
    _require_space(name, missing)
    paths = [
        path or _fetch(name, file, entry)
        for file, entry, path in zip(files, metadata, cached, strict=True)
    ]
    try:
        check_model_file(paths[0])
    except NotAccepted:
        raise  # a later llama.cpp may accept it: gigabytes are not thrown away for that
    except ModelFileError as error:
        for path in paths:
            _discard(path)
        raise ModelFileError(
            f"What {_endpoint()} sent for {name} is not a usable model and was deleted: {error}"
        ) from error
    return paths[0]


def kept_revision(name: HubName) -> LocalModel | None:
    """The file of a branch, tag or commit that the cache has from before, if it has it."""
    from huggingface_hub import try_to_load_from_cache

    if name.file is None:
        return None
    path = try_to_load_from_cache(
        name.repository, name.file, cache_dir=hub_cache_folder(), revision=name.revision
    )
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    return LocalModel(str(name), Path(path), "Hub cache", Path(path).stat().st_size)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _explained(error: Exception, name: object) -> ModelFileError:
    """Turn whatever huggingface_hub and its HTTP library raise into cause and remedy."""
    from huggingface_hub import errors

    where = f"{name} on {_endpoint()}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return ModelFileError(
            f"{where} asks you to accept its licence first: open its page, accept, then log in "
            "with `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return ModelFileError(
            f"There is no repository {where} (or it is private). Check the spelling of "
            "owner/name, or log in with `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelFileError(
            f"There is no such revision: {where}. Its page shows branches, tags and commits."
        )
    if isinstance(error, errors.EntryNotFoundError) or status == 404:
        return ModelFileError(
            f"There is no file {where}. `find_model('owner/name')` lists a repository's files."
        )
    if status is not None:
        return HubUnreachable(
            f"{_endpoint()} answered {status} when asked for {name}. Try again later."
        )
    return HubUnreachable(
        f"{_endpoint()} cannot be reached ({type(error).__name__}: {str(error)[:200]}). Check the "
        "network and the variable HF_ENDPOINT."
    )


def _choose(name: HubName) -> str:
    """Find the file of a recipe in a repository's list."""
    # Documented names of the library, which its type information does not export.
    utils: Any = import_module("huggingface_hub.utils")
    try:
        # One request without retries, so that a missing network shows at once (HfApi tries six
        # times, for 20 s).
        answer = utils.get_session().get(
            f"{_endpoint()}/api/models/{name.repository}/revision/{quote(name.revision, safe='')}",
            headers=utils.build_hf_headers(token=utils.get_token()),
            timeout=_TIMEOUT,
        )
        utils.hf_raise_for_status(answer)
        files = [str(entry["rfilename"]) for entry in answer.json()["siblings"]]
    except Exception as error:
        raise _explained(error, name) from error
    found = _first_parts(match_quantization(files, name.quantization))
    if len(found) == 1:
        return found[0]
    offered = _first_parts(match_quantization(files, None))
    listing = ", ".join(sorted(offered)[:30]) or "none: it is not a GGUF repository"
    if not found:
        wanted = f"no file of the recipe {name.quantization!r}"
    else:
        wanted = f"{len(found)} files to choose from"
    raise ModelFileError(
        f"{name.repository} on {_endpoint()} has {wanted}. Name one of its files as "
        f"'{name.repository}/file.gguf': {listing}"
    )


def _metadata(name: HubName, file: str) -> Any:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

    url = hf_hub_url(name.repository, file, revision=name.revision, endpoint=_endpoint())
    try:
        # One request without retries: a missing network shows at once.
        metadata = get_hf_file_metadata(url, token=get_token(), timeout=_TIMEOUT)
    except Exception as error:
        raise _explained(error, dataclasses.replace(name, file=file)) from error
    if metadata.commit_hash is None or metadata.etag is None:
        raise HubUnreachable(
            f"{_endpoint()} does not answer as the Hub does (a login page of the network, or a "
            "proxy?). Open it in a browser, or correct the variable HF_ENDPOINT."
        )
    return metadata


def _cached(repository: str, file: str, metadata: Any) -> Path | None:
    """Return the file from the cache if it is there in this version and of the right size."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(
        repository, file, cache_dir=hub_cache_folder(), revision=metadata.commit_hash
    )
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    if metadata.size is not None and Path(path).stat().st_size != metadata.size:
        _discard(Path(path))
        return None
    return Path(path)


def _require_space(name: HubName, n_bytes: int) -> None:
    if not n_bytes:
        return
    folder = hub_cache_folder()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < n_bytes + _RESERVE:
        raise ModelFileError(
            f"{name} needs {n_bytes / 2**20:,.0f} MiB, but {existing} has {free / 2**20:,.0f} MiB "
            "free. Make room, choose a smaller quantization, or set HF_HOME to another disk."
        )


def _fetch(wanted: HubName, file: str, metadata: Any) -> Path:
    from huggingface_hub import hf_hub_download

    name = dataclasses.replace(wanted, file=file)
    try:
        path = Path(
            hf_hub_download(
                name.repository,
                file,
                revision=name.revision,  # by its name: the cache notes which commit that is
                cache_dir=hub_cache_folder(),
                endpoint=_endpoint(),
            )
        )
    except Exception as error:
        if getattr(error, "response", None) is None:
            reason = " ".join(str(error).split())[:200]
            raise ModelFileError(
                f"The download of {name} was interrupted ({type(error).__name__}: {reason}). "
                "Nothing of it was kept: start it again."
            ) from error
        raise _explained(error, name) from error
    if metadata.size is not None and path.stat().st_size != metadata.size:
        size = path.stat().st_size
        _discard(path)
        raise ModelFileError(
            f"{name} arrived with {size:,} bytes instead of {metadata.size:,} and was deleted. "
            "Start the download again."
        )
    if _SHA256.fullmatch(metadata.etag) and _checksum(path) != metadata.etag:
        _discard(path)
        raise ModelFileError(
            f"{name} arrived with other bytes than the Hub announced (its SHA-256 differs) and was "
            "deleted. Start the download again; if it happens twice, ask whoever runs your network."
        )
    return path


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _discard(path: Path) -> None:
    """Remove a file from the cache: the name in `snapshots` and the bytes in `blobs`."""
    for target in {path.resolve(), path}:
        with contextlib.suppress(OSError):
            target.unlink()
