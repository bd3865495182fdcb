"""CMake flags: reading what the user set, and putting today's names for dead ones."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS

_RENAMED = (
    "CUDA", "METAL_EMBED_LIBRARY", "VULKAN", "SYCL", "SYCL_F16", "RPC", "CANN", "BLAS",
    "BLAS_VENDOR", "NATIVE", "AVX", "AVX2", "AVX512", "FMA", "F16C", "CUDA_FORCE_MMQ",
)  # fmt: skip
_CLBLAST = ((), "was removed from llama.cpp in June 2024: use -DGGML_VULKAN=on")
_KOMPUTE = ((), "was removed: use -DGGML_VULKAN=on")
# Dead name -> (its successors, why). Without a successor the flag is dropped.
DEAD_FLAGS: Mapping[str, tuple[tuple[str, ...], str]] = {
    **{f"LLAMA_{name}": ((f"GGML_{name}",), "was renamed") for name in _RENAMED},
    "LLAMA_CUBLAS": (("GGML_CUDA",), "has stopped CMake with an error since 2024"),
    "GGML_CUBLAS": (("GGML_CUDA",), "was renamed"),
    "LLAMA_METAL": (("GGML_METAL",), "was renamed; on a Mac, Metal is on anyway"),
    "LLAMA_HIPBLAS": (("GGML_HIP",), "was renamed"),
    "GGML_HIPBLAS": (("GGML_HIP",), "was renamed"),
    "LLAMA_OPENBLAS": (("GGML_BLAS", "GGML_BLAS_VENDOR=OpenBLAS"), "was replaced"),
    "LLAMA_CLBLAST": _CLBLAST,
    "GGML_CLBLAST": _CLBLAST,
    "LLAMA_KOMPUTE": _KOMPUTE,
    "GGML_KOMPUTE": _KOMPUTE,
    "LLAMA_CURL": ((), "no longer has any effect"),
    "FORCE_CMAKE": ((), "no longer has any effect: CMake always runs"),
}
_DEFINE = re.compile(r"-D(?P<name>\w+)(?P<type>:\w+)?(?:=(?P<value>.*))?$", re.DOTALL)
_ON = {"1", "on", "yes", "true", "y"}


def is_on(value: str) -> bool:
    """Say whether CMake takes a value for true."""
    return value.lower() in _ON


@dataclass(frozen=True)
class Translation:
    """What became of the user's flags: those to use, and one remark for each dead one."""

    flags: tuple[str, ...]
    remarks: tuple[str, ...]


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InstallError(
            f"CMAKE_ARGS cannot be read ({error}): {text!r}. Close every quote, e.g. "
            'CMAKE_ARGS="-DGGML_CUDA=on"'
        ) from None
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "-D":  # CMake allows a blank after -D
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def translate(text: str) -> Translation:
    """Read the text of `CMAKE_ARGS` and replace dead flags by their successors.

    Raises:
        InstallError: If a quote is not closed.
    """
    flags: list[str] = []
    remarks: list[str] = []
    for word in _split(text):
        match = _DEFINE.match(word)
        name = match["name"] if match else word.split("=")[0]
        if name not in DEAD_FLAGS:
            flags.append(word)
            continue
        successors, why = DEAD_FLAGS[name]
        value = (match["value"] if match else None) or "on"
        new = [f"-D{item}" if "=" in item else f"-D{item}={value}" for item in successors]
        flags += new
        remarks.append(
            f"{word} {why}" + (f"; using {' '.join(new)} instead" if new else "; ignoring it")
        )
    return Translation(tuple(flags), tuple(remarks))


def dead_settings(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return a remark for each dead flag in `CMAKE_ARGS` and each dead variable that is set."""
    remarks = translate(environment.get("CMAKE_ARGS", "")).remarks
    if "FORCE_CMAKE" in environment:
        remarks += (f"FORCE_CMAKE {DEAD_FLAGS['FORCE_CMAKE'][1]}; unset it",)
    return remarks


def values(flags: Sequence[str]) -> dict[str, str]:
    """Return what `-D…=…` flags set, by name; the last one counts."""
    found: dict[str, str] = {}
    for flag in flags:
        match = _DEFINE.match(flag)
        if match and match["value"] is not None:
            found[match["name"]] = match["value"]
    return found


def asked_backends(text: str) -> tuple[str, ...]:
    """Return the backends that the flags in `CMAKE_ARGS` ask for, dead names translated.

    Raises:
        InstallError: If a quote is not closed.

    >>> asked_backends("-DLLAMA_CUBLAS=on -DGGML_LTO=on")
    ('cuda',)
    """
    on = {name for name, value in values(translate(text).flags).items() if is_on(value)}
    return tuple(
        name
        for name, backend in BACKENDS.items()
        if backend.cmake_flags and backend.cmake_flags[0][2:].partition("=")[0] in on
    )


def merge(wanted: Sequence[str], users: Sequence[str], backend: str) -> tuple[str, ...]:
    """Join the backend's flags and the user's; the user's come last, so that they win.

    Raises:
        InstallError: If the user's flags switch off what the backend is, or contradict each other.
    """
    mine, theirs = values(wanted), values(users)
    for flag in users:
        match = _DEFINE.match(flag)
        if match and match["value"] is not None and theirs[match["name"]] != match["value"]:
            raise InstallError(
                f"CMAKE_ARGS says both {flag} and -D{match['name']}={theirs[match['name']]}: "
                "drop one of the two"
            )
    for name in mine.keys() & theirs.keys():
        if is_on(mine[name]) and not is_on(theirs[name]):
            raise InstallError(
                f"--backend {backend} means -D{name}={mine[name]}, but CMAKE_ARGS says "
                f"-D{name}={theirs[name]}: drop one of the two"
            )
    return tuple(flag for flag in wanted if flag not in users) + tuple(users)
