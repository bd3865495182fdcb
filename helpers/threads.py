"""What threads must not do themselves: finalisers' work, and native work that takes long.

The garbage collector runs a finaliser in the middle of whatever a thread is at, its locks held: one
that takes a lock can wait for a thread that waits for this one. So finalisers ask for `later`.

A signal's exception that Python raises inside a callback from native code is lost there. So native
work that takes long runs `aside`, and the thread that wants it waits where signals arrive.

When the interpreter ends, Python ends each thread that still runs by unwinding its stack, and a
stack with C++ or Rust in it aborts the process. So the end waits until no thread is `busy` in such
code, and lets none go on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from helpers.errors import HelpersError

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds that an interrupted caller waits for its work to end; it ends by itself after that."""

_END_PATIENCE = 30.0
"""Seconds that the end of the interpreter waits for what is busy."""

_tasks: deque[Callable[[], object]] = deque()
_wake: queue.SimpleQueue[None] = queue.SimpleQueue()
_at_work = threading.RLock()
_janitor: threading.Thread | None = None
_asides: dict[threading.Thread, Callable[[], object]] = {}
_busy: Counter[int] = Counter()
_ended = False


def later(task: Callable[[], object]) -> None:
    """Do something soon, on another thread. Takes no lock: finalisers may call it.

    Args:
        task: What to do; its exceptions are dropped, there is nobody to tell.
    """
    _tasks.append(task)
    if _ended:
        catch_up()
    else:
        _wake.put(None)  # may be called inside itself, by its documentation


def catch_up() -> None:
    """Do what was asked for `later` and wait for what is being done; start the thread for more.

    Call it before anything that needs what finalisers give back. Not from a finaliser.
    """
    global _janitor
    with _at_work:
        while _tasks:
            with contextlib.suppress(Exception):
                _tasks.popleft()()
        if not _ended and (_janitor is None or not _janitor.is_alive()):
            _janitor = threading.Thread(target=_clean, name="helpers-janitor", daemon=True)
            _janitor.start()


def _clean() -> None:
    while True:
        _wake.get()
        catch_up()


def aside(work: Callable[[], T], stop: Callable[[], object]) -> T:
    """Run native work on a thread of its own and wait for it in a way that signals can end.

    Args:
        work: What to do. It frees what it made when `stop` was called before it has returned.
        stop: Makes it end soon; called when the wait was interrupted, or the interpreter ends.

    Returns:
        What the work returned; what it raises is raised.
    """
    if _ended:
        raise HelpersError("The interpreter is ending: nothing more can be loaded.")
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        with busy():
            try:
                outcome.put((work(), None))
            except BaseException as error:
                outcome.put((None, error))
            finally:
                _asides.pop(thread, None)

    thread = threading.Thread(target=run, name="helpers-aside", daemon=True)
    _asides[thread] = stop
    try:
        thread.start()
        result, error = get(outcome)
    except BaseException:
        stop()
        if thread.is_alive():
            thread.join(_PATIENCE)
        else:
            _asides.pop(thread, None)  # interrupted before it began
        raise
    if error is not None:
        raise error
    done: T = result
    return done


def get(events: queue.SimpleQueue[Any]) -> Any:
    """Wait for an item of a queue in a way that Ctrl-C can end."""
    while True:
        try:
            # Windows delivers Ctrl-C only between two waits.
            event = events.get(timeout=0.2 if sys.platform == "win32" else None)
        except queue.Empty:
            continue
        _stay()
        return event


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Run native code, or code under a frame of it; the end of the interpreter waits for it."""
    _stay()
    thread = threading.get_ident()
    _busy[thread] += 1
    try:
        yield
    finally:
        if _busy[thread] == 1:
            del _busy[thread]
        else:
            _busy[thread] -= 1
        _stay()


def _stay() -> None:
    """Let a thread go no further when the interpreter ends, if only to print an exception."""
    if _ended and threading.current_thread() is not threading.main_thread():
        _busy.pop(threading.get_ident(), None)
        threading.Event().wait()


@atexit.register
def end() -> None:
    """Stop what runs aside, wait for what is busy, do what is left: the interpreter ends."""
    global _ended
    _ended = True
    for stop in list(_asides.values()):
        stop()
    deadline = time.monotonic() + _END_PATIENCE
    while _busy and time.monotonic() < deadline:
        time.sleep(0.002)
    catch_up()


def _forget() -> None:
    """After a fork there is none of these threads, and a lock may be held by one of them."""
    global _wake, _at_work, _janitor
    _wake, _at_work, _janitor = queue.SimpleQueue(), threading.RLock(), None
    _tasks.clear()
    _asides.clear()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
