"""Random interrupts, cancellations, drops, closes and forks, after each of which the model answers.

`python -m tests.hostile.fuzz_calls --count 1000 --seed 7` for as many as wanted; the suite runs a
few. What an action ends in depends on when it is hit; what the model says afterwards must not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import time
import warnings

from helpers import HelpersError, LlamaCpp
from tests.hostile.base import FRANCE, NO_END, STORY, make

EXPECTED = " Paris."


def _interrupted(llm: LlamaCpp, draw: random.Random) -> None:
    """An interrupt at any moment of a call, or of a load."""
    prompt = draw.choice([FRANCE, STORY, "word and " * draw.randint(1, 2000)])
    alarm = threading.Timer(draw.random() * 0.3, os.kill, (os.getpid(), signal.SIGINT))
    load = draw.random() < 0.4
    try:
        alarm.start()
        if load:
            make(n_ctx=300 + draw.randint(0, 200)).close()
        else:
            llm.invoke(prompt, max_tokens=None, logit_bias=NO_END)
        time.sleep(5)
    except KeyboardInterrupt:
        return
    raise AssertionError("the interrupt was swallowed")


def _cancelled(llm: LlamaCpp, draw: random.Random) -> None:
    """Tasks of which each is cancelled at a moment of its own."""

    async def streamed() -> None:
        async for _ in llm.astream(STORY, max_tokens=None, logit_bias=NO_END):
            pass

    async def main() -> None:
        calls = [
            streamed() if draw.random() < 0.5 else llm.ainvoke(STORY, logit_bias=NO_END)
            for _ in range(draw.randint(1, 6))
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        for task in tasks:
            await asyncio.sleep(draw.random() * 0.05)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def _dropped(llm: LlamaCpp, draw: random.Random) -> None:
    """Streams left after some pieces, in a circle that only the collector finds."""
    for _ in range(draw.randint(1, 4)):
        stream = llm.stream(STORY, max_tokens=None, logit_bias=NO_END)
        for _ in range(draw.randint(0, 3)):
            next(stream)
        circle = [stream]
        circle.append(circle)
        del stream, circle
    gc.collect()


def _closed(llm: LlamaCpp, draw: random.Random) -> None:
    """A second object on the same model, closed while it and the first one generate."""
    other = make(n_ctx=llm.n_ctx)
    assert other._engine._shared is llm._engine._shared
    closer = threading.Timer(draw.random() * 0.2, other.close)
    closer.start()
    with contextlib.suppress(HelpersError):
        other.batch([STORY] * draw.randint(1, 4), max_tokens=200, logit_bias=NO_END)
    closer.join()


def _forked(llm: LlamaCpp, draw: random.Random) -> None:
    """A fork while a thread generates: it ends, whatever it asks."""
    thread = threading.Thread(target=llm.invoke, args=(STORY,), kwargs={"max_tokens": 20})
    thread.start()
    time.sleep(draw.random() * 0.1)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            llm.get_num_tokens("x")
        except HelpersError:
            status = 0
        os._exit(status)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def run(count: int, seed: int) -> None:
    """Do so many random things to one model, and ask it after each."""
    draw = random.Random(seed)
    warnings.simplefilter("ignore")  # Python warns of forks beside threads
    llm = make(n_ctx=4096)
    assert llm.invoke(FRANCE, max_tokens=2) == EXPECTED
    actions = (_interrupted, _interrupted, _cancelled, _dropped, _closed, _forked)
    for number in range(count):
        action = draw.choice(actions)
        action(llm, draw)
        answer = llm.invoke(FRANCE, max_tokens=2)
        assert answer == EXPECTED, (number, action.__name__, answer)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    run(given.count, given.seed)
    print(f"{given.count} done, seed {given.seed}")
