"""One trial: a model loaded in a child process, warmed up, measured, and ended.

The process is the engine's own (`helpers.isolation.child`): it ends when its input closes, and the
trial ends it for good when the time is up or somebody cancels, even while it loads.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from helpers.bench.grid import Setup
from helpers.bench.rows import Settings, SweepRow, without_address
from helpers.children import Child
from helpers.engine import Completion, LoadOptions, Request
from helpers.engine.core import settle
from helpers.engine.sequence import Job
from helpers.errors import EngineCrashed, HelpersError
from helpers.isolation.core import IsolatedCore, engine_child

Cancel = Callable[[], bool] | threading.Event | None
Step = Callable[[str, float], None]

_turn = threading.Lock()
"""Trials of one interpreter take turns: side by side, each would measure the other."""


def _own_turn() -> None:
    """Let a fork not wait for a trial of its parent."""
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_turn)

_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_NO_MEMORY = ("out of memory", "failed to allocate", "alloc_tensor_range", "cannot allocate")
_LOOK_SECONDS = 0.1
_REPEATED = 48
"""Tokens that a trial of guesses repeats."""


class Cancelled(Exception):
    """Somebody asked to stop; the trial has no row."""


def is_cancelled(cancel: Cancel) -> bool:
    """Whether a cancel, in any of its forms, says stop."""
    if cancel is None:
        return False
    return cancel.is_set() if isinstance(cancel, threading.Event) else bool(cancel())


def run_trial(
    setup: Setup, settings: Settings, *, cancel: Cancel = None, on_step: Step | None = None
) -> SweepRow:
    """Measure one point of the grid in a process of its own.

    Args:
        setup: What all trials share.
        settings: The point.
        cancel: Asked ten times a second.
        on_step: Told what is going on, and which share of the trial is done (0 to 1).

    Returns:
        The row; one with a `reason` if it could not be loaded, died, or took too long.

    Raises:
        Cancelled: `cancel` said so. The process is gone.
        KeyboardInterrupt: Likewise.
    """
    while not _turn.acquire(timeout=_LOOK_SECONDS):
        if is_cancelled(cancel):
            raise Cancelled
    try:
        return _Trial(setup, settings).run(cancel, on_step)
    finally:
        _turn.release()


def _generate(core: IsolatedCore, request: Request) -> Completion:
    """Generate, and wait for the end."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    core.submit([Job(request, events.put)])
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Completion):
            return event


class _Trial:
    """The work happens in a thread; the caller's thread looks at the clock and at `cancel`."""

    def __init__(self, setup: Setup, settings: Settings) -> None:
        self._setup = setup
        self._row = SweepRow(**vars(settings))
        self._settings = settings
        self._steps: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._at = "starting"
        self._done = threading.Event()
        self._error: BaseException | None = None
        # Different tokens in each trial would be noise; in each repeat they must differ.
        self._random = random.Random(20240229)
        ends = {setup.info.metadata.get(f"tokenizer.ggml.{key}") for key in _END_KEYS}
        self._bias = tuple((token, -1e5) for token in sorted(e for e in ends if type(e) is int))

    def run(self, cancel: Cancel, on_step: Step | None) -> SweepRow:
        started = time.perf_counter()
        setup = self._setup
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once for the whole sweep, in its notes
                options = settle(setup.options(self._settings))
        except (HelpersError, ValueError) as error:
            return self._failed(_reason(error, setup), started)
        child = engine_child()
        thread = threading.Thread(
            target=self._work, args=(options, child), name="trial", daemon=True
        )
        thread.start()
        try:
            while not self._done.wait(_LOOK_SECONDS):
                self._tell(on_step)
                if is_cancelled(cancel):
                    raise Cancelled
                if time.perf_counter() - started > setup.timeout_s:
                    _end(child, thread)
                    if self._error is not None:  # else it was done at the very last moment
                        what = f"timed out after {setup.timeout_s:g} s, while {self._at}"
                        return self._failed(what, started)
        except BaseException:
            _end(child, thread)
            raise
        thread.join()
        self._tell(on_step)
        if isinstance(self._error, HelpersError | OSError | ValueError):
            return self._failed(_reason(self._error, setup), started)
        if self._error is not None:
            raise self._error
        return replace(self._row, seconds=time.perf_counter() - started)

    def _failed(self, reason: str, started: float) -> SweepRow:
        return SweepRow(
            **vars(self._settings),
            load_ms=self._row.load_ms,
            memory=self._row.memory,
            reason=reason,
            seconds=time.perf_counter() - started,
        )

    def _tell(self, on_step: Step | None) -> None:
        while not self._steps.empty():
            step = self._steps.get()
            if on_step is not None:
                on_step(*step)

    # -- in the thread ----------------------------------------------------------------------------

    def _work(self, options: LoadOptions, child: Child) -> None:
        try:
            self._step("loading the model", 0.0)
            core = IsolatedCore(options, child)
            try:
                self._note_load(core)
                self._measure(core)
            finally:
                core.close()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _step(self, what: str, share: float) -> None:
        self._at = what
        self._steps.put((what, share))

    def _note_load(self, core: IsolatedCore) -> None:
        report = core.load_report
        memory = {
            without_address(device): {kind: round(mib, 2) for kind, mib in kinds.items()}
            for device, kinds in report.by_device.items()
        }
        self._row = replace(self._row, load_ms=report.load_ms, memory=memory)

    def _measure(self, core: IsolatedCore) -> None:
        setup = self._setup
        steps = setup.repeats + 2
        self._step("warming up", 1 / steps)  # first calls touch fresh memory and compile kernels
        if setup.prompt_tokens:
            self._prompt(core)
        if setup.new_tokens:
            self._generation(core, min(setup.new_tokens, 4))
        prompts, evals = [], []
        for index in range(setup.repeats):
            self._step(f"measuring {index + 1} of {setup.repeats}", (index + 2) / steps)
            if setup.prompt_tokens:
                prompts.append(self._prompt(core))
            if setup.new_tokens:
                evals.append(self._generation(core, setup.new_tokens))
        self._row = replace(self._row, prompt_runs=tuple(prompts), eval_runs=tuple(evals))
        self._step("done", 1.0)

    def _prompt(self, core: IsolatedCore) -> float:
        """Tokens/s of a prompt that no cache knows, as llama-bench's `pp` test."""
        timings = _generate(core, self._request(self._setup.prompt_tokens, 1)).timings
        if timings.cached_tokens or not timings.prompt_per_second:
            raise HelpersError(f"The prompt was not measured as it should be: {timings}.")
        return timings.prompt_per_second

    def _generation(self, core: IsolatedCore, tokens: int) -> float:
        """Tokens/s of generation from an empty context, as llama-bench's `tg` test."""
        counted, ms = 0, 0.0
        for _ in range(20):
            timings = _generate(core, self._request(0, tokens - counted + 1)).timings
            counted += timings.eval_tokens or 0
            ms += timings.eval_ms or 0.0
            if counted >= tokens:
                return counted / ms * 1000
        raise HelpersError(
            f"The model ended its text after {counted} tokens in 20 tries: there is no generation "
            "to time. Try fewer new_tokens."
        )

    def _request(self, prompt_tokens: int, new_tokens: int) -> Request:
        vocabulary = range(self._setup.info.n_vocab)
        tokens = self._random.choices(vocabulary, k=prompt_tokens or 2)
        if not prompt_tokens and self._setup.quoting:
            # What repeats itself, any model goes on with.
            tokens = self._random.choices(vocabulary, k=_REPEATED) * 3
        return Request(
            prompt=tuple(tokens),
            max_tokens=new_tokens,
            temperature=0.0,
            repeat_penalty=1.0,
            logit_bias=self._bias,
        )


def _end(child: Child, thread: threading.Thread) -> None:
    """End the child's process now, whatever it is doing, and wait until it is gone."""
    while thread.is_alive():
        child.kill()
        thread.join(timeout=0.05)


def _reason(error: BaseException, setup: Setup) -> str:
    """An error in one line: its kind first, and neither the path of the model nor an address."""
    text = str(error)
    if isinstance(error, EngineCrashed):
        text = text.partition(" The kernel is unharmed")[0]
        text = text.replace("The process that held the model ended", "the process ended", 1)
        text += _last_words(error)
    text = without_address(" ".join(text.replace(str(setup.path), setup.path.name).split()))
    if any(words in text.lower() for words in _NO_MEMORY):
        return f"out of memory: {text}"
    return text or type(error).__name__


def _last_words(error: EngineCrashed) -> str:
    """The line of a dead process's log that names its error, if there is one."""
    for line in reversed(error.native_log):
        if any(word in line.lower() for word in ("error", "failed", "abort", *_NO_MEMORY)):
            return f" Its log: {line.strip()[:160]}"
    return ""
