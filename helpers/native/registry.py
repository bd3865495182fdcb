"""The devices that ggml's registry knows: what could hold layers, and how much memory it has."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.native.library import ggml_function, library_folder, llama

_ADDRESS = re.compile(r"\[[^\]\s]*:\d+\]$")
_CGROUPS = (
    ("/sys/fs/cgroup/", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory/", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
_MIB = 1024 * 1024
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t


@dataclass(frozen=True)
class Device:
    """One compute device of the native library.

    Attributes:
        name: Name in ggml's registry, for example `CPU`, `CUDA0`, `RPC0[127.0.0.1:50052]`.
        description: What the driver calls it.
        kind: `cpu`, `gpu`, `igpu` (shares the system's memory) or `accel` (helps the CPU).
        backend: ggml backend it belongs to, for example `CUDA`.
        total_mib: Memory in MiB.
        free_mib: Memory free when asked, in MiB.
        endpoint: `host:port` of the RPC server behind it, or None. That of a practice accelerator
            has a secret, and is not shown.
    """

    name: str
    description: str
    kind: str
    backend: str
    total_mib: float
    free_mib: float
    endpoint: str | None = field(default=None, repr=False)

    @property
    def offloads(self) -> bool:
        """True if layers can be placed on it with `n_gpu_layers`."""
        return self.kind in ("gpu", "igpu")


def devices() -> list[Device]:
    """The devices of the installed llama-cpp-python, the CPU included.

    Returns:
        One `Device` each, in the order of ggml's registry.

    Raises:
        InstallError: llama-cpp-python is missing or does not load.

    >>> "cpu" in [device.kind for device in devices()]
    True
    """
    return [_describe(pointer) for pointer in device_pointers()]


def registered_backends() -> list[str]:
    """Names of the backends that registered, also those without a device here (RPC).

    >>> "CPU" in registered_backends()
    True
    """
    llama()  # loads and registers the backends
    count = ggml_function("ggml", "ggml_backend_reg_count", _SIZE)
    get = ggml_function("ggml", "ggml_backend_reg_get", _POINTER, _SIZE)
    return [_text("reg_name", get(index)) for index in range(count())] if count and get else []


def device_pointers() -> list[int]:
    """The `ggml_backend_dev_t` of each device, in the registry's order."""
    llama()  # loads and registers the backends
    count = ggml_function("ggml", "ggml_backend_dev_count", _SIZE)
    get = ggml_function("ggml", "ggml_backend_dev_get", _POINTER, _SIZE)
    return [get(index) for index in range(count())] if count and get else []


def device_pointer(name: str) -> int | None:
    """The `ggml_backend_dev_t` with this name, or None.

    Only names are asked for: an RPC device whose server has gone ends the process when it is asked
    for more.
    """
    return next((one for one in device_pointers() if _text("dev_name", one) == name), None)


def _text(what: str, pointer: int) -> str:
    """A text that ggml has about a device or a backend."""
    raw = ggml_function("ggml-base", f"ggml_backend_{what}", ctypes.c_char_p, _POINTER)(pointer)
    return str(raw.decode("utf-8", "replace"))


def _describe(pointer: int) -> Device:
    kind_of = ggml_function("ggml-base", "ggml_backend_dev_type", ctypes.c_int, _POINTER)
    backend_of = ggml_function("ggml-base", "ggml_backend_dev_backend_reg", _POINTER, _POINTER)
    name, kind = _text("dev_name", pointer), _KINDS.get(kind_of(pointer), "accel")
    if kind == "cpu":
        # ggml counts the CPU's memory as all free; what a model can get is what the system says.
        free, total = available_mib(), psutil.virtual_memory().total / _MIB
    else:
        sizes = [ctypes.POINTER(_SIZE)] * 2
        memory_of = ggml_function("ggml-base", "ggml_backend_dev_memory", None, _POINTER, *sizes)
        free_bytes, total_bytes = _SIZE(), _SIZE()
        memory_of(pointer, ctypes.byref(free_bytes), ctypes.byref(total_bytes))
        free, total = free_bytes.value / _MIB, total_bytes.value / _MIB
    return Device(
        name=name,
        description=_text("dev_description", pointer).strip(),
        kind=kind,
        backend=_text("reg_name", backend_of(pointer)),
        total_mib=round(total, 1),
        free_mib=round(free, 1),
        endpoint=name[name.index("[") + 1 : -1] if name.startswith("RPC") and "[" in name else None,
    )


def shared_libraries() -> list[str]:
    """Names of the shared libraries of llama-cpp-python, without version suffixes, sorted."""
    names = {path.name for path in library_folder().iterdir()}
    return sorted(name for name in names if name.endswith((".so", ".dylib", ".dll")))


def display_names(names: Iterable[str]) -> dict[str, str]:
    """Names of devices as people read them: without addresses, where these tell nothing apart.

    >>> display_names(["CPU", "RPC0[127.0.0.1:50052]"])
    {'CPU': 'CPU', 'RPC0[127.0.0.1:50052]': 'RPC0'}
    """
    short = {name: _ADDRESS.sub("", name) for name in names}
    plain = list(short.values())
    return {name: one if plain.count(one) == 1 else name for name, one in short.items()}


@functools.cache
def cpu_features() -> frozenset[str]:
    """What the CPU backend was built with and finds here, such as `AVX2` or `DOTPROD`."""
    info = llama().llama_print_system_info().decode("utf-8", "replace")
    return frozenset(re.findall(r"(\w+) = 1\b", info))


def available_mib() -> float:
    """System memory that can be used without swapping, in MiB; a cgroup's limit counts."""
    available = float(psutil.virtual_memory().available)
    for folder, limit_name, used_name in _CGROUPS:
        limit, used = _read_number(folder + limit_name), _read_number(folder + used_name)
        if limit is not None and used is not None:
            available = min(available, max(0.0, limit - used))
    return available / _MIB


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and cgroup limits respected, at least 1.

    Hyperthreads are not counted: llama.cpp's compute threads gain nothing from them.
    """
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    cores = psutil.cpu_count(logical=False) or logical
    if allowed < logical:
        cores = max(1, min(cores, allowed))
    quota = _cgroup_cores()
    return max(1, min(cores, allowed, quota if quota is not None else allowed))


def _cgroup_cores() -> int | None:
    """Cores that the cgroup grants, rounded down but at least 1; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()[:2]
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        pass
    quota_us = _read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period_us = _read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota_us is None or not period_us or quota_us <= 0:
        return None
    return max(1, quota_us // period_us)


def _read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text("ascii"))
    except (OSError, ValueError):
        return None
