"""The engine as its callers see it: blocking, streaming, side by side, and asynchronous."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from helpers.engine.core import LocalCore, settle
from helpers.engine.embedder import BATCH_TOKENS, pack
from helpers.engine.options import Chunk, Completion, Request
from helpers.engine.report import LoadReport
from helpers.engine.sequence import Event, Job
from helpers.errors import HelpersError
from helpers.load_options import LoadOptions
from helpers.models.check import fingerprint
from helpers.native import Vectors
from helpers.threads import catch_up, end, get, later
from helpers.warn import warn_caller


class Core(Protocol):
    """What runs jobs: a model in this process or in a child."""

    native_log: list[tuple[int, str]]
    load_report: LoadReport

    @property
    def alive(self) -> bool: ...  # noqa: D102

    def submit(self, jobs: Iterable[Job]) -> None: ...  # noqa: D102
    def cancel(self, job: Job) -> None: ...  # noqa: D102
    def tokenize(self, text: str) -> list[int]: ...  # noqa: D102
    def tokenize_many(self, texts: Sequence[str]) -> list[list[int]]: ...  # noqa: D102
    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]: ...  # noqa: D102
    def close(self, *, wait: bool = True) -> None: ...  # noqa: D102


MakeCore = Callable[[LoadOptions], Core]
_Item = TypeVar("_Item", bound=Chunk | Completion)


class _Shared:
    """A core and how many engines use it."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.users = 0
        self.core: Core | None = None
        self.turn = threading.Lock()  # of those who want it, one loads it

    def release(self) -> None:
        """One engine fewer uses it; the last one frees it."""
        with _lock:
            self.users -= 1
            if self.users:
                return
            if _cores.get(self.key) is self:
                del _cores[self.key]
        if self.core is not None:
            self.core.close()


_cores: dict[tuple[Any, ...], _Shared] = {}
_lock = threading.Lock()  # for the table alone: never held during a load


def _acquire(key: tuple[Any, ...], make: Callable[[], Core]) -> _Shared:
    """The core with this key, loaded if need be, with one user more."""
    catch_up()  # what was dropped before has given its memory back
    with _lock:
        shared = _cores.get(key)
        if shared is None or not (shared.core is None or shared.core.alive):
            shared = _cores[key] = _Shared(key)
        shared.users += 1
    try:
        with shared.turn:
            if shared.core is None:
                shared.core = make()
    except BaseException:
        shared.release()
        raise
    return shared


class Engine:
    """A loaded model. Engines with equal options share one, so re-running a cell loads nothing.

    The memory is freed when the last engine that shares it is closed or gone. It may be used from
    any number of threads and event loops.

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
        self._given = options
        self._make_core = make_core or _local_core
        self._closed = False
        self._jobs: set[Job] = set()
        self._reload = threading.Lock()
        self._attach()

    def _attach(self) -> None:
        """Check the files as they are now, and use the core that is loaded from them."""
        self.options = options = settle(self._given)
        files = [options.model_path, *filter(None, [options.lora_path, options.draft_path])]
        key = (options, *(fingerprint(Path(file)) for file in files), os.getpid())
        self._use(key, lambda: self._make_core(options))

    def _use(self, key: tuple[Any, ...], make: Callable[[], Core]) -> None:
        """Use the core with this key, made if there is none."""
        self._shared = _acquire(key, make)
        self._finalizer = weakref.finalize(self, later, self._shared.release)
        self._finalizer.atexit = False

    def _detach(self) -> None:
        if self._finalizer.detach() is not None:  # once, whoever comes first
            self._shared.release()

    @property
    def _core(self) -> Core:
        if not self._closed and not self._alive:  # its process died, or its file was changed
            with self._reload:  # several threads may find out at once: one of them loads
                if not self._alive:
                    self._detach()
                    self._attach()
        if self._closed:
            self._detach()
            raise HelpersError("This model has been closed. Make a new one to go on.")
        assert self._shared.core is not None
        return self._shared.core

    @property
    def _alive(self) -> bool:
        return self._shared.core is not None and self._shared.core.alive

    @contextmanager
    def _running(self, core: Core, jobs: Sequence[Job]) -> Iterator[None]:
        """Submit jobs; those that have not ended when the block does are cancelled."""
        self._jobs.update(jobs)
        try:
            core.submit(jobs)
            yield
        finally:
            self._jobs.difference_update(jobs)
            for job in jobs:
                if not job.ended:
                    # The block may end in a finaliser, which must not wait for the core's locks.
                    job.cancelled = True
                    later(partial(core.cancel, job))

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
        return self._shared.key[1:-1]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        return self._core.tokenize(text)

    def tokenize_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` for several prompts: a server is asked once for all."""
        return self._core.tokenize_many(texts)

    def embed(
        self, texts: Sequence[Sequence[int]], room: int = BATCH_TOKENS
    ) -> Iterator[tuple[int, Vectors]]:
        """Compute texts, several in one decode; options with `embeddings=True` only.

        Args:
            texts: Each as 1 to `n_ctx` tokens.
            room: Most tokens that short texts fill a decode with.

        Yields:
            The number of a text, and its vector (a row for each token where nothing is pooled),
            as soon as its batch is done.

        Raises:
            DeviceError: The device ran out of memory or refused.
            KeyboardInterrupt: The kernel was interrupted; the engine is ready for the next call.
        """
        for batch in pack([len(tokens) for tokens in texts], min(self.options.n_ctx or 1, room)):
            yield from zip(batch, self._core.embed([texts[n] for n in batch]), strict=True)

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
        with self._running(self._core, jobs):
            for _ in jobs:
                index, event = _next_end(events)
                results[index] = event
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [_noted(result) for result in results if isinstance(result, Completion)]

    def stream(self, request: Request) -> Generator[Chunk | Completion]:
        """Generate one text piece by piece; the last item is the `Completion`.

        Leaving the loop early, or dropping the iterator, ends the generation at once.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = Job(request, events.put)
        stream = self._drain(self._core, job, events)
        next(stream)  # begins: what never began would not notice that it is dropped
        return stream

    def _drain(
        self, core: Core, job: Job, events: queue.SimpleQueue[Event]
    ) -> Generator[Chunk | Completion]:
        # A method: the stream keeps its engine, and with it the model, alive.
        with self._running(core, [job]):
            yield Chunk("")
            while True:
                event = get(events)
                if isinstance(event, BaseException):
                    raise event
                yield _noted(event)
                if isinstance(event, Completion):
                    return

    async def agenerate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """`generate_many` without blocking the event loop; cancelling the task cancels it."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Completion]] = [loop.create_future() for _ in requests]
        jobs = [
            Job(request, _resolver(loop, future))
            for request, future in zip(requests, futures, strict=True)
        ]
        with self._running(await self._acore(), jobs):
            results = await asyncio.gather(*futures, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [_noted(result) for result in results if isinstance(result, Completion)]

    async def astream(self, request: Request) -> AsyncGenerator[Chunk | Completion]:
        """`stream` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def sink(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(request, sink)
        with self._running(await self._acore(), [job]):
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield _noted(event)
                if isinstance(event, Completion):
                    return

    async def _acore(self) -> Core:
        """The core, reloaded off the event loop where it has gone."""
        if self._closed or self._alive:
            return self._core
        return await asyncio.to_thread(lambda: self._core)

    def close(self) -> None:
        """End this engine's use of the model. Its calls in progress end with an error.

        The memory, device memory included, is free when no other engine shares the model.
        """
        self._closed = True
        for job in self._jobs.copy():
            job.withdrawn = HelpersError("The model was closed during this call.")
            if self._shared.core is not None:
                self._shared.core.cancel(job)
        self._detach()

    def __reduce__(self) -> tuple[object, ...]:
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


@atexit.register
def _close_all() -> None:
    """End every engine's thread, and every load, while the interpreter is still whole."""
    end()
    for shared in list(_cores.values()):
        if shared.core is not None:
            shared.core.close()


def _forget_all() -> None:
    """After a fork the loaded models are the parent's, and a thread may have held the lock."""
    global _lock
    _lock = threading.Lock()
    _cores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _noted(item: _Item) -> _Item:
    """Warn the caller of what the engine has noted on the way."""
    for note in item.notes if isinstance(item, Completion) else ():
        warn_caller(note)
    return item


def _next_end(events: queue.SimpleQueue[tuple[int, Event]]) -> tuple[int, Any]:
    while True:
        index, event = get(events)
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
