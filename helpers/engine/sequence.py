"""One answer in the making: choose a token, turn it into text, know when to end, keep the time."""

from __future__ import annotations

import codecs
import math
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.engine.options import Chunk, Completion, Request
from helpers.engine.reasoning import ReasoningWatch
from helpers.engine.speculation import Speculation
from helpers.engine.text import TextStream
from helpers.errors import GrammarError, HelpersError, ModelFileError
from helpers.grammars.mask import Matcher
from helpers.grammars.mask.token_text import token_text
from helpers.native import Context, Model, SamplerChain
from helpers.timings import Timings

Event = Chunk | Completion | BaseException
Sink = Callable[[Event], None]


class Job:
    """A request on its way through an engine.

    Args:
        request: What to generate.
        sink: Called from the engine's thread with each `Chunk`, and once, last, with the
            `Completion` or the exception. It must not block.
    """

    def __init__(self, request: Request, sink: Sink) -> None:
        self.request = request
        self.cancelled = False
        self.ended = False
        self.withdrawn: HelpersError | None = None  # why a cancelled one has no completion
        self.tokens: list[int] | None = None
        self.submitted = time.perf_counter()
        self._sink = sink

    def tell(self, event: Event) -> None:
        """Pass on what happens to it."""
        if not isinstance(event, Chunk):
            self.ended = True
            if isinstance(event, Completion) and self.withdrawn is not None:
                event = self.withdrawn
        self._sink(event)


class Sequence:
    """The state of one answer between two decodes.

    Args:
        job: The request.
        tokens: The prompt's tokens.
        model: The loaded model.
        n_ctx: Tokens that this sequence may hold.
        matcher: State of the request's grammar, or None.
        speculation: What guesses its tokens, or None.
    """

    def __init__(
        self,
        job: Job,
        tokens: list[int],
        model: Model,
        n_ctx: int,
        matcher: Matcher | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        request = job.request
        self.job = job
        self.prompt = tokens
        self.answer: list[int] = []
        self.pending: list[int] = []
        self.guesses: list[int] = []
        self.right = 0  # of the guesses, from the first on
        self.cached = 0
        self.reading = True  # its prompt
        self.tiles = 0  # of the prompt, from its beginning: see `Lane.reuse`
        self.finish_reason: str | None = None
        self.prompt_seconds = self.eval_seconds = self.sample_seconds = 0.0
        self.eval_tokens = 0
        self.shared_decodes = False
        self._model = model
        self._matcher = matcher
        self.speculation = speculation
        # Tokens that are appended as well have no logits, so there is nothing to report of them.
        self._fast_forward = request.fast_forward and request.logprobs is None
        self._stream = TextStream(request.stop)
        self._shown = model.control_tokens(request.shown_tokens)
        self._reasoning = (
            ReasoningWatch(request.reasoning, model) if request.reasoning is not None else None
        )
        # What the engine writes itself, because the reasoning has used up its tokens.
        self._closing = self._reasoning.closing() if self._reasoning is not None else []
        self._text: list[str] = []
        self._times: list[float] = []
        self._room = n_ctx - len(tokens)
        if request.max_tokens is not None and request.max_tokens > 0:
            self._room = min(self._room, request.max_tokens)
        before = len(request.prompt) if request.echo and isinstance(request.prompt, str) else 0
        self._logprobs = (
            _LogProbs(request.logprobs, model, before) if request.logprobs is not None else None
        )
        self._penalties = _Penalties(request) if _Penalties.wanted(request) else None
        for token, _ in request.logit_bias:
            if token >= model.n_vocab:
                raise ValueError(
                    f"logit_bias: token {token} is not in the vocabulary: 0 to {model.n_vocab - 1}."
                )
        self._bias = request.logit_bias
        self._chain = None
        if request.temperature > 0:
            self._chain = SamplerChain(
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                min_p=request.min_p,
                typical_p=request.typical_p,
                seed=request.seed_or_random(),
            )
        if request.echo and isinstance(request.prompt, str):
            self._emit(str.__str__(request.prompt))  # an answer has no parts

    def guess(self, most: int) -> int:
        """Guess what follows `pending`, and set `guesses` to what is worth a check.

        Args:
            most: Most guesses.

        Returns:
            How many there are.
        """
        self.guesses = []
        most = min(most, self._room - len(self.answer) - 1)
        if self.speculation is not None and most > 0 and not self._closing:
            started = time.perf_counter()
            allowed = None if self._matcher is None else self._matcher.allowed
            self.guesses = self.speculation.guess(len(self.pending), most, allowed)
            self.sample_seconds += time.perf_counter() - started
        return len(self.guesses)

    def step(self, context: Context, row: int, limit: int) -> bool:
        """Choose the next token from the logits in `row` and pass its text on.

        Where it is what was guessed, the one after it is chosen from the row after it, and so on;
        `right` then says how many were. Where the grammar leaves no choice for what follows, those
        tokens are appended as well: they need no logits and are decoded together with the chosen
        one.

        Args:
            context: Where the logits are.
            row: Row of the last decode.
            limit: Most tokens that the next decode may have of this sequence.

        Returns:
            True if `pending` is to be decoded next, False when the answer has ended.
        """
        guesses, self.guesses, self.right = self.guesses, [], 0
        while self._choose_next(context, row + self.right, limit):
            while self.pending and self.pending[:1] == guesses[self.right : self.right + 1]:
                del self.pending[0]  # it has been decoded
                self.right += 1
            if self.pending:
                return True
        return False

    def _choose_next(self, context: Context, row: int, limit: int) -> bool:
        """Choose one token; False when the answer has ended."""
        started = time.perf_counter()
        token = self._close(context, row) if self._closing else None
        if token is None:
            token = self._choose(context, row)
        now = time.perf_counter()
        self.sample_seconds += now - started
        self.pending = []
        if self._model.is_end(token):
            self.finish_reason = "stop"
            return False
        if self._logprobs is not None:
            self._logprobs.chose(token)
        if self._take(token, now):
            return False
        if self._fast_forward:
            while self._closing and len(self.pending) < limit:
                if self._append(self._closing.pop(0)):
                    return False
        if self._matcher is not None and self._fast_forward and not self._closing:
            for forced in self._matcher.forced()[: limit - len(self.pending)]:
                if self._model.is_end(forced):
                    break
                if self._append(forced):
                    return False
        return True

    def _append(self, token: int) -> bool:
        """Add a token that nothing was chosen for; True when that ends the answer."""
        return self._accept(token) and self._take(token, time.perf_counter())

    def _close(self, context: Context, row: int) -> int | None:
        """The next token of what ends the reasoning; None if the grammar wants it otherwise."""
        token = self._closing.pop(0)
        if not self._accept(token):
            return None
        if self._logprobs is not None:
            self._logprobs.see(context.logits(row))
        return token

    def _accept(self, token: int) -> bool:
        """Go on with a token that nothing was chosen for; False if the grammar refuses it."""
        if self._matcher is not None:
            if not self._matcher.allows(token):
                self._closing = []
                return False
            self._matcher.accept(token)
        if self._penalties is not None:
            self._penalties.accept(token)
        return True

    def _take(self, token: int, now: float) -> bool:
        """Add a token to the answer; True when that ends it."""
        self._times.append(now)
        self.answer.append(token)
        self.pending.append(token)
        if self.speculation is not None:
            self.speculation.tokens.append(token)
        text = self._stream.feed(self._shown.get(token) or self._model.piece(token))
        self._emit(text, self._logprobs.take() if self._logprobs is not None else None)
        if self._stream.stopped or (self._matcher is not None and self._matcher.is_finished):
            self.finish_reason = "stop"
        elif len(self.answer) >= self._room:
            self.finish_reason = "length"
        if self._reasoning is not None and self._reasoning.accept(token):
            self._closing = self._reasoning.closing()
        return self.finish_reason is not None

    def _choose(self, context: Context, row: int) -> int:
        logits = context.logits(row)
        best = int(logits.argmax())  # if one is no number (NaN), that one
        if not math.isfinite(logits[best]):
            raise ModelFileError(
                "The model computed no numbers (NaN or infinity) for the next token: its weights "
                "are damaged, or overflow. Load it with check_tensors=True to look for damage, or "
                "download it again; on a device, try flash_attn=False and type_k=None."
            )
        if self._logprobs is not None:
            self._logprobs.see(logits)
        for biased, value in self._bias:
            logits[biased] += value
        if self._penalties is not None:
            self._penalties.apply(logits)
        if self._chain is None and self._penalties is None and not self._bias:
            token = best
        else:
            token = self._draw(context, logits, row)
        if self._matcher is not None:
            if not self._matcher.allows(token):
                self._matcher.apply(logits)
                token = self._draw(context, logits, row)
                if logits[token] == -np.inf:
                    raise GrammarError(
                        "No token of this model can continue the text under the grammar. "
                        "Test the text so far with Grammar.explain(text)."
                    )
            if not self._model.is_end(token):
                self._matcher.accept(token)
        if self._penalties is not None:
            self._penalties.accept(token)
        return token

    def _draw(self, context: Context, logits: npt.NDArray[np.float32], row: int) -> int:
        if self._chain is None:
            return int(logits.argmax())
        return self._chain.sample(context, row)

    def _emit(self, text: str, logprobs: dict[str, list[Any]] | None = None) -> None:
        self._text.append(text)
        if text or logprobs:
            self.job.tell(Chunk(text, logprobs))

    def finish(self, timings: dict[str, Any], notes: tuple[str, ...] = ()) -> None:
        """Emit what was held back, then the `Completion`.

        Args:
            timings: Fields of `Timings` that the scheduler knows better (native counters).
            notes: What the user should know.
        """
        rest = self._stream.finish()
        if self.job.request.suffix:
            rest += self.job.request.suffix
        if rest:
            self._emit(rest)
        start = self.job.submitted
        times = [start, *self._times]
        fields: dict[str, Any] = {
            "sample_ms": self.sample_seconds * 1000,
            "sample_tokens": len(self.answer),
            "prompt_ms": self.prompt_seconds * 1000,
            "prompt_tokens": len(self.prompt) - self.cached,
            "cached_tokens": self.cached,
            "eval_ms": self.eval_seconds * 1000,
            "eval_tokens": self.eval_tokens,
            "generated_tokens": len(self.answer),
            "guessed_tokens": self.speculation.guessed if self.speculation is not None else None,
            "right_tokens": self.speculation.right if self.speculation is not None else None,
            "total_ms": (time.perf_counter() - start) * 1000,
            "first_token_ms": (times[1] - start) * 1000 if self._times else None,
            "token_ms": [(b - a) * 1000 for a, b in pairwise(times)],
        }
        self.job.tell(
            Completion(
                text="".join(self._text),
                finish_reason=self.finish_reason or "cancelled",
                timings=Timings(**{**fields, **timings}),
                prompt_tokens=len(self.prompt),
                generated_tokens=len(self.answer),
                logprobs=self._logprobs.all if self._logprobs is not None else None,
                notes=notes,
            )
        )
        self.close()

    def close(self) -> None:
        """Free what this sequence holds in native memory."""
        if self._chain is not None:
            self._chain.close()
            self._chain = None


class _Penalties:
    """Repeat, frequency and presence penalty, with llama.cpp's formula, on the answer's tokens."""

    def __init__(self, request: Request) -> None:
        self._repeat = np.float32(request.repeat_penalty)
        self._frequency = np.float32(request.frequency_penalty)
        self._presence = np.float32(request.presence_penalty)
        self._window: deque[int] = deque(maxlen=None if request.last_n < 0 else request.last_n)
        self._counts: dict[int, int] = {}

    @staticmethod
    def wanted(request: Request) -> bool:
        return request.last_n != 0 and (
            request.repeat_penalty != 1.0
            or request.frequency_penalty != 0.0
            or request.presence_penalty != 0.0
        )

    def accept(self, token: int) -> None:
        if len(self._window) == self._window.maxlen:
            old = self._window[0]
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]
        self._window.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        if not self._counts:
            return
        size = len(self._counts)
        tokens = np.fromiter(self._counts.keys(), np.intp, size)
        values = logits[tokens]
        values = np.where(values <= 0, values * self._repeat, values / self._repeat)
        if self._frequency or self._presence:
            counts = np.fromiter(self._counts.values(), np.float32, size)
            values -= counts * self._frequency + self._presence
        logits[tokens] = values


class _LogProbs:
    """Log probabilities in the form of OpenAI's completions, from one row of logits at a time.

    A token is named by its text, or by its bytes if they are a part of a character; one whose text
    is that of the chosen or of a likelier token, by its number: `token_id:7`.

    Args:
        top: How many of the likeliest tokens to tell.
        model: The loaded model.
        offset: Characters of the text before the first token.
    """

    def __init__(self, top: int, model: Model, offset: int = 0) -> None:
        self._top = min(top, model.n_vocab)
        self._model = model
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._row: npt.NDArray[np.float64] = np.empty(0)
        self._new = self._empty()
        self.all = self._empty()

    @staticmethod
    def _empty() -> dict[str, list[Any]]:
        return {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}

    def see(self, logits: npt.NDArray[np.float32]) -> None:
        row = logits.astype(np.float64)
        row -= row.max()
        self._row = row - np.log(np.exp(row).sum())

    def chose(self, token: int) -> None:
        row, raw = self._row, self._model.piece(token)
        name = token_text(raw)
        best = np.argpartition(-row, self._top - 1)[: self._top] if self._top else np.empty(0, int)
        names = {name: token}
        for other in sorted((int(i) for i in best), key=lambda i: -row[i]):
            if other != token:
                text = token_text(self._model.piece(other))
                names[f"token_id:{other}" if text in names else text] = other
        ranked = sorted(names, key=lambda name: -row[names[name]])
        for key, value in (
            ("tokens", name),
            ("text_offset", self._offset),
            ("token_logprobs", float(row[token])),
            ("top_logprobs", {name: float(row[names[name]]) for name in ranked}),
        ):
            self._new[key].append(value)
            self.all[key].append(value)
        # A character counts where it is whole: the text has no parts of one.
        self._offset += len(self._decoder.decode(raw))

    def take(self) -> dict[str, list[Any]]:
        new, self._new = self._new, self._empty()
        return new
