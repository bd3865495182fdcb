"""The one thread of this process in which llama.cpp computes.

llama.cpp's compute threads belong to the thread that calls it. With a thread for each model there
would be more of them than cores, and OpenMP then puts each to sleep after every step of a graph:
two loaded models, one of them idle, were measured at 60 instead of 140 tokens/s.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

from helpers.native import keep_quiet


class Worker(Protocol):
    """What the engine thread runs in turns."""

    @property
    def ready(self) -> bool:
        """Whether a turn would do anything."""

    def turn(self) -> None:
        """Do one piece of work, at most a decode."""


class EngineThread:
    """Gives each worker that has work a turn, again and again.

    Attributes:
        wake: Guards what `ready` looks at; notify it after a change.
    """

    def __init__(self) -> None:
        self.wake = threading.Condition(threading.RLock())
        self._workers: list[Worker] = []
        self._thread: threading.Thread | None = None

    def add(self, worker: Worker) -> None:
        """Give a worker its turns from now on."""
        with self.wake:
            self._workers.append(worker)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llama-engine", daemon=True)
                self._thread.start()

    def remove(self, worker: Worker) -> None:
        """Give a worker no more turns."""
        with self.wake:
            self._workers.remove(worker)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        keep_quiet()
        while True:
            with self.wake:
                ready = [worker for worker in self._workers if worker.ready]
                if not ready:
                    self.wake.wait()
            for worker in ready:
                worker.turn()


_thread = EngineThread()
_pid = os.getpid()


def engine_thread() -> EngineThread:
    """The engine thread of this process; a forked child gets one of its own."""
    global _thread, _pid
    if os.getpid() != _pid:
        _thread, _pid = EngineThread(), os.getpid()
    return _thread
