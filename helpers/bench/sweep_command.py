"""`python -m helpers bench --sweep`: the table grows row by row, and Ctrl-C keeps what is there."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from helpers.bench.best import find_best
from helpers.bench.result import COLUMNS, SweepResult, cells
from helpers.bench.rows import GOALS, SweepRow
from helpers.bench.sweep import Sweep, SweepSettings
from helpers.errors import HelpersError
from helpers.native import Device, devices, remote_device
from helpers.tables import text_lines

INTERRUPTED = 130


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sweep to the parser of `bench`."""
    group = parser.add_argument_group(
        "sweep", "measure speeds over a grid of settings, each in a process of its own"
    )
    group.add_argument("--sweep", action="store_true", help="measure every point of the grid")
    group.add_argument("--best", action="store_true", help="search it with a quarter of the trials")
    group.add_argument("--model", help="a path or a name (default: the embedded model)")
    # What is stored under the name of a parameter of `sweep` is handed on.
    for name, store, kind, metavar, words in (
        ("--layers", "n_gpu_layers", _numbers, "N,N", "n_gpu_layers, such as 0,8,-1 (-1: all)"),
        ("--batch", "n_batch", _numbers, "N,N", "n_batch (512)"),
        ("--threads", "n_threads", _numbers, "N,N", "n_threads (usable cores)"),
        ("--kv", "type_kv", _words, "TYPE,TYPE", "KV cache types (f16)"),
        ("--prompt-tokens", "prompt_tokens", int, "N", "(256)"),
        ("--new-tokens", "new_tokens", int, "N", "(32)"),
        ("--repeats", "repeats", int, "N", "per trial (3)"),
        ("--ctx", "n_ctx", int, "N", "n_ctx (4096 or the model's own)"),
        ("--timeout", "timeout_s", float, "S", "seconds per trial (300)"),
    ):
        group.add_argument(name, dest=store, type=kind, metavar=metavar, help=words)
    group.add_argument("--device", metavar="NAME", help="use this device alone, or host:port")
    group.add_argument(
        "--practice", action="store_true", help="use the practice accelerator (teaches, no faster)"
    )
    group.add_argument(
        "--goal", type=_goal, default="eval", help=f"{', '.join(GOALS)}, or a weight (eval)"
    )
    group.add_argument("--max-trials", type=int, metavar="N", help="most trials of --best")


def run_sweep(arguments: argparse.Namespace) -> int:
    """Sweep or search as the arguments say, and print the table as it grows.

    Returns:
        The exit status: 0, 2 for what cannot be done, 130 after Ctrl-C.
    """
    progress = _Progress()
    try:
        with _chosen(arguments) as chosen:
            result = _measure(arguments, chosen, progress)
    except (HelpersError, TypeError, ValueError) as error:
        progress.clear()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the first trial began
        progress.clear()
        print("Interrupted before the first trial.", file=sys.stderr)
        return INTERRUPTED
    progress.clear()
    print(_conclusion(result))
    return INTERRUPTED if result.stopped == "interrupted" else 0


def _measure(
    arguments: argparse.Namespace, chosen: Sequence[Device] | None, progress: _Progress
) -> SweepResult:
    settings: dict[str, Any] = {
        name: value
        for name in SweepSettings.__annotations__
        if (value := getattr(arguments, name, None)) is not None
    }
    settings |= {"resume": arguments.json, "devices": chosen, "on_step": progress.step}
    settings["goal"] = arguments.goal
    if arguments.best:
        most = arguments.max_trials
        return find_best(arguments.model, max_trials=most, on_row=progress.row, **settings)
    running = Sweep(arguments.model, **settings)
    progress.total = len(running.missing)
    for row in running.result.rows:
        progress.show(row)
    try:
        for row in running:
            progress.row(row)
    except KeyboardInterrupt:  # in a trial, or between two of them
        running.stop("interrupted")
    return running.result


@contextlib.contextmanager
def _chosen(arguments: argparse.Namespace) -> Iterator[list[Device] | None]:
    """The devices that the arguments name; the practice accelerator runs as long as it is used."""
    if arguments.practice:
        from helpers.native import practice_accelerator

        with practice_accelerator() as device:
            yield [device]
    elif arguments.device is not None and re.fullmatch(r"[^\[\]]+:\d+", arguments.device):
        yield [remote_device(arguments.device)]
    elif arguments.device is not None:
        found = [device for device in devices() if device.name == arguments.device]
        if not found:
            names = ", ".join(device.name for device in devices())
            raise ValueError(
                f"--device {arguments.device}: there is no such device. Here: {names}."
            )
        yield found
    else:
        yield None


def _conclusion(result: SweepResult) -> str:
    """What the table does not say: the whole reasons, the notes, the machine, the best."""
    lines = [""]
    for row in result.rows:
        if not row.ok:
            reason = f"{row.n_gpu_layers} layers, batch {row.n_batch}: {row.reason}"
            lines += textwrap.wrap(reason, 96, subsequent_indent="  ")
    lines += [*result.facts(), *result.conclusions()]
    return "\n".join(lines)


class _Progress:
    """The rows on standard output; on a terminal, what is going on below them."""

    def __init__(self) -> None:
        self.total = 0
        self._done = 0
        self._headed = False
        self._started = time.perf_counter()
        self._live = sys.stderr.isatty()

    def row(self, row: SweepRow) -> None:
        """A new row."""
        self.clear()
        self._done += 1
        self.show(row)

    def show(self, row: SweepRow) -> None:
        head, line = text_lines(COLUMNS, [cells(row)])
        print(line if self._headed else f"{head}\n{line}", flush=True)
        self._headed = True

    def step(self, what: str, share: float) -> None:
        if not self._live:
            return
        done = self._done + share
        seconds = time.perf_counter() - self._started
        text = f"trial {self._done + 1}"
        if self.total:
            bar = "#" * int(20 * done / self.total)
            text = f"[{bar:.<20}] {text} of {self.total}"
            if done > 0.5:
                text += f", about {seconds / done * (self.total - done):.0f} s left"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[2K{f'{text}: {what}'[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _goal(text: str) -> str | float:
    return text if text in GOALS else float(text)


# argparse names these functions in its messages.
_numbers.__name__ = "list of whole numbers"
_goal.__name__ = "goal"
