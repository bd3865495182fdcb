"""The tables for readers: your card and your line, what a build needs, what was recorded."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recording import COMPILED, NOT_HERE, RUN, TABLE, not_here, record, without_paths

from helpers import BACKENDS, InstallError
from helpers.install import card_lines, check_requirements, recorded_backends
from helpers.install.cache_trial import try_pip_cache
from helpers.install.commands import SHELLS, install_command
from helpers.install.paths import REPOSITORY
from helpers.install.requirements import need_tools


@pytest.mark.parametrize("system", list(SHELLS))
def test_every_system_has_a_line_for_each_card_it_can_have(system: str) -> None:
    for shell in SHELLS[system]:
        lines = card_lines(system=system, shell=shell)
        assert {line.backend for line in lines} <= set(BACKENDS)
        assert all("llama-cpp-python" in line.line and "pip install" in line.line for line in lines)
        assert all(system in BACKENDS[line.backend].systems for line in lines)
        assert any(line.backend == "cpu" for line in lines)
    text, page = str(lines), lines._repr_html_()
    for line in lines:
        assert line.source in text
        assert line.card in page


@pytest.mark.parametrize(
    ("card", "system", "cuda", "backend", "index"),
    [
        ("nvidia", "linux", (12, 4), "cuda", "cu124"),
        ("nvidia", "linux", (12, 9), "cuda", "cu125"),
        ("nvidia", "windows", (12, 2), "cuda", "cu118"),
        ("nvidia", "windows", (13, 2), "cuda", "cu132"),
        ("amd", "windows", None, "rocm", "hip-radeon"),
        ("amd", "linux", None, "rocm", "rocm72"),
        ("apple", "macos", None, "metal", "metal"),
        ("none", "windows", None, "cpu", "cpu"),
    ],
)
def test_the_line_for_a_card(
    card: str, system: str, cuda: tuple[int, int] | None, backend: str, index: str
) -> None:
    line = card_lines(card, system, cuda=cuda)[0]
    assert line.backend == backend
    assert f"/whl/{index} " in line.prebuilt and line.line == line.prebuilt
    assert line.limits == BACKENDS[backend].wheels.limits  # type: ignore[union-attr]


def test_the_line_for_a_card_asks_for_its_compute_capability() -> None:
    card = {"card": "nvidia", "system": "linux", "shell": "bash", "cuda": (13, 0)}
    assert "/whl/cu130 " in card_lines(**card)[0].prebuilt  # type: ignore[arg-type]
    old = card_lines(**card, capability=(6, 1))[0]  # type: ignore[arg-type]
    assert "/whl/cu125 " in old.prebuilt
    older = card_lines(**card, capability=(5, 2))[0]  # type: ignore[arg-type]
    assert older.prebuilt == "" and older.line == older.source


def test_a_driver_older_than_every_wheel_gets_the_source_line() -> None:
    line = card_lines("nvidia", "linux", "bash", cuda=(11, 0))[0]
    assert line.prebuilt == "" and line.line == line.source
    assert "-DGGML_CUDA=on" in line.source


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nvidea",), "Did you mean 'nvidia'"),
        (("nvidia", "linus"), "Did you mean 'linux'"),
        (("nvidia", "linux", "bahs"), "Did you mean 'bash'"),
        (("apple", "linux"), "No backend serves"),
        (("nvidia", "macos"), "No backend serves"),
    ],
)
def test_impossible_cards_are_refused(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InstallError, match=words):
        card_lines(*arguments)


def test_requirements_are_really_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = check_requirements("cuda", "linux")
    assert [finding.met for finding in findings] == [False] * 3
    assert all(finding.fix and "missing: " in str(finding) for finding in findings)
    pages = [need.page for need in BACKENDS["cuda"].requirements if "linux" in need.systems]
    assert [finding.page for finding in findings] == pages and any(pages)
    if sys.platform == "win32":
        return
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    nvcc.chmod(0o755)
    met = {finding.requirement.name: finding.met for finding in check_requirements("cuda", "linux")}
    assert met["the CUDA toolkit (nvcc)"] and not met["NVIDIA's driver"]
    nvcc.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert not any(finding.met for finding in check_requirements("cuda", "linux"))
    monkeypatch.setenv("CUDACXX", str(tmp_path / "elsewhere"))
    shutil.copy(nvcc, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    assert any(finding.met for finding in check_requirements("cuda", "linux"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the names are Linux's")
@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("cuda", r"NVIDIA CUDA cannot be built here: the CUDA toolkit \(nvcc\) is missing"),
        ("vulkan", "Vulkan cannot be built here: the shader compiler glslc is missing"),
        ("rocm", "ROCm with HIP and rocBLAS is missing"),
        ("sycl", "Intel's oneAPI compiler, after setvars is missing"),
        ("metal", "Apple Metal does not exist on linux"),
        ("cudaa", "Did you mean 'cuda'"),
    ],
)
def test_a_backend_without_its_toolkit_is_refused_before_the_build(
    backend: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=words):
        need_tools(backend)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the names are Linux's")
@pytest.mark.parametrize("backend", ["cuda", "vulkan", "rocm", "sycl"])
def test_lab_says_so_in_one_line_before_it_changes_anything(backend: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "lab", "--check", "--backend", backend],
        cwd=REPOSITORY,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "LLAMA_NOTEBOOKS_SOURCE_BUILD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1 and "cannot be built here" in done.stderr
    assert "Installing" not in done.stdout and "Building" not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="the managers are Linux's")
@pytest.mark.parametrize(
    ("backend", "manager", "maker"),
    [
        ("cuda", "apt-get", "developer.nvidia.com"),
        ("rocm", "apt-get", "rocm.docs.amd.com"),
        ("rocm", "dnf", ""),
        ("sycl", "dnf", "intel.com"),
        ("sycl", "conda", ""),
        ("vulkan", "apt-get", ""),
    ],
)
def test_a_package_of_the_makers_own_repository_is_said_to_be_one(
    backend: str, manager: str, maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / manager
    program.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    program.chmod(0o755)
    for name in ("CUDACXX", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    needed = [it for it in check_requirements(backend, "linux") if it.requirement.essential]
    assert needed and all(manager in it.fix for it in needed)
    for finding in needed:
        assert ("add the maker's repository first" in str(finding)) == bool(maker)
        assert maker in finding.page


def test_nothing_stands_in_the_way_of_a_plain_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    need_tools("cpu")  # the compiler has a check of its own, which looks further than PATH
    need_tools("rpc")


def test_pip_really_reuses_a_wheel_whatever_the_flags() -> None:
    first, trap, way_out = try_pip_cache()
    assert first.obeyed and first.built
    assert not trap.obeyed and not trap.built
    assert trap.installed == first.flags
    assert way_out.obeyed and way_out.built
    assert "--no-cache-dir" in str(way_out)


def test_the_recorded_table_has_a_row_for_every_backend() -> None:
    table = recorded_backends()
    assert {row.backend for row in table} == set(BACKENDS)
    assert {row.outcome for row in table} <= {RUN, COMPILED, NOT_HERE}
    for row in table:
        assert row.command == install_command(
            row.backend, row.on, reinstall=True, version=row.command.rpartition("==")[2]
        )
        if row.ran:
            assert row.built and row.versions and row.device and row.log
            assert len(row.comparison) == (2 if (row.backend in {"cpu", "openblas"}) else 0)
            assert row.texts_equal is True and len(row.text_sha256) == 64
        else:
            assert row.reason
    text, page = str(table), table._repr_html_()
    assert all(row.backend in text and row.outcome in page for row in table)


def test_a_row_without_speeds_says_so_and_is_shown(tmp_path: Path) -> None:
    rows = [row for row in json.loads(TABLE.read_text(encoding="utf-8")) if row.get("report")]
    for row in rows:
        row["speeds"] = []
    path = tmp_path / "backends.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    table = recorded_backends(path)
    assert all(row.ran == (row.outcome == RUN) for row in table)
    assert str(table).count("not measured") == sum(row.ran for row in table) >= 3
    assert table._repr_html_().count("<tr>") == len(rows) + 1


def test_all_builds_begin_with_the_same_text() -> None:
    """Runs in software are shorter; as far as they go, every build says the same."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    texts = [row["text"] for row in rows if row.get("text")]
    longest = max(texts, key=len)
    assert len(texts) >= 4 and all(longest.startswith(text) for text in texts)


def test_a_part_of_the_table() -> None:
    table = recorded_backends()
    assert {row.backend for row in table.of("cpu", "openblas")} == {"cpu", "openblas"}
    assert {row.on for row in table.on("linux")} == {"linux"}
    with pytest.raises(InstallError, match=r"build_and_run\.py opencl"):
        table.of("opencl")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"backend": "cpu"}]', '[{"backend": "x"}]'])
def test_a_damaged_table_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "backends.json"
    with pytest.raises(InstallError, match="git restore"):
        recorded_backends(path)
    path.write_text(text, encoding="utf-8")
    if text == "{}":
        assert len(recorded_backends(path)) == 0
        return
    with pytest.raises(InstallError, match="git restore"):
        recorded_backends(path)


def test_a_row_that_says_less_does_not_replace_one_that_says_more(tmp_path: Path) -> None:
    path = tmp_path / "backends.json"
    assert record(not_here("metal", "0.3.36", "macos", "no Mac"), path)
    ran = {**not_here("metal", "0.3.36", "macos", ""), "outcome": RUN}
    assert record(ran, path)
    assert not record(not_here("metal", "0.3.36", "macos", "no Mac"), path)
    assert record(not_here("cpu", "0.3.36", "windows", "no Windows"), path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["backend"], row["outcome"]) for row in rows] == [("cpu", NOT_HERE), ("metal", RUN)]
    assert [path.name for path in tmp_path.iterdir()] == ["backends.json"]


@pytest.mark.parametrize(
    ("flag", "shown"),
    [
        ("-DVulkan_INCLUDE_DIR=/opt/vk/include", "-DVulkan_INCLUDE_DIR=…/include"),
        ("-DCMAKE_CUDA_FLAGS=-I/a/b/include", "-DCMAKE_CUDA_FLAGS=-I…/include"),
        ("-DX=C:\\Program\\vk\\include", "-DX=…/include"),
        ("-DGGML_CUDA=on", "-DGGML_CUDA=on"),
        ("-DGGML_BLAS_VENDOR=OpenBLAS", "-DGGML_BLAS_VENDOR=OpenBLAS"),
    ],
)
def test_recorded_flags_have_no_folders(flag: str, shown: str) -> None:
    assert without_paths(flag) == shown


def test_recorded_lines_are_lines_for_a_shell() -> None:
    for row in recorded_backends().on("linux"):
        assert shlex.split(row.command)[-1].startswith("llama-cpp-python==")
