"""The devices that ggml's registry knows: what could hold layers, and how much memory it has."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from helpers.native.library import ggml, library_folder, llama

_ADDRESS = re.compile(r"\[[^\]\s]*:\d+\]$")
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
_MIB = 1024 * 1024


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
        endpoint: `host:port` of the RPC server behind it, or None.
    """

    name: str
    description: str
    kind: str
    backend: str
    total_mib: float
    free_mib: float
    endpoint: str | None = None

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
    library, base = ggml("ggml"), ggml("ggml-base")
    if library is None or base is None:
        return []
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    library.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_reg_get.restype = ctypes.c_void_p
    base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_name.restype = ctypes.c_char_p
    found = (library.ggml_backend_reg_get(i) for i in range(library.ggml_backend_reg_count()))
    return [base.ggml_backend_reg_name(pointer).decode() for pointer in found]


def device_pointers() -> list[int]:
    """The `ggml_backend_dev_t` of each device, in the registry's order."""
    llama()  # loads and registers the backends
    library = ggml("ggml")
    if library is None:
        return []
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    return [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]


def device_pointer(name: str) -> int | None:
    """The `ggml_backend_dev_t` with this name, or None.

    Only names are asked for: an RPC device whose server has gone ends the process when it is asked
    for more.
    """
    found = device_pointers()
    base = ggml("ggml-base")
    assert base is not None
    base.ggml_backend_dev_name.restype = ctypes.c_char_p
    base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    for pointer in found:
        if base.ggml_backend_dev_name(pointer).decode("utf-8", "replace") == name:
            return pointer
    return None


def _describe(pointer: int) -> Device:
    base = ggml("ggml-base")
    assert base is not None
    for function in ("name", "description"):
        getattr(base, f"ggml_backend_dev_{function}").restype = ctypes.c_char_p
        getattr(base, f"ggml_backend_dev_{function}").argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_name.restype = ctypes.c_char_p
    base.ggml_backend_dev_memory.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    name = base.ggml_backend_dev_name(pointer).decode("utf-8", "replace")
    kind = _KINDS.get(base.ggml_backend_dev_type(pointer), "accel")
    backend = base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(pointer)).decode()
    if kind == "cpu":
        # ggml counts the CPU's memory as all free; what a model can get is what the system says.
        free, total = available_mib(), psutil.virtual_memory().total / _MIB
    else:
        free_bytes, total_bytes = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(pointer, ctypes.byref(free_bytes), ctypes.byref(total_bytes))
        free, total = free_bytes.value / _MIB, total_bytes.value / _MIB
    endpoint = name[name.index("[") + 1 : -1] if name.startswith("RPC") and "[" in name else None
    return Device(
        name=name,
        description=base.ggml_backend_dev_description(pointer).decode("utf-8", "replace").strip(),
        kind=kind,
        backend=backend,
        total_mib=round(total, 1),
        free_mib=round(free, 1),
        endpoint=endpoint,
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
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        limit, used = _read_number(limit_file), _read_number(used_file)
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
