"""What every hostile use has: an expected outcome, and a model that is quickly made."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from helpers import LlamaCpp, default_model
from helpers.engine.engine import _cores
from helpers.threads import catch_up

MARK = "~outcome~ "
MODEL = str(default_model())
FRANCE = "The capital of France is"
STORY = "Once upon a time, there was a"


class Word(str, Enum):  # noqa: UP042 (its `str()` is not its content)
    """A class that no other process knows."""

    PARIS = "Paris"


NO_END = {token: float("-inf") for token in (0, 1, 2)}  # the tokens that end a text


@dataclass(frozen=True)
class Gives:
    """The use returns this (its `repr` is compared)."""

    value: object


class Raises:
    """An exception of this kind, whose message has all these words."""

    def __init__(self, kind: str, *words: str) -> None:
        self.kind, self.words = kind, words


class Says:
    """The use returns a text that has all these words."""

    def __init__(self, *words: str) -> None:
        self.words = words


@dataclass(frozen=True)
class Exits:
    """The interpreter ends with this status, having printed this."""

    status: int
    printed: str


@dataclass(frozen=True)
class Use:
    """One hostile use.

    Attributes:
        group: What is hostile in it: the module that has it.
        name: What happens.
        action: What to do; it returns an answer, or raises.
        expected: The outcome.
        posix: It needs signals, fork or the like.
    """

    group: str
    name: str
    action: Callable[[], object]
    expected: Gives | Raises | Says | Exits
    posix: bool = False


class Uses:
    """The uses of one group; called, it is a decorator that adds one."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.table: list[Use] = []

    def __call__(
        self, name: str, expected: Gives | Raises | Says | Exits, *, posix: bool = False
    ) -> Callable[[Callable[[], object]], Callable[[], object]]:
        def add(action: Callable[[], object]) -> Callable[[], object]:
            self.table.append(Use(self.group, name, action, expected, posix))
            return action

        return add


def make(**fields: Any) -> LlamaCpp:
    """A model with a small context, on one thread: two interpreters at a time share the cores."""
    small = {"model_path": MODEL, "temperature": 0, "max_tokens": 4, "n_ctx": 512, "n_threads": 1}
    return LlamaCpp(**{**small, **fields})


def works(llm: LlamaCpp) -> bool:
    return "Paris" in llm.invoke(FRANCE, max_tokens=3)


def error(action: Callable[[], Any]) -> Any:
    """The exception that an action ends in, as text; what it returned, if none."""
    try:
        return action()
    except BaseException as caught:
        return f"{type(caught).__name__}: {caught}"


def told(action: Callable[[], object]) -> str:
    """The warnings of an action, as one text."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        action()
    return " | ".join(f"{w.category.__name__}: {w.message}" for w in seen)


def in_threads(count: int, action: Callable[[int], Any]) -> list[Any]:
    """The answers of an action called in so many threads at once."""
    answers: list[Any] = [None] * count
    ready = threading.Barrier(count)

    def run(i: int) -> None:
        ready.wait()
        answers[i] = error(lambda: action(i))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def written(raw: bytes) -> str:
    """A file with these bytes."""
    Path("m.gguf").write_bytes(raw)
    return "m.gguf"


def damaged(change: Callable[[bytes], bytes]) -> str:
    """A copy of the model whose first 4 MiB went through a function."""
    raw = Path(MODEL).read_bytes()
    return written(change(raw[: 1 << 22]) + raw[1 << 22 :])


def loaded() -> int:
    """How many models are loaded."""
    catch_up()
    return sum(bool(shared.core and shared.core.alive) for shared in list(_cores.values()))


class OnToken(BaseCallbackHandler):
    """Calls a function with each piece of text."""

    raise_error = True

    def __init__(self, action: Callable[[str], object]) -> None:
        self.action = action

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.action(token)
