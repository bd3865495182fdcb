"""The table of backends, the lines made from it, flags, and the choice for a machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import BACKENDS, InstallError, detect_backend, install_command
from helpers.install.backends import CUDA_INDEXES
from helpers.install.commands import SHELLS, join, set_variable
from helpers.install.detect import (
    Machine,
    card_code,
    cuda_index,
    parse_capability,
    parse_nvidia_smi,
    parse_vulkaninfo,
    wheel_index,
)
from helpers.install.flags import DEAD_FLAGS, dead_settings, merge, translate
from helpers.install.requirements import _MANAGERS

NASTY = (
    "plain",
    "with blank",
    "it's",
    'a "quoted" word',
    "$HOME",
    "a;b",
    "100%",
    "-DX=a b",
    "back\\slash",
    "`x`",
)

NVIDIA_SMI = """
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.104.05             Driver Version: 535.104.05   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
|   0  NVIDIA GeForce RTX 3060        Off | 00000000:01:00.0  On |                  N/A |
"""
VULKANINFO = """
GPU0:
        deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
        deviceName         = AMD Radeon RX 6600 (RADV NAVI23)
GPU1:
        deviceType         = PHYSICAL_DEVICE_TYPE_CPU
        deviceName         = llvmpipe (LLVM 15.0.6, 256 bits)
"""


def test_the_table_has_the_eight_backends_each_complete() -> None:
    assert list(BACKENDS) == [
        "cpu", "openblas", "cuda", "vulkan", "rocm", "sycl", "metal", "rpc",
    ]  # fmt: skip
    for name, backend in BACKENDS.items():
        assert backend.name == name
        assert all(flag.startswith("-D") and "=" in flag for flag in backend.cmake_flags)
        assert set(backend.systems) <= {"linux", "macos", "windows"}
        assert backend.requirements and backend.libraries and backend.proof
        for requirement in backend.requirements:
            assert requirement.packages and requirement.check
            assert set(requirement.packages) <= set(_MANAGERS)
            assert set(requirement.from_maker) <= set(requirement.packages)
            assert bool(requirement.from_maker) == requirement.page.startswith("https://")
        for failure in backend.failures:
            assert failure.symptom and failure.cause and failure.fix


def test_no_flag_of_the_table_is_dead() -> None:
    for backend in BACKENDS.values():
        text = " ".join(backend.cmake_flags)
        assert translate(text).flags == backend.cmake_flags
        assert not translate(text).remarks


@pytest.mark.parametrize("dead", sorted(DEAD_FLAGS))
def test_a_dead_flag_is_translated_to_living_ones_and_remarked(dead: str) -> None:
    found = translate(f"-D{dead}=on -DGGML_LTO=on")
    assert "-DGGML_LTO=on" in found.flags
    assert len(found.remarks) == 1
    assert dead in found.remarks[0]
    assert not translate(" ".join(found.flags)).remarks


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("-DLLAMA_CUBLAS=on", ("-DGGML_CUDA=on",)),
        ("-D LLAMA_CUBLAS=1", ("-DGGML_CUDA=1",)),
        ("-DLLAMA_METAL:BOOL=off", ("-DGGML_METAL=off",)),
        ("-DLLAMA_OPENBLAS=on", ("-DGGML_BLAS=on", "-DGGML_BLAS_VENDOR=OpenBLAS")),
        ("-DLLAMA_CLBLAST=on", ()),
        ("'-DCMAKE_CUDA_FLAGS=-a -b'", ("-DCMAKE_CUDA_FLAGS=-a -b",)),
        ("", ()),
    ],
)
def test_flags_are_read_as_cmake_would(text: str, flags: tuple[str, ...]) -> None:
    assert translate(text).flags == flags


def test_an_open_quote_is_one_clear_error() -> None:
    with pytest.raises(InstallError, match="Close every quote"):
        translate("-DA='b")


def test_dead_variables_are_seen() -> None:
    remarks = dead_settings({"CMAKE_ARGS": "-DLLAMA_CLBLAST=on", "FORCE_CMAKE": "1"})
    assert [remark.split()[0] for remark in remarks] == ["-DLLAMA_CLBLAST=on", "FORCE_CMAKE"]
    assert dead_settings({}) == ()


def test_the_users_flags_win_but_may_not_contradict_the_backend() -> None:
    wanted = ("-DGGML_CUDA=on", "-DLLAVA_BUILD=off")
    assert merge(wanted, ("-DLLAVA_BUILD=on",), "cuda")[-1] == "-DLLAVA_BUILD=on"
    with pytest.raises(InstallError, match=r"--backend cuda means.*GGML_CUDA=OFF"):
        merge(wanted, ("-DGGML_CUDA=OFF",), "cuda")


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InstallError, match=r"says both -DGGML_RPC=on and -DGGML_RPC=off"):
        merge((), ("-DGGML_RPC=on", "-DGGML_LTO=on", "-DGGML_RPC=off"), "cpu")
    assert merge((), ("-DA=1", "-DA=1"), "cpu") == ("-DA=1", "-DA=1")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("cuda", "linux", "bash"),
            "CMAKE_ARGS=-DGGML_CUDA=on python -m pip install --no-binary llama-cpp-python "
            "llama-cpp-python",
        ),
        (
            ("openblas", "linux", "zsh"),
            "CMAKE_ARGS='-DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS' python -m pip install "
            "--no-binary llama-cpp-python llama-cpp-python",
        ),
        (
            ("vulkan", "windows", "powershell"),
            "$env:CMAKE_ARGS = '-DGGML_VULKAN=on'; python -m pip install --no-binary "
            "llama-cpp-python llama-cpp-python",
        ),
        (
            ("vulkan", "windows", "cmd"),
            'set "CMAKE_ARGS=-DGGML_VULKAN=on" && python -m pip install --no-binary '
            "llama-cpp-python llama-cpp-python",
        ),
        (
            ("cpu", "macos", "zsh"),
            "python -m pip install --no-binary llama-cpp-python llama-cpp-python",
        ),
    ],
)
def test_install_command_for_each_shell(arguments: tuple[str, str, str], line: str) -> None:
    assert install_command(*arguments) == line


def test_prebuilt_and_reinstall() -> None:
    line = install_command("cuda", "linux", "bash", prebuilt=True, index="cu124", version="0.3.36")
    assert line.endswith(
        "--only-binary llama-cpp-python --extra-index-url "
        "https://abetlen.github.io/llama-cpp-python/whl/cu124 llama-cpp-python==0.3.36"
    )
    assert "CMAKE_ARGS" not in line
    assert "hip-radeon" in install_command("rocm", "windows", "cmd", prebuilt=True)
    assert "rocm72" in install_command("rocm", "linux", "bash", prebuilt=True)
    card = install_command("cuda", "linux", "bash", flags=["-DCMAKE_CUDA_ARCHITECTURES=120"])
    assert card.startswith("CMAKE_ARGS='-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=120' python")
    again = install_command("cpu", "linux", "bash", reinstall=True)
    assert "--force-reinstall --no-cache-dir" in again


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("cudaa",), {}, "Did you mean 'cuda'"),
        (("cuda", "linus"), {}, "Did you mean 'linux'"),
        (("cuda", "linux", "bahs"), {}, "Did you mean 'bash'"),
        (("cuda", "linux", "cmd"), {}, "no cmd on linux"),
        (("metal", "linux", "bash"), {}, "does not exist on linux"),
        (("cuda", "macos", "zsh"), {}, "does not exist on macos"),
        (("openblas", "linux", "bash"), {"prebuilt": True}, "no prebuilt wheels"),
        (("cuda", "linux", "bash"), {"prebuilt": True, "index": "cu999"}, "no wheel index"),
        (("cuda", "linux", "bash"), {"prebuilt": True, "flags": ["-DA=1"]}, r"no flags \(-DA=1\)"),
    ],
)
def test_impossible_wishes_are_refused(
    arguments: tuple[str, ...], options: dict[str, object], words: str
) -> None:
    with pytest.raises(InstallError, match=words):
        install_command(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("value", NASTY)
def test_bash_splits_the_line_into_the_same_words(value: str) -> None:
    code = "import json,os,sys; print(json.dumps([sys.argv[1:], os.environ['CMAKE_ARGS']]))"
    line = set_variable("CMAKE_ARGS", value, "bash")
    line += join((sys.executable, "-c", code, value, "end"), "bash")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[value, "end"], value]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_the_real_lines_set_the_flags_in_bash(name: str, tmp_path: Path) -> None:
    """Each bash line is run with a `python` that only prints what it was given."""
    if "linux" not in BACKENDS[name].systems:
        pytest.skip(f"{name} has no line for bash on linux")
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintenv CMAKE_ARGS\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    line = install_command(name, "linux", "bash")
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    flags = " ".join(BACKENDS[name].cmake_flags)
    assert words[: 1 if flags else 0] == ([flags] if flags else [])
    assert words[-5:] == ["pip", "install", "--no-binary", "llama-cpp-python", "llama-cpp-python"]


@pytest.mark.parametrize(
    ("value", "powershell", "cmd"),
    [
        ("it's", "$env:X = 'it''s'; ", 'set "X=it\'s" && '),
        ("a $b", "$env:X = 'a $b'; ", 'set "X=a $b" && '),
    ],
)
def test_windows_quoting(value: str, powershell: str, cmd: str) -> None:
    assert set_variable("X", value, "powershell") == powershell
    assert set_variable("X", value, "cmd") == cmd
    assert join(("C:\\My Python\\python.exe", "-V"), "powershell") == (
        "& 'C:\\My Python\\python.exe' -V"
    )
    assert join(("C:\\My Python\\python.exe", "-V"), "cmd") == '"C:\\My Python\\python.exe" -V'
    assert join(("a", "b@c"), "powershell") == "a 'b@c'"


def test_every_system_has_a_line_for_every_backend_it_can_build() -> None:
    for name, backend in BACKENDS.items():
        for system in backend.systems:
            for shell in SHELLS[system]:
                assert "llama-cpp-python" in install_command(name, system, shell)


def test_nvidia_smi_and_vulkaninfo_are_read() -> None:
    assert parse_nvidia_smi(NVIDIA_SMI) == ("NVIDIA GeForce RTX 3060", (12, 2))
    assert parse_nvidia_smi("command not found") == (None, None)
    assert parse_capability("8.9\n12.0\n") == (8, 9)
    assert parse_capability('Field "compute_cap" is not a valid field to query.') is None
    assert parse_vulkaninfo(VULKANINFO) == ("AMD Radeon RX 6600 (RADV NAVI23)",)


@pytest.mark.parametrize(
    ("driver", "system", "name"),
    [
        ((11, 7), "linux", None),
        ((12, 2), "linux", "cu122"),
        ((12, 9), "linux", "cu125"),
        ((13, 1), "linux", "cu130"),
        ((13, 9), "windows", "cu132"),
        ((12, 2), "windows", "cu118"),
    ],
)
def test_the_newest_index_that_the_driver_serves(
    driver: tuple[int, int], system: str, name: str | None
) -> None:
    assert cuda_index(driver, system) == name


@pytest.mark.parametrize(
    ("index", "capability", "code"),
    [
        ("cu118", (6, 1), "machine code"),
        ("cu118", (8, 9), "machine code"),
        ("cu118", (9, 0), ""),
        ("cu118", (12, 0), ""),
        ("cu124", (5, 2), ""),
        ("cu124", (8, 7), "machine code"),  # no code of its own: that of 8.0 runs on all of 8
        ("cu125", (9, 0), "machine code"),
        ("cu125", (12, 0), "PTX"),
        ("cu132", (6, 1), ""),
        ("cu132", (7, 0), ""),
        ("cu132", (10, 3), "PTX"),
    ],
)
def test_what_the_cuda_wheels_have_for_a_card(
    index: str, capability: tuple[int, int], code: str
) -> None:
    assert card_code(index, capability) == code


def test_an_index_is_chosen_for_the_card_as_well_as_the_driver() -> None:
    assert cuda_index((13, 2), "linux", (6, 1)) == "cu125"
    assert cuda_index((13, 2), "linux", (12, 0)) == "cu132"
    assert cuda_index((12, 2), "windows", (12, 0)) is None
    pascal = Machine("linux", "x86_64", nvidia="GTX 1060", cuda=(13, 0), capability=(6, 1))
    assert detect_backend(pascal).wheel_index == "cu125"
    maxwell = Machine("linux", "x86_64", nvidia="GTX 970", cuda=(13, 0), capability=(5, 2))
    assert "no wheel has code for its compute capability 5.2" in str(detect_backend(maxwell))
    blackwell = Machine("linux", "x86_64", nvidia="RTX 5090", cuda=(13, 0), capability=(12, 0))
    assert detect_backend(blackwell).wheel_index == "cu130"
    assert "-DCMAKE_CUDA_ARCHITECTURES=120" in str(detect_backend(blackwell))
    ada = Machine("linux", "x86_64", nvidia="RTX 4070", cuda=(13, 0), capability=(8, 9))
    assert not detect_backend(ada).notes


def test_a_mac_with_an_intel_processor_has_no_wheel() -> None:
    for name in BACKENDS:
        assert wheel_index(name, Machine("macos", "x86_64")) is None
    assert wheel_index("cpu", Machine("macos", "arm64")) == "cpu"


@pytest.mark.parametrize(
    ("machine", "backend", "index", "words"),
    [
        (Machine("linux", "x86_64"), "cpu", "cpu", "no usable GPU"),
        (Machine("linux", "ppc64le"), "cpu", None, "no usable GPU"),
        (Machine("linux", "x86_64", nvidia="RTX", cuda=(12, 4)), "cuda", "cu124", "CUDA 12.4"),
        (Machine("linux", "aarch64", nvidia="GB10", cuda=(13, 0)), "cpu", "cpu", "nvcc is missing"),
        (Machine("linux", "aarch64", nvidia="GB10", nvcc=True), "cuda", None, "nvcc is there"),
        (Machine("linux", "x86_64", nvidia="K80", cuda=(11, 4)), "cpu", "cpu", "update the driver"),
        (Machine("linux", "x86_64", vulkan=("Arc",)), "vulkan", "vulkan", "Vulkan sees Arc"),
        (Machine("linux", "x86_64", rocm=True), "rocm", "rocm72", "ROCm is installed"),
        (Machine("windows", "amd64", rocm=True), "rocm", "hip-radeon", "ROCm is installed"),
        (Machine("linux", "x86_64", oneapi=True), "cpu", "cpu", "--backend sycl"),
        (Machine("macos", "arm64"), "metal", "metal", "Apple silicon"),
        (Machine("macos", "x86_64", translated=True), "cpu", None, "arm64 Python"),
        (Machine("macos", "x86_64"), "cpu", None, "Intel Python"),
    ],
)
def test_detection_chooses_and_explains(
    machine: Machine, backend: str, index: str | None, words: str
) -> None:
    found = detect_backend(machine)
    assert (found.backend, found.wheel_index) == (backend, index)
    assert words in str(found)


def test_detection_on_this_machine_names_a_backend_that_exists_here() -> None:
    found = detect_backend()
    assert found.backend in BACKENDS
    assert found.reason


def test_cuda_indexes_are_in_order_and_named_after_their_version() -> None:
    assert list(CUDA_INDEXES) == sorted(CUDA_INDEXES, key=lambda pair: pair[1])
    for name, (major, minor) in CUDA_INDEXES:
        assert re.fullmatch(r"cu\d{3}", name)
        assert name == f"cu{major}{minor}"
