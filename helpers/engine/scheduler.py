"""Takes a model's jobs and decodes them, side by side where several wait.

All native work on a model happens in the engine thread, so two calls can never meet inside
llama.cpp; callers wait on queues, where Ctrl-C and event loops can reach them.
"""

from __future__ import annotations

import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from helpers.engine.lane import Lane
from helpers.engine.options import Completion
from helpers.engine.prefix_cache import PrefixCache
from helpers.engine.sequence import Job, Sequence
from helpers.engine.thread import engine_thread
from helpers.errors import ContextOverflowError, HelpersError
from helpers.grammars.mask import Matcher, Vocabulary
from helpers.native import Context, DecodeAborted, Model
from helpers.timings import Timings


class Scheduler:
    """Runs jobs on one model in a thread of its own.

    Args:
        model: The loaded model; closed by this scheduler's thread at the end.
        make_lane: Makes a `Lane` of `(n_ctx, n_seq_max)`; called on the thread.
        lane: The main lane: one sequence, whose KV cache outlives a call.
        n_parallel: Most sequences side by side.
        prefixes: What keeps the main lane's long prompts on the disk, or None.
    """

    def __init__(
        self,
        model: Model,
        make_lane: Callable[[int, int], Lane],
        lane: Lane,
        n_parallel: int,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self._prefixes = prefixes
        self._model = model
        self._make_lane = make_lane
        self._lane = lane
        self._batch_lane: Lane | None = None
        self._n_parallel = n_parallel
        self._vocabulary: Vocabulary | None = None
        self._waiting: deque[Job] = deque()
        self._thread = engine_thread()
        self._wake = self._thread.wake
        self._current: Lane | None = None
        self._closed = threading.Event()
        self._computing: tuple[Job, ...] = ()
        self._context: Context | None = None
        self._guard = threading.Lock()
        self._closing = False
        self._thread.add(self)

    # -- from other threads ---------------------------------------------------------------------

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue jobs; those of one call are seen together."""
        with self._wake:
            if self._closing:
                raise HelpersError("This model has been closed. Make a new one to go on.")
            self._waiting.extend(jobs)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible: at once on the CPU, even inside a decode."""
        job.cancelled = True
        with self._guard:
            if (
                self._context is not None
                and self._computing
                and all(other.cancelled for other in self._computing)
            ):
                self._context.abort()

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything and free the model.

        Args:
            wait: Return when the memory is free; False only signals.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        with self._guard:
            if self._context is not None:
                self._context.abort()
        if wait and not self._thread.is_current:
            self._closed.wait()

    # -- in the engine thread -------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a turn would do anything."""
        return self._closing or self._current is not None or bool(self._waiting)

    def turn(self) -> None:
        """Begin to work on a lane, or decode the next token of each of its sequences.

        The main lane runs one job and looks again; the parallel lane takes in all that come and
        fit, until none of its sequences is active.
        """
        if self._closing:
            self._finish()
            return
        lane = self._current
        try:
            if lane is None:
                lane = self._parallel_lane() if len(self._waiting) > 1 else self._lane
                self._current = lane
                self._admit(lane)
            else:
                self._step(lane)
                if lane is not self._lane:
                    self._admit(lane)
        except Exception as error:
            lane = lane or self._lane
            self._fail(lane, error)
        if not lane.active:
            self._current = None

    def _fail(self, lane: Lane, error: Exception) -> None:
        """Give an error that nothing else handles to the jobs at work; at rest, to the next one.

        One job at least must end of it: a turn that leaves all as it was would be tried for ever.
        """
        failed = list(lane.active.values())
        lane.active.clear()
        for sequence in failed:
            sequence.close()
            _deliver(sequence.job, error)
        if not failed:
            with self._wake:
                job = self._waiting.popleft() if self._waiting else None
            if job is not None:
                _deliver(job, error)
        lane.forget()

    def _finish(self) -> None:
        """End all jobs, free the model, and take no more turns."""
        for lane in (self._batch_lane, self._lane):
            if lane is not None:
                for slot in list(lane.active):
                    self._end(lane, slot)
                lane.context.close()
        with self._wake:
            waiting = list(self._waiting)
            self._waiting.clear()
        for job in waiting:
            _deliver(job, HelpersError("The model was closed before this call began."))
        if self._vocabulary is not None:
            self._vocabulary.close()
        if self._prefixes is not None:
            self._prefixes.close()
        self._model.close()
        self._thread.remove(self)
        self._closed.set()

    def _parallel_lane(self) -> Lane:
        """The lane for several sequences, made or enlarged to fit what waits; else the main one."""
        with self._wake:
            waiting = list(self._waiting)
        needs = [need for job in waiting if (need := self._need(job)) is not None]
        if not needs:
            return self._lane
        n_ctx = min(self._lane.n_ctx, -(-max(needs) // 256) * 256)
        n_seq = min(self._n_parallel, len(waiting))
        lane = self._batch_lane
        if lane is not None and lane.n_ctx >= n_ctx and len(lane.held) >= n_seq:
            return lane
        if lane is not None:
            n_ctx, n_seq = max(n_ctx, lane.n_ctx), max(n_seq, len(lane.held))
            lane.context.close()
            self._batch_lane = None
        while n_seq > 1:
            try:
                self._batch_lane = self._make_lane(n_ctx, n_seq)
                return self._batch_lane
            except Exception:  # not enough memory for so many, most often: fewer side by side
                n_seq //= 2
        return self._lane

    def _need(self, job: Job) -> int | None:
        """Tokens of context that a job can use up, or None if it cannot run at all."""
        try:
            n_prompt = len(self._tokens(job))
        except Exception:
            return None  # reported when the job's turn comes
        if n_prompt >= self._lane.n_ctx:
            return None
        limit = job.request.max_tokens
        room = limit if limit is not None and limit > 0 else self._lane.n_ctx
        return min(n_prompt + room, self._lane.n_ctx)

    def _admit(self, lane: Lane) -> None:
        """Give free sequences the next jobs, in the order in which they came."""
        while len(lane.active) < len(lane.held):
            with self._wake:
                if self._closing or not self._waiting:
                    return
                job = self._waiting[0]
                if (self._need(job) or 0) > lane.n_ctx:
                    return
                self._waiting.popleft()
            self._start(lane, job)
            if lane is self._lane:
                return

    def _start(self, lane: Lane, job: Job) -> None:
        """Evaluate a job's prompt and choose its first token."""
        if job.cancelled:
            _deliver(job, _nothing(job))
            return
        slot: int | None = None
        try:
            tokens = self._tokens(job)
            if len(tokens) >= self._lane.n_ctx:
                raise ContextOverflowError(len(tokens), self._lane.n_ctx)
            sequence = Sequence(job, tokens, self._model, self._lane.n_ctx, self._matcher(job))
            slot = lane.free_slot(tokens)
            lane.active[slot] = sequence
            prefixes = self._prefixes if lane is self._lane else None
            if prefixes is not None:
                prefixes.recall(lane, slot, tokens)
            sequence.cached, tiles = lane.reuse(slot, tokens)
            lane.context.reset_perf()
            started = time.perf_counter()
            while (done := len(lane.held[slot])) < len(tokens):
                part = lane.next_part(slot, tokens, tiles)
                last = done + len(part) == len(tokens)
                with _Decoding(self, lane.context, (job,)):
                    lane.context.decode(part, done, slot, logits=last)
                lane.hold(slot, part, tiles)
            sequence.prompt_seconds = time.perf_counter() - started
            self._advance(lane, slot, -1)
            if prefixes is not None:  # now, as the first token has been told
                prefixes.keep(lane, slot, tokens)
        except DecodeAborted:
            assert slot is not None
            self._end(lane, slot)
        except Exception as error:
            if slot is not None:
                self._drop(lane, slot)
            _deliver(job, error)

    def _step(self, lane: Lane) -> None:
        """Decode one token of every active sequence and choose the next ones."""
        for slot, sequence in list(lane.active.items()):
            if sequence.job.cancelled:
                self._end(lane, slot)
        slots = list(lane.active)
        if not slots:
            return
        runs = [(lane.active[s].pending, len(lane.held[s]), s) for s in slots]
        jobs = tuple(lane.active[s].job for s in slots)
        started = time.perf_counter()
        try:
            with _Decoding(self, lane.context, jobs):
                rows = lane.context.decode_runs(runs)
        except DecodeAborted:
            for slot in slots:
                lane.drop_unfinished(slot)
            return
        seconds = time.perf_counter() - started
        for row, (tokens, _, slot) in zip(rows, runs, strict=True):
            lane.held[slot].extend(tokens)
            sequence = lane.active[slot]
            sequence.eval_seconds += seconds
            sequence.eval_tokens += len(tokens)
            sequence.shared_decodes |= len(tokens) > 1
            try:
                self._advance(lane, slot, row)
            except Exception as error:
                self._drop(lane, slot)
                _deliver(sequence.job, error)

    def _drop(self, lane: Lane, slot: int) -> None:
        """Forget a sequence that failed, with all it holds."""
        sequence = lane.active.pop(slot, None)
        if sequence is not None:
            sequence.close()
        lane.forget(slot)

    def _advance(self, lane: Lane, slot: int, row: int) -> None:
        limit = lane.context.n_batch // len(lane.held)
        if not lane.active[slot].step(lane.context, row, limit):
            self._end(lane, slot)

    def _end(self, lane: Lane, slot: int) -> None:
        """Hand over the completion of a sequence that is done or cancelled."""
        sequence = lane.active.pop(slot)
        lane.drop_unfinished(slot)
        if self._closing and not sequence.job.cancelled:
            sequence.close()
            _deliver(sequence.job, HelpersError("The model was closed during this call."))
            return
        native: dict[str, float] = {"load_ms": self._model.load_ms}
        alone = len(lane.held) == 1 and not sequence.shared_decodes
        if alone and len(sequence.prompt) - sequence.cached > 1:
            # A lone sequence's times are what llama.cpp counted itself. It takes a decode of one
            # token for generation and any other for a prompt, so a prompt of one token, or an
            # answer with several in one decode, is left to our own clock.
            perf = lane.context.perf()
            native["prompt_ms"] = perf.prompt_ms
            if sequence.eval_tokens:
                native["eval_ms"] = perf.eval_ms
        try:
            sequence.finish(native, self._prefixes.take_notes() if self._prefixes else ())
        except Exception as error:  # a sink that fails must not end the thread
            _deliver(sequence.job, error)

    def _tokens(self, job: Job) -> list[int]:
        """The prompt's tokens, made once per job."""
        if job.tokens is None:
            prompt = job.request.prompt
            if isinstance(prompt, str):
                tokens = self._model.tokenize(prompt)
                if not tokens and self._model.bos >= 0:
                    tokens = [self._model.bos]
            else:
                tokens = [operator.index(token) for token in prompt]
                wrong = [t for t in tokens if not 0 <= t < self._model.n_vocab]
                if wrong:
                    raise ValueError(
                        f"Token {wrong[0]} is not in the vocabulary: "
                        f"0 to {self._model.n_vocab - 1}."
                    )
            if not tokens:
                raise ValueError("The prompt is empty, and this model has no token to begin with.")
            job.tokens = tokens
        return job.tokens

    def _matcher(self, job: Job) -> Matcher | None:
        """State of the job's grammar; the vocabulary is prepared once, when first needed."""
        grammar = job.request.grammar
        if grammar is None:
            return None
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._model, self._model.vocab)
        return grammar.matcher(self._vocabulary)


class _Decoding:
    """Marks which jobs a decode works for, so that `cancel` knows when to abort it."""

    def __init__(self, scheduler: Scheduler, context: Context, jobs: tuple[Job, ...]) -> None:
        self._scheduler, self._context, self._jobs = scheduler, context, jobs

    def __enter__(self) -> None:
        scheduler = self._scheduler
        if scheduler._model.watch is not None:
            scheduler._model.watch.check()
        with scheduler._guard:
            if scheduler._closing or all(job.cancelled for job in self._jobs):
                raise DecodeAborted("Cancelled before the decode began.")
            self._context.rearm()
            scheduler._computing, scheduler._context = self._jobs, self._context

    def __exit__(self, *_: object) -> None:
        scheduler = self._scheduler
        with scheduler._guard:
            scheduler._computing, scheduler._context = (), None


def _deliver(job: Job, event: Completion | BaseException) -> None:
    with suppress(Exception):  # the receiver is gone; nobody is left to tell
        job.tell(event)


def _nothing(job: Job) -> Completion:
    return Completion("", "cancelled", Timings(generated_tokens=0), 0, 0)
