"""The table against the pinned source: its CMake options, its dead names, its wheel indexes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import BACKENDS
from helpers.install.backends import (
    COMMON_FLAGS,
    CUDA_CODE,
    CUDA_INDEXES,
    OTHER_BACKENDS,
    OtherBackend,
)
from helpers.install.build import cmake_flags, make_recipe
from helpers.install.configure import Configured, configure, pinned_source
from helpers.install.flags import DEAD_FLAGS, translate

OPTION = re.compile(r"^\s*(?:option\s*\(\s*(\w+)|set\s*\(\s*(\w+)\s[^)]*?\bCACHE\b)", re.MULTILINE)
DEPRECATED = re.compile(r"llama_option_depr\s*\(\s*(\w+)\s+(\w+)(?:\s+(\w+))?\s*\)")
INDEX = re.compile(r"releases-to-pep-503\.sh index/whl/(\S+)")
OWN_TO_CMAKE = ("CMAKE_",)


@pytest.fixture(scope="module")
def source() -> Path:
    found = pinned_source()
    if found is None:
        pytest.skip("the pinned source is not here: a source build (.ci/run) fetches it")
    return found


@pytest.fixture(scope="module")
def options(source: Path) -> set[str]:
    """The names of all options of the project, llama.cpp's and ggml's."""
    llama = source / "vendor" / "llama.cpp"
    files = [source / "CMakeLists.txt", llama / "CMakeLists.txt"]
    files += (llama / "ggml").rglob("CMakeLists.txt")
    found: set[str] = set()
    for file in files:
        for first, second in OPTION.findall(file.read_text(encoding="utf-8")):
            found.add(first or second)
    assert len(found) > 80, "the pattern finds too little"
    # Backends without an option of their own: `ggml_add_backend(CANN)` reads GGML_CANN.
    backends = (llama / "ggml" / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
    return found | {f"GGML_{name}" for name in re.findall(r"ggml_add_backend\((\w+)\)", backends)}


def flag_name(flag: str) -> str:
    return flag[2:].partition("=")[0]


@pytest.mark.parametrize("name", list(BACKENDS))
def test_every_flag_of_the_table_is_an_option(name: str, options: set[str]) -> None:
    for flag in (*BACKENDS[name].cmake_flags, *COMMON_FLAGS):
        if not flag_name(flag).startswith(OWN_TO_CMAKE):
            assert flag_name(flag) in options, f"{flag} is no option of the pinned source"


def test_no_dead_flag_is_an_option(options: set[str]) -> None:
    # llama-cpp-python itself still sets LLAMA_CURL, to switch off what is gone.
    assert set(DEAD_FLAGS) & options == {"LLAMA_CURL"}


def test_what_stands_for_a_dead_flag_is_an_option(options: set[str]) -> None:
    for dead in DEAD_FLAGS:
        for flag in translate(f"-D{dead}=on").flags:
            assert flag_name(flag) in options, f"{dead} is translated to {flag}, which is none"


def test_every_name_that_llama_cpp_calls_dead_is_translated_as_it_says(source: Path) -> None:
    text = (source / "vendor" / "llama.cpp" / "CMakeLists.txt").read_text(encoding="utf-8")
    found = DEPRECATED.findall(text)
    assert len(found) >= 8, "the pattern finds too little"
    for _, old, new in found:
        assert old in DEAD_FLAGS, f"{old} is dead upstream and unknown here"
        assert DEAD_FLAGS[old][0] == ((new,) if new else ())


def test_the_wheel_indexes_are_those_that_the_release_workflow_publishes(source: Path) -> None:
    workflow = source / ".github" / "workflows" / "generate-index-from-release.yaml"
    published = set(INDEX.findall(workflow.read_text(encoding="utf-8")))
    assert "cpu" in published
    ours = {
        name for backend in BACKENDS.values() if backend.wheels for name in backend.wheels.names
    }
    assert ours == published


def test_the_cuda_versions_and_windows_gaps_are_those_of_the_workflow(source: Path) -> None:
    text = (source / ".github" / "workflows" / "build-wheels-cuda.yaml").read_text(encoding="utf-8")
    listed = re.search(r"'cuda' = @\(([^)]*)\)", text)
    assert listed
    versions = [tuple(map(int, v.split(".")[:2])) for v in re.findall(r'"([\d.]+)"', listed[1])]
    assert [version for _, version in CUDA_INDEXES] == versions
    missing = re.findall(r"'windows-2022'; 'cuda' = '(\d+)\.(\d+)", text)
    assert {"".join(pair) for pair in missing} == {"121", "122", "123"}


def test_ggmls_own_variables_exist(source: Path) -> None:
    files = (source / "vendor" / "llama.cpp" / "ggml" / "src").rglob("*.[cm]*")
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    names = {name for backend in BACKENDS.values() for name in backend.environment}
    for name in sorted(name for name in names if name.startswith("GGML_")):
        assert f'"{name}"' in text, f"{name} is read nowhere"


def test_a_build_that_is_not_native_still_uses_avx2(source: Path) -> None:
    text = (source / "vendor" / "llama.cpp" / "ggml" / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("AVX2", "FMA", "F16C"):
        assert re.search(rf"option\(GGML_{name}\s[^)]*\$\{{INS_ENB\}}\)", text)
    assert not re.search(r"option\(GGML_AVX512\s[^)]*INS_ENB", text)
    wheels = BACKENDS["cpu"].wheels
    assert wheels and "AVX2, FMA and F16C" in wheels.limits[0] and "AVX-512" in wheels.limits[0]


def test_the_compute_capabilities_are_those_of_the_workflow(source: Path) -> None:
    text = (source / ".github" / "workflows" / "build-wheels-cuda.yaml").read_text(encoding="utf-8")
    found = re.findall(r'\$cudaArchs = "([^"]+)"', text)
    assert len(found) == 3  # the usual, CUDA 11, CUDA 13
    for major, listed in zip((12, 11, 13), found, strict=True):
        code, ptx = CUDA_CODE[major]
        real = tuple(int(one) for one in re.findall(r"(\d+)-real", listed))
        assert code == real
        assert re.findall(r"(\d+)-virtual", listed) == [str(code[-1])] * ptx
    limits = " ".join(BACKENDS["cuda"].wheels.limits)  # type: ignore[union-attr]
    for major, (code, _) in CUDA_CODE.items():
        assert f"{code[0] / 10} to {code[-1] / 10}" in limits, major


def test_no_wheel_is_built_for_a_mac_with_an_intel_processor(source: Path) -> None:
    folder = source / ".github" / "workflows"
    text = (folder / "build-and-release.yaml").read_text(encoding="utf-8")
    # GitHub's runners of these names are arm64, and cibuildwheel builds for the runner's own.
    assert set(re.findall(r"macos-\w+", text)) == {"macos-14", "macos-15"}
    assert "CIBW_ARCHS_MACOS" not in text
    text = (folder / "build-wheels-metal.yaml").read_text(encoding="utf-8")
    assert re.findall(r'CIBW_ARCHS: "(.*)"', text) == ["arm64"]
    pairs = [pair for one in BACKENDS.values() if one.wheels for pair in one.wheels.systems]
    assert ("macos", "arm64") in pairs and ("macos", "x86_64") not in pairs


def test_a_build_for_an_intel_mac_has_metal_and_no_avx(source: Path) -> None:
    text = (source / "CMakeLists.txt").read_text(encoding="utf-8").partition("if (APPLE)")[2]
    intel, _, both = text.partition("# Metal settings")
    assert all(f'set(GGML_{name} "OFF"' in intel for name in ("AVX", "AVX2", "FMA", "F16C"))
    assert re.search(r'set\(GGML_METAL "ON" CACHE BOOL "[^"]*" FORCE\)', both)


@pytest.mark.parametrize("other", OTHER_BACKENDS, ids=lambda other: other.title)
def test_the_other_backends_are_options_that_llama_cpp_documents(
    source: Path, options: set[str], other: OtherBackend
) -> None:
    assert flag_name(other.cmake_flag) in options
    file, _, heading = other.page.partition("#")
    page = (source / "vendor" / "llama.cpp" / file).read_text(encoding="utf-8")
    assert re.search(rf"^#+ {heading}$", page, re.MULTILINE | re.IGNORECASE) or not heading
    assert other.address.startswith("https://github.com/ggml-org/llama.cpp/blob/master/docs/")
    assert other.title.lower() in (source / "vendor/llama.cpp/README.md").read_text("utf-8").lower()
    build = (source / "CMakeLists.txt").read_text(encoding="utf-8")
    installed = f"install_target(ggml-{other.title.lower()})" in build
    assert installed == (other.title == "MUSA")


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ("build-wheels-cuda.yaml", ("-DGGML_AVX2=off", "-DGGML_FMA=off", "-DGGML_F16C=off")),
        ("build-wheels-cuda.yaml", ("--exclude libcudart.so.12", "--exclude libcublas.so.13")),
        ("build-wheels-cuda.yaml", ("'os' = @('ubuntu-22.04', 'windows-2022')",)),
        ("build-wheels-rocm.yaml", ("-DGGML_AVX2=off", "--exclude libamdhip64.so")),
        ("build-wheels-rocm.yaml", ("image: rocm/dev-ubuntu-22.04", "os: ubuntu-22.04")),
        ("build-wheels-vulkan.yaml", ("-DGGML_NATIVE=off",)),
        ("build-wheels-metal.yaml", ("-DCMAKE_OSX_ARCHITECTURES=arm64",)),
        ("build-and-release.yaml", ("-DGGML_NATIVE=off", "riscv64", "aarch64")),
    ],
)
def test_the_limits_of_the_wheels_are_what_the_workflows_do(
    source: Path, workflow: str, words: tuple[str, ...]
) -> None:
    text = (source / ".github" / "workflows" / workflow).read_text(encoding="utf-8")
    for word in words:
        assert word in text
    assert "-DGGML_RPC=on" not in text and "-DGGML_BLAS=ON" not in text


def cmake(*flags: str, source: Path) -> Configured:
    if shutil.which("cmake") is None:
        pytest.skip("CMake is not installed")
    return configure(flags, source)


@pytest.mark.parametrize("colour", ["", "1"])
def test_the_seeds_cuda_line_stops_cmake_with_its_message(
    source: Path, colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICOLOR_FORCE", colour)  # as Jupyter does
    found = cmake("-DLLAMA_CUBLAS=on", source=source)
    assert found.status == "failed"
    assert found.message == "LLAMA_CUBLAS is deprecated, use GGML_CUDA instead"


@pytest.mark.parametrize(
    "old", ["-DLLAMA_BLAS=ON -DLLAMA_BLAS_VENDOR=OpenBLAS", "-DLLAMA_CLBLAST=on"]
)
def test_other_old_lines_configure_and_do_nothing(source: Path, old: str) -> None:
    found = cmake(*old.split(), source=source)
    assert found.status == "ignored"
    for flag in old.split():
        assert flag_name(flag) in found.message


def test_llama_cpp_alone_ignores_the_same_flags_and_none_that_it_was_not_given(
    source: Path,
) -> None:
    alone = source / "vendor" / "llama.cpp"
    programs = ("-DLLAMA_BUILD_TOOLS=off", "-DLLAMA_BUILD_APP=off")  # pip's source lacks parts
    old = cmake("-DLLAMA_BLAS=ON", *programs, source=alone)
    assert (old.status, old.message) == ("ignored", "LLAMA_BLAS: not used by the project")
    assert cmake("-DGGML_NATIVE=off", *programs, source=alone).status == "configured"


MISSING = {
    "openblas": r"BLAS not found",
    "cuda": r"CUDA|nvcc",
    "vulkan": r"Vulkan|glslc|SPIRV",
    "rocm": r"ROCm|HIP|hip",
    "sycl": r"icx|icpx|SYCL",
    "metal": r"FOUNDATION_LIBRARY",
}


@pytest.mark.parametrize("name", list(MISSING))
def test_todays_lines_configure_or_name_what_is_missing(name: str, source: Path) -> None:
    found = cmake(*BACKENDS[name].cmake_flags, source=source)
    assert found.status in {"configured", "failed"}, str(found)
    if found.status == "failed":
        assert re.search(MISSING[name], found.message), str(found)
        assert not re.search(r"is deprecated", found.message)


@pytest.mark.parametrize(("flag", "built"), [((), False), (("-DLLAMA_BUILD_COMMON=on",), True)])
def test_llama_cpps_command_line_library_is_built_only_if_asked_for(
    flag: tuple[str, ...], built: bool, source: Path, tmp_path: Path
) -> None:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("CMake or ninja is not installed")
    flags = cmake_flags(make_recipe("0.3.36", "cpu", " ".join(flag)))
    line = ["cmake", "-S", str(source), "-B", str(tmp_path), "-G", "Ninja", *flags]
    subprocess.run(line, check=True, capture_output=True)
    targets = (tmp_path / "build.ninja").read_text(encoding="utf-8")
    assert "libllama." in targets and "libggml-rpc." in targets
    assert ("llama-common" in targets) is built
    assert ("cpp-httplib" in targets) is built


def test_messages_have_no_folders(source: Path) -> None:
    found = cmake("-DLLAMA_CUBLAS=on", source=source)
    assert str(source) not in found.message
