"""What makes answers faster here: guessed tokens by task, and each setting alone, in one run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from helpers.bench.levers import what_helps
from helpers.bench.table import Comparison, Row, describe_machine
from helpers.convert import quantize
from helpers.engine import Engine, LoadOptions, Request
from helpers.grammars import Grammar
from helpers.isolation import make_core
from helpers.models import default_model
from helpers.timings import Timings

LETTER = """Dear Mr. Brown,

Thank you for your letter of 3 March. We are sorry that the garden chairs arrived with scratches, \
and that the blue cushions were missing. Our driver remembers that the box was wet when he took it \
from the train, so the damage was done before it reached our shop in Market Street.

We will send you four new chairs and six blue cushions on Monday. You do not have to pay for them, \
and you may keep the old chairs. If you are at home between nine and eleven, the driver will carry \
them to your garden. Please put the old box in front of the door, so that he can take it back with \
him.

Our manager, Mrs. Ellen Carter, would like to talk to you about it. You can reach her by telephone \
on every day but Sunday, from eight in the morning until four in the afternoon. She will also tell \
you about our new catalogue, in which you will find tables, lamps and carpets for the summer.

We hope that you will be happy with your new chairs, and that you will visit our shop again soon.

Yours sincerely,
Thomas Green"""
"""A text of about 250 tokens to quote, to rewrite, and to extract from."""

_SENTENCES = {
    "type": "object",
    "properties": {"sentences": {"type": "array", "items": {"type": "string"}, "minItems": 4}},
    "required": ["sentences"],
    "additionalProperties": False,
}


class Task(NamedTuple):
    """Something to ask a model.

    Attributes:
        name: What it is.
        question: What the user says.
        schema: What the answer must be, as JSON Schema, or None for prose.
        target: How many times faster guesses should make it.
    """

    name: str
    question: str
    schema: dict[str, object] | None = None
    target: float = 1.8


TASKS = (
    Task("quoting a letter", f"Repeat this letter word for word:\n\n{LETTER}"),
    Task(
        "rewriting it to another person",
        f"Write this letter again, but to Mrs. White instead of Mr. Brown:\n\n{LETTER}",
    ),
    Task(
        "extracting its sentences as JSON",
        f"Copy the sentences of this letter into a JSON list.\n\n{LETTER}",
        _SENTENCES,
        1.4,
    ),
    Task("free prose", "Write a long story about a lighthouse keeper and her dog.", None, 0.97),
    Task("an explanation", "Explain step by step how bread is made.", None, 0.97),
)
"""What `python -m helpers bench --speed` asks."""


def chat(question: str) -> str:
    """A question in ChatML, which is what the embedded model was trained with."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def compare_speed(
    *,
    rounds: int = 5,
    draft: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Measure generation with guesses against that without, and each setting against the default.

    Asks the embedded model and its twin in Q4_0, whose matrices llama.cpp stores rearranged for
    several tokens at once on a CPU.

    Args:
        rounds: Times that each pair is measured.
        draft: A GGUF to guess with as well, or None.
        say: Told what is going on.

    Returns:
        The table; a speed with guesses is that of generation, sampling and guessing included, the
        rows of settings are those of `what_helps`.
    """
    result = Comparison(describe_machine())
    with TemporaryDirectory() as folder:
        twin = Path(folder) / "twin-Q4_0.gguf"
        say("making the twin in Q4_0")
        quantize(default_model(), "Q4_0", twin, allow_requantize=True)
        for name, path in (("", default_model()), ("Q4_0 twin: ", twin)):
            for source in ("lookup", *((draft,) if draft else ())):
                label = f"{name}speculate={Path(source).name!r}, "
                _compare_tasks(result, label, path, source, rounds, say)
    levers = what_helps(rounds=rounds, speculate=(), on_step=lambda what, share: say(what))
    for lever in levers.rows:
        if lever.ratio is not None:
            low, high = min(lever.ratios), max(lever.ratios)
            name = f"{lever.name}, {lever.what} / the default"
            result.rows.append(Row(name, lever.ratio, None, low, high, lever.verdict))
    return result


def measure(
    engine: Engine, task: Task, *, first: bool = True, max_tokens: int = 256
) -> tuple[tuple[float, Timings], tuple[float, Timings]]:
    """Ask once with guesses and once without.

    Args:
        engine: Loaded with `speculate`.
        task: What to ask.
        first: Whether it is asked with guesses first.
        max_tokens: Most tokens of an answer.

    Returns:
        Tokens/s after the first token and timings, with guesses and without.
    """
    schema = task.schema
    request = Request(
        prompt=chat(task.question),
        max_tokens=max_tokens,
        temperature=0.0,
        repeat_penalty=1.0,
        grammar=None if schema is None else Grammar.from_json_schema(schema),
    )
    found: dict[bool, tuple[float, Timings]] = {}
    for guesses in (first, not first):
        timings = engine.generate(replace(request, speculate=guesses)).timings
        times = timings.token_ms or []
        found[guesses] = (1000 * (len(times) - 1) / sum(times[1:]), timings)
    return found[True], found[False]


def _compare_tasks(
    result: Comparison,
    label: str,
    path: Path,
    source: str,
    rounds: int,
    say: Callable[[str], None],
) -> None:
    options = LoadOptions(
        model_path=str(path), n_ctx=1024, n_gpu_layers=0, isolate=True, speculate=source
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # answers that were cut off
        for task in TASKS:
            with Engine(options, make_core) as engine:  # nothing learned from the task before
                say(f"{label}{task.name}")
                pairs = [measure(engine, task, first=bool(n % 2)) for n in range(rounds + 1)][1:]
            timings = pairs[-1][0][1]
            right = f"; {timings.right_tokens} of {timings.guessed_tokens} guesses right"
            result.add(
                f"{label}{task.name} / without",
                [(ours[0], theirs[0]) for ours, theirs in pairs],
                target=task.target if source == "lookup" else None,
                unit="tokens/s",
                more=right,
            )
