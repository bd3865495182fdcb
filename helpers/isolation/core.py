"""The engine in a child process: whatever ends that process, the kernel lives on.

Nothing inside a process survives a GPU's out-of-memory abort, a failed assertion in llama.cpp or a
lost RPC server. So the model lives in a child (`python -m helpers.isolation.child`), its requests
and answers go through pipes, and when the child dies the callers get an `EngineCrashed` with its
last words. A child ends by itself as soon as its input pipe closes: a dead kernel leaves no orphan.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from helpers.children import Child
from helpers.engine.core import LocalCore
from helpers.engine.lane import sequences_at_load
from helpers.engine.options import Completion
from helpers.engine.report import LoadReport
from helpers.engine.sequence import Job
from helpers.errors import DeviceError, EngineCrashed, HelpersError, ModelFileError
from helpers.isolation.wire import frame, read_frame
from helpers.load_options import LoadOptions
from helpers.models.watch import Watch
from helpers.native import Vectors, servers_of

_GRAMMARS_KEPT = 64
"""Grammars that a child keeps compiled: each is sent once, and named by its key afterwards."""


class IsolatedCore:
    """A model in a child process, with the same face as `LocalCore`.

    Args:
        options: Options that went through `settle`; `n_gpu_layers="auto"` takes the most layers
            that fit the devices' free memory (`helpers.memory`).
        child: The process to use, where somebody else must be able to end it while it loads.

    Raises:
        EngineCrashed: The child died while it loaded the model.
        ModelFileError: llama.cpp refuses the file.
        DeviceError: It does not fit.
    """

    def __init__(self, options: LoadOptions, child: Child | None = None) -> None:
        self.pid = os.getpid()
        self._child = child or engine_child()
        if options.n_gpu_layers != "auto":
            self._start(options)
            return
        # The plan is a promise, not a fact: another program may take the memory meanwhile.
        planned = _planned(options)
        for layers in dict.fromkeys((planned, planned * 3 // 4, planned // 2, 0)):
            try:
                self._start(replace(options, n_gpu_layers=layers))
                return
            except (EngineCrashed, DeviceError, ModelFileError):
                if layers == 0:
                    raise
                if servers_of(options.devices):
                    _planned(options)  # raises where a host is lost: fewer layers are no remedy

    def _start(self, options: LoadOptions) -> None:
        self.options = options
        self._jobs: dict[int, Job] = {}
        self._numbers: dict[Job, int] = {}
        self._replies: dict[int, queue.SimpleQueue[Any]] = {}
        self._next = 0
        self._grammars: dict[str | None, bool] = {}  # what the child has, the last one used last
        self._lock = threading.RLock()
        self._dead: BaseException | None = None
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._watch = Watch(options.model_path) if options.use_mmap else None
        self._child.servers = servers_of(options.devices)
        self._process = self._child.start()
        self._threads = [
            threading.Thread(target=target, name=f"llama-{name}", daemon=True)
            for name, target in (("reader", self._read), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()
        try:
            report, self.native_log = self._ask("load", options)
        except BaseException:
            self.close()
            raise
        self.load_report: LoadReport = replace(report, isolated=True)

    @property
    def alive(self) -> bool:
        """False once the child has ended, whatever the reason, or the file was changed in place."""
        return self._dead is None and not (self._watch is not None and self._watch.changed)

    @property
    def child_pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def submit(self, jobs: Iterable[Job]) -> None:
        """Send jobs to the child; their sinks are called from this core's reader thread."""
        self._check_process()
        with self._lock:
            if self._dead is not None:
                raise self._dead
            first = self._next + 1
            numbered = dict(enumerate(jobs, first))
            known, fresh = dict(self._grammars), {}
            requests = []
            for job in numbered.values():
                grammar = job.request.grammar
                key = None if grammar is None else grammar.key
                if grammar is not None and known.pop(key, None) is None:
                    fresh[key] = grammar
                if key is not None:
                    known[key] = True  # again, as the last one used
                requests.append((replace(job.request, grammar=None), key))
            forgotten = list(known)[: max(0, len(known) - _GRAMMARS_KEPT)]
            # Made here, so that what cannot be sent is the caller's exception.
            raw = frame("submit", list(numbered), (requests, fresh, forgotten))
            self._grammars = {key: True for key in known if key not in forgotten}
            self._next += len(numbered)
            self._jobs.update(numbered)
            self._numbers.update({job: number for number, job in numbered.items()})
            self._outgoing.put(raw)

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible."""
        job.cancelled = True
        with self._lock:
            number = self._numbers.get(job)
        if number is not None:
            self._outgoing.put(frame("cancel", number))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        tokens: list[int] = self._ask("tokenize", text)
        return tokens

    def tokenize_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` for several prompts."""
        return [self.tokenize(text) for text in texts]

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of texts, given as tokens, that are computed in one decode."""
        found: list[tuple[tuple[int, ...], bytes]] = self._ask("embed", [list(t) for t in texts])
        return [np.frombuffer(raw, np.float32).reshape(shape) for shape, raw in found]

    def close(self, *, wait: bool = True) -> None:
        """End the child; all its memory, device memory included, goes back to the system."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            if self._dead is None:
                self._dead = HelpersError("This model has been closed. Make a new one to go on.")
        if self._watch is not None:
            self._watch.close()
        self._outgoing.put(None)
        self._child.close(grace=5 if wait else 0)  # the writer closes its input, which ends it
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join(timeout=5)

    def _check_process(self) -> None:
        if os.getpid() != self.pid:
            raise HelpersError(
                "This model's process belongs to the process that this one was forked from. "
                "Make the LlamaCpp in the process that uses it."
            )

    def _ask(self, verb: str, argument: object) -> Any:
        self._check_process()
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            if self._dead is not None:
                raise self._dead
            self._next += 1
            raw = frame(verb, self._next, argument)
            self._replies[self._next] = replies
            self._outgoing.put(raw)
        reply = replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    # -- threads --------------------------------------------------------------------------------

    def _write(self) -> None:
        """The only writer: an interrupted caller can never leave half a message in the pipe."""
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while (raw := self._outgoing.get()) is not None:
                stream.write(raw)
                stream.flush()
        with contextlib.suppress(OSError):
            stream.close()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with contextlib.suppress(Exception):  # the end, or a message that cannot be one
            while True:
                verb, number, content = read_frame(stream)
                if verb == "event":
                    self._pass_on(number, content)
                else:
                    with self._lock:
                        replies = self._replies.pop(number, None)
                    if replies is not None:
                        replies.put(content)
        self._bury()
        stream.close()

    def _pass_on(self, number: int, event: Any) -> None:
        with self._lock:
            job = self._jobs.get(number)
            if job is not None and isinstance(event, (Completion, BaseException)):
                del self._jobs[number], self._numbers[job]
        if job is not None:
            try:
                job.tell(event)
            except Exception:  # the receiver is gone: its event loop is closed
                self.cancel(job)

    def _bury(self) -> None:
        """The child is gone: tell everybody who waits."""
        death = self._child.death()
        with self._lock:
            if self._dead is None:
                self._dead = death
            error = self._dead
            waiting = [*self._replies.values()]
            jobs = [*self._jobs.values()]
            self._replies.clear()
            self._jobs.clear()
            self._numbers.clear()
        self._outgoing.put(None)
        for replies in waiting:
            replies.put(error)
        for job in jobs:
            with contextlib.suppress(Exception):
                job.tell(error)


def make_core(options: LoadOptions) -> LocalCore | IsolatedCore:
    """The core that settled options ask for: in this process, or in one of its own."""
    return IsolatedCore(options) if options.isolate else LocalCore(options)


def engine_child() -> Child:
    """The owner of a process that will hold a model."""
    return Child("helpers.isolation.child", role="held the model")


def _planned(options: LoadOptions) -> int:
    """The layers that fit the devices' free memory now."""
    from helpers.memory.planner import Planner
    from helpers.memory.targets import named_devices

    at_load = replace(options, n_parallel=sequences_at_load(options))
    return Planner(at_load, named_devices(options.devices)).largest()
