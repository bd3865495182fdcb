"""A checkpoint's line for a class: never in a learner's way; and what a teacher sees of it."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from operator import lt
from pathlib import Path

import pytest

from helpers import ClassProgress, checkpoint
from helpers.lessons import class_standing, progress, reached
from tests.support import ROOT, wait_for

AIMS = ("the flags that are left", "the remarks")  # 10_install_on_cpu, exercise 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a class; this is a kernel of one learner."""
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(tmp_path / "class"))
    monkeypatch.setenv(progress.NAME_VARIABLE, "Ada")
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "_warned", False)
    return tmp_path / "class"


def call(done: int, aims: tuple[str, ...] = AIMS) -> bool:
    return checkpoint({aim: partial(lt, n, done) for n, aim in enumerate(aims)})


def write(folder: Path, learner: str, notebook: str, exercise: str, done: int, hours: int) -> None:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    row = {"time": at.isoformat(), "learner": learner, "notebook": notebook, "exercise": exercise}
    folder.mkdir(exist_ok=True)
    with (folder / f"{''.join(filter(str.isalnum, learner))}.jsonl").open(
        "a", encoding="utf-8"
    ) as file:
        file.write(json.dumps({**row, "reached": done, "aims": 4, "seconds": 1}) + "\n")


def test_every_exercise_is_known_by_its_aims() -> None:
    """The aims are taken from what the notebooks have printed."""
    known = 0
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if match := re.fullmatch(r"exercise-(\d)-checkpoint", cell["id"]):
                printed = "".join("".join(output["text"]) for output in cell["outputs"])
                found = re.findall(r"^(?:✓|still to do:) (.+?)(?: \(\w+: .*\))?$", printed, re.M)
                assert progress.which_exercise(found) == (path.stem, match[1])
                fits = [one for one in progress.checkpoints() if one[2].issuperset(found)]
                assert len({one[:2] for one in fits}) == 1, (path.stem, fits)
                known += 1
    assert known >= 48


def test_translated_and_other_exercises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks" / "ko").mkdir(parents=True)
    code = ["checkpoint(\n", '    {"세 가지 질문": lambda: True}\n', ")"]
    cells = [{"id": "title"}, {"id": "exercise-2-checkpoint", "source": code}]
    page = tmp_path / "notebooks" / "ko" / "00_start_here.ipynb"
    page.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (page.parent / "10_half_saved.ipynb").write_text('{"cells": [', encoding="utf-8")
    monkeypatch.setattr(progress, "REPOSITORY", tmp_path)
    monkeypatch.setattr(progress, "checkpoints", progress.checkpoints.__wrapped__)
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/my_own.ipynb")
    assert progress.which_exercise(["세 가지 질문"]) == ("00_start_here", "2")
    assert progress.which_exercise(["mine", "too"]) == ("my_own", "mine")


def test_a_call_is_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(1) is False and call(2) is True
    assert capsys.readouterr().out.startswith(f"✓ {AIMS[0]}\nstill to do: {AIMS[1]}\n✓")
    lines = (folder / "progress-Ada.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert first["seconds"] >= 0 and first["time"].endswith("+00:00")
    assert first["learner"] == "Ada" and first["notebook"] == "10_install_on_cpu"
    assert [first[key] for key in ("exercise", "reached", "aims")] == ["1", 1, 2]
    assert second["reached"] == 2


def test_it_is_off_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.PROGRESS_VARIABLE)
    assert call(2) is True and not list(folder.parent.iterdir())


def test_names_and_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.NAME_VARIABLE, " ../../김민수 <b>\n ")
    call(1)
    monkeypatch.delenv(progress.NAME_VARIABLE)
    call(1)
    call(2)
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(folder / "Grace.jsonl"))
    call(2)
    assert (folder / "progress--김민수-b-.jsonl").exists()
    names = [one.learner for one in class_standing(folder).best]
    assert names[:2] == ["../../김민수 <b>", "Grace"]
    assert re.fullmatch("learner-[0-9a-f]{6}", names[2]) and len(names) == 3


def test_two_kernels_at_once_lose_nothing(folder: Path) -> None:
    folder.mkdir()
    code = (
        "import pathlib, sys\nfrom helpers.lessons.progress import _append\n"
        "for n in range(500):\n    _append(pathlib.Path('it.jsonl'), sys.argv[1] * 200)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernels = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=folder, env=environment)
        for name in "ab"
    ]
    assert [kernel.wait(60) for kernel in kernels] == [0, 0]
    lines = (folder / "it.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["a" * 200] * 500 + ["b" * 200] * 500


@pytest.mark.parametrize("why", ["a full disk", "no folder"])
def test_what_cannot_be_written_is_said_once(
    why: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder.parent / "full.jsonl"
    if why == "no folder":
        target = folder / "not" / "there.jsonl"
    elif Path("/dev/full").exists():
        target.symlink_to("/dev/full")
    else:
        pytest.skip("only Linux has a device that is always full")
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(target))
    assert call(2) is True and call(0) is False
    output = capsys.readouterr().out
    assert output.count("your progress cannot be written") == 1 and output.count("\n") == 5
    assert ("No space left" in output) is (why == "a full disk")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are POSIX's")
def test_a_disk_that_hangs_delays_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = folder.parent / "pipe.jsonl"
    os.mkfifo(pipe)  # opening it waits for a reader, who never comes
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(pipe))
    assert call(2) is True and "it takes more than 1 s" in capsys.readouterr().out
    hung = progress._writer
    monkeypatch.setattr(progress, "PATIENCE", 3600)
    assert call(2) is True and progress._writer is hung and hung.is_alive()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    hung.join(60)
    os.close(reader)
    assert not hung.is_alive()


def test_a_teacher_sees_the_best_of_each(folder: Path) -> None:
    for done, hours in ((1, 5), (4, 4), (0, 3)):
        write(folder, "Ada", "20_run_on_cpu", "1", done, hours)
    write(folder, "Ada", "20_run_on_cpu", "3", 0, 49)
    write(folder, "김민수", "22_measure_what_you_run", "2", 3, 0)
    write(folder, "\x1b[31mX", "own", "a word", 4, -5)
    with (folder / "Ada.jsonl").open("a", encoding="utf-8") as file:
        file.write('[]\n{"time": "2026-01-01"}\nnull\n{"time": "cut o')
    (folder / "hole.jsonl").mkdir()
    standing = class_standing(folder)
    lines = str(standing).splitlines()
    assert lines[0] == "learner  last seen  20   22   own"
    assert lines[1] == " [31mX         now  ···  ···  ✓"
    assert lines[2] == "Ada        3 h ago  ✓·~  ···  ·"
    assert lines[3] == "김민수         now  ···  ·~·  ·"
    assert lines[4].startswith("Learners: 3. ✓ reached") and len(lines) == 7
    assert lines[5:] == [
        "skipped 4 lines of Ada.jsonl", "skipped hole.jsonl: no file, or more than 16 MiB"
    ]  # fmt: skip
    frame = reached(folder)
    ada = frame[frame.learner == "Ada"]
    assert list(ada.exercise) == ["1", "3"] and list(ada.done) == [True, False]
    assert list(ada.reached) == [4, 0] and len(frame) == 4


def test_an_empty_class(tmp_path: Path) -> None:
    assert "Learners: 0" in str(class_standing(tmp_path))
    assert list(reached(tmp_path).columns)[-2:] == ["time", "done"] and reached(tmp_path).empty


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_watching_shows_what_is_new(folder: Path) -> None:
    write(folder, "Ada", "20_run_on_cpu", "1", 1, 0)
    shown = folder.parent / "shown"
    command = [sys.executable, "-S", "-m", "helpers", "progress", str(folder), "--watch"]
    with shown.open("w") as output:  # -S: without an environment
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert wait_for(lambda: "~··" in shown.read_text("utf-8"))
        write(folder, "Ada", "20_run_on_cpu", "1", 4, 0)
        assert wait_for(lambda: "✓··" in shown.read_text("utf-8"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    text = shown.read_text("utf-8")
    assert text.count("Learners: 1") == 2 and "Traceback" not in text


def test_the_widget_shows_the_same(folder: Path) -> None:
    write(folder, "<b>Ada</b>", "20_run_on_cpu", "1", 1, 0)
    shown = ClassProgress(folder, every_s=0.5)
    assert shown.standing is not None and "~··" in shown.table.value
    assert shown.table.value == shown.standing._repr_html_() and "<b>Ada" not in shown.table.value
    assert "~··" in shown._repr_mimebundle_()["text/plain"]
    write(folder, "<b>Ada</b>", "20_run_on_cpu", "1", 4, 0)
    shown.refresh_button.click()
    assert "✓··" in shown.table.value
    shown.auto.value = True
    write(folder, "Grace", "20_run_on_cpu", "2", 4, 0)
    assert wait_for(lambda: "Grace" in shown.table.value)
    shown.close()
    assert shown.auto.value is False


def test_the_widget_says_what_is_wrong(tmp_path: Path) -> None:
    shown = ClassProgress(tmp_path / "<i>none")
    assert shown.standing is None and "no such folder of learners" in shown.table.value
    assert "<i>none" not in shown.table.value and "nothing to show" in str(shown)
    with pytest.raises(ValueError, match="every_s=0 is out of range"):
        ClassProgress(tmp_path, every_s=0)
    shown.close()
