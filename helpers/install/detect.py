"""Which backend suits this machine, and why."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass

from helpers.install.backends import BACKENDS, CUDA_CODE, CUDA_INDEXES
from helpers.install.paths import current_system
from helpers.install.steps import ask


@dataclass(frozen=True)
class Machine:
    """What was found out about a machine.

    Attributes:
        system: `linux`, `macos` or `windows`.
        machine: Processor as this Python sees it, e.g. `x86_64`, `arm64`, `amd64`.
        translated: True if this is an Intel Python on Apple silicon.
        nvidia: Name of the NVIDIA card, or None.
        cuda: CUDA version that its driver supports, or None.
        capability: The card's compute capability, e.g. (8, 9), or None.
        nvcc: True if the CUDA compiler is there.
        vulkan: Names of real (not software) Vulkan devices.
        rocm: True if ROCm is installed.
        oneapi: True if Intel's compiler is active in this shell.
    """

    system: str
    machine: str
    translated: bool = False
    nvidia: str | None = None
    cuda: tuple[int, int] | None = None
    nvcc: bool = False
    vulkan: tuple[str, ...] = ()
    rocm: bool = False
    oneapi: bool = False
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Detection:
    """The backend that suits a machine.

    Attributes:
        backend: Name in `BACKENDS`.
        reason: Why, in one sentence.
        wheel_index: Name of the wheel index to try first, or None.
        notes: What else the user should know.
    """

    backend: str
    reason: str
    wheel_index: str | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the choice and its reason, one line each."""
        return "\n".join([f"Backend: {self.backend} ({self.reason})", *self.notes])


def parse_nvidia_smi(text: str) -> tuple[str | None, tuple[int, int] | None]:
    """Return the first card and the CUDA version from what plain `nvidia-smi` prints."""
    version = re.search(r"CUDA(?: UMD)? Version:\s*(\d+)\.(\d+)", text)
    card = re.search(r"^\|\s+0\s+(.+?)\s+(?:On|Off|WDDM|TCC)\b", text, re.MULTILINE)
    if not version and not card:
        return None, None
    return (
        card[1].strip() if card else "an NVIDIA card",
        (int(version[1]), int(version[2])) if version else None,
    )


def parse_capability(text: str) -> tuple[int, int] | None:
    """Return the first card's compute capability from `nvidia-smi --query-gpu=compute_cap`."""
    found = re.search(r"^\s*(\d+)\.(\d+)\s*$", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def parse_vulkaninfo(text: str) -> tuple[str, ...]:
    """Return the names of the hardware devices in what `vulkaninfo --summary` prints."""
    kinds = re.findall(r"deviceType\s*=\s*(\S+)", text)
    names = re.findall(r"deviceName\s*=\s*(.+)", text)
    return tuple(
        name.strip()
        for kind, name in zip(kinds, names, strict=False)
        if kind in {"PHYSICAL_DEVICE_TYPE_DISCRETE_GPU", "PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU"}
    )


def look_at_machine() -> Machine:
    """Ask this machine's drivers and tools what there is."""
    system = current_system()
    if system == "macos":
        return Machine(
            system,
            platform.machine().lower(),
            translated=(ask("sysctl", "-n", "sysctl.proc_translated") or "").strip() == "1",
        )
    nvidia, cuda = parse_nvidia_smi(ask("nvidia-smi") or "")
    query = ("--query-gpu=compute_cap", "--format=csv,noheader")
    return Machine(
        system,
        platform.machine().lower(),
        nvidia=nvidia,
        cuda=cuda,
        nvcc=shutil.which(os.environ.get("CUDACXX") or "nvcc") is not None,
        vulkan=parse_vulkaninfo(ask("vulkaninfo", "--summary") or ""),
        rocm=bool(ask("hipconfig", "--version")),
        oneapi=shutil.which("icpx") is not None,
        capability=parse_capability(ask("nvidia-smi", *query) or "") if nvidia else None,
    )


def card_code(index: str, capability: tuple[int, int]) -> str:
    """Say what the wheels of a CUDA index have for a card.

    Args:
        index: Name of the index, e.g. `cu124`.
        capability: The card's compute capability.

    Returns:
        `machine code`, which runs at once; `PTX`, which the driver compiles at the first use; or
        an empty text, with which nothing runs.

    >>> [card_code(name, (12, 0)) for name in ("cu118", "cu132")]
    ['', 'PTX']
    """
    known, ptx = CUDA_CODE[int(index[2:4])]
    card = capability[0] * 10 + capability[1]
    # Machine code also runs on later cards of its own major version.
    if any(code // 10 == capability[0] and code <= card for code in known):
        return "machine code"
    return "PTX" if ptx and card > known[-1] else ""


def cuda_index(
    driver: tuple[int, int], system: str, capability: tuple[int, int] | None = None
) -> str | None:
    """Return the newest CUDA wheel index that a driver and a card allow, or None.

    Args:
        driver: CUDA version that the driver supports.
        system: `linux` or `windows`.
        capability: The card's compute capability; None asks for nothing of the card.
    """
    fitting = [
        name
        for name, needed in CUDA_INDEXES
        if needed <= driver
        and not (system == "windows" and name in {"cu121", "cu122", "cu123"})
        and (capability is None or card_code(name, capability))
    ]
    return fitting[-1] if fitting else None


def wheel_index(backend: str, machine: Machine) -> str | None:
    """Return the name of the wheel index for `backend` on `machine`, or None if there is none."""
    wheels = BACKENDS[backend].wheels
    if wheels is None or (machine.system, machine.machine) not in wheels.systems:
        return None
    if backend == "cuda":
        found = machine.cuda and cuda_index(machine.cuda, machine.system, machine.capability)
        return found or None
    return wheels.newest(machine.system)


def detect_backend(machine: Machine | None = None) -> Detection:
    """Choose the backend for a machine (default: this one) and say why.

    A backend is chosen only if it can be had: by a prebuilt wheel or with a compiler that is
    there. What stands in the way of a faster one is in `notes`.
    """
    seen = machine or look_at_machine()
    notes: list[str] = []

    def chosen(backend: str, reason: str) -> Detection:
        return Detection(backend, reason, wheel_index(backend, seen), tuple(notes))

    if seen.system == "macos":
        if seen.machine == "arm64":
            return chosen("metal", "Apple silicon")
        if seen.translated:
            notes.append(
                "This Python was built for Intel and runs translated on Apple silicon: install "
                "an arm64 Python (python.org's universal installer, or brew), for which there is "
                "a prebuilt wheel with Metal."
            )
        return chosen("cpu", "an Intel Python on a Mac")
    if seen.nvidia:
        index = wheel_index("cuda", seen)
        version = ".".join(map(str, seen.cuda)) if seen.cuda else "an unknown version"
        if index and seen.capability and card_code(index, seen.capability) == "PTX":
            number = "{}{}".format(*seen.capability)
            notes.append(
                f"{index} has no machine code for this card: its driver compiles for it at the "
                f"first use. A source build with -DCMAKE_CUDA_ARCHITECTURES={number} has it."
            )
        if index or seen.nvcc:
            how = f"its driver supports CUDA {version}" if index else "nvcc is there"
            return chosen("cuda", f"{seen.nvidia}; {how}")
        why, what = f"its driver supports CUDA {version}", "update the driver, or install"
        if seen.capability and seen.cuda and cuda_index(seen.cuda, seen.system):
            number = "{}.{}".format(*seen.capability)
            why, what = f"no wheel has code for its compute capability {number}", "install"
        notes.append(
            f"{seen.nvidia} is there, but {why} and nvcc is missing: {what} the CUDA toolkit, and "
            "run lab --backend cuda."
        )
    if seen.rocm:
        return chosen("rocm", "ROCm is installed")
    if seen.vulkan:
        return chosen("vulkan", f"Vulkan sees {seen.vulkan[0]}")
    if seen.oneapi:
        notes.append("Intel's oneAPI is active: for an Intel card, run lab --backend sycl.")
    return chosen("cpu", "no usable GPU was found")
