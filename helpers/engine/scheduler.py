"""Takes a model's jobs and decodes them, side by side where several wait.

All native work on a model happens in the engine thread, so two calls can never meet inside
llama.cpp; callers wait on queues, where Ctrl-C and event loops can reach them.

A prompt is read in pieces, and between two pieces all running answers get their next token. A piece
and the tokens do not share a decode: with a KV stream for each sequence (which keeps an answer
independent of its neighbours, to the last bit) llama.cpp cuts a batch into micro-batches in which
each sequence has equally many tokens. One of a piece and some single tokens becomes a first one of
a token each and a second one of the rest of the piece. That saves nothing, and the piece's first
token would be rounded as a single one, its others by how many are left: whether the answers of
others were running would show in the text.
"""

from __future__ import annotations

import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from helpers.engine.draft import Draft
from helpers.engine.lane import WORTH_COPYING, Lane, common
from helpers.engine.options import Completion
from helpers.engine.prefix_cache import PrefixCache
from helpers.engine.preparation import Preparation
from helpers.engine.sequence import Job, Sequence
from helpers.engine.thread import engine_thread
from helpers.engine.waiting import Waiting
from helpers.errors import HelpersError
from helpers.native import Context, DecodeAborted, Model
from helpers.timings import Timings


class Scheduler:
    """Runs jobs on one model in a thread of its own.

    With a main lane of several sequences, jobs join and leave it at any decode. With one of a
    single sequence, which is what a notebook needs most of the time, several that wait together get
    a second lane, made when first needed.

    Args:
        model: The loaded model; closed by this scheduler's thread at the end.
        make_lane: Makes a `Lane` of `(n_ctx, n_seq_max)`; called on the thread.
        lane: The main lane, whose KV cache outlives a call.
        n_parallel: Most sequences side by side.
        prefixes: What keeps the main lane's long prompts on the disk, or None.
        draft: A draft model that guesses tokens, or None; closed like the model.
    """

    def __init__(
        self,
        model: Model,
        make_lane: Callable[[int, int], Lane],
        lane: Lane,
        n_parallel: int,
        prefixes: PrefixCache | None = None,
        draft: Draft | None = None,
    ) -> None:
        self._prefixes = prefixes
        self._model = model
        self._make_lane = make_lane
        self._lane = lane
        self._batch_lane: Lane | None = None
        self._n_parallel = n_parallel
        self._prepared = Preparation(model, lane.n_ctx, draft, for_many=len(lane.held) > 1)
        self._thread = engine_thread()
        self._wake = self._thread.wake
        self._arrived: deque[Job] = deque()  # nobody has looked at them yet
        self._waiting = Waiting()
        self._current: Lane | None = None
        self._read = 0  # tokens of prompts, since the running answers had their last token
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
            self._arrived.extend(jobs)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible: at once where it waits, and on the CPU in a decode."""
        job.cancelled = True
        with self._wake:
            waits = job in self._arrived
            if waits:
                self._arrived.remove(job)
            else:
                waits = self._waiting.remove(job)
        if waits:
            _deliver(job, _nothing())
            return
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
        return bool(self._closing or self._current or self._arrived or self._waiting)

    def turn(self) -> None:
        """Read a piece of a prompt, or decode the next token of every running answer."""
        if self._closing:
            self._finish()
            return
        worked, lane = False, self._current
        try:
            self._receive()
            if lane is None:
                lane = self._current = self._lane_for_waiting()
            worked = self._work(lane)
        except Exception as error:
            lane = lane or self._lane
            self._fail(lane, error)
        # The parallel lane goes on with whatever comes and fits, also between two answers.
        if not lane.active and not (worked and lane is self._batch_lane):
            self._current = None

    def _receive(self) -> None:
        """Make the prompts of new jobs into tokens; what cannot be run ends here.

        Where answers are running, one job a turn: they would wait for the tokens of all.
        """
        busy = self._current is not None and bool(self._current.active)
        while self._arrived:
            with self._wake:
                if not self._arrived:
                    return
                job = self._arrived.popleft()
            try:
                self._prepared.tokens(job)
            except Exception as error:
                _deliver(job, error)
                continue
            with self._wake:
                cancelled = job.cancelled
                if not cancelled:
                    self._waiting.add(job)
            if cancelled:
                _deliver(job, _nothing())
            elif busy:
                return

    def _work(self, lane: Lane) -> bool:
        """One decode; False if there is nothing to do in this lane."""
        for slot, sequence in list(lane.active.items()):
            if sequence.job.cancelled:
                self._end(lane, slot)
        slots = sorted(slot for slot, sequence in lane.active.items() if not sequence.reading)
        if not slots:
            self._read = 0
        if self._read < lane.piece:
            chosen, rest = self._next_prompt(lane)
            if chosen is not None and (
                not self._read or not slots or self._read + rest <= lane.piece
            ):
                self._read_piece(lane, chosen)
                return True
        if not slots:
            return False
        self._read = 0
        self._step(lane, slots)
        return True

    def _next_prompt(self, lane: Lane) -> tuple[Job | int | None, int]:
        """Whose prompt is read next, and how many of its tokens are to be read.

        Returns:
            The sequence in which it is, or the job that gets one; None if there is none.
        """
        ranked: list[tuple[tuple[int, float], Job | int, int]] = []
        reading = [slot for slot, sequence in lane.active.items() if sequence.reading]
        with self._wake:
            heads = list(self._waiting.heads()) if len(lane.active) < len(lane.held) else []
        for place in reading:
            sequence = lane.active[place]
            rest = len(sequence.prompt) - len(lane.held[place])
            ranked.append((self._waiting.rank(sequence.job, rest), place, rest))
        for job in heads:
            if self._prepared.need(job) <= lane.n_ctx:
                rest = lane.to_read(self._prepared.tokens(job))
                ranked.append((self._waiting.rank(job, rest), job, rest))
        if not ranked:
            return None, 0
        _, chosen, rest = min(ranked, key=operator.itemgetter(0))
        if isinstance(chosen, Job):
            # What is just being read for another is not read twice: it is copied when it is there.
            tokens = self._prepared.tokens(chosen)
            worth = lane.shared(tokens) + WORTH_COPYING
            for _, slot, left in ranked[: len(reading)]:
                assert isinstance(slot, int)
                if common(lane.active[slot].prompt, tokens) > worth:
                    return slot, left
        return chosen, rest

    def _read_piece(self, lane: Lane, chosen: Job | int) -> None:
        """Compute the next piece of a prompt; after the last one, choose the first token."""
        slot = self._start(lane, chosen) if isinstance(chosen, Job) else chosen
        if slot is None:
            return
        sequence = lane.active[slot]
        tokens, done = sequence.prompt, len(lane.held[slot])
        alone = len(lane.active) == 1 and not self._waiting and not self._arrived
        part = lane.next_part(
            slot, tokens, sequence.tiles, lane.context.n_batch if alone else lane.piece
        )
        last = done + len(part) == len(tokens)
        try:
            started = time.perf_counter()
            with _Decoding(self, lane.context, (sequence.job,)):
                lane.context.decode(part, done, slot, logits=last)
            sequence.prompt_seconds += time.perf_counter() - started
            lane.hold(slot, part, sequence.tiles)
            self._read += len(part)
            with self._wake:
                self._waiting.has_read(sequence.job, len(part))
            if last:
                self._leave_prompt(sequence)
                self._advance(lane, slot, -1)
                if self._prefixes is not None and lane is self._lane:
                    self._prefixes.keep(lane, slot, tokens)  # now, as the first token has been told
        except DecodeAborted:
            self._end(lane, slot)
        except Exception as error:
            self._drop(lane, slot, error)

    def _start(self, lane: Lane, job: Job) -> int | None:
        """Give a job a sequence and what is known of its prompt; None if the job failed."""
        with self._wake:
            if not self._waiting.remove(job):
                return None  # cancelled just now
            cancelled = job.cancelled
            if not cancelled:
                self._waiting.begins(job)
        if cancelled:
            _deliver(job, _nothing())
            return None
        try:
            sequence = self._prepared.sequence(job, lane.economy)
        except Exception as error:
            with self._wake:
                self._waiting.leaves_prompt(job)
                self._waiting.ends(job)
            _deliver(job, error)
            return None
        tokens = sequence.prompt
        slot = lane.free_slot(tokens)
        lane.active[slot] = sequence
        try:
            if self._prefixes is not None and lane is self._lane:
                self._prefixes.recall(lane, slot, tokens)
            sequence.cached, sequence.tiles = lane.reuse(slot, tokens)
        except Exception as error:
            self._drop(lane, slot, error)
            return None
        lane.context.reset_perf()
        return slot

    def _step(self, lane: Lane, slots: list[int]) -> None:
        """Decode one token of each of these sequences and choose the next ones.

        An answer that is alone may have guesses checked as well. Beside others they would not pay:
        llama.cpp decodes as many tokens of each sequence together as the shortest run has, and then
        the guesses by themselves.

        Args:
            lane: Where they are.
            slots: The sequences, in their order: llama.cpp computes those together whose numbers
                follow each other.
        """
        alone = lane.active[slots[0]] if len(slots) == 1 else None
        guesses = alone.guess(lane.context.n_batch - len(alone.pending)) if alone else 0
        runs = [
            (lane.active[s].pending + lane.active[s].guesses, len(lane.held[s]), s) for s in slots
        ]
        jobs = tuple(lane.active[s].job for s in slots)
        started = time.perf_counter()
        try:
            with _Decoding(self, lane.context, jobs):
                rows = lane.context.decode_runs(runs, guesses)
        except DecodeAborted:
            for slot in slots:
                lane.drop_unfinished(slot)
            return
        seconds = time.perf_counter() - started
        with self._wake:
            for job, (tokens, _, _) in zip(jobs, runs, strict=True):
                self._waiting.has_written(job, len(tokens))
        for row, (tokens, _, slot) in zip(rows, runs, strict=True):
            sequence = lane.active[slot]
            lane.held[slot].extend(sequence.pending)
            sequence.eval_seconds += seconds
            sequence.eval_tokens += len(sequence.pending)
            sequence.shared_decodes |= len(tokens) > 1
            try:
                self._advance(lane, slot, row, seconds)
            except Exception as error:
                self._drop(lane, slot, error)

    def _advance(self, lane: Lane, slot: int, row: int, seconds: float = 0.0) -> None:
        """Choose what follows, and take the guesses out of the cache that were wrong."""
        limit = lane.context.n_batch // len(lane.held)
        sequence = lane.active[slot]
        pending, guesses = len(sequence.pending), sequence.guesses
        going = sequence.step(lane.context, row, limit)
        lane.held[slot] += guesses[: sequence.right]
        sequence.eval_tokens += sequence.right
        if sequence.speculation is not None and pending:
            sequence.speculation.note(pending, len(guesses), sequence.right, seconds)
        if not going:
            self._end(lane, slot)
        elif sequence.right < len(guesses):
            lane.drop_unfinished(slot)

    def _leave(self, lane: Lane, slot: int) -> Sequence:
        """Give a sequence back to the lane."""
        sequence = lane.leave(slot)
        if sequence.reading:
            self._leave_prompt(sequence)
        with self._wake:
            self._waiting.ends(sequence.job)
        return sequence

    def _leave_prompt(self, sequence: Sequence) -> None:
        """Note that a prompt is read to its end, or will not be."""
        sequence.reading = False
        with self._wake:
            self._waiting.leaves_prompt(sequence.job)

    def _drop(self, lane: Lane, slot: int, error: BaseException) -> None:
        """End a sequence that failed, and forget all it holds."""
        if slot in lane.active:
            sequence = self._leave(lane, slot)
            sequence.close()
            _deliver(sequence.job, error)
        lane.forget(slot)

    def _end(self, lane: Lane, slot: int) -> None:
        """Hand over the completion of a sequence that is done or cancelled."""
        sequence = self._leave(lane, slot)
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

    def _fail(self, lane: Lane, error: Exception) -> None:
        """Give an error that nothing else handles to the jobs at work; at rest, to the next one.

        One job at least must end of it: a turn that leaves all as it was would be tried for ever.
        """
        failed = [self._leave(lane, slot) for slot in list(lane.active)]
        for sequence in failed:
            sequence.close()
            _deliver(sequence.job, error)
        if not failed:
            with self._wake:
                job = next(self._waiting.heads(), None)
                if job is not None:
                    self._waiting.remove(job)
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
            waiting = [*self._waiting.clear(), *self._arrived]
            self._arrived.clear()
        for job in waiting:
            _deliver(job, HelpersError("The model was closed before this call began."))
        self._prepared.close()
        if self._prefixes is not None:
            self._prefixes.close()
        self._model.close()
        self._thread.remove(self)
        self._closed.set()

    # -- lanes and prompts ------------------------------------------------------------------------

    def _lane_for_waiting(self) -> Lane:
        """The main lane; for several jobs, where it has one sequence, one made to fit them."""
        with self._wake:
            needs = [self._prepared.need(job) for job in self._waiting]
        if len(self._lane.held) > 1 or len(needs) < 2:
            return self._lane
        n_ctx = min(self._lane.n_ctx, -(-max(needs) // 256) * 256)
        n_seq = min(self._n_parallel, len(needs))
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


def _nothing() -> Completion:
    return Completion("", "cancelled", Timings(generated_tokens=0), 0, 0)
