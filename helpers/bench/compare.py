"""The engine against llama.cpp itself and against the archived class, alternating, in one run.

Every figure is a ratio of two measurements that were taken next to each other, and the median over
several rounds: on a shared machine the times wander, the ratios hardly do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from helpers.bench.table import Comparison, describe_machine
from helpers.models import default_model
from helpers.native import Context, ContextParams, Model, ModelParams, usable_cores

GENERATED = 128
LONG_PROMPT = 450
_QUESTION = "Once upon a time there was a small model that ran on a laptop, and it said"
_FILLER = (
    "The model reads the prompt in batches, keeps keys and values of every token in its cache, "
    "and then writes one token after another. "
)


def long_prompt(tokenize: Callable[[str], list[int]], size: int, salt: str) -> str:
    """A text of about `size` tokens that begins with `salt`, so that no cache knows it."""
    text = salt
    while len(tokenize(text)) < size:
        text += _FILLER
    while len(tokenize(text)) > size:
        text = text.rpartition(" ")[0]
    return text


def compare(
    *,
    rounds: int = 5,
    llama_bench: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Measure the engine against a bare loop, raw `Llama`, and the archived class's defaults.

    Args:
        rounds: Times that each pair is measured.
        llama_bench: Path of llama.cpp's own `llama-bench`, or None.
        say: Told what is going on.

    Returns:
        The table.
    """
    result = Comparison(describe_machine())
    with _Contestants() as they:
        say("warming up")
        they.warm_up()
        for index in range(rounds):
            say(f"round {index + 1} of {rounds}")
            they.measure_round(index)
        figures = they.figures
        result.add(
            "LlamaCpp.stream / bare decode-and-argmax loop, tokens/s",
            list(zip(figures["stream"], figures["bare"], strict=True)),
            target=0.97,
            unit="tokens/s",
            higher=True,
        )
        result.add(
            "LlamaCpp.stream / raw Llama streaming, tokens/s",
            list(zip(figures["stream"], figures["raw"], strict=True)),
            target=1.05,
            unit="tokens/s",
            higher=True,
        )
        result.add(
            "isolated / in-process LlamaCpp.stream, tokens/s",
            list(zip(figures["isolated"], figures["stream"], strict=True)),
            target=0.95,
            unit="tokens/s",
            higher=True,
        )
        result.add(
            f"native prompt eval / first token, {LONG_PROMPT}-token prompt",
            list(zip(figures["first"], figures["native_prompt"], strict=True)),
            target=1 / 1.03,
            unit="ms",
            higher=False,
        )
        result.add(
            "first token sooner than with the archived defaults, 441 tokens",
            list(zip(figures["first441"], figures["archived_first"], strict=True)),
            target=1.35,
            unit="ms",
            higher=False,
        )
        result.add(
            "generation faster than with the archived defaults",
            list(zip(figures["default"], figures["archived"], strict=True)),
            target=1.4,
            unit="tokens/s",
            higher=True,
        )
        result.add(
            "batch of 8 x 48 tokens / one after the other",
            list(zip(figures["batch"], figures["one_by_one"], strict=True)),
            target=1.5,
            unit="tokens/s",
            higher=True,
        )
        result.add(
            f"first token with a cached {LONG_PROMPT}-token prefix, times sooner",
            list(zip(figures["cached"], figures["first"], strict=True)),
            target=10,
            unit="ms",
            higher=False,
        )
    say("importing and loading in fresh processes")
    _fresh_processes(result)
    if llama_bench is not None:
        _llama_bench(result, llama_bench, figures["stream"])
    return result


class _Contestants:
    """Everything that is compared, loaded at the same time."""

    def __enter__(self) -> _Contestants:
        import llama_cpp

        from helpers.llm import LlamaCpp

        path = str(default_model())
        cores = usable_cores()
        self.figures: dict[str, list[float]] = {}
        greedy: dict[str, Any] = {"model_path": path, "temperature": 0.0, "repeat_penalty": 1.0}
        self.ours = LlamaCpp(**greedy, max_tokens=GENERATED, isolate=False, n_gpu_layers=0)
        self.isolated = LlamaCpp(**greedy, max_tokens=GENERATED, isolate=True, n_gpu_layers=0)
        self.model = Model(path, ModelParams(devices=()))
        self.context = Context(
            self.model,
            ContextParams(n_ctx=4096, n_threads=cores, n_threads_batch=cores),
        )
        raw: dict[str, Any] = {"model_path": path, "verbose": False, "n_gpu_layers": 0}
        self.raw = llama_cpp.Llama(
            **raw, n_ctx=4096, n_threads=cores, n_threads_batch=cores, flash_attn=True
        )
        # What the archived LangChain class passed on: its own n_batch of 8 and n_ctx of 512, and
        # llama-cpp-python's defaults for the rest (half the CPUs, flash attention off).
        self.archived = llama_cpp.Llama(**raw, n_batch=8, n_ctx=512)
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.isolated.close()
        self.context.close()
        self.model.close()
        for raw in (self.raw, self.archived):
            raw.close()

    def warm_up(self) -> None:
        """One short call each: first calls touch fresh memory."""
        for llm in (self.ours, self.isolated):
            llm.invoke(_QUESTION, max_tokens=8)
        self._bare(8)
        self._raw_stream(self.raw, _QUESTION, 8)
        self._raw_stream(self.archived, _QUESTION, 8)

    def measure_round(self, index: int) -> None:
        """Each figure once, what is compared next to each other, in alternating order."""
        # New words at the beginning keep every prompt unknown to every cache.
        salt = f"Round {index}. "
        group: list[tuple[str, Callable[[], float]]] = [
            ("bare", lambda: self._bare(GENERATED)),
            ("stream", lambda: self._stream(self.ours)),
            ("raw", lambda: self._raw_stream(self.raw, _QUESTION, GENERATED)[1]),
            ("isolated", lambda: self._stream(self.isolated)),
        ]
        for name, measure in group if index % 2 == 0 else reversed(group):
            self._note(name, measure())
        tokenize = self.ours.get_token_ids
        prompt = long_prompt(tokenize, LONG_PROMPT, salt)
        self.ours.invoke(prompt, max_tokens=1)
        timings = self.ours.last_timings
        assert timings is not None
        self._note("first", timings.first_token_ms or 0.0)
        self._note("native_prompt", timings.prompt_ms or 0.0)
        self.ours.invoke(prompt + " And", max_tokens=1)
        timings = self.ours.last_timings
        assert timings is not None
        self._note("cached", timings.first_token_ms or 0.0)
        prompt = long_prompt(tokenize, 441, "Now " + salt)
        self.ours.invoke(prompt, max_tokens=1)
        timings = self.ours.last_timings
        assert timings is not None
        self._note("first441", timings.first_token_ms or 0.0)
        self._note("archived_first", self._raw_stream(self.archived, prompt, 1)[0])
        self._note("archived", self._raw_stream(self.archived, _QUESTION, GENERATED)[1])
        self._note("default", self._stream(self.ours))
        prompts = [f"{salt}{word} is" for word in _WORDS]
        self._note("one_by_one", self._throughput(lambda: self._one_by_one(prompts)))
        self._note("batch", self._throughput(lambda: self.ours.batch([*prompts], max_tokens=48)))

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def _stream(self, llm: Any) -> float:
        """Tokens per second as the caller of `stream` sees them, after the first token."""
        times = []
        for _ in llm.stream(_QUESTION):
            times.append(time.perf_counter())
        generated = llm.last_timings.generated_tokens
        return float((generated - 1) / (times[-1] - times[0]))

    def _bare(self, count: int) -> float:
        """The same greedy text by nothing but decode and argmax."""
        context = self.context
        context.truncate(0, 0)
        tokens = self.model.tokenize(_QUESTION)
        context.decode(tokens, 0, 0, logits=True)
        token, position = int(context.logits(-1).argmax()), len(tokens)
        started = time.perf_counter()
        for _ in range(count - 1):
            context.decode([token], position, 0, logits=True)
            token = int(context.logits(-1).argmax())
            position += 1
        return (count - 1) / (time.perf_counter() - started)

    def _raw_stream(self, raw: Any, prompt: str, count: int) -> tuple[float, float]:
        """`(first token in ms, tokens per second after it)` of a raw `Llama`."""
        raw.reset()
        started = time.perf_counter()
        times = [
            time.perf_counter()
            for _ in raw(prompt, max_tokens=count, temperature=0.0, repeat_penalty=1.0, stream=True)
        ]
        # Llama sends a last, empty piece with the reason for the end.
        seconds = times[-1] - times[0]
        generated = raw.n_tokens - len(raw.tokenize(prompt.encode())) + 1 if count > 1 else 1
        return (times[0] - started) * 1000, max(generated - 1, 1) / max(seconds, 1e-9)

    def _one_by_one(self, prompts: list[str]) -> None:
        for prompt in prompts:
            self.ours.invoke(prompt, max_tokens=48)

    def _throughput(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return len(_WORDS) * 48 / (time.perf_counter() - started)


_WORDS = ("Bread", "The sea", "A song", "Winter", "Paper", "My friend", "Time", "A river")


def _fresh_processes(result: Comparison) -> None:
    """Import times and memory, each in interpreters that have done nothing else."""
    imports = [_import_seconds("import helpers") for _ in range(3)]
    result.add(
        "import helpers: 0.1 s / time taken",
        [(seconds * 1000, 100.0) for seconds in imports],
        target=1,
        unit="ms",
        higher=False,
    )
    imports = [_import_seconds("from helpers import LlamaCpp") for _ in range(3)]
    result.add(
        "from helpers import LlamaCpp: 1.5 s / time taken",
        [(seconds * 1000, 1500.0) for seconds in imports],
        target=1,
        unit="ms",
        higher=False,
    )
    pairs = []
    for _ in range(3):
        raw = _resident_mib(
            "import llama_cpp; from helpers import default_model; x = llama_cpp.Llama("
            "str(default_model()), n_ctx=4096, n_gpu_layers=0, flash_attn=True, verbose=False)"
        )
        ours = _resident_mib(
            "from helpers import LlamaCpp, default_model; "
            "x = LlamaCpp(model_path=default_model(), isolate=False, n_gpu_layers=0)"
        )
        pairs.append((ours, raw))
    result.add(
        "resident memory after load: raw Llama / LlamaCpp",
        pairs,
        target=1 / 1.05,
        unit="MiB",
        higher=False,
    )


def _import_seconds(code: str) -> float:
    script = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", script], text=True))


def _resident_mib(code: str) -> float:
    script = (
        "import os, psutil, langchain_core.language_models.llms, llama_cpp\n"  # in both alike
        "before = psutil.Process().memory_info().rss\n"
        f"{code}\n"
        "print((psutil.Process().memory_info().rss - before) / 2**20)\n"
    )
    return float(subprocess.check_output([sys.executable, "-c", script], text=True))


def _llama_bench(result: Comparison, path: str, ours: list[float]) -> None:
    """llama.cpp's own benchmark of generation, as a further line."""
    import json

    cores = str(usable_cores())
    command = [path, "-m", str(default_model()), "-t", cores, "-p", "0", "-n", str(GENERATED)]
    command += ["-fa", "1", "-ngl", "0", "-o", "json"]
    rows = json.loads(subprocess.check_output(command, text=True))
    theirs = float(rows[0]["avg_ts"])
    result.add(
        "LlamaCpp.stream / llama-bench tg128, tokens/s",
        [(value, theirs) for value in ours],
        target=None,
        unit="tokens/s",
        higher=True,
    )
