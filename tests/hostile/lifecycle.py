"""Models closed, forgotten, copied, forked; interpreters that end; interrupts."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings

import psutil

from helpers.engine import Engine, LoadOptions, Request
from helpers.engine.thread import engine_thread
from helpers.native.context import Context
from tests.hostile import fuzz_calls
from tests.hostile.base import (
    FRANCE,
    MODEL,
    NO_END,
    STORY,
    Exits,
    Gives,
    OnToken,
    Raises,
    Says,
    Uses,
    error,
    in_threads,
    loaded,
    make,
    works,
)

use = Uses("lifecycle")


@use("use after close", Raises("HelpersError", "has been closed"))
def use_after_close() -> object:
    llm = make()
    llm.close()
    llm.invoke("x")


@use("counting tokens after close", Raises("HelpersError", "has been closed"))
def counting_tokens_after_close() -> object:
    llm = make()
    llm.close()
    llm.get_num_tokens("x")


@use("closed twice, and by two threads", Gives([None, None]))
def closed_twice_and_by_two_threads() -> object:
    llm = make()
    result = in_threads(2, lambda i: llm.close())
    llm.close()
    return result


@use("closed by its own callback", Raises("HelpersError", "closed during this call"))
def closed_by_its_own_callback() -> object:
    llm = make(max_tokens=100)
    llm.invoke(STORY, config={"callbacks": [OnToken(lambda t: llm.close())]})


@use("a shared model closed by one of two", Gives(True))
def a_shared_model_closed_by_one_of_two() -> object:
    one, two = make(), make(seed=7)
    one.close()
    return works(two)


@use("forgotten during a stream", Gives(True))
def forgotten_during_a_stream() -> object:
    stream = make(max_tokens=6).stream(STORY)
    next(stream)
    gc.collect()
    return bool("".join(stream))


@use("an engine forgotten during a stream", Gives(True))
def an_engine_forgotten_during_a_stream() -> object:
    options = LoadOptions(model_path=MODEL, n_ctx=256)
    stream = Engine(options).stream(Request(prompt=FRANCE, max_tokens=4, temperature=0))
    gc.collect()
    return "Paris" in "".join(piece.text for piece in list(stream)[:-1])


@use("deleted with a stream half read", Gives(0))
def deleted_with_a_stream_half_read() -> object:
    llm = make(max_tokens=None)
    stream = llm.stream(STORY)
    next(stream)
    del llm, stream
    gc.collect()
    return loaded()


@use("copied and pickled", Gives(([True] * 3, [["\n"]] * 3, 1)))
def copied_and_pickled() -> object:
    llm = make(stop=["\n"])
    copies = [copy.copy(llm), copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))]
    return [works(made) for made in copies], [made.stop for made in copies], loaded()


@use("copies closed before what they were copied from", Gives([True] * 4))
def copies_closed_before_what_they_were_copied_from() -> object:
    llm, answers = make(), []
    for made in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(), llm.model_copy(update={})):
        made.close()
        answers.append(works(llm))
    return answers


@use("used in a forked process", Says("before the process was forked", "True]True"), posix=True)
def used_in_a_forked_process() -> object:
    llm = make()
    works(llm)
    warnings.simplefilter("ignore")  # Python warns of forks beside threads
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        answers = [error(lambda: llm.invoke("x")), error(lambda: works(make(n_ctx=256)))]
        os.write(writer, repr(answers).encode())
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 9999).decode() + str(works(llm))


@use(
    "used in a forked worker of multiprocessing",
    Says("before the process was forked", "0 True"),
    posix=True,
)
def used_in_a_forked_worker_of_multiprocessing() -> object:
    llm = make()
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    worker = context.Process(target=lambda: answers.put(error(lambda: llm.invoke("x"))))
    worker.start()
    result = answers.get()
    worker.join()
    result += f" {worker.exitcode} {works(llm)}"
    return result


@use("the interpreter ends during a generation", Exits(0, "ends"))
def the_interpreter_ends_during_a_generation() -> object:
    llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)

    def story():
        return llm.invoke(STORY)

    threading.Thread(target=story, daemon=True).start()
    time.sleep(0.3)
    print("ends")
    sys.exit(0)


@use("the interpreter ends during a stream", Exits(0, "ends"))
def the_interpreter_ends_during_a_stream() -> object:
    stream = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END).stream(STORY)
    next(stream)
    print("ends")
    sys.exit(0)


def _again_and_again(action):
    """Let a thread do something for as long as the interpreter lives."""

    def work():
        for number in range(10_000):
            action(number)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.5)


@use("the interpreter ends while a thread loads", Exits(0, "ends"))
def the_interpreter_ends_while_a_thread_loads() -> object:
    _again_and_again(lambda number: make(n_ctx=512 + number).close())
    print("ends")
    sys.exit(0)


@use("the interpreter ends while a thread counts tokens", Exits(0, "ends"))
def the_interpreter_ends_while_a_thread_counts_tokens() -> object:
    llm, text = make(vocab_only=True), "word and " * 1_000_000
    _again_and_again(lambda _: llm.get_num_tokens(text))
    print("ends")
    sys.exit(0)


@use("each of four threads closes its own of equal models", Gives([True] * 16))
def each_of_four_threads_closes_its_own_of_equal_models() -> object:
    def act(i):
        answers = []
        for number in range(4):
            with make() as llm:
                answers.append("Paris" in llm.invoke(FRANCE, max_tokens=3 + i + number))
        return answers

    return [answer for answers in in_threads(4, act) for answer in answers]


@use("the collector runs where a lock is held", Gives(True))
def the_collector_runs_where_a_lock_is_held() -> object:
    gc.disable()
    dropped = Engine(LoadOptions(model_path=MODEL, n_ctx=256))
    dropped.itself = dropped
    del dropped
    # As in the engine's thread, which looks at what is ready: any object made there can make the
    # collector run.
    with engine_thread().wake:
        other = threading.Thread(target=lambda: make(n_ctx=300))
        other.start()
        time.sleep(1)  # it has loaded, and waits for this lock to begin
        gc.collect()
    other.join()
    return loaded() == 0


@use("forked while another thread loads", Says("[True, True]"), posix=True)
def forked_while_another_thread_loads() -> object:
    warnings.simplefilter("ignore")
    _again_and_again(lambda number: make(n_ctx=512 + number).close())
    answers = []
    for _ in range(2):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writer, repr(error(lambda: works(make(n_ctx=256)))).encode())
            os._exit(0)
        os.close(writer)
        answers.append(os.read(reader, 9999).decode())
        os.waitpid(pid, 0)
    return str(answers).replace("'", "")


@use("counting tokens in a forked process", Says("was forked", "True"), posix=True)
def counting_tokens_in_a_forked_process() -> object:
    llm = make()
    warnings.simplefilter("ignore")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, str(error(lambda: llm.get_num_tokens("x"))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 9999).decode() + str(works(llm))


@use("sys.exit in a callback", Exits(3, ""))
def sys_exit_in_a_callback() -> object:
    handler = OnToken(lambda t: sys.exit(3))
    make().invoke(STORY, config={"callbacks": [handler]})


@use("made again ten times", Gives(True))
def made_again_ten_times() -> object:
    sizes = []
    for i in range(11):
        llm = make(seed=i, verbose=False)
        assert works(llm)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes[-1] - sizes[1] < 20


@use("made again ten times with other options", Gives((True, 1)))
def made_again_ten_times_with_other_options() -> object:
    sizes = []
    for i in range(11):
        llm = make(n_ctx=512 + i)
        assert works(llm)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes[-1] - sizes[2] < 60, loaded()


def _interrupted(at: int, prompt: str) -> tuple[str, bool, int]:
    """What a call ends in that is interrupted at a decode; if the model works; all decodes."""
    llm = make(n_ctx=8192, max_tokens=None)
    compute, count = Context._run, 0

    def counted(context, tokens):
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)
        compute(context, tokens)

    Context._run = counted
    answer = error(lambda: llm.invoke(prompt, logit_bias=NO_END))
    Context._run = compute
    return answer, works(llm), count


@use(
    "interrupted while it reads the prompt", Gives(("KeyboardInterrupt: ", True, True)), posix=True
)
def interrupted_while_it_reads_the_prompt() -> object:
    answer, free, decodes = _interrupted(3, "word and " * 3900)
    return answer, free, decodes < 15  # of 512 tokens each: reading on would be 16


@use("interrupted while it generates", Gives(("KeyboardInterrupt: ", True, True)), posix=True)
def interrupted_while_it_generates() -> object:
    answer, free, decodes = _interrupted(20, STORY)
    return answer, free, decodes < 1000  # going on would be 8,000


@use("interrupted while it loads", Gives((20, True)), posix=True)
def interrupted_while_it_loads() -> object:
    def tried(i):
        alarm = threading.Timer(i * 0.01, os.kill, (os.getpid(), signal.SIGINT))
        try:
            alarm.start()
            make(n_ctx=300 + i)
            time.sleep(3)  # it had loaded before: then the interrupt ends this
        except KeyboardInterrupt:
            return True
        return False

    return sum(tried(i) for i in range(20)), works(make())


@use("random interrupts, cancellations, drops, closes and forks", Gives(None), posix=True)
def random_interrupts_cancellations_drops_closes_and_forks() -> object:
    return fuzz_calls.run(count=12, seed=20261126)
