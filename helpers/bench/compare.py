"""The engine against llama.cpp itself and against the archived class, alternating, in one run.

Every figure is a ratio of two measurements that were taken next to each other, and the median over
several rounds: on a shared machine the times wander, the ratios hardly do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

from helpers.bench.contestants import BATCH_TOKENS, GENERATED, QUESTION, Remote
from helpers.bench.table import Comparison, describe_machine
from helpers.models import default_model
from helpers.native import usable_cores

LONG_PROMPT = 450
ARCHIVED_PROMPT = 441


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
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        they = {}
        for name in ("bare", "raw", "archived", "ours", "isolated"):
            say(f"loading {name}")
            they[name] = stack.enter_context(Remote(name))
            they[name]("generate", QUESTION, 16)  # first calls touch fresh memory
        for index in range(rounds):
            say(f"round {index + 1} of {rounds}")
            for name, value in _round(they, index):
                figures.setdefault(name, []).append(value)
    _add_rows(result, figures)
    say("importing and loading in fresh processes")
    _fresh_processes(result)
    if llama_bench is not None:
        say("llama-bench")
        theirs = _llama_bench(llama_bench)
        pairs = [(ours, theirs) for ours in figures["ours"]]
        result.add("LlamaCpp.stream / llama-bench, tokens/s", pairs, target=None, unit="tokens/s")
    return result


def _round(they: dict[str, Remote], index: int) -> list[tuple[str, float]]:
    """Each figure once, next to what it is compared with, in alternating order."""
    salt = f"Round {index}. "  # new words at the beginning: unknown to every cache
    noted = []
    names = ["bare", "ours", "raw", "isolated"]
    for name in names if index % 2 == 0 else names[::-1]:
        noted.append((name, they[name]("generate", QUESTION, GENERATED)[1]))
    ours = they["ours"]
    for name in ("raw", "ours"):
        noted.append((f"{name} 1.1", they[name]("generate", QUESTION, GENERATED, 1.1)[1]))
    first, native = ours("first_token", LONG_PROMPT, salt)
    noted += [("first", first), ("native", native)]
    again, _ = ours("first_token", LONG_PROMPT + 3, salt)
    noted.append(("cached", again))
    prompt = ours("long_prompt", ARCHIVED_PROMPT, "Now " + salt)
    noted.append(("first archived", they["archived"]("generate", prompt, 1)[0]))
    noted.append(("first default", ours("generate", prompt, 1)[0]))
    noted.append(("archived", they["archived"]("generate", QUESTION, GENERATED)[1]))
    noted.append(("default", ours("generate", QUESTION, GENERATED)[1]))
    noted.append(("alone", ours("throughput", salt, False)))
    noted.append(("batch", ours("throughput", "So " + salt, True)))
    return noted


def _add_rows(result: Comparison, figures: dict[str, list[float]]) -> None:
    def row(what: str, ours: str, theirs: str, target: float, unit: str = "tokens/s") -> None:
        pairs = list(zip(figures[ours], figures[theirs], strict=True))
        result.add(what, pairs, target=target, unit=unit)

    row("LlamaCpp.stream / bare decode-and-argmax loop", "ours", "bare", 0.97)
    row("LlamaCpp.stream / raw Llama streaming", "ours", "raw", 1.05)
    row("the same, repeat_penalty=1.1 (the class's default)", "ours 1.1", "raw 1.1", 1.05)
    row("isolated / in-process LlamaCpp.stream", "isolated", "ours", 0.95)
    what = f"native prompt eval / first token, {LONG_PROMPT} tokens"
    row(what, "first", "native", 1 / 1.03, "ms")
    what = f"archived defaults / ours: first token, {ARCHIVED_PROMPT} tokens"
    row(what, "first default", "first archived", 1.35, "ms")
    row("ours / archived defaults: generation", "default", "archived", 1.4)
    row(f"batch of 8 x {BATCH_TOKENS} tokens / one after the other", "batch", "alone", 1.5)
    what = f"new / known prefix of {LONG_PROMPT} tokens: first token"
    row(what, "cached", "first", 10, "ms")


def _fresh_processes(result: Comparison) -> None:
    """Import times and memory, each in interpreters that have done nothing else."""
    for code, limit_ms in (("import helpers", 100.0), ("from helpers import LlamaCpp", 1500.0)):
        pairs = [(_import_ms(code), limit_ms) for _ in range(3)]
        result.add(f"{limit_ms:.0f} ms / time of {code}", pairs, target=1, unit="ms")
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
    what = "raw Llama / LlamaCpp: resident memory after load"
    result.add(what, pairs, target=1 / 1.05, unit="MiB")


def _import_ms(code: str) -> float:
    script = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    return 1000 * float(subprocess.check_output([sys.executable, "-c", script], text=True))


def _resident_mib(code: str) -> float:
    script = (
        "import os, psutil, langchain_core.language_models.llms, llama_cpp\n"  # in both alike
        "before = psutil.Process().memory_info().rss\n"
        f"{code}\n"
        "print((psutil.Process().memory_info().rss - before) / 2**20)\n"
    )
    return float(subprocess.check_output([sys.executable, "-c", script], text=True))


def _llama_bench(path: str) -> float:
    """Tokens/s of llama.cpp's own benchmark of generation."""
    cores = str(usable_cores())
    command = [path, "-m", str(default_model()), "-t", cores, "-p", "0", "-n", str(GENERATED)]
    command += ["-fa", "1", "-ngl", "0", "-o", "json"]
    rows = json.loads(subprocess.check_output(command, text=True))
    return float(rows[0]["avg_ts"])
