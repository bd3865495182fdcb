"""Sweeps with the embedded model: real trials, real kills, and nothing lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import HelpersError, ModelFileError, SweepResult, default_model, sweep
from helpers.bench import Settings, Sweep, SweepRow
from helpers.bench import trial as trial_module
from helpers.native import Device, usable_cores
from tests.support import ROOT, model_children, wait_for

TINY: dict[str, Any] = {"prompt_tokens": 8, "new_tokens": 3, "repeats": 1, "n_ctx": 256}
LONG: dict[str, Any] = {**TINY, "new_tokens": 250, "repeats": 1000}


def once(step: str, action: Callable[[], None]) -> Callable[[str, float], None]:
    """An `on_step` that acts once, as soon as a trial says that it does `step`."""
    left = [action]

    def on_step(what: str, share: float) -> None:
        assert 0 <= share <= 1
        if what.startswith(step) and left:
            left.pop()()

    return on_step


# --- what a trial measures -----------------------------------------------------------------------


def test_rows_come_one_by_one_and_say_what_was_measured() -> None:
    seen: list[SweepRow] = []
    steps: list[tuple[str, float]] = []
    result = sweep(
        n_batch=(16, 64),
        type_kv=("f16", "Q8_0"),
        **{**TINY, "repeats": 2},
        on_row=seen.append,
        on_step=lambda what, share: steps.append((what, share)),
    )
    assert seen == result.rows
    assert [(row.n_batch, row.type_kv) for row in seen] == [
        (16, "f16"), (64, "f16"), (16, "q8_0"), (64, "q8_0"),
    ]  # fmt: skip
    for row in seen:
        assert row.ok
        assert row.repeats == len(row.prompt_runs) == len(row.eval_runs) == 2
        assert row.prompt_spread is not None and row.eval_spread is not None
        assert row.prompt_spread[0] <= (row.prompt_per_second or 0) <= row.prompt_spread[1]
        assert (row.n_gpu_layers, row.n_threads) == (0, usable_cores())
        assert row.memory["CPU"]["weights"] == pytest.approx(92.1, abs=0.1)
        assert row.load_ms is not None and 0 < row.load_ms / 1000 < row.seconds
    assert seen[0].memory["CPU"]["kv"] > seen[2].memory["CPU"]["kv"]  # q8_0 is smaller
    assert not result.stopped and result.trials == result.planned == 4
    assert [what for what, _ in steps[:5]] == [
        "loading the model", "warming up", "measuring 1 of 2", "measuring 2 of 2", "done",
    ]  # fmt: skip
    assert not model_children()


def test_prompts_are_unknown_to_every_cache_and_tokens_are_counted_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = trial_module._generate
    timings: list[Any] = []

    def noted(core: Any, request: Any) -> Any:
        done = generate(core, request)
        timings.append(done.timings)
        return done

    monkeypatch.setattr(trial_module, "_generate", noted)
    row = sweep(**{**TINY, "prompt_tokens": 40, "new_tokens": 9, "repeats": 3}).rows[0]
    assert row.ok
    prompts = [t for t in timings if t.prompt_tokens == 40]
    assert len(prompts) == 4  # the warm-up, and three repeats
    assert not any(t.cached_tokens for t in timings)
    assert row.prompt_runs == tuple(t.prompt_per_second for t in prompts[1:])
    assert sum(t.eval_tokens for t in timings if t.prompt_tokens == 2) == 4 + 3 * 9


def test_one_of_the_two_speeds_alone() -> None:
    only_eval = sweep(**{**TINY, "prompt_tokens": 0})
    assert only_eval.rows[0].prompt_per_second is None
    assert only_eval.rows[0].eval_per_second
    with pytest.raises(HelpersError, match=r"Sweep with prompt_tokens above 0"):
        only_eval.best("prompt")
    only_prompt = sweep(**{**TINY, "new_tokens": 0}).rows[0]
    assert only_prompt.ok and not only_prompt.eval_runs


def test_the_line_of_code_makes_the_model_that_was_measured() -> None:
    import helpers

    result = sweep(n_batch=[32], n_threads=[1], type_kv=["q8_0"], **TINY)
    names = {"LlamaCpp": helpers.LlamaCpp, "default_model": helpers.default_model}
    assert str(default_model()) not in result.code()
    exec(result.code(), names)
    with names["llm"] as llm:
        assert llm.load_report.n_batch == 32
        assert llm.load_report.n_ctx == 256
        assert llm.load_report.by_device["CPU"]["kv"] == result.rows[0].memory["CPU"]["kv"]


# --- what goes wrong in a trial ------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (6, "SIGABRT")])
@pytest.mark.parametrize("step", ["loading", "measuring"])
def test_a_killed_trial_is_a_row_and_the_rest_goes_on(number: int, name: str, step: str) -> None:
    def kill() -> None:
        assert wait_for(model_children)
        os.kill(model_children()[0].pid, number)

    sizes = {**TINY, "new_tokens": 250}  # long enough to be hit in the middle
    result = sweep(n_batch=(16, 64), **sizes, on_step=once(step, kill))
    first, second = result.rows
    assert f"the process ended ({name})" in first.reason
    assert first.eval_per_second is None
    assert second.ok
    assert result.best() == second
    assert name in str(result)
    assert not model_children()


def test_a_trial_that_takes_too_long_is_a_row() -> None:
    result = sweep(**LONG, timeout_s=12)
    (row,) = result.rows
    assert row.reason.startswith("timed out after 12 s, while ")
    assert row.memory  # it had loaded, long before
    assert not model_children()
    with pytest.raises(HelpersError, match=r"None of the 1 trials has a result.*timed out"):
        result.best()


def test_a_model_that_does_not_fit_is_a_row_without_its_path() -> None:
    vast = sweep(n_ctx=2**23, **{k: v for k, v in TINY.items() if k != "n_ctx"})
    assert "MiB" in vast.rows[0].reason and "n_ctx" in vast.rows[0].reason
    gone = Device("CUDA7", "a card that is not here", "gpu", "CUDA", 8192, 8192)
    absent = sweep(n_gpu_layers=[0, 5], devices=[gone], **TINY)
    assert absent.rows[0].ok
    assert "CUDA7" in absent.rows[1].reason
    for result in (vast, absent):
        assert str(Path(default_model()).parent) not in str(result)


# --- ending early --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["loading", "measuring"])
@pytest.mark.parametrize("form", ["event", "function"])
def test_cancelling_ends_the_child_and_keeps_the_rows(step: str, form: str) -> None:
    event = threading.Event()
    running = Sweep(
        n_batch=(16, 64),
        **TINY,
        cancel=event if form == "event" else event.is_set,
    )
    rows = iter(running)
    next(rows)
    running.on_step = once(step, event.set)
    assert list(rows) == []
    assert not model_children()
    assert running.result.stopped == "cancelled"
    assert len(running.result.rows) == 1
    assert "cancelled after 1 of 2 settings" in str(running.result)
    event.clear()
    assert len(list(running)) == 1  # and it can go on
    assert not running.result.stopped


def test_cancelling_before_the_first_trial() -> None:
    result = sweep(**TINY, cancel=lambda: True)
    assert result.rows == [] and result.stopped == "cancelled"
    with pytest.raises(HelpersError, match="no trial has been made"):
        result.best()


def test_leaving_the_loop_leaves_no_child() -> None:
    running = Sweep(n_batch=(16, 64), **TINY)
    for _ in running:
        break
    assert len(running.result.rows) == 1
    assert not model_children()


SCRIPT = """
    import sys
    from helpers import sweep
    print("ready", flush=True)
    result = sweep(n_batch=(16, 64), prompt_tokens=8, new_tokens=250, repeats={repeats}, n_ctx=256,
                   on_row=lambda row: print("row", row.ok, flush=True),
                   on_step=lambda what, share: print("step", what, flush=True))
    print("kept", len(result.rows), result.stopped, flush=True)
"""


def start(repeats: str) -> subprocess.Popen[str]:
    script = textwrap.dedent(SCRIPT.format(repeats=repeats))
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_there() -> None:
    child = start("2")
    assert child.stdout is not None
    lines: list[str] = []
    for text in child.stdout:
        lines.append(text.strip())
        if "row True" in lines and lines[-1].startswith("step measuring"):
            mine = psutil.Process(child.pid).children(recursive=True)
            assert mine
            child.send_signal(signal.SIGINT)
            break
    rest = child.stdout.read()
    assert child.wait(timeout=60) == 0
    assert "kept 1 interrupted" in rest
    assert psutil.wait_procs(mine, timeout=60)[1] == []
    child.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_interpreter_leaves_no_orphan() -> None:
    child = start("1000")
    assert child.stdout is not None
    for text in child.stdout:
        if text.startswith("step measuring"):
            break
    mine = psutil.Process(child.pid).children(recursive=True)
    assert mine
    child.kill()
    child.wait()
    child.stdout.close()
    assert psutil.wait_procs(mine, timeout=60)[1] == []


def test_two_sweeps_at_once_take_turns() -> None:
    steps: list[int] = []

    def run(batch: int) -> None:
        row = sweep(n_batch=[batch], **TINY, on_step=lambda *_: steps.append(batch)).rows[0]
        assert row.ok

    threads = [threading.Thread(target=run, args=(batch,)) for batch in (16, 64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(steps) == 8  # four of each, and not mixed
    assert len(set(steps[:4])) == len(set(steps[4:])) == 1


# --- files ---------------------------------------------------------------------------------------


def test_a_file_gets_every_row_and_is_taken_up_again(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    counts: list[int] = []

    def count(row: SweepRow) -> None:
        counts.append(len(json.loads(file.read_text(encoding="utf-8"))["rows"]))

    first = sweep(n_batch=(16, 64), **TINY, resume=file, on_row=count)
    assert counts == [1, 2]
    new: list[SweepRow] = []
    second = sweep(n_batch=(16, 32, 64), **TINY, resume=file, on_row=new.append)
    assert [row.n_batch for row in new] == [32]
    assert {row.n_batch for row in second.rows} == {16, 32, 64}
    before = {row.settings: row.eval_per_second for row in first.rows}
    for row in second.rows:
        if row.n_batch != 32:
            assert row.eval_per_second == pytest.approx(before[row.settings], abs=0.01)
    text = file.read_text(encoding="utf-8")
    for secret in (str(Path.home()), str(ROOT), str(default_model().parent)):
        assert secret not in text
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]  # no temporary file is left
    loaded = SweepResult.load(file)
    assert loaded.rows == SweepResult.load(file).rows and len(loaded.rows) == 3
    assert loaded.code("eval").startswith("llm = LlamaCpp(model_path=default_model(), ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setup": {"repeats": 7}}, "another setup: there repeats is 7, here 1"),
        ({"setup": {"n_ctx": 512}}, "another setup: there n_ctx is 512, here 256"),
        ({"model": {"fingerprint": "other"}}, "another model: there fingerprint is 'other'"),
        ({"machine": {"processor": "an abacus"}}, "another machine: there processor is 'an abacus"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, dict[str, Any]], words: str
) -> None:
    file = tmp_path / "sweep.json"
    Sweep(**TINY).result.save(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    for part, values in change.items():
        content[part].update(values)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(HelpersError, match="Speeds of both cannot be mixed") as caught:
        sweep(**TINY, resume=file)
    assert words in str(caught.value)
    assert json.loads(file.read_text(encoding="utf-8")) == content  # left as it was


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged, or no JSON"),
        ('{"format": "llama-notebooks sweep", "ver', "damaged, or no JSON"),
        ("[1, 2]", "but not a sweep"),
        ('{"rows": []}', "but not a sweep"),
        ('{"format": "llama-notebooks sweep", "version": 99}', "version 99; this one reads 1"),
        ('{"format": "llama-notebooks sweep", "version": 1}', "damaged sweep"),
    ],
)
def test_a_broken_file_is_refused_and_left_alone(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "sweep.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(HelpersError, match=words):
        sweep(**TINY, resume=file)
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("damage", ["drop", "kind", "list"])
def test_a_damaged_row_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "sweep.json"
    running = Sweep(**TINY)
    running.result.put(SweepRow(n_batch=16, eval_runs=(1.0,), prompt_runs=(2.0,)))
    running.result.save(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    if damage == "drop":
        del content["rows"][0]["reason"]
    elif damage == "kind":
        content["rows"][0]["n_batch"] = "16"
    else:
        content["rows"] = {}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(HelpersError, match="damaged sweep"):
        SweepResult.load(file)


def test_a_place_that_cannot_be_written_shows_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(HelpersError, match="cannot be written"):
        sweep(**TINY, resume=tmp_path / "no" / "folder" / "sweep.json")
    with pytest.raises(HelpersError, match="There is no sweep"):
        SweepResult.load(tmp_path / "none.json")


# --- what is refused before any trial ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"n_gpu_layers": []}, ValueError, "n_gpu_layers is empty"),
        ({"n_batch": ()}, ValueError, "n_batch is empty"),
        ({"n_threads": []}, ValueError, "n_threads is empty"),
        ({"type_kv": []}, ValueError, "type_kv is empty"),
        ({"n_gpu_layers": 5}, TypeError, r"n_gpu_layers=5 must be a list of values, such as \[5\]"),
        ({"type_kv": "f16"}, TypeError, r"such as \['f16'\]"),
        ({"n_gpu_layers": [-2]}, ValueError, "-2 is out of range: -1 to .*; -1 is all layers"),
        ({"n_gpu_layers": [1.5]}, TypeError, "n_gpu_layers=1.5 must be a whole number"),
        ({"n_gpu_layers": [True]}, TypeError, "must be a whole number"),
        ({"n_batch": [0]}, ValueError, "n_batch=0 is out of range"),
        ({"n_threads": [0]}, ValueError, "n_threads=0 is out of range"),
        ({"type_kv": ["f17"]}, ValueError, "'f17' is not a KV cache type. Use one of f32, f16"),
        ({"type_kv": [8]}, TypeError, "must be a name, such as 'f16'"),
        ({"repeats": 0}, ValueError, "repeats=0 is out of range: 1 to 1000"),
        ({"repeats": None}, TypeError, "repeats=None must be a whole number"),
        ({"prompt_tokens": 256}, ValueError, r"need a context of 257 .* n_ctx=256\. Measure fewer"),
        ({"new_tokens": 300}, ValueError, "set n_ctx=303"),
        ({"prompt_tokens": 1}, ValueError, "too short to time"),
        ({"prompt_tokens": -1}, ValueError, "out of range: 0 to"),
        ({"prompt_tokens": 0, "new_tokens": 0}, ValueError, "nothing to measure"),
        ({"timeout_s": 0}, ValueError, "timeout_s=0 is out of range"),
        ({"timeout_s": "long"}, TypeError, "timeout_s='long' must be a number"),
        ({"goal": "speed"}, ValueError, "'speed' is not a goal. Use one of 'eval', 'prompt'"),
        ({"goal": 1.5}, ValueError, "weight of generation speed, 0 to 1"),
        ({"devices": []}, ValueError, "devices is empty"),
        ({"devices": ["CUDA0"]}, TypeError, "must be a list of Device"),
        ({"n_ctx": -5}, ValueError, "n_ctx=-5 is out of range"),
        ({"model": "no-such-model"}, ModelFileError, "no-such-model"),
    ],
)
def test_bad_input_is_refused_before_any_trial(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    def never(what: str, share: float) -> None:
        raise AssertionError("a trial has started")

    with pytest.raises(error, match=words):
        sweep(**{**TINY, **settings}, on_step=never)


def test_what_is_beyond_the_model_is_clamped_and_said() -> None:
    gpu = Device("CUDA7", "a card", "gpu", "CUDA", 8192, 8192)
    running = Sweep(n_gpu_layers=[0, 10, 40, 31, -1], n_batch=[64, 9999], devices=[gpu], **TINY)
    assert running.grid.n_gpu_layers == (0, 10, 31)
    assert running.grid.n_batch == (64, 256)
    assert running.result.planned == 6
    layers, batch = running.result.notes
    assert layers.startswith("n_gpu_layers=40: the model has 31 layers to offload")
    assert batch == "n_batch=9999: more than the context; 256 is used"
    assert all(note in str(running.result) for note in (layers, batch))


def test_without_a_device_layers_stay_where_they_are_and_that_is_said() -> None:
    from helpers import devices

    if any(device.offloads for device in devices()):
        pytest.skip("there is a GPU here")
    running = Sweep(n_gpu_layers=[0, 15, -1], **TINY)
    assert [point.n_gpu_layers for point in running.missing] == [0]
    assert "there is no GPU here" in running.result.notes[0]


def test_default_layers_are_the_quarters_and_the_last_two() -> None:
    gpu = Device("CUDA7", "a card", "gpu", "CUDA", 8192, 8192)
    assert Sweep(devices=[gpu], **TINY).grid.n_gpu_layers == (0, 8, 16, 23, 30, 31)


def test_equal_values_are_measured_once() -> None:
    running = Sweep(n_threads=[None, usable_cores()], n_batch=[64, 64], **TINY)
    assert running.missing == [Settings(n_batch=64, n_threads=usable_cores())]
