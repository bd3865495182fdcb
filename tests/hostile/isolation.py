"""A child process that dies, is cut off, or is asked for too much."""

from __future__ import annotations

import enum
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from helpers import Grammar, LlamaCpp, default_model
from helpers.engine import Request
from tests.hostile.base import (
    FRANCE,
    MODEL,
    NO_END,
    STORY,
    Gives,
    OnToken,
    Raises,
    Says,
    Uses,
    Word,
    error,
    in_threads,
    make,
    works,
)
from tests.support import child_of, gone

use = Uses("isolation")


def _child_of(llm: LlamaCpp) -> int:
    """Process id of an isolated model's process."""
    return child_of(llm._engine)


def _dies(llm: LlamaCpp, text: str, on_token: Callable[[str], object]) -> str:
    """What is said when the child ends during a call, and whether the next call works."""
    first = error(lambda: llm.invoke(text, config={"callbacks": [OnToken(on_token)]}))
    return first.split(":")[0] + " " + " ".join(first.split()) + f" {works(llm)}"


def _endless() -> LlamaCpp:
    return make(isolate=True, n_ctx=4096, max_tokens=None, logit_bias=NO_END)


class _Answer(enum.StrEnum):
    YES = "yes"


@use("an Enum of the notebook in the schema of an isolated model", Gives(('"yes"', True)))
def an_enum_of_the_notebook_in_the_schema() -> object:
    # As in a notebook: in a module that is another one in the child.
    _Answer.__module__, sys.modules["__main__"]._Answer = "__main__", _Answer
    llm = make(isolate=True)
    schema = {"enum": [_Answer.YES], "title": _Answer.YES}
    return llm.invoke("Yes or no?", grammar=Grammar.from_json_schema(schema)), works(llm)


def _signalled(name: str) -> None:
    expected = Says("EngineCrashed", "The kernel is unharmed", "True")

    @use(f"{name} of the child while it generates", expected, posix=True)
    def dies() -> object:
        llm = _endless()
        number = getattr(signal, name)
        return _dies(llm, STORY, lambda _: os.kill(_child_of(llm), number))


for _name in ("SIGABRT", "SIGSEGV", "SIGKILL"):
    _signalled(_name)


@use(
    "SIGKILL of the child while it reads the prompt",
    Says("EngineCrashed", "The kernel is unharmed", "True"),
    posix=True,
)
def sigkill_of_the_child_while_it_reads_the_prompt() -> object:
    llm = _endless()
    threading.Timer(0.5, lambda: os.kill(_child_of(llm), signal.SIGKILL)).start()
    return _dies(llm, "word and " * 1800, print)


@use("SIGABRT of the idle child", Gives("True True"), posix=True)
def sigabrt_of_the_idle_child() -> object:
    llm = make(isolate=True)
    pid = _child_of(llm)
    os.kill(pid, signal.SIGABRT)
    answers = [error(lambda: works(llm)) for _ in range(2)]
    return f"{gone(pid)} {answers[1]}"


@use("the child aborts while it loads", Says("EngineCrashed", "SIGABRT", "True"), posix=True)
def the_child_aborts_while_it_loads() -> object:
    # Python runs sitecustomize at the start of each process with this path.
    Path("sitecustomize.py").write_text(
        "import os, sys, threading\n"
        "if 'helpers.isolation.child' in sys.orig_argv:\n"
        "    threading.Timer(0.2, os.abort).start()\n"
    )
    os.environ["PYTHONPATH"] = str(Path.cwd())
    first = error(lambda: make(isolate=True))
    del os.environ["PYTHONPATH"]
    return f"{first} {works(make(isolate=True))}"


@use("the child's input is closed", Gives(True), posix=True)
def the_child_s_input_is_closed() -> object:
    llm = make(isolate=True)
    os.close(llm._engine._core._process.stdin.fileno())
    answers = [error(lambda: works(llm)) for _ in range(3)]
    return answers[-1]


@use("text printed between the messages", Gives([True] * 3), posix=True)
def text_printed_between_the_messages() -> object:
    Path("sitecustomize.py").write_text(
        "import os, threading\n"
        "os.write(1, b'a banner of some package\\n' * 9)\n"
        "def more():\n"
        "    os.write(1, b'noise ' * 99); threading.Timer(0.05, more).start()\n"
        "threading.Timer(3, more).start()\n"
    )
    os.environ["PYTHONPATH"] = str(Path.cwd())
    return [works(make(isolate=True)) for _ in range(3)]


def killed_while_it_generates() -> None:
    llm = LlamaCpp(model_path=default_model(), isolate=True, max_tokens=None)
    stream = llm.stream("Once upon a time")
    next(stream)
    print(_child_of(llm), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@use("the kernel is killed during a generation", Gives((-9, True)), posix=True)
def the_kernel_is_killed_during_a_generation() -> object:
    done = subprocess.run(
        [sys.executable, "-c", f"import {__name__} as it; it.killed_while_it_generates()"],
        capture_output=True,
        text=True,
    )
    return done.returncode, gone(int(done.stdout))


@use("memory limited by the system", Says("DeviceError", "200000", "n_ctx", "True"), posix=True)
def memory_limited_by_the_system() -> object:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
    warnings.simplefilter("ignore")  # the model was trained for less
    first = error(lambda: make(isolate=True, n_ctx=200_000))
    return f"{first} {works(make(isolate=True))}"


@use("a context beyond any memory", Raises("DeviceError", "MiB", "n_ctx="))
def a_context_beyond_any_memory() -> object:
    make(isolate=True, n_ctx=8_000_000)


@use("the file cut off under the child", Gives(("ModelFileError", True)), posix=True)
def the_file_cut_off_under_the_child() -> object:
    shutil.copy(MODEL, "m.gguf")
    llm = make(isolate=True, model_path="m.gguf")
    os.truncate("m.gguf", 10_000)
    first = error(lambda: works(llm))
    shutil.copy(MODEL, "m.gguf")
    return first.split(":")[0], works(llm)


@use("16 threads at once", Gives([True] * 16))
def sixteen_threads_at_once() -> object:
    llm = make(isolate=True)
    return in_threads(16, lambda i: works(llm))


@use("the child dies under 8 threads", Gives(({"EngineCrashed"}, [True] * 8, 0)), posix=True)
def the_child_dies_under_8_threads() -> object:
    llm = make(isolate=True, max_tokens=200)
    pid = _child_of(llm)
    threading.Timer(0.5, lambda: os.kill(pid, signal.SIGKILL)).start()
    answers = in_threads(8, lambda i: llm.invoke(f"{i}: " + STORY))
    again = in_threads(8, lambda i: works(llm))
    llm.close()
    return {a.split(":")[0] for a in answers}, again, llm._engine._shared.users


@use("texts of the notebook's own classes", Gives((True, "", "", "", True, True)))
def texts_of_the_notebook_s_own_classes() -> object:
    class Odd(str):
        def __reduce__(self):
            raise TypeError("not me")

    llm = make(isolate=True)
    pid = _child_of(llm)
    with llm:
        answers = [
            error(lambda: "Paris" in llm.invoke(Odd(FRANCE), max_tokens=3)),
            error(lambda: llm.invoke(FRANCE, stop=[Word.PARIS]).strip()),
            error(lambda: llm.model_copy(update={"stop": Word.PARIS}).invoke(FRANCE).strip()),
            error(lambda: make(isolate=True, stop=[Odd("Paris")]).invoke(FRANCE).strip()),
        ]
        request = Request(prompt=Odd("x"), suffix=Word.PARIS, max_tokens=1)
        answers.append(llm._engine.generate(request).text.endswith("Paris"))
        return *answers, _child_of(llm) == pid and works(llm)


@use("a class that the child does not know", Gives(("TypeError", True, "Paris")))
def a_class_that_the_child_does_not_know() -> object:
    class Own(Grammar):
        pass

    llm = make(isolate=True, max_tokens=200, logit_bias=NO_END)
    calls = []

    def refuse(_: str) -> None:  # while another call is under way, which must not notice
        own = Own(Grammar.from_string('root ::= "a"')._source)
        calls.append(error(lambda: llm.invoke(FRANCE, grammar=own)))

    first = llm.invoke(STORY, max_tokens=9, config={"callbacks": [OnToken(refuse)]})
    answer = llm.invoke(FRANCE, max_tokens=1).strip()
    return calls[0].split(":")[0], len(first) > 10, answer


@use(
    "a bad call to the child",
    Gives(["ValueError", "ContextOverflowError", "GrammarError", "ValueError", "ValueError", True]),
)
def a_bad_call_to_the_child() -> object:
    llm = make(isolate=True)
    return [
        error(call).split(":")[0]
        for call in (
            lambda: llm.invoke("a\ud800b"),
            lambda: llm.invoke("a " * 9999),
            lambda: llm.invoke("x", grammar="root ::= ("),
            lambda: llm.invoke("x", logit_bias={10**7: 1}),
            lambda: llm.get_num_tokens("\ud800"),
        )
    ] + [works(llm)]


@use("closed while another thread generates", Says("HelpersError", "closed", "True"))
def closed_while_another_thread_generates() -> object:
    llm = make(isolate=True, max_tokens=None, n_ctx=4096, logit_bias=NO_END)
    pid = _child_of(llm)

    def act(i):
        if i:
            return llm.invoke(STORY)
        time.sleep(0.5)
        llm.close()
        return None

    answers = in_threads(2, act)
    return answers[1], gone(pid)


@use("interrupted while it generates", Gives(("KeyboardInterrupt: ", True, True)), posix=True)
def interrupted_while_it_generates() -> object:
    llm = make(isolate=True, n_ctx=8192, max_tokens=None)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    pid = _child_of(llm)
    result = error(lambda: llm.invoke(STORY, logit_bias=NO_END)), works(llm)
    result += (_child_of(llm) == pid,)
    return result
