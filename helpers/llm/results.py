"""From a `Completion` to what LangChain passes on: generation info, token usage, last timings."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any

from langchain_core.outputs import GenerationChunk

from helpers.engine import Chunk, Completion, Request
from helpers.timings import Timings
from helpers.warn import warn_caller


class LastTimings:
    """The last timings of each task and thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._of_task: weakref.WeakKeyDictionary[asyncio.Task[Any], Timings | None] = (
            weakref.WeakKeyDictionary()
        )

    def set(self, timings: Timings | None) -> None:
        """Remember the timings of this thread's or task's call; None if nothing was computed."""
        self._of_thread.value = timings
        task = _current_task()
        if task is not None:
            self._of_task[task] = timings

    def get(self) -> Timings | None:
        """The timings of this task's last call, or else of this thread's."""
        task = _current_task()
        if task is not None and task in self._of_task:
            return self._of_task[task]
        value: Timings | None = getattr(self._of_thread, "value", None)
        return value

    def __deepcopy__(self, memo: object) -> LastTimings:
        return LastTimings()

    def __reduce__(self) -> tuple[type[LastTimings], tuple[()]]:
        return (LastTimings, ())


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def grammar_info(request: Request, completion: Completion) -> dict[str, Any]:
    """What is wrong with a text that was to match a grammar; each fault is also a warning.

    A text that `max_tokens` or the context cut off is unfinished. A grammar that was made with
    `strict=False` allows more than its schema: there the text is validated against the schema.

    Returns:
        `{"schema_problems": [...]}` where a finished text breaks the schema, else nothing.
    """
    grammar = request.grammar
    if grammar is None or completion.finish_reason == "cancelled":
        return {}
    text = _own_text(request, completion)
    if completion.finish_reason == "length" and not grammar.matches(text):
        count = completion.generated_tokens
        warn_caller(
            f"The answer was cut off after {count} token{'s' * (count != 1)} and does not match "
            "its grammar yet. Give it more max_tokens, or a grammar that ends sooner."
        )
        return {}
    if not grammar.relaxed:
        return {}
    problems = grammar.problems(text)
    if problems:
        warn_caller(
            "The answer breaks its schema where the grammar had to be relaxed: "
            f"{'; '.join(problems)}. Ask again, for example with another seed."
        )
        return {"schema_problems": problems}
    return {}


def _own_text(request: Request, completion: Completion) -> str:
    """The text that the model wrote, without the prompt before it and the suffix behind it."""
    text = completion.text
    if request.echo and isinstance(request.prompt, str):
        text = text.removeprefix(request.prompt)
    return text.removesuffix(request.suffix or "")


def logprobs_info(logprobs: dict[str, list[Any]] | None) -> dict[str, Any] | None:
    """Generation info of a piece of text."""
    return {"logprobs": logprobs} if logprobs is not None else None


def text_chunk(chunk: Chunk) -> GenerationChunk:
    """A piece of text on its way through a stream."""
    return GenerationChunk(text=chunk.text, generation_info=logprobs_info(chunk.logprobs))


def token_usage(prompt: int, answer: int) -> dict[str, int]:
    """Token counts under the names that LangChain's tools look for."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def final_info(request: Request, completion: Completion) -> dict[str, Any]:
    """Generation info of a whole answer."""
    return {
        "finish_reason": completion.finish_reason,
        "timings": completion.timings,
        "token_usage": token_usage(completion.prompt_tokens, completion.generated_tokens),
        **grammar_info(request, completion),
    }


def one_line(completion: Completion) -> str:
    """What `verbose=True` prints for a call."""
    timings = completion.timings
    prompt, answer = timings.prompt_per_second, timings.eval_per_second
    return (
        f"llama.cpp: {timings.prompt_tokens} prompt tokens"
        + (f" at {prompt:.1f}/s" if prompt else "")
        + (f" ({timings.cached_tokens} cached)" if timings.cached_tokens else "")
        + f", {timings.generated_tokens} generated"
        + (f" at {answer:.1f}/s" if answer else "")
        + f", {timings.total_ms or 0:.0f} ms in all, ended by {completion.finish_reason}"
    )
