"""The engine as its callers see it: blocking, streaming, side by side, and asynchronous."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from helpers.engine.core import LocalCore, settle
from helpers.engine.options import Chunk, Completion, Request
from helpers.engine.report import LoadReport
from helpers.engine.sequence import Event, Job
from helpers.errors import HelpersError
from helpers.load_options import LoadOptions
from helpers.models.check import fingerprint


class Core(Protocol):
    """What runs jobs: a model in this process or in a child."""

    native_log: list[tuple[int, str]]
    load_report: LoadReport

    @property
    def alive(self) -> bool: ...  # noqa: D102

    def submit(self, jobs: Iterable[Job]) -> None: ...  # noqa: D102
    def cancel(self, job: Job) -> None: ...  # noqa: D102
    def tokenize(self, text: str) -> list[int]: ...  # noqa: D102
    def close(self, *, wait: bool = True) -> None: ...  # noqa: D102


MakeCore = Callable[[LoadOptions], Core]


class _Shared:
    """A core and the engines that use it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.users = 0


_cores: dict[tuple[Any, ...], _Shared] = {}
_lock = threading.RLock()


class Engine:
    """A loaded model. Engines with equal options share one, so re-running a cell loads nothing.

    The memory is freed when the last engine that shares it is gone, or at once by `close()`.
    It may be used from any number of threads and event loops.

    Args:
        options: How to load the model.
        make_core: Makes what runs the jobs from settled options; `helpers.isolation.make_core`
            also knows processes of their own. None for this process.

    Raises:
        ModelFileError: The file is not one that llama.cpp could load.
        DeviceError: It does not fit the memory, or a device is missing.
        ValueError: A value has no meaning.
    """

    def __init__(self, options: LoadOptions, make_core: MakeCore | None = None) -> None:
        self.options = settle(options)
        self._make_core = make_core or _local_core
        paths = [self.options.model_path, *filter(None, [self.options.lora_path])]
        self._key = (self.options, *(fingerprint(Path(path)) for path in paths), os.getpid())
        self._closed = False
        self._shared = self._acquire()

    def _acquire(self) -> _Shared:
        with _lock:
            shared = _cores.get(self._key)
            if shared is None or not shared.core.alive:
                shared = _cores[self._key] = _Shared(self._make_core(self.options))
            shared.users += 1
            self._finalizer = weakref.finalize(self, _release, self._key, shared)
            self._finalizer.atexit = False
            return shared

    @property
    def _core(self) -> Core:
        if self._closed:
            raise HelpersError("This model has been closed. Make a new one to go on.")
        if not self._shared.core.alive:  # closed through another engine, or its process died
            with _lock:  # several threads may find out at once: one of them loads
                if not self._shared.core.alive:
                    self._finalizer()
                    self._shared = self._acquire()
        return self._shared.core

    @property
    def load_report(self) -> LoadReport:
        """What loading did."""
        return self._core.load_report

    @property
    def native_log(self) -> str:
        """What llama.cpp logged while it loaded the model, debug lines included."""
        return "\n".join(line for _, line in self._core.native_log)

    @property
    def files(self) -> tuple[Any, ...]:
        """Sizes and times of the model's files, and of its adapter's, when they were loaded."""
        return self._key[1:-1]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        return self._core.tokenize(text)

    def generate(self, request: Request) -> Completion:
        """Generate one text.

        Raises:
            ContextOverflowError: The prompt does not fit the context.
            KeyboardInterrupt: The kernel was interrupted; the engine is ready for the next call.
        """
        return self.generate_many([request])[0]

    def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """Generate several texts side by side; the answers are in the order of the requests."""
        results: list[Completion | BaseException | None] = [None] * len(requests)
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        jobs = [Job(request, _tagged(events, i)) for i, request in enumerate(requests)]
        core = self._core
        try:
            core.submit(jobs)
            for _ in jobs:
                index, event = _next_end(events)
                results[index] = event
        except BaseException:
            for job in jobs:
                core.cancel(job)
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Completion)]

    def stream(self, request: Request) -> Generator[Chunk | Completion]:
        """Generate one text piece by piece; the last item is the `Completion`.

        Leaving the loop early, or dropping the iterator, ends the generation at once.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = Job(request, events.put)
        core = self._core
        core.submit([job])
        stream = self._drain(core, job, events)
        next(stream)  # a generator that never began would not notice that it is dropped
        return stream

    def _drain(
        self, core: Core, job: Job, events: queue.SimpleQueue[Event]
    ) -> Generator[Chunk | Completion]:
        # A method: the stream keeps its engine, and with it the model, alive.
        try:
            yield Chunk("")
            while True:
                event = _get(events)
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Completion):
                    return
        finally:
            core.cancel(job)

    async def agenerate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """`generate_many` without blocking the event loop; cancelling the task cancels it."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Completion]] = [loop.create_future() for _ in requests]
        jobs = [
            Job(request, _resolver(loop, future))
            for request, future in zip(requests, futures, strict=True)
        ]
        core = await self._acore()
        try:
            core.submit(jobs)
            results = await asyncio.gather(*futures, return_exceptions=True)
        except BaseException:
            for job in jobs:
                core.cancel(job)
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Completion)]

    async def astream(self, request: Request) -> AsyncGenerator[Chunk | Completion]:
        """`stream` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def sink(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(request, sink)
        core = await self._acore()
        core.submit([job])
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Completion):
                    return
        finally:
            core.cancel(job)

    async def _acore(self) -> Core:
        """The core, reloaded off the event loop where it has gone."""
        if not self._closed and self._shared.core.alive:
            return self._core
        return await asyncio.to_thread(lambda: self._core)

    def close(self) -> None:
        """Free the model's memory, device memory included. Calls in progress end with an error."""
        if not self._closed:
            self._closed = True
            self._shared.core.close()
            self._finalizer()

    def __reduce__(self) -> tuple[type[Engine], tuple[LoadOptions, MakeCore]]:
        """A copy shares the loaded model; a pickle carries the options and loads it again."""
        return (Engine, (self.options, self._make_core))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _local_core(options: LoadOptions) -> Core:
    if options.isolate:
        raise ValueError(
            "isolate=True, or a device other than the CPU, needs a process of its own: "
            "Engine(options, helpers.isolation.make_core)."
        )
    return LocalCore(options)


def _release(key: tuple[Any, ...], shared: _Shared) -> None:
    """One engine fewer uses a core; the last one frees it."""
    with _lock:
        shared.users -= 1
        if shared.users > 0:
            return
        if _cores.get(key) is shared:
            del _cores[key]
    # May run inside the garbage collector on any thread, the engine's own included.
    shared.core.close()


@atexit.register
def _close_all() -> None:
    """End every engine's thread while the interpreter is still whole."""
    for shared in list(_cores.values()):
        shared.core.close()


def _get(events: queue.SimpleQueue[Any]) -> Any:
    """Wait for an event in a way that Ctrl-C can end."""
    if sys.platform != "win32":
        return events.get()
    while True:  # Windows delivers Ctrl-C only between two waits
        try:
            return events.get(timeout=0.2)
        except queue.Empty:
            continue


def _next_end(events: queue.SimpleQueue[tuple[int, Event]]) -> tuple[int, Any]:
    while True:
        index, event = _get(events)
        if not isinstance(event, Chunk):
            return index, event


def _tagged(events: queue.SimpleQueue[tuple[int, Event]], index: int) -> Any:
    def sink(event: Event) -> None:
        if not isinstance(event, Chunk):
            events.put((index, event))

    return sink


def _resolver(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Completion]) -> Any:
    def settle_future(event: Event) -> None:
        if future.done():
            return
        if isinstance(event, BaseException):
            future.set_exception(event)
        elif isinstance(event, Completion):
            future.set_result(event)

    def sink(event: Event) -> None:
        if not isinstance(event, Chunk):
            loop.call_soon_threadsafe(settle_future, event)

    return sink
