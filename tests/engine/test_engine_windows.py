"""Models with a sliding window: a smaller cache, and never another text because of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from helpers.engine import Completion, Engine, LoadOptions, Request
from tests.memory.test_windowed import write

WINDOW = 64
CELLS = 256  # what llama.cpp keeps: the window and one micro-batch, padded

pytestmark = pytest.mark.filterwarnings("ignore:n_ctx=2048 is more than")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    return write(folder / "gemma.gguf", "gemma3", 6, sliding_window=WINDOW)


def make(path: Path, **changes: Any) -> Engine:
    return Engine(
        LoadOptions(
            **{
                "model_path": str(path),
                "n_ctx": 2048,
                "n_batch": 64,
                "n_ubatch": 64,
                "n_gpu_layers": 0,
                **changes,
            }
        )
    )


@pytest.fixture(scope="module")
def windowed(path: Path) -> Iterator[Engine]:
    with make(path) as engine:
        yield engine


def ask(engine: Engine, tokens: list[int], count: int = 40) -> Completion:
    request = Request(
        prompt=tuple(tokens),
        max_tokens=count,
        temperature=0,
        repeat_penalty=1.0,
        logprobs=1,  # random weights say little in words
        logit_bias=((0, -1e5), (1, -1e5), (2, -1e5)),
    )
    return engine.generate(request)


def prompt(length: int, salt: int = 0) -> list[int]:
    return [3 + (7 * place + place // 5 + salt) % 250 for place in range(length)]


def cold(path: Path, tokens: list[int], count: int = 40, **changes: Any) -> Completion:
    # Engines with equal options share a model and its cache: this one must differ in something.
    with make(path, n_parallel=3, **changes) as engine:
        return ask(engine, tokens, count)


def told(done: Completion) -> tuple[str, list[float]]:
    """The text, and how likely each of its tokens was: what any lost key or value changes."""
    assert done.logprobs is not None
    return done.text, done.logprobs["token_logprobs"]


def test_the_cache_is_small_by_default(path: Path, windowed: Engine) -> None:
    with make(path, swa_full=True) as full:
        large = full.load_report.by_device["CPU"]["kv"]
    small = windowed.load_report.by_device["CPU"]["kv"]
    # One layer of six sees everything; the others keep 256 of 2048 cells.
    assert small == pytest.approx(large * (1 + 5 * CELLS / 2048) / 6, abs=0.02)


def test_the_text_is_that_of_the_whole_cache(path: Path, windowed: Engine) -> None:
    tokens = prompt(700)
    answer, full = ask(windowed, tokens), cold(path, tokens, swa_full=True)
    assert told(answer) == told(cold(path, tokens))
    # Sums over another number of cells are rounded differently, and later tokens may part ways.
    assert told(answer)[1][0] == pytest.approx(told(full)[1][0], abs=0.01)


@pytest.mark.parametrize("kept", [690, 640, 500, 300, 100, 10])
def test_going_back_computes_again_what_the_window_has_lost(
    path: Path, windowed: Engine, kept: int
) -> None:
    first = prompt(700)
    ask(windowed, first)
    changed = [*first[:kept], *prompt(3, salt=kept)]
    again = ask(windowed, changed)
    assert told(again) == told(cold(path, changed))
    # 740 tokens were held, the last 256 of them in every layer. To go on at `kept`, the window
    # before it must be there.
    assert bool(again.timings.cached_tokens) == (kept - WINDOW > 740 - CELLS)


def test_a_walk_back_and_forth_never_changes_a_text(path: Path, windowed: Engine) -> None:
    random = Random(7)
    base, kept, reused = prompt(1500), 700, 0
    for _ in range(16):
        kept += random.randrange(-30, 120)
        tokens = [*base[:kept], *prompt(random.randrange(2, 80), salt=random.randrange(200))]
        count = random.randrange(1, 90)
        answer = ask(windowed, tokens, count)
        assert told(answer) == told(cold(path, tokens, count=count))
        reused += bool(answer.timings.cached_tokens)
    assert 4 <= reused < 16  # both ways were gone


def test_a_conversation_goes_on_without_being_computed_again(windowed: Engine) -> None:
    tokens = prompt(700, salt=3)
    ask(windowed, tokens)
    again = ask(windowed, [*tokens, *prompt(30, salt=9)])
    assert (again.timings.cached_tokens or 0) > 600


def test_a_batch_of_windowed_sequences(path: Path, windowed: Engine) -> None:
    prompts = [[*prompt(300), *prompt(40, salt)] for salt in range(4)]
    requests = [
        Request(prompt=tuple(tokens), max_tokens=20, temperature=0, repeat_penalty=1.0)
        for tokens in prompts
    ]
    together = [done.text for done in windowed.generate_many(requests)]
    alone = []
    for request in requests:
        with make(path, n_parallel=3) as engine:
            alone.append(engine.generate(request).text)
    assert together == alone
