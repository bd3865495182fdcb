"""Models that are on this machine already: in folders of a workshop and of other programs.

Layouts: LM Studio keeps `publisher/repository/file.gguf` under its models folder
(https://lmstudio.ai/docs/app/basics/import-model). Ollama keeps a JSON manifest for
`registry/namespace/name/tag`, whose layer of the type `application/vnd.ollama.image.model` names
the file `blobs/sha256-…` (https://github.com/ollama/ollama, its source server/manifest.go). The
Hub's cache is `models--owner--name/snapshots/commit/file`
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.models.formats import part_names

FOLDER_VARIABLE = "LLAMA_NOTEBOOKS_MODEL_DIR"

_MODEL_LAYER = "application/vnd.ollama.image.model"
# Enough for any real folder; a wrong one (a whole disk) must not be walked for minutes.
_MAX_FILES = 20_000


@dataclass(frozen=True)
class LocalModel:
    """A model file that is already on this machine.

    Attributes:
        name: What `find_model` finds it by.
        path: The file.
        source: Where it was found: "workshop folder", "LM Studio", "Ollama" or "Hub cache".
        size: Bytes.
    """

    name: str
    path: Path
    source: str
    size: int


def local_models() -> list[LocalModel]:
    """List the models that other programs or a workshop have put on this machine.

    Looks into the folder `LLAMA_NOTEBOOKS_MODEL_DIR`, the folders of LM Studio and Ollama, and the
    Hugging Face Hub's cache. Nothing is opened but Ollama's small manifests.

    Returns:
        Models by source, then by name.

    Example:
        >>> from helpers import local_models
        >>> [m.name for m in local_models() if m.source == "Ollama"]  # doctest: +SKIP
        ['llama3.2:1b']
    """
    found: dict[tuple[str, str], LocalModel] = {}
    folders = _folders()
    for source, folder in folders:
        listed = {"Ollama": _ollama, "Hub cache": _hub_cache}.get(source, _files_by_path)(folder)
        for name, path in listed:
            # A link to nowhere, or a file that has gone in the meantime, is left out.
            with contextlib.suppress(OSError):
                model = LocalModel(name, path.absolute(), source, path.stat().st_size)
                found.setdefault((source, name), model)
    sources = [source for source, _ in folders]
    return sorted(found.values(), key=lambda m: (sources.index(m.source), m.name.lower()))


def places() -> list[str]:
    """Say where `local_models` looks, and which of these places exist."""
    lines = [
        f"{source} {folder}" + ("" if folder.is_dir() else " (not there)")
        for source, folder in _folders()
    ]
    if workshop_folder() is None:
        lines.insert(0, f"workshop folder (not set: {FOLDER_VARIABLE})")
    return lines


def _folders() -> list[tuple[str, Path]]:
    """Where to look: sources and their folders."""
    home, workshop = Path.home(), workshop_folder()
    folders = [("workshop folder", workshop)] if workshop is not None else []
    folders.append(("LM Studio", home / ".lmstudio" / "models"))
    folders.append(("LM Studio", home / ".cache" / "lm-studio" / "models"))
    if value := os.environ.get("OLLAMA_MODELS"):
        folders.append(("Ollama", Path(os.path.expandvars(value)).expanduser()))
    else:
        folders.append(("Ollama", home / ".ollama" / "models"))
        # The Linux service keeps its models in its own user's home.
        service = Path("/usr/share/ollama/.ollama/models")
        folders += [("Ollama", service)] if service.is_dir() else []
    return [*folders, ("Hub cache", hub_cache_folder())]


def workshop_folder() -> Path | None:
    """Return the folder that `LLAMA_NOTEBOOKS_MODEL_DIR` names, or None."""
    value = os.environ.get(FOLDER_VARIABLE)
    return Path(os.path.expandvars(value)).expanduser().absolute() if value else None


def hub_cache_folder() -> Path:
    """Return the Hub's cache, by the same variables as huggingface_hub, read at each call."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return Path(os.path.expandvars(value)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _gguf_files(folder: Path, depth: int) -> Iterator[Path]:
    """Models below a folder: no second parts of split files, no image encoders."""
    pending, seen = [(folder, 0)], 0
    while pending:
        current, level = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > _MAX_FILES:
                return
            name = entry.name.lower()
            if name.endswith(".gguf"):
                if not name.startswith("mmproj") and name == part_names(name)[0]:
                    yield Path(entry.path)
            elif level < depth and entry.is_dir():
                pending.append((Path(entry.path), level + 1))


def _files_by_path(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in _gguf_files(folder, depth=4):
        yield path.relative_to(folder).as_posix(), path


def _ollama(folder: Path) -> Iterator[tuple[str, Path]]:
    manifests = folder / "manifests"
    for path in sorted(manifests.glob("*/*/*/*")):
        registry, namespace, name, tag = path.relative_to(manifests).parts
        label = f"{name}:{tag}"
        if registry != "registry.ollama.ai":
            label = f"{registry}/{namespace}/{label}"
        elif namespace != "library":
            label = f"{namespace}/{label}"
        blob = _ollama_blob(folder, path)
        if blob is not None:
            yield label, blob


def _ollama_blob(folder: Path, manifest: Path) -> Path | None:
    try:
        layers = json.loads(manifest.read_bytes())["layers"]
        digests = [layer["digest"] for layer in layers if layer["mediaType"] == _MODEL_LAYER]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a manifest, or of a version that is not known here
    if len(digests) != 1 or not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digests[0])):
        return None
    return folder / "blobs" / str(digests[0]).replace(":", "-")


def _hub_cache(cache: Path) -> Iterator[tuple[str, Path]]:
    for repository in sorted(cache.glob("models--*--*")):
        owner_and_name = repository.name.removeprefix("models--").replace("--", "/", 1)
        # That of `main`, then the newest: files of the same name in the others are left out.
        main = _refs(repository).get("main")
        snapshots = sorted(
            repository.glob("snapshots/*"),
            key=lambda path: (path.name == main, path.stat().st_mtime),
            reverse=True,
        )
        for snapshot in snapshots:
            for path in _gguf_files(snapshot, depth=2):
                yield f"{owner_and_name}/{path.relative_to(snapshot).as_posix()}", path


def of_another_revision(path: Path) -> bool:
    """Whether a file lies in the Hub's cache as that of another revision than `main`."""
    for folder in path.parents:
        if folder.parent.name == "snapshots":
            refs = _refs(folder.parent.parent)
            return folder.name in refs.values() and folder.name != refs.get("main")
    return False


def _refs(repository: Path) -> dict[str, str]:
    """The commits that branches and tags named when something was fetched of them."""
    found = {}
    for path in repository.glob("refs/**/*"):
        with contextlib.suppress(OSError):  # a folder: names may have slashes
            found[path.relative_to(repository / "refs").as_posix()] = path.read_text().strip()
    return found
