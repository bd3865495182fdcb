"""The steps on Windows, in both shells, and the length of paths there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from helpers import BACKENDS, InstallError
from helpers.install.flags import translate
from helpers.install.windows import (
    LONGEST_PATH,
    Steps,
    longest_in_source,
    unpacked_length,
    windows_steps,
)

WAYS = ("prebuilt", "visual-studio", "w64devkit", "clone", "long-paths")


@pytest.mark.parametrize("shell", ["powershell", "cmd"])
@pytest.mark.parametrize("way", WAYS)
def test_steps_say_what_they_are_for_and_speak_one_shell(way: str, shell: str) -> None:
    steps = windows_steps(way, shell)
    text = str(steps)
    assert all(step.what for step in steps) and any(step.line for step in steps)
    assert ("$env:" in text) <= (shell == "powershell")
    assert ("set " in text) <= (shell == "cmd")
    assert "FORCE_CMAKE" not in text
    for step in steps:
        assert not step.line.endswith((" ", "&&", ";")), step.line
        assert not translate(step.line).remarks, "a dead flag"


def test_both_shells_have_the_same_steps() -> None:
    for way in WAYS:
        one, other = windows_steps(way, "powershell"), windows_steps(way, "cmd")
        assert [step.what for step in one] == [step.what for step in other]


def test_a_clone_brings_llama_cpp_and_is_built_for_the_backend() -> None:
    steps = windows_steps("clone", "cmd", backend="cuda", version="0.3.36")
    clone = next(step.line for step in steps if "git clone" in step.line)
    assert "--recursive" in clone and "--branch v0.3.36 " in clone
    assert steps[-1].line == 'set "CMAKE_ARGS=-DGGML_CUDA=on" && python -m pip install -e .'
    assert windows_steps("clone", "powershell")[-1].line == "python -m pip install -e ."


def test_w64devkit_names_its_own_compilers_with_slashes() -> None:
    text = str(windows_steps("w64devkit", "powershell"))
    assert "-DCMAKE_CXX_COMPILER=C:/w64devkit/bin/g++.exe" in text
    assert "$env:CMAKE_GENERATOR = 'MinGW Makefiles'" in text


@pytest.mark.parametrize(
    ("way", "shell", "backend", "words"),
    [
        ("wheel", "cmd", "cpu", "There are: prebuilt"),
        ("clone", "bash", "cpu", "shell of Windows 'bash'"),
        ("prebuilt", "cmd", "openblas", "no prebuilt wheels"),
        ("visual-studio", "cmd", "metal", "does not exist on windows"),
        ("w64devkit", "cmd", "cuda", "visual-studio"),
        ("clone", "cmd", "cdua", "Did you mean 'cuda'"),
    ],
)
def test_what_cannot_work_is_said(way: str, shell: str, backend: str, words: str) -> None:
    with pytest.raises(InstallError, match=words):
        windows_steps(way, shell, backend=backend)


def test_a_table_shows_every_line_and_escapes_it() -> None:
    html = windows_steps("visual-studio", "cmd", backend="cuda")._repr_html_()
    assert html.count("<tr>") == 3 and "&amp;&amp; python" in html
    assert repr(Steps()) == ""


def test_the_longest_path_is_read_from_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name in ("top-1.0/a", "top-1.0/folder/some_name.cpp"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert longest_in_source(archive) == len("folder/some_name.cpp")
    assert longest_in_source(tmp_path / "none.tar.gz") is None


def test_a_path_of_pip_is_counted_as_windows_counts() -> None:
    # Seen in a log of pip on Windows (llama-cpp-python issue 1703), the user's name put away.
    seen = (
        "C:\\Users\\somebody\\AppData\\Local\\Temp\\pip-install-i0qazzsi"
        "\\llama-cpp-python_41fdea811ec3461c9539d88b683664a6\\vendor\\llama.cpp\\src\\unicode.cpp"
    )
    inside = "vendor\\llama.cpp\\src\\unicode.cpp"
    temporary = "C:\\Users\\somebody\\AppData\\Local\\Temp"
    assert unpacked_length(temporary, len(inside)) == len(seen) + 1
    assert unpacked_length("C:\\t", len(inside)) < LONGEST_PATH


def test_every_backend_of_windows_has_steps() -> None:
    for name, backend in BACKENDS.items():
        if "windows" in backend.systems:
            assert windows_steps("visual-studio", "powershell", backend=name)
