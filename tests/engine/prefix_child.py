"""What `test_prefix_cache` runs in processes of its own: they are restarted, killed, limited."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

from helpers import LlamaCpp, default_model
from helpers.engine import Engine
from tests.engine.test_engine_windows import prompt, told


def ask(folder: str, question: str) -> None:
    """Ask about a document, greedily and by a seed; print the texts and what was cached."""
    text = 9 * (Path(__file__).parents[2] / "notebooks" / "data" / "river.txt").read_text("utf-8")
    answers = []
    with LlamaCpp(
        model_path=default_model(),
        n_ctx=2048,
        max_tokens=16,
        cache_dir=None if folder == "-" else folder,
    ) as llm:
        while llm.get_num_tokens(text) > 1150:
            text = text[: int(len(text) * 0.98)]
        for settings in ({"temperature": 0}, {"temperature": 1.0, "seed": 7}):
            answer = llm.invoke(f"{text}\n\nQuestion: {question}\nAnswer:", **settings)
            assert llm.last_timings is not None
            answers.append((answer, llm.last_timings.cached_tokens))
    print(json.dumps(answers))


def loop(model: str, folder: str, count: str, seed: str) -> None:
    """Compute prompts that another process computes, too, in a folder that is too small."""
    from tests.engine.test_prefix_cache import given, request

    draw = random.Random(seed)
    for _ in range(int(count)):
        with Engine(given(Path(model), Path(folder), cache_dir_mib=1)) as engine:
            engine.generate(request(prompt(draw.randrange(600, 900), draw.randrange(8))))
        print("done", flush=True)


def kill(model: str, folder: str) -> None:
    """Twenty times, kill a process that writes states for ever; print what that left."""
    from tests.engine.test_prefix_cache import given, request

    kept = []
    with Engine(given(Path(model), Path(folder))) as engine:
        for salt in range(4):
            engine.generate(request(prompt(700, salt)))
            cache = engine._core._scheduler._prefixes  # type: ignore[attr-defined]
            cache.close()  # until it is written
            found = cache._store.find(prompt(700, salt))[0]
            kept.append((found.tokens, found.tiled, cache._store.read(found)))
    draw, left = random.Random(5), []
    for _ in range(20):
        writer = os.fork()
        if not writer:
            while True:
                for tokens, tiled, state in kept:
                    cache._store.write(tokens, tiled, state, None)
        time.sleep(draw.random() * 0.1)
        known = set(Path(folder).glob(".*.part"))
        while not set(Path(folder).glob(".*.part")) - known:  # it is at work on one
            pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        left.append(len(list(Path(folder).glob(".*.part"))))
    print(json.dumps(left))


def full(model: str, folder: str) -> None:
    """Ask three times where no file may have more than 64 KiB."""
    import resource

    from tests.engine.test_prefix_cache import asked, given, request

    prompts = [prompt(700, salt) for salt in range(3)]
    expected = [told(asked(Path(model), None, tokens)) for tokens in prompts]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    texts = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Engine(given(Path(model), Path(folder))) as engine:
            for tokens in prompts:
                texts.append(told(engine.generate(request(tokens))))
                time.sleep(0.2)
    said = [str(warning.message) for warning in seen]
    print(json.dumps({"texts": texts, "expected": expected, "warnings": said}))


if __name__ == "__main__":
    {"ask": ask, "loop": loop, "kill": kill, "full": full}[sys.argv[1]](*sys.argv[2:])
