"""The shared libraries of the installed llama-cpp-python, opened once and checked.

Two handles on the same library: `C` releases the GIL around each call (decode, load), `FAST` keeps
it (calls of microseconds, where handing the GIL over would cost more than the call itself).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

from helpers.errors import InstallError

os.environ.setdefault("GGML_NO_BACKTRACE", "1")
"""A GGML_ASSERT otherwise forks a debugger that can hang instead of letting the process end."""

SUPPORTED = ((0, 3, 30), (0, 4, 0))
"""Versions of llama-cpp-python whose structures these bindings know: from, up to (exclusive)."""


@functools.cache
def llama() -> Any:
    """The low-level module `llama_cpp.llama_cpp`, after its layout was checked.

    Raises:
        InstallError: llama-cpp-python is missing, cannot be loaded, or has another layout.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise InstallError(
            f"llama-cpp-python cannot be imported ({error}). Run: python3 -m helpers lab --check"
        ) from error
    except (RuntimeError, OSError) as error:
        raise InstallError(
            f"llama-cpp-python is installed, but its native library does not load ({error}). "
            "Run: python3 -m helpers doctor"
        ) from error
    _check_layout(llama_cpp)
    module = llama_cpp.llama_cpp
    module.llama_backend_init()
    return module


def _check_layout(package: Any) -> None:
    """Compare default parameters with known values: a shifted structure shows at once."""
    version = tuple(int(part) for part in package.__version__.split(".")[:3])
    module = package.llama_cpp
    context = module.llama_context_default_params()
    fields = {name for name, _ in module.llama_context_params._fields_}
    sane = (
        context.n_batch == 2048
        and context.n_ubatch == 512
        and context.type_k == context.type_v == module.GGML_TYPE_F16
        and "flash_attn_type" in fields
        and "kv_unified" in fields
        and context.offload_kqv is True
    )
    if not (SUPPORTED[0] <= version < SUPPORTED[1]) or not sane:
        low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
        raise InstallError(
            f"llama-cpp-python {package.__version__} has a layout that helpers does not know "
            f"(supported: {low} up to, not including, {high}). "
            'Run: python -m pip install --force-reinstall "llama-cpp-python==0.3.36"'
        )


@functools.cache
def fast() -> ctypes.PyDLL:
    """Libllama again, without releasing the GIL: for calls that take microseconds."""
    library = ctypes.PyDLL(llama()._lib._name)
    pointer, token = ctypes.c_void_p, ctypes.c_int32
    library.llama_get_logits_ith.argtypes = [pointer, ctypes.c_int32]
    library.llama_get_logits_ith.restype = pointer
    for name in ("llama_get_embeddings_seq", "llama_get_embeddings_ith"):
        getattr(library, name).argtypes = [pointer, ctypes.c_int32]
        getattr(library, name).restype = pointer
    library.llama_vocab_is_eog.argtypes = [pointer, token]
    library.llama_vocab_is_eog.restype = ctypes.c_bool
    library.llama_vocab_get_attr.argtypes = [pointer, token]
    library.llama_vocab_get_attr.restype = ctypes.c_int
    library.llama_sampler_sample.argtypes = [pointer, pointer, ctypes.c_int32]
    library.llama_sampler_sample.restype = token
    return library


def library_folder() -> Path:
    """Folder of the shared libraries that llama-cpp-python loaded."""
    return Path(llama()._lib._name).parent


@functools.cache
def ggml(name: str = "ggml") -> ctypes.CDLL | None:
    """One of ggml's own libraries (`ggml`, `ggml-base`, `ggml-rpc` …), or None if not there."""
    folder = library_folder()
    if sys.platform == "win32":
        candidates = [folder / f"{name}.dll", folder / f"lib{name}.dll"]
    elif sys.platform == "darwin":
        candidates = [folder / f"lib{name}.dylib", folder / f"lib{name}.so"]
    else:
        candidates = [folder / f"lib{name}.so"]
    for path in candidates:
        if path.exists():
            return ctypes.CDLL(str(path))
    return None


def ggml_function(library: str, name: str, result: Any, *arguments: Any) -> Any:
    """A function of one of ggml's own libraries, with its signature; None if it is not there."""
    found = getattr(ggml(library), name, None)
    if found is not None:
        found.restype, found.argtypes = result, arguments
    return found


def return_freed_memory() -> None:
    """Let the C library hand freed memory back to the system.

    glibc keeps what each of a model's threads has freed: tens of MiB for each model made anew.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none and needs none
        if trim is not None:
            trim(0)


def system_function(name: str) -> int:
    """Address of a function of the C library, to be handed to native code as a callback."""
    library = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address
