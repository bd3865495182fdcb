"""What a chat of 50 turns costs before anything is decoded: rendering, and making tokens.

`python -m tests.benchmarks.bench_templates`: with the embedded model's template. "first" is the
first call of a process, "anew" a prompt that shares nothing with those before, "next turn" one that
goes on from the last; the medians of as many calls as there are rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from helpers import default_model, format_prompt
from helpers.load_options import LoadOptions
from helpers.native import Model
from helpers.native.pieces import Pieces
from helpers.prompt import Prompt

TURNS, ROUNDS = 50, 15
ANSWER = "A prime number has exactly two divisors, one and itself. " * 8


def chat(topic: str) -> list[tuple[str, str]]:
    """A chat of 50 turns and a question."""
    messages = [("system", f"You know all about {topic}.")]
    for turn in range(TURNS):
        messages.append(("user", f"What is the {topic} of {turn}, and why does it matter?"))
        messages.append(("assistant", f"{topic}, {turn}: {ANSWER}"))
    return [*messages, ("user", "And the next one?")]


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of an action, and its result."""
    started = time.perf_counter()
    result = action()
    return 1000 * (time.perf_counter() - started), result


def main() -> None:
    """Print the table."""
    path = default_model()
    model = Model(LoadOptions(model_path=str(path), vocab_only=True, n_gpu_layers=0))

    def measure(messages: list[tuple[str, str]]) -> tuple[float, float, float, Prompt]:
        render_ms, prompt = timed(lambda: format_prompt(messages, path))
        pieces_ms, tokens = timed(lambda: model.tokenize(prompt))
        whole_ms, same = timed(lambda: model.tokenize(str.__str__(prompt)))
        assert tokens == same
        return render_ms, pieces_ms, whole_ms, prompt

    rows: dict[str, list[tuple[float, float, float, Prompt]]] = {}
    rows["first"] = [measure(chat("primes"))]
    rows["anew"] = []
    for number in range(ROUNDS):
        model._by_pieces = Pieces(model.vocab, model._tokens)  # which has kept nothing
        rows["anew"].append(measure(chat(f"number {number}")))
    messages = chat(f"number {ROUNDS - 1}")
    rows["next turn"] = []
    for number in range(ROUNDS):
        messages += [("assistant", ANSWER), ("user", f"And number {number}?")]
        rows["next turn"].append(measure(messages))
    print(f"{'':<10} {'render ms':>10} {'tokens ms':>10} {'together':>10} {'as a whole, ms':>15}")
    for name, found in rows.items():
        render_ms, pieces_ms, whole_ms = (
            statistics.median(row[column] for row in found)  # type: ignore[type-var]
            for column in range(3)
        )
        both = statistics.median(row[0] + row[1] for row in found)
        print(f"{name:<10} {render_ms:10.1f} {pieces_ms:10.2f} {both:10.1f} {whole_ms:15.1f}")
    prompt = rows["next turn"][-1][3]
    print(f"the last prompt: {len(prompt):,} characters, {len(model.tokenize(prompt)):,} tokens")


if __name__ == "__main__":
    main()
