"""The one owner of child processes: what it promises about deadlines, deaths, forks and orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.children import Child, crashed
from helpers.errors import EngineCrashed, ModelFileError

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of POSIX")
PROGRAM = """
    import os, signal, sys, time
    print("a banner of some package", flush=True)
    os.write(1, b"noise without an end of line" * 9)
    from helpers.children import Parent
    from helpers.errors import ModelFileError

    def answer(request):
        verb, *rest = request
        if verb == "pid":
            return os.getpid()
        if verb == "echo":
            print("printed in the middle", flush=True)
            os.write(1, b"and by native code")
            return rest[0]
        if verb == "count":
            for number in range(rest[0]):
                parent.progress(number, rest[0])
            return "counted"
        if verb == "sleep":
            time.sleep(rest[0])
        if verb == "signal":
            print("the last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), rest[0])
            time.sleep(60)
        if verb == "exit":
            os._exit(rest[0])
        if verb == "refuse":
            raise ModelFileError("not this file")
        if verb == "fail":
            raise KeyError("a mistake")

    parent = Parent()
    parent.serve(answer)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


@pytest.fixture
def child(program: Path) -> Iterator[Child]:
    with contextlib.closing(Child(program, role="was tested", remedy="Try again.")) as owned:
        yield owned


def has_ended(pid: int) -> bool:
    """Whether a process ends within some seconds (a zombie has ended)."""
    for _ in range(200):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False


# --- asking --------------------------------------------------------------------------------------


def test_what_is_printed_never_gets_between_answers(child: Child) -> None:
    assert [child.ask(["echo", value]) for value in (1, "ü\n", None)] == [1, "ü\n", None]


def test_one_process_answers_until_it_is_closed(child: Child) -> None:
    assert child.pid is None
    first = child.ask(["pid"])
    assert first == child.ask(["pid"]) == child.pid
    child.close()
    assert has_ended(first)
    assert child.ask(["pid"]) not in (first, None)


def test_questions_and_answers_larger_than_a_pipe(child: Child) -> None:
    text = "x" * 3_000_000
    assert child.ask(["echo", text]) == text


def test_progress_comes_before_the_answer(child: Child) -> None:
    seen: list[tuple[int, int]] = []
    assert child.ask(["count", 5], progress=lambda *pair: seen.append(pair)) == "counted"
    assert seen == [(number, 5) for number in range(5)]
    assert child.ask(["count", 5]) == "counted"


def test_an_error_of_the_package_is_an_answer(child: Child) -> None:
    first = child.ask(["pid"])
    with pytest.raises(ModelFileError, match=r"^not this file$"):
        child.ask(["refuse"])
    assert child.ask(["pid"]) == first


def test_threads_get_their_own_answers(child: Child) -> None:
    found: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: child.ask(["echo", n])}))  # type: ignore[misc]
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n for n in range(20)}


# --- deadlines and interrupts --------------------------------------------------------------------


def test_a_deadline_ends_the_child_and_the_next_request_has_another(child: Child) -> None:
    first = child.ask(["pid"])
    with pytest.raises(TimeoutError, match=r"that was tested did not answer within 0\.3 s"):
        child.ask(["sleep", 600], seconds=0.3)
    assert has_ended(first)
    assert child.ask(["echo", "again"], seconds=60) == "again"


def test_a_program_that_never_is_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "silent.py"
    path.write_text("import time; print('hello', flush=True); time.sleep(600)")
    monkeypatch.setattr("helpers.children._START_SECONDS", 1.0)
    child = Child(path, role="was tested")
    with pytest.raises(TimeoutError, match="did not start within 1 s"):
        child.ask("x")
    assert child.pid is not None and has_ended(child.pid)


def test_an_interrupted_question_leaves_no_answer_for_the_next(child: Child) -> None:
    def interrupt(done: int, _of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.ask(["count", 5], progress=interrupt)
    assert child.ask(["echo", "mine"]) == "mine"


def test_another_thread_can_end_it_while_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text("import time; time.sleep(600)")
    child = Child(path, role="was tested")

    def kill() -> None:
        while child.pid is None:
            time.sleep(0.01)
        child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EngineCrashed):
        child.start()
    killer.join()


# --- deaths --------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    ("name", "cause"),
    [("SIGKILL", "lack of memory"), ("SIGABRT", "assertion"), ("SIGSEGV", "native code crashed")],
)
def test_the_cause_of_a_death_is_named(child: Child, name: str, cause: str) -> None:
    number = getattr(signal, name)
    with pytest.raises(EngineCrashed, match=cause) as caught:
        child.ask(["signal", number])
    assert f"The process that was tested ended ({name})" in str(caught.value)
    assert "Try again.\nIts last words:" in str(caught.value)
    assert caught.value.exit_status == -number
    assert caught.value.native_log[-1] == "the last words"
    assert child.ask(["echo", "alive"]) == "alive"


def test_an_exit_status_is_named(child: Child) -> None:
    with pytest.raises(EngineCrashed, match=r"ended \(exit status 3\): its log may say why"):
        child.ask(["exit", 3])


def test_any_other_exception_is_the_last_words_of_its_process(child: Child) -> None:
    with pytest.raises(EngineCrashed, match="KeyError: 'a mistake'") as caught:
        child.ask(["fail"])
    assert caught.value.exit_status == 1


def test_a_program_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="can't open file"):
        Child(tmp_path / "absent.py", role="was tested").start()


@pytest.mark.parametrize(
    ("status", "log", "cause"),
    [
        (-6, ("CUDA error: out of memory",), "ran out of memory"),
        (-6, ("ggml-rpc.cpp: Remote RPC server crashed",), "RPC server was lost"),
        (1, ("ImportError: no module",), "ImportError"),
        (0xC0000005, (), "native code crashed. Check the model file"),
        (-250, (), "exit status -250"),
    ],
)
def test_the_likely_cause_is_read_from_the_log(
    status: int, log: tuple[str, ...], cause: str
) -> None:
    error = crashed(status, log, "held the model")
    assert cause in str(error)
    assert str(error).startswith("The process that held the model ended (")
    assert "The kernel is unharmed, and the next call starts a new process." in str(error)
    assert (error.native_log, error.exit_status) == (log, status)


def test_a_child_killed_between_two_requests_is_replaced(child: Child) -> None:
    first = child.ask(["pid"])
    psutil.Process(first).kill()
    assert child.ask(["pid"]) != first


def test_what_an_older_child_died_of_is_asked_once_more(program: Path, tmp_path: Path) -> None:
    # The second process finds the mark of the first, and lives.
    mark = tmp_path / "mark"
    once = program.with_name("once.py")
    once.write_text(
        "import os, pathlib\n"
        "from helpers.children import Parent\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "def answer(request):\n"
        "    if request == 'die' and not mark.exists():\n"
        "        mark.touch()\n"
        "        os._exit(1)\n"
        "    return request\n"
        "Parent().serve(answer)\n"
    )
    for lasting in (True, False):
        with contextlib.closing(Child(once, role="was tested", lasting=lasting)) as child:
            child.ask("warm up")
            if lasting:
                assert child.ask("die") == "die"
            else:
                with pytest.raises(EngineCrashed):
                    child.ask("die")
        mark.unlink()
    # A new one that dies at once has no such excuse.
    with contextlib.closing(Child(once, role="was tested")) as child, pytest.raises(EngineCrashed):
        child.ask("die")


# --- forks, orphans, Ctrl-C ----------------------------------------------------------------------

OWNER = """
import os, signal, sys, threading, time
from pathlib import Path
from helpers.children import Child
child = Child(Path(sys.argv[1]), role="was tested")
print(child.ask(["pid"]), flush=True)
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def owner_command(program: Path, script: str) -> list[str]:
    """An interpreter that owns a child and prints its process id."""
    # 3.12 warns of any fork beside threads, which is the point here.
    return [sys.executable, "-W", "ignore", "-c", OWNER + textwrap.dedent(script), str(program)]


def owner(program: Path, script: str) -> list[str]:
    """What such an interpreter prints; its child's process id comes first."""
    done = subprocess.run(
        owner_command(program, script),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    assert not done.stderr
    return done.stdout.split()


@POSIX
def test_a_fork_neither_uses_nor_ends_the_child_of_its_parent(program: Path) -> None:
    script = """
        # A request is under way while the process forks: its lock must not be waited for.
        busy = threading.Thread(target=child.ask, args=(["sleep", 2],))
        busy.start()
        time.sleep(0.5)
        pid = os.fork()
        if pid == 0:
            print(child.ask(["pid"]), child.ask(["echo", "own"]), flush=True)
            sys.exit(0)  # with everything that runs at an exit
        print(os.waitpid(pid, 0)[1])
        busy.join()
        print(child.ask(["pid"]))
    """
    first, other, own, status, same = owner(program, script)
    assert (own, status) == ("own", "0")
    assert other != first == same


@POSIX
def test_a_fork_that_lives_on_does_not_keep_the_child_of_its_dead_parent(program: Path) -> None:
    script = """
        pid = os.fork()
        if pid == 0:
            os.close(1), os.close(2)
            time.sleep(600)
        print(pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    owned, fork = map(int, owner(program, script))
    try:
        assert has_ended(owned)
        assert psutil.pid_exists(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


@POSIX
@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"], ids=["Python", "C"])
def test_no_fork_keeps_the_children_of_a_dead_parent(program: Path, fork: str) -> None:
    # A fork by a C library runs no hook of Python; one amid a start inherits unknown pipes.
    script = f"""
        import ctypes
        slow = Path(sys.argv[1]).with_name("slow.py")
        slow.write_text("import time; time.sleep(1)\\n" + Path(sys.argv[1]).read_text())
        more = [Child(slow, role="was tested") for _ in range(4)]
        starts = [threading.Thread(target=one.start, daemon=True) for one in more]
        for start in starts:
            start.start()
        while not all(one.pid for one in more):
            time.sleep(0.01)
        pid = {fork}
        if pid == 0:
            time.sleep(600)
        print(pid, *(one.pid for one in more), flush=True)
        for start in starts:
            start.join()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = owner_command(program, script)
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owned, (fork_pid, *others) = (
            int(process.stdout.readline()),
            map(int, process.stdout.readline().split()),
        )
        try:
            assert all(has_ended(pid) for pid in (owned, *others))
            assert psutil.pid_exists(fork_pid)
        finally:
            os.kill(fork_pid, signal.SIGKILL)


@POSIX
@pytest.mark.parametrize("work", ['["pid"]', '["sleep", 600]'])
def test_a_killed_interpreter_leaves_no_orphan(program: Path, work: str) -> None:
    script = f"""
        threading.Thread(target=child.ask, args=({work},), daemon=True).start()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert has_ended(int(owner(program, script)[0]))


def test_an_interpreter_that_ends_takes_its_child_along(program: Path) -> None:
    assert has_ended(int(owner(program, "")[0]))


def test_a_forgotten_child_is_ended(program: Path) -> None:
    child = Child(program, role="was tested")
    pid = child.ask(["pid"])
    del child
    assert has_ended(pid)


@POSIX
def test_ctrl_c_does_not_reach_the_child(program: Path) -> None:
    # As a terminal does it: to every process of the group.
    script = """
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        os.killpg(os.getpgid(0), signal.SIGINT)
        print(child.ask(["pid"]))
    """
    first, interrupted, second = owner(program, script)
    assert (first, interrupted) == (second, "interrupted")


def test_nothing_is_imported_from_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: Child
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not that one')")
    monkeypatch.chdir(tmp_path)
    assert child.ask(["echo", 1]) == 1


def test_nothing_else_in_the_package_starts_its_children() -> None:
    # The installer and the command line run before there is an environment, and start no children.
    # A server is a program that others start, too: a notebook's (`serve/background.py`) and those
    # that are compared (`bench/serving.py`, `llama-server` among them) speak HTTP, not our pipes.
    package = ROOT / "helpers"
    others = {path for path in package.rglob("*.py") if "install" not in path.parts}
    found = {path.name for path in others if "Popen(" in path.read_text("utf-8")}
    assert found == {"children.py", "cli.py", "background.py", "serving.py"}
