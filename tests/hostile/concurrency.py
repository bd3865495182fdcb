"""Threads, event loops, abandoned streams, callbacks that raise."""

from __future__ import annotations

import asyncio
import time

from tests.hostile.base import (
    FRANCE,
    NO_END,
    STORY,
    Gives,
    OnToken,
    Uses,
    error,
    in_threads,
    make,
    works,
)

use = Uses("concurrency")


@use("16 threads at once", Gives([True] * 16))
def sixteen_threads_at_once() -> object:
    llm = make()
    return in_threads(16, lambda i: works(llm))


@use("gather of ainvoke and astream", Gives([True] * 10))
def gather_of_ainvoke_and_astream() -> object:
    llm = make()

    async def streamed():
        return "".join([piece async for piece in llm.astream(FRANCE)])

    async def main():
        calls = [llm.ainvoke(FRANCE) if i % 2 else streamed() for i in range(10)]
        return await asyncio.gather(*calls)

    return ["Paris" in answer for answer in asyncio.run(main())]


@use("cancelled tasks", Gives((["CancelledError"] * 4, True)))
def cancelled_tasks() -> object:
    llm = make(max_tokens=400)

    async def main():
        tasks = [asyncio.create_task(llm.ainvoke(STORY)) for _ in range(4)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(answer).__name__ for answer in answers], works(llm)

    return asyncio.run(main())


@use("two event loops in two threads", Gives([True, True]))
def two_event_loops_in_two_threads() -> object:
    llm = make()

    async def main():
        return await asyncio.gather(*[llm.ainvoke(FRANCE) for _ in range(3)])

    answers = in_threads(2, lambda i: asyncio.run(main()))
    return [all("Paris" in answer for answer in loop) for loop in answers]


@use("batches inside a thread pool", Gives([[True] * 3] * 4))
def batches_inside_a_thread_pool() -> object:
    llm = make()
    batches = in_threads(4, lambda i: llm.batch([FRANCE] * 3))
    return [["Paris" in answer for answer in batch] for batch in batches]


@use("abandoned streams", Gives(True))
def abandoned_streams() -> object:
    llm = make(max_tokens=None, n_ctx=2048, logit_bias=NO_END)
    for _ in range(5):
        for _piece in llm.stream(STORY):
            break
    return works(llm)


@use("abandoned asynchronous streams", Gives(True))
def abandoned_asynchronous_streams() -> object:
    llm = make(max_tokens=None, n_ctx=2048, logit_bias=NO_END)

    async def main():
        for _ in range(5):
            async for _piece in llm.astream(STORY):
                break
        return "Paris" in await llm.ainvoke(FRANCE, max_tokens=3)

    return asyncio.run(main())


@use("a stream read by another thread", Gives([True]))
def a_stream_read_by_another_thread() -> object:
    stream = make().stream(FRANCE)
    first = next(stream)
    rest = in_threads(1, lambda i: "".join(stream))[0]
    return ["Paris" in first + rest]


@use("a stream read by four threads", Gives((True, True)))
def a_stream_read_by_four_threads() -> object:
    llm = make(max_tokens=40)
    stream = llm.stream(STORY)
    answers = in_threads(4, lambda i: list(stream))
    kinds = {type(a).__name__ if isinstance(a, list) else a for a in answers}
    return kinds <= {"list", "ValueError: generator already executing"}, works(llm)


@use("closed while another thread generates", Gives(["HelpersError: The model was cl"] * 2))
def closed_while_another_thread_generates() -> object:
    llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)

    def act(i):
        if i:
            return llm.invoke(STORY)
        time.sleep(0.5)
        llm.close()
        return None

    return [answer[:30] for answer in in_threads(3, act)[1:]]


@use("event loop closed during a stream", Gives(True))
def event_loop_closed_during_a_stream() -> object:
    llm = make(max_tokens=300)
    loop = asyncio.new_event_loop()
    stream = llm.astream(STORY)
    loop.run_until_complete(anext(stream))
    loop.close()
    time.sleep(0.3)
    return works(llm)


@use("callbacks that raise", Gives(("ZeroDivisionError", True)))
def callbacks_that_raise() -> object:
    llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)
    kept = None
    try:
        llm.invoke(STORY, config={"callbacks": [OnToken(lambda t: 1 / 0)]})
    except ZeroDivisionError as caught:
        kept = caught  # as a notebook keeps the last traceback
    return type(kept).__name__, works(llm)


@use("a callback that calls the model again", Gives((True, True)))
def a_callback_that_calls_the_model_again() -> object:
    llm = make()
    inner = []
    handler = OnToken(lambda t: inner.append(works(llm)))
    answer = llm.invoke(FRANCE, config={"callbacks": [handler]})
    return "Paris" in answer, bool(inner) and all(inner)


@use("different models at once", Gives([True] * 8))
def different_models_at_once() -> object:
    models = [make(n_ctx=256 * (i + 1)) for i in range(4)]
    return in_threads(8, lambda i: works(models[i % 4]))


@use("one lane: calls that come, vanish and do not fit", Gives((["done"] * 12, True)))
def one_lane_calls_that_come_vanish_and_do_not_fit() -> object:
    llm = make(n_parallel=3, model_kwargs={"continuous_batching": True})

    def act(i: int) -> str:
        if i % 4 == 0:
            return "done" if works(llm) else "another answer"
        if i % 4 == 1:
            for _piece in llm.stream(STORY, max_tokens=400, logit_bias=NO_END):
                return "done"
        if i % 4 == 2:
            answer = error(lambda: llm.invoke("word " * 600))
            return "done" if answer.startswith("ContextOverflowError") else answer
        answers = llm.batch([FRANCE, STORY], max_tokens=1 + i % 3)
        return "done" if all(answers) else "no answer"

    return in_threads(12, act), works(llm)


@use("one lane, closed under its callers", Gives(["HelpersError: The model was cl"] * 5))
def one_lane_closed_under_its_callers() -> object:
    fields = {"n_parallel": 2, "n_ctx": 2048, "max_tokens": None, "logit_bias": NO_END}
    llm = make(**fields, model_kwargs={"continuous_batching": True})

    def act(i: int) -> object:
        if i:
            return llm.invoke("word " * 300 * (i % 3) + STORY)
        time.sleep(0.5)
        llm.close()
        return None

    return [answer[:30] for answer in in_threads(6, act)[1:]]
