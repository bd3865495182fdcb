"""Many sequences, reused prefixes, cancelled calls: the same text every time, and no work twice."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from typing import Any

import pytest

from helpers.engine import Chunk, Completion, Engine, Request
from helpers.engine.engine import _cores
from helpers.errors import ContextOverflowError, HelpersError
from helpers.models import default_model, inspect_model
from helpers.native.context import Context
from helpers.threads import catch_up
from tests.support import options, wait_for

STORY = "Once upon a time, there was a"
NO_END = ((0, -100.0), (1, -100.0), (2, -100.0))


def mixed_requests(count: int) -> list[Request]:
    """Prompts of 1 to 60 tokens, some with common beginnings, with stops and lengths mixed.

    None is longer: ggml's flash attention computes 64 rows and more at once with another kernel,
    whose last bits differ, so that a longer text depends on how much of it was computed at once.
    """
    draw = random.Random(7)
    words = ["river", "stone", "light", "winter", "garden", "music", "house", "paper", "sky"]
    shared = "You are a helpful assistant. " + " ".join(draw.choices(words, k=30))
    requests = []
    for i in range(count):
        own = " ".join(draw.choices(words, k=draw.choice((1, 3, 12))))
        prompt = f"{shared}\nQuestion {i}: {own}?" if i % 3 == 0 else f"{own} is"
        requests.append(
            Request(
                prompt=prompt,
                temperature=0,
                max_tokens=draw.choice((1, 2, 5, 8, 12)),
                stop=draw.choice(((), ("\n",), ("the", "."))),
                repeat_penalty=draw.choice((1.0, 1.1)),
            )
        )
    return requests


def test_64_mixed_prompts_side_by_side_answer_as_if_alone(engine: Engine) -> None:
    requests = mixed_requests(64)
    together = engine.generate_many(requests)
    with Engine(options(n_parallel=1)) as other:
        alone = [other.generate(request) for request in requests]
    assert [done.text for done in together] == [done.text for done in alone]
    assert [done.finish_reason for done in together] == [done.finish_reason for done in alone]
    assert [done.generated_tokens for done in together] == [done.generated_tokens for done in alone]
    assert {done.finish_reason for done in together} == {"stop", "length"}
    assert max(len(engine.tokenize(str(request.prompt))) for request in requests) < 64


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each decode of this process computes, as they come."""
    seen: list[int] = []
    one, several = Context.decode, Context.decode_runs

    def decode(context: Context, *arguments: Any, **named: Any) -> None:
        seen.append(1)
        one(context, *arguments, **named)

    def decode_runs(context: Context, runs: Any, guesses: int = 0) -> list[int]:
        seen.append(len(runs))
        return several(context, runs, guesses)

    monkeypatch.setattr(Context, "decode", decode)
    monkeypatch.setattr(Context, "decode_runs", decode_runs)
    return seen


def test_a_batch_needs_fewer_decodes_than_its_answers_alone(
    engine: Engine, decodes: list[int]
) -> None:
    requests = [
        Request(prompt=f"{i}. {STORY}", temperature=0, max_tokens=n, logit_bias=NO_END)
        for i, n in enumerate([2, 10] * 6)
    ]
    alone = [engine.generate(request).generated_tokens for request in requests]
    one_by_one = list(decodes)
    assert set(one_by_one) == {1} and len(one_by_one) >= sum(alone)
    decodes.clear()
    together = [done.generated_tokens for done in engine.generate_many(requests)]
    assert together == alone == [2, 10] * 6
    # A sequence that ends makes room at once: never more than eight, and more than that in all.
    assert max(decodes) == 8 and decodes.count(8) > 1
    assert len(decodes) < len(one_by_one) / 2


def test_answers_keep_the_order_of_the_requests(engine: Engine) -> None:
    requests = [
        Request(prompt=STORY, temperature=0, max_tokens=n, logit_bias=NO_END)
        for n in (9, 1, 5, 2, 7, 3)
    ]
    lengths = [done.generated_tokens for done in engine.generate_many(requests)]
    assert lengths == [9, 1, 5, 2, 7, 3]


def test_one_failing_request_fails_the_call_and_nothing_else(engine: Engine) -> None:
    fine = Request(prompt=STORY, temperature=0, max_tokens=3)
    with pytest.raises(ContextOverflowError):
        engine.generate_many([fine, Request(prompt="word " * 3000), fine])
    assert engine.generate(fine).generated_tokens == 3


# -- prefix reuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 62, 200, 440])
def test_a_warm_prefix_gives_the_cold_text(length: int) -> None:
    prompt = tuple(inspect_words(length))
    for last in (263, 905):
        request = Request(prompt=(*prompt, last), temperature=0, max_tokens=8, repeat_penalty=1.0)
        with Engine(options(n_parallel=3)) as cold:
            expected = cold.generate(request)
            again = cold.generate(request)
        with Engine(options(n_parallel=3)) as warm:
            warm.generate(Request(prompt=(*prompt, 1000, 1001), temperature=0, max_tokens=3))
            got = warm.generate(request)
        assert expected.timings.cached_tokens == 0
        assert again.timings.cached_tokens == length - 1
        assert again.timings.prompt_tokens == 2
        assert got.timings.cached_tokens == length - 1
        assert got.text == again.text == expected.text


def inspect_words(length: int) -> list[int]:
    draw = random.Random(length)
    return [draw.randrange(300, 40_000) for _ in range(length)]


def test_each_turn_of_a_chat_costs_its_new_tokens_only(engine: Engine) -> None:
    talk: list[int] = []
    turn = engine.tokenize("<|im_start|>user\nTell me more.<|im_end|>\n<|im_start|>assistant\n")
    for number in range(10):
        talk += turn
        done = engine.generate(
            Request(prompt=tuple(talk), temperature=0, max_tokens=6, logit_bias=NO_END)
        )
        if number:
            # The last token of the answer was chosen but never computed: it is new as well.
            assert done.timings.prompt_tokens == len(turn) + 1
            assert done.timings.cached_tokens == len(talk) - len(turn) - 1
        talk += engine._shared.core._scheduler._lane.held[0][len(talk) :]  # type: ignore[attr-defined]
        talk += engine.tokenize(done.text)[-1:]


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3])
def test_what_an_aborted_call_left_is_never_reused_wrongly(engine: Engine, delay: float) -> None:
    request = Request(prompt=STORY * 5, temperature=0, max_tokens=8, repeat_penalty=1.0)
    with Engine(options(n_parallel=3)) as cold:
        expected = cold.generate(request).text
    # One is stopped while it reads the prompt, the other, of the same beginning, while it writes.
    for prompt in ("word and " * 400, STORY * 6):
        stream = engine.stream(Request(prompt=prompt, temperature=0, logit_bias=NO_END))
        time.sleep(delay)
        stream.close()
        assert engine.generate(request).text == expected


def test_a_batch_computes_a_long_common_beginning_once(engine: Engine) -> None:
    shared = " ".join(["You are a helpful assistant who answers in one word."] * 12)
    requests = [
        Request(prompt=f"{shared} Question {i}:", temperature=0, max_tokens=1) for i in range(6)
    ]
    length = len(engine.tokenize(shared))
    assert length > 100
    cached = [done.timings.cached_tokens or 0 for done in engine.generate_many(requests)]
    assert sum(count >= length for count in cached) >= 5


# -- cancelling -----------------------------------------------------------------------------------


def endless() -> Request:
    return Request(prompt=STORY, temperature=0, logit_bias=NO_END)


def test_a_dropped_stream_ends_its_generation() -> None:
    with Engine(options(n_ctx=4096)) as engine:
        stream = engine.stream(endless())
        next(stream)
        del stream
        core: Any = engine._core
        assert wait_for(lambda: not core._scheduler._lane.active), "it still generates"


def test_cancelled_tasks_end_their_generations() -> None:
    async def run(engine: Engine) -> None:
        tasks = [asyncio.create_task(engine.agenerate_many([endless()] * 2)) for _ in range(3)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    with Engine(options(n_ctx=4096)) as engine:
        asyncio.run(run(engine))
        quick = engine.generate(Request(prompt="Hi", max_tokens=2, temperature=0))
        assert quick.generated_tokens == 2
        core: Any = engine._core
        assert not core._scheduler._waiting
        assert not core._scheduler._batch_lane.active


def test_close_ends_running_and_waiting_calls_with_an_error() -> None:
    engine = Engine(options(n_ctx=4096))
    errors: list[BaseException] = []

    def call() -> None:
        try:
            engine.generate(endless())
        except HelpersError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    engine.close()
    for thread in threads:
        thread.join(timeout=60)
    assert len(errors) == 3
    assert all("was closed" in str(error) for error in errors)
    with pytest.raises(HelpersError, match="has been closed"):
        engine.generate(endless())


def test_a_sink_that_fails_does_not_end_the_engine(engine: Engine) -> None:
    from helpers.engine.sequence import Job

    calls: list[object] = []

    def sink(event: object) -> None:
        calls.append(event)
        raise RuntimeError("the receiver is gone")

    engine._core.submit([Job(endless(), sink)])
    assert engine.generate(Request(prompt="Hi", max_tokens=2)).generated_tokens <= 2
    assert isinstance(calls[0], Chunk)
    assert isinstance(calls[-1], RuntimeError)
    assert len(calls) == 2


# -- sharing --------------------------------------------------------------------------------------


def test_equal_options_share_one_model_and_the_last_user_frees_it() -> None:
    def loaded() -> int:
        catch_up()
        return sum(shared.core is not None and shared.core.alive for shared in _cores.values())

    gc.collect()  # engines of other tests that only a traceback still held
    before = loaded()
    engines = [Engine(options(n_ctx=384)) for _ in range(5)]
    assert loaded() == before + 1
    request = Request(prompt="Hi", max_tokens=1, temperature=0)
    engines[0].close()
    assert engines[1].generate(request).generated_tokens == 1
    assert loaded() == before + 1
    for engine in engines[1:3]:
        engine.close()
    del engine
    engines.clear()
    assert loaded() == before


def test_closing_an_engine_ends_its_own_calls_only() -> None:
    one, two = (Engine(options(n_ctx=384)) for _ in range(2))
    request = Request(prompt=STORY, max_tokens=60, temperature=0, logit_bias=NO_END)
    streams = [engine.stream(request) for engine in (one, two)]
    next(streams[0])  # the other one begins beside it, or when it ends
    one.close()
    with pytest.raises(HelpersError, match="closed during this call"):
        list(streams[0])
    *_, last = streams[1]
    assert isinstance(last, Completion)
    assert last.generated_tokens == 60
    two.close()


def test_a_replaced_file_is_loaded_anew(tmp_path: Any) -> None:
    import shutil

    path = tmp_path / "m.gguf"
    shutil.copy(default_model(), path)
    one = Engine(options(model_path=str(path), vocab_only=True))
    shutil.copy(default_model(), tmp_path / "new.gguf")
    (tmp_path / "new.gguf").replace(path)
    two = Engine(options(model_path=str(path), vocab_only=True))
    assert one._shared is not two._shared
    one.close()
    two.close()


def test_the_batch_context_is_made_when_needed_and_freed() -> None:
    engine = Engine(options(n_ctx=512))
    core: Any = engine._core
    request = Request(prompt="Hi", max_tokens=2, temperature=0)
    engine.generate(request)
    assert core._scheduler._batch_lane is None
    engine.generate_many([request] * 3)
    lane = core._scheduler._batch_lane
    assert len(lane.held) == 3
    assert lane.n_ctx == 256  # as much as the prompts need, in llama.cpp's steps
    engine.generate_many([request] * 20)
    assert len(core._scheduler._batch_lane.held) == 8
    engine.close()
    assert core._scheduler._batch_lane.context.pointer is None


def test_too_little_memory_for_so_many_sequences_means_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from helpers.engine import core as core_module
    from helpers.models.kv_cache import kv_mib_by_layer, layer_caches

    engine = Engine(options(n_ctx=512))
    two = 2.5 * sum(kv_mib_by_layer(layer_caches(inspect_model(default_model())), 512))
    monkeypatch.setattr(core_module, "available_mib", lambda: two)
    request = Request(prompt=STORY, temperature=0, max_tokens=None, stop=("a",))
    texts = {done.text for done in engine.generate_many([request] * 8)}
    assert len(texts) == 1
    core: Any = engine._core
    assert len(core._scheduler._batch_lane.held) == 2
    engine.close()


def test_no_earlier_prompt_changes_the_text_of_a_later_one(engine: Engine) -> None:
    words = inspect_words(700)
    draw = random.Random(7)
    cuts = [draw.choice((3, 60, 64, 127, 128, 129, 130, 131, 200, 257, 300)) for _ in range(12)]
    requests = [
        Request(
            prompt=(*words[:cut], *inspect_words(cut)[: draw.choice((0, 1, 40, 150))]),
            temperature=0,
            max_tokens=3,
            repeat_penalty=1.0,
        )
        for cut in cuts
    ]
    warm = [engine.generate(request) for request in requests]
    assert sum(done.timings.cached_tokens or 0 for done in warm) > 200
    for request, done in zip(requests, warm, strict=True):
        engine.generate(Request(prompt="Something else.", temperature=0, max_tokens=1))
        cold = engine.generate(request)
        assert cold.timings.cached_tokens == 0
        assert cold.text == done.text
