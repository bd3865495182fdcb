"""A LangChain callback handler that keeps the `Timings` of every call it sees."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration

from helpers.tables import html_table
from helpers.timings import Timings

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import Generation, LLMResult

__all__ = ["TimingsRecorder"]

_PROMPT_CHARACTERS = 60
_FORMS = {"f": ">.2f", "i": ">"}  # by the kind of a column
_MS_FIELDS = ("load_ms", "prompt_ms", "sample_ms", "eval_ms", "total_ms", "first_token_ms")
_COUNT_FIELDS = (
    "prompt_tokens",
    "cached_tokens",
    "sample_tokens",
    "eval_tokens",
    "generated_tokens",
    "guessed_tokens",
    "right_tokens",
)


@dataclass(frozen=True)
class _Call:
    name: str
    prompt: str
    timings: Timings | None
    error: str | None = None


class TimingsRecorder(BaseCallbackHandler):
    """Collect the `Timings` of each finished call of a model, through LangChain's callbacks.

    Give it in `callbacks=[…]`, to one call or to a whole chain. It reads
    `generation_info["timings"]` of language models and `response_metadata["timings"]` of chat
    models. Several threads may use one recorder.

    >>> from helpers import TimingsRecorder
    >>> recorder = TimingsRecorder()
    >>> len(recorder), recorder.timings
    (0, [])
    """

    run_inline = True  # quick, and so the order of the rows is the order of the calls

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._started: dict[UUID, tuple[str, tuple[str, ...]]] = {}
        self._calls: list[_Call] = []

    @property
    def timings(self) -> list[Timings]:
        """`Timings` of the measured calls, in the order in which they ended."""
        with self._lock:
            return [call.timings for call in self._calls if call.timings is not None]

    def __len__(self) -> int:
        """Return the number of calls that ended, those with an error included."""
        return len(self._calls)

    def __bool__(self) -> bool:
        """Return True: an empty recorder is a recorder (LangChain tests handlers for truth)."""
        return True

    def clear(self) -> None:
        """Forget every finished call; calls that are under way are still recorded."""
        with self._lock:
            self._calls.clear()

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row for each call that ended.

        Returns:
            Columns `name` (of the run), `prompt` (its first 60 characters), the fields of
            `Timings` with their unit in the name (`…_ms`, `…_tokens`),
            `prompt_tokens_per_second`, `eval_tokens_per_second`, and `error` (the kind of
            exception that ended the call, or missing). Figures that were not measured are missing.

        >>> list(TimingsRecorder().to_frame().columns[:2])
        ['name', 'prompt']
        """
        import pandas as pd

        with self._lock:
            calls = list(self._calls)

        def column(field: str, dtype: str) -> pd.Series[Any]:
            values = [None if c.timings is None else getattr(c.timings, field) for c in calls]
            return pd.Series(values, dtype=dtype)

        frame = pd.DataFrame(
            {
                "name": pd.Series([call.name for call in calls], dtype="object"),
                "prompt": pd.Series([call.prompt for call in calls], dtype="object"),
                **{field: column(field, "float64") for field in _MS_FIELDS},
                **{field: column(field, "Int64") for field in _COUNT_FIELDS},
                "prompt_tokens_per_second": column("prompt_per_second", "float64"),
                "eval_tokens_per_second": column("eval_per_second", "float64"),
                "error": pd.Series([call.error for call in calls], dtype="object"),
            }
        )
        frame.index.name = "call"
        return frame

    def _repr_html_(self) -> str:
        """Return the table of calls for Jupyter, without columns in which nothing is known."""
        frame = self.to_frame().dropna(axis="columns", how="all").reset_index()
        columns = {name: _FORMS.get(kind.kind, "<") for name, kind in frame.dtypes.items()}
        known = frame.astype(object).where(frame.notna(), None)
        return html_table(columns, known.itertuples(index=False))

    # LangChain calls the methods below.

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Note the name of the run and the start of its prompts."""
        self._start(run_id, serialized, kwargs, [_shorten(prompt) for prompt in prompts])

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Note the name of the run and the start of the last message of each conversation."""
        prompts = [_shorten(str(talk[-1].text)) if talk else "" for talk in messages]
        self._start(run_id, serialized, kwargs, prompts)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep the timings of every generation of a finished run."""
        self._end(run_id, response, None)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep a row for a run that ended in an error, with its timings if there are any."""
        self._end(run_id, kwargs.get("response"), type(error).__name__)

    def _start(
        self,
        run_id: UUID,
        serialized: Mapping[str, Any] | None,
        kwargs: Mapping[str, Any],
        prompts: Sequence[str],
    ) -> None:
        name = kwargs.get("name") or (serialized or {}).get("name") or ""
        with self._lock:
            self._started[run_id] = (str(name), tuple(prompts))

    def _end(self, run_id: UUID, response: LLMResult | None, error: str | None) -> None:
        with self._lock:
            name, prompts = self._started.pop(run_id, ("", ()))
        calls = [
            _Call(name, prompts[i] if i < len(prompts) else "", _timings_of(generation), error)
            for i, generations in enumerate(response.generations if response else [])
            for generation in generations
        ]
        with self._lock:
            self._calls += calls or [_Call(name, prompts[0] if prompts else "", None, error)]


def _timings_of(generation: Generation) -> Timings | None:
    found = (generation.generation_info or {}).get("timings")
    if found is None and isinstance(generation, ChatGeneration):
        found = generation.message.response_metadata.get("timings")
    if isinstance(found, Timings):
        return found
    return Timings.from_dict(found) if isinstance(found, Mapping) else None


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PROMPT_CHARACTERS else line[: _PROMPT_CHARACTERS - 1] + "…"
