"""The command line: what each command does, and one line and status 2 for what cannot be done."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import cli
from helpers.engine.prefix_store import PrefixStore
from helpers.errors import InstallError
from helpers.install import build, paths, steps
from helpers.install.paths import prefix_folder
from helpers.models.default import embedded_model
from tests.support import ROOT

STDLIB_FILES = [
    ROOT / "helpers" / "__init__.py",
    ROOT / "helpers" / "__main__.py",
    ROOT / "helpers" / "tables.py",
    ROOT / "helpers" / "cli.py",
    ROOT / "helpers" / "errors.py",
    ROOT / "helpers" / "files.py",
    *sorted((ROOT / "helpers" / "doctor").glob("*.py")),
    *sorted((ROOT / "helpers" / "install").glob("*.py")),
]


def helpers(*arguments: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_model_that_does_not_exist_is_said_before_the_lab_opens() -> None:
    status, _, error = helpers("lab", "--check", "--model", "qwen3-4c")
    assert status == 2
    assert error.startswith("error: There is no model 'qwen3-4c'. Did you mean")


def test_the_model_of_the_lab_is_said() -> None:
    status, output, _ = helpers("lab", "--check", "--model", str(embedded_model()))
    assert status == 0
    assert output.startswith(
        "Model of the notebooks: SmolLM2-135M-Instruct.Q4_1.gguf, 0.13 billion"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["labb"], "There is no command 'labb'. Did you mean 'lab'?"),
        (["lab", "--backend", "cudda"], "Did you mean 'cuda'?"),
        (["lab", "--port", "0"], "there is no port 0"),
        (["lab", "--port", "many"], "invalid int value"),
        (["lab", "--fast"], "unrecognized arguments: --fast"),
        (["clean", "--all"], "unrecognized arguments: --all"),
        (["progress"], "the following arguments are required: FOLDER"),
        (["progress", "no such folder"], "There is no such folder of learners (no such folder)"),
        (["doctor", "--room", "no such folder"], "there is no folder no such folder"),
        (["doctor", "--report", "no/such/folder/x.json"], "for the report: make it"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    status, output, error = helpers(*arguments)
    assert status == 2
    assert output == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def test_without_a_command_the_commands_are_listed() -> None:
    status, output, _ = helpers()
    assert status == 2
    for name in cli.COMMANDS:
        assert f"\n  {name} " in output
    assert helpers("--help")[0] == 0


@pytest.mark.parametrize("command", ["lab", "clean", "lint", "doctor", "progress"])
def test_each_command_explains_itself(command: str) -> None:
    status, output, _ = helpers(command, "--help")
    assert status == 0
    assert f"python -m helpers {command}" in output


@pytest.mark.parametrize("path", STDLIB_FILES, ids=lambda path: path.name)
def test_an_old_python_can_at_least_parse_it(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


def _old_pythons() -> list[str]:
    """Pythons below 3.11 on this machine that really start."""
    found = []
    for minor in (7, 8, 9, 10):
        python = shutil.which(f"python3.{minor}")
        if python:
            done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
            if done.returncode == 0:
                found.append(python)
    return found


def test_an_old_python_says_so_in_one_line() -> None:
    """With a real old Python where there is one, else with this one made to look old."""
    fake = (
        "import runpy, sys; sys.version_info = (3, 10, 0, 'final', 0); "
        "runpy.run_module('helpers', run_name='__main__')"
    )
    calls = [[sys.executable, "-c", fake], *([p, "-m", "helpers", "lab"] for p in _old_pythons())]
    for call in calls:
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2, call
        assert done.stderr.count("\n") == 1, done.stderr
        assert "needs 3.11 or newer" in done.stderr


def test_the_commands_need_the_standard_library_alone() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import helpers.cli"
        "; print([m for m in sys.modules if 'site-packages' in str("
        "getattr(sys.modules[m], '__file__', ''))])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        ([], True),
        (["-x", "-q"], True),
        (["-k", "tests"], True),
        (["-k", "helpers or tests", "--collect-only"], True),
        (["tests/test_main.py"], False),
        (["tests/test_main.py::test_x", "-x"], False),
        (["-k", "tests", "helpers"], False),
        (["no/such/file.py"], True),
    ],
)
def test_paths_of_the_user_replace_the_suites_own(arguments: list[str], own: bool) -> None:
    made = cli.pytest_arguments(arguments)
    assert ("tests" in made[: len(made) - len(arguments)]) is own
    assert made[len(made) - len(arguments) :] == arguments
    assert "--nbval-lax" in made and "--nbval-cell-timeout=180" in made


def _suite(folder: Path) -> Path:
    """A copy of the suite without an environment."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "helpers", folder / "suite" / "helpers", ignore=ignore)
    return folder / "suite"


def test_clean_shows_then_removes(tmp_path: Path) -> None:
    root, cache = _suite(tmp_path), tmp_path / "cache"
    for folder in (root / ".venv", cache / "src"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(3 * 1024 * 1024))
    (cache / "lock").touch()  # as before there was a mark
    status, output, _ = helpers("clean", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(cache))
    assert status == 0 and "Nothing was removed" in output
    assert f"3 MiB  {cache}" in output and (root / ".venv" / "file").exists()
    status, output, _ = helpers("clean", "--yes", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(cache))
    assert status == 0 and "Removed 6 MiB" in output
    assert not (root / ".venv").exists() and not cache.exists()
    assert (root / "helpers").exists()
    assert "Nothing to remove" in helpers("clean", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(cache))[1]


def test_clean_takes_kept_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = _suite(tmp_path), tmp_path / "cache"
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(cache))
    store = PrefixStore(str(prefix_folder()), 2**30, "ab")  # as cache_dir=True does
    store.write(list(range(600)), 600, np.zeros(3 * 2**20, np.uint8), None)
    output = helpers("clean", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(cache))[1]
    assert f"3 MiB  {cache}" in output and "kept prompts" in output
    assert helpers("clean", "--yes", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(cache))[0] == 0
    assert not cache.exists()


def _everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "there",
    [
        ("thesis.txt",),
        ("src/main.c", "build/main.o", "logs/run.log"),  # names as the suite has them
        ("lock", "src/main.c", "thesis.txt"),
        ("suite/.git/config", "home/.bashrc"),
    ],
)
def test_clean_leaves_a_folder_that_the_suite_did_not_make(
    there: tuple[str, ...], tmp_path: Path
) -> None:
    root = _suite(tmp_path)
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    before = _everything(tmp_path)
    status, output, _ = helpers("clean", "--yes", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(tmp_path))
    assert status == 0 and "is left as it is: the suite did not make it" in output
    # Nor does it begin to write there.
    status, _, error = helpers("lab", "--check", cwd=root, LLAMA_NOTEBOOKS_CACHE=str(tmp_path))
    assert status == 2 and error.count("\n") == 1
    assert "files that the suite did not write: name a folder that is empty" in error
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("place", ["~", ".", "helpers/errors.py"])
def test_clean_leaves_home_repository_and_files(place: str, tmp_path: Path) -> None:
    root, home = _suite(tmp_path), tmp_path / "home"
    home.mkdir()
    (root / "lock").touch()  # even where all looks as if it were the suite's
    variables = {"LLAMA_NOTEBOOKS_CACHE": place, "HOME": str(home), "USERPROFILE": str(home)}
    before = _everything(tmp_path)
    _, output, _ = helpers("clean", "--yes", cwd=root, **variables)
    assert "did not make it" in output
    status, _, error = helpers("lab", "--check", cwd=root, **variables)
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert _everything(tmp_path) == before


def test_the_root_folder_is_never_the_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked, not tried: a test that fails must not take the machine with it.
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", Path.home().anchor)
    assert not paths.made_by_suite(paths.cache_dir())
    with pytest.raises(InstallError, match="did not write"):
        paths.claim_cache()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_clean_takes_the_suites_part_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache, elsewhere = _suite(tmp_path), tmp_path / "cache", tmp_path / "elsewhere"
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(cache))
    assert paths.claim_cache() == cache  # now it is marked
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (cache / "src").mkdir()
    (cache / "src" / "link").symlink_to(elsewhere)
    for link in (cache / "wheels", cache / "logs", root / ".venv", root / "build"):
        link.symlink_to(elsewhere)
    (cache / "thesis.txt").write_text("precious")
    status, output, _ = helpers("clean", "--yes", cwd=root)
    assert status == 0 and "is left: logs, thesis.txt, wheels" in output
    assert (elsewhere / "precious").exists() and (root / ".venv").is_symlink()
    assert {path.name for path in cache.iterdir()} == {"logs", "thesis.txt", "wheels"}
    # A new run does not take the rest for its own.
    with pytest.raises(InstallError, match="did not write"):
        paths.claim_cache()


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InstallError, match=r"cannot be written.*use a folder that you own"):
        paths.make_folder(tmp_path / "file" / "below", "the environment")
    with pytest.raises(InstallError, match=r"needs about 999999999 MiB.*only \d+ MiB are free"):
        paths.need_space(tmp_path / "not" / "yet", 999_999_999, "The environment")


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root and Windows ignore a folder's write bit"
)
def test_a_read_only_clone_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(InstallError, match="cannot be written"):
        paths.make_folder(tmp_path, "the environment")
    tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("line", "done", "total", "what"),
    [
        (
            "[3/144] Building CXX object vendor/llama.cpp/src/CMakeFiles/llama.dir/llama-kv.cpp.o",
            3,
            144,
            "llama-kv.cpp",
        ),
        ("[7/9] c++ -I/x/llama.cpp -MF a.o.d -c /x/llama.cpp/ggml/quants.c", 7, 9, "quants.c"),
        ("[ 12%] Building C object ggml/CMakeFiles/ggml.dir/ggml.c.o", 12, 100, "ggml.c"),
        ("*** Configuring CMake...", 0, 0, "configuring"),
        ("-- Found OpenMP", 0, 0, ""),
    ],
)
def test_progress_is_read_from_the_build(line: str, done: int, total: int, what: str) -> None:
    status = steps.Status()
    steps.read_ninja(line, status)
    assert (status.done, status.total, status.what) == (done, total, what)


def _script(seconds: float) -> list[str]:
    code = (
        "import time\nfor i in range(1, 5):\n"
        f"    print(f'[{{i}}/4] Building CXX object a/f{{i}}.cpp.o', flush=True)\n"
        f"    time.sleep({seconds})\nraise SystemExit(3)"
    )
    return [sys.executable, "-c", code]


def test_a_step_keeps_the_whole_log_and_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "new" / "log"
    outcome = steps.run(_script(0), title="Building", log=log, read=steps.read_ninja)
    assert outcome.status == 3
    assert outcome.tail[-1].endswith("f4.cpp.o")
    for number in range(1, 5):
        assert f"\n[{number}/4] Building CXX object" in log.read_text(encoding="utf-8")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Building ..." and shown[-1].startswith("Building: failed")


def test_without_a_terminal_a_line_comes_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_QUIET_SECONDS", 0.2)
    steps.run(_script(0.3), title="Building", log=tmp_path / "log", read=steps.read_ninja)
    middle = capsys.readouterr().out.splitlines()[1:-1]
    assert middle and "elapsed" in middle[-1]
    assert any("%" in line and ".cpp" in line for line in middle)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_on_a_terminal_one_line_is_rewritten(tmp_path: Path) -> None:
    import pty

    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom helpers.install import steps\n"
        f"steps.run({_script(0.6)!r}, title='Building', log=Path({str(tmp_path / 'log')!r}), "
        "read=steps.read_ninja)"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(30) == 0
    text = seen.decode()
    assert text.count("\r") >= 3, "no line was rewritten"
    assert "%" in text and "left" in text and "f2.cpp" in text
    assert text.rstrip().endswith("min")


def _archive(folder: Path, entries: dict[str, bytes]) -> Path:
    import io
    import tarfile

    path = folder / "llama_cpp_python-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_source_is_unpacked_without_what_is_not_needed(tmp_path: Path) -> None:
    archive = _archive(
        tmp_path,
        {"x-1/CMakeLists.txt": b"project()", "x-1/vendor/llama.cpp/tools/ui/src/a.svelte": b""},
    )
    into = build.unpack(archive, tmp_path / "src")
    assert [p.name for p in into.rglob("*") if p.is_file()] == ["CMakeLists.txt"]


@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize(
    "name", ["x-1/../../evil", "/etc/evil", "x-1\\..\\evil", "x-1/{}/evil", "x-1/C:/evil", "C:evil"]
)
def test_an_archive_that_would_leave_its_folder_is_refused(
    name: str, filters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filters:  # as in Python before 3.11.4
        monkeypatch.delattr("tarfile.data_filter", raising=False)
    archive = _archive(tmp_path, {name.format(tmp_path / "out"): b"evil"})
    with pytest.raises(InstallError, match="unsafe entry"):
        build.unpack(archive, tmp_path / "src")
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_an_archive_is_not_unpacked_through_links(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "src").symlink_to(tmp_path / "victim")
    (tmp_path / "src.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(InstallError, match="cannot be unpacked"):
        build.unpack(_archive(tmp_path, {"x-1/a": b"a"}), tmp_path / "src")
    assert not list((tmp_path / "victim").iterdir())
    assert build.unpack(_archive(tmp_path, {"x-1/a": b"a"}), tmp_path / "new").is_dir()


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    whole = _archive(tmp_path, {"x-1/a": bytes(100_000)})
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:60])
    with pytest.raises(InstallError, match=r"cannot be unpacked.*delete it"):
        build.unpack(cut, tmp_path / "src")


def test_other_flags_or_versions_are_other_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    plain = build.make_recipe("0.3.36", "cpu")
    assert "-DGGML_RPC=on" in plain.flags
    keys = {
        plain.key,
        build.make_recipe("0.3.35", "cpu").key,
        build.make_recipe("0.3.36", "openblas").key,
        build.make_recipe("0.3.36", "cpu", "-DGGML_NATIVE=off").key,
    }
    assert len(keys) == 4
    assert build.make_recipe("0.3.36", "cpu").key == plain.key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "no space is left"),
        ("NewConnectionError('... Connection refused')", "index cannot be reached"),
        ("ERROR: something odd", "failed: ERROR: something odd"),
    ],
)
def test_a_failed_step_is_explained(text: str, words: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(text, encoding="utf-8")
    error = build.explain(steps.Outcome(1, 1.0, (text,), log), "Installing")
    assert words in str(error) and "\n" not in str(error)
