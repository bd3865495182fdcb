"""The child process that proves what a llama-cpp-python does: it lists, loads, runs and measures.

    python -m helpers.doctor.proof [--list] [--prompt N] [--eval N] [--layers N …]

It prints one line of JSON. Whatever goes wrong in native code ends this process and no other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

from helpers.doctor.report import DeviceFacts, Run
from helpers.errors import HelpersError

_PROMPT = "The three primary colours are"
_LONG_SECONDS = 5.0
_FILLER = " Water runs from the mountains to the sea, and the sun lifts it up again."
_SPLIT = re.compile(r"^## SPLIT #(\d+): (\S+)")
_OURS = re.compile(r"(?:lib)?((?:ggml|llama|mtmd)[\w-]*)\.(?:so|dylib|dll)").fullmatch
_TELLING = re.compile(r"offload|buffer size =|using device|using .*backend")


def main() -> None:
    """Answer on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true", help="load nothing")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the measured prompt")
    parser.add_argument("--eval", type=int, default=16, help="tokens to generate")
    parser.add_argument("--layers", type=int, nargs="*", default=[-1], help="on the devices")
    options = parser.parse_args()
    try:
        answer = _answer(options)
    except (HelpersError, OSError) as error:
        answer = {"fault": " ".join(str(error).split())}
    # Native code may have printed too: only the last line counts.
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    from helpers.native import devices, registered_backends, shared_libraries

    found = devices()
    answer: dict[str, Any] = {
        # Of the folder that was really loaded: conda-forge's build has its libraries elsewhere.
        "libraries": sorted({match[1] for name in shared_libraries() if (match := _OURS(name))}),
        "backends": registered_backends(),
        "devices": [_facts(device) for device in found],
        "runs": [],
    }
    if options.list:
        return answer
    answer["runs"].append(asdict(run(0, (), options.prompt, options.eval)))
    with _offload_targets() as targets:
        for layers in options.layers if targets else []:
            answer["runs"].append(asdict(run(layers, targets, options.prompt, options.eval)))
    return answer


def _facts(device: Any) -> dict[str, Any]:
    return {field.name: getattr(device, field.name) for field in fields(DeviceFacts)}


@contextlib.contextmanager
def _offload_targets() -> Iterator[tuple[str, ...]]:
    """The devices that take layers; without any, the practice accelerator if there is RPC."""
    from helpers.errors import DeviceError
    from helpers.native import devices, practice_accelerator, reach

    names = tuple(device.name for device in devices() if device.offloads)
    if names:
        yield names
        return
    try:
        accelerator = practice_accelerator()
        device = accelerator.start()
    except DeviceError:
        yield ()
        return
    with accelerator:
        yield reach([(device.name, device.endpoint)])[0]


def run(n_gpu_layers: int, names: tuple[str, ...], prompt_tokens: int, eval_tokens: int) -> Run:
    """Load the embedded model, continue a prompt greedily, and measure.

    Args:
        n_gpu_layers: Layers on the devices; -1 all.
        names: Devices to use; none for the CPU alone.
        prompt_tokens: Tokens of the measured prompt, 1 to 512.
        eval_tokens: Tokens to generate.
    """
    from helpers.load_options import LoadOptions
    from helpers.models import default_model
    from helpers.native import Context, Model, read_offloaded

    options = LoadOptions(
        model_path=str(default_model()),
        n_ctx=1024,
        n_gpu_layers=n_gpu_layers,
        devices=tuple((name, None) for name in names),
    )
    model = Model(options)
    context = Context(model, options)
    log = [*model.log, *context.log]
    text = _continue(context, model, _PROMPT, eval_tokens)
    filler = model.tokenize(_FILLER * (1 + prompt_tokens // 8))[:prompt_tokens]
    rates = []
    for _ in range(3):  # the first one also touches memory and compiles what is compiled late
        context.clear()
        began = time.perf_counter()
        context.decode(filler, 0, 0, logits=True)
        rates.append(len(filler) / (time.perf_counter() - began))
        if time.perf_counter() - began > _LONG_SECONDS:
            break  # a device in software, or a busy machine: what was measured must do
    context.clear()  # generation from an empty context, as sweeps and llama-bench measure it
    began, steps, eval_seconds = time.perf_counter(), 0, 0.0
    while steps < eval_tokens and eval_seconds < _LONG_SECONDS:
        context.decode([filler[steps % len(filler)]], steps, 0, logits=True)
        steps, eval_seconds = steps + 1, time.perf_counter() - began
    context.close()
    model.close()
    return Run(
        n_gpu_layers=n_gpu_layers,
        devices=names,
        offloaded=read_offloaded(log),
        splits=count_splits(line for _, line in log),
        log=tuple(dict.fromkeys(line.strip() for _, line in log if _TELLING.search(line))),
        text=text,
        prompt_tokens=len(filler),
        prompt_per_second=round(max(rates), 2),
        eval_per_second=round(steps / eval_seconds, 2),
    )


def _continue(context: Any, model: Any, prompt: str, count: int) -> str:
    """Return the likeliest continuation of a prompt, token by token."""
    tokens = model.tokenize(prompt)
    context.decode(tokens, 0, 0, logits=True)
    position, pieces = len(tokens), []
    for _ in range(count):
        token = int(context.logits(-1).argmax())
        if model.is_end(token):
            break
        pieces.append(model.piece(token))
        context.decode([token], position, 0, logits=True)
        position += 1
    return b"".join(pieces).decode("utf-8", "replace")


def count_splits(lines: Iterable[str]) -> dict[str, int]:
    """Count the pieces of the largest graph that each backend was given.

    llama.cpp lays out several graphs while it makes a context; each begins with split number 0.
    """
    graphs: list[Counter[str]] = []
    for line in lines:
        match = _SPLIT.match(line)
        if match:
            if match[1] == "0":
                graphs.append(Counter())
            if graphs:
                graphs[-1][match[2]] += 1
    largest = max(graphs, key=lambda graph: graph.total(), default=Counter())
    return dict(sorted(largest.items()))


if __name__ == "__main__":
    main()
