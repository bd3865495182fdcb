"""The first load of a model that no rule here knows whole happens in a child, which it may end.

llama.cpp has some thousand assertions, and ggml has operations for some types of tensors only. The
child loads the file as it is and decodes with it. Where it lives on, so does the kernel: that is
remembered by the file's size, time and header, and a second load of it costs nothing more.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from helpers.children import Child
from helpers.errors import EngineCrashed, HelpersError, InstallError
from helpers.install.paths import cache_dir, claim_cache
from helpers.load_options import LoadOptions
from helpers.models.cursor import file_error
from helpers.models.header import Header, read_header
from helpers.models.proof import is_proved
from helpers.models.verdict import last_word

_FOLDER = "accepted-models"
_SECONDS = 120.0
_BYTES_PER_SECOND = 10 * 2**20
"""A slow disk: a file is given that long, beside what starting takes."""

_accepted: set[str] = set()


def try_first(options: LoadOptions, model: Sequence[Header]) -> None:
    """Make sure that a model can be loaded here, and used, without ending the process.

    Takes no time for the common architectures (`llama`, `qwen2`, `qwen3`), whose headers the checks
    know whole, and for a file that was tried before with this version of llama-cpp-python. What
    llama.cpp refuses in words is left to the load, which says it.

    Args:
        options: How it is to be loaded.
        model: The headers of its parts, as `check_overrides` returns them.

    Raises:
        ModelFileError: Loading it, or decoding with it, ended the process that tried.
        EngineCrashed: That was killed from outside, most often for lack of memory.
    """
    if is_proved(model):
        return
    files = [header.path for header in model]
    request = {
        "model_path": options.model_path,
        "kv_overrides": options.kv_overrides,
        "vocab_only": options.vocab_only,
        "lora_path": options.lora_path,
        "embeddings": options.embeddings,
        "pooling_type": options.pooling_type,
    }
    lora = [] if options.lora_path is None else [read_header(Path(options.lora_path).expanduser())]
    settings = ("kv_overrides", "vocab_only", "embeddings", "pooling_type")
    key = files_key([*model, *lora], [request[name] for name in settings])
    if key in _accepted or (cache_dir() / _FOLDER / key).exists():
        return
    limit = _SECONDS + sum(header.file_size for header in model) / _BYTES_PER_SECOND
    advice = (
        "The file is damaged, or not a model that this llama.cpp can use: download it again, or "
        "upgrade llama-cpp-python. With isolate=True it is loaded in a process of its own."
    )
    try:
        child = Child("helpers.native.probe_child", role="tried the model", lasting=False)
        with contextlib.closing(child):
            child.ask({**request, "decode": True}, limit)
    except TimeoutError:
        raise file_error(
            files[0], f"was tried in a process of its own, which did not end in {limit:,.0f} s. "
            + advice,
        ) from None  # fmt: skip
    except EngineCrashed as error:
        if error.exit_status == -getattr(signal, "SIGKILL", 9):
            raise
        raise file_error(
            files[0], f"ended the process in which it was tried: {last_word(error)}. {advice}"
        ) from error
    except HelpersError:
        return
    _accepted.add(key)
    with contextlib.suppress(OSError, InstallError):  # tried again next time, no more
        folder = claim_cache() / _FOLDER
        folder.mkdir(exist_ok=True)
        (folder / key).touch()


def files_key(headers: Sequence[Header], settings: object) -> str:
    """What something computed with model files is valid for, as one word.

    That is llama-cpp-python's version, the settings, and of each file its name, size, time and
    whole header. The weights are not read: a full hash of a large file takes longer than its load.
    """
    version = importlib.metadata.version("llama-cpp-python")
    digest = hashlib.sha256(json.dumps([version, settings], default=str).encode())
    for header in headers:
        state = header.path.stat()
        digest.update(f"{header.path.name} {state.st_size} {state.st_mtime_ns} ".encode())
        with header.path.open("rb") as file:
            rest = header.data_offset
            while rest > 0 and (piece := file.read(min(rest, 2**20))):
                digest.update(piece)
                rest -= len(piece)
    return digest.hexdigest()
