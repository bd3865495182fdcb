"""`python -m helpers bench`: run a comparison and print its table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.bench.sweep_command import add_sweep_arguments, run_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the arguments name.

    Args:
        argv: Arguments after `bench`; None for those of the process.

    Returns:
        The exit status: 0, or 2 for arguments that make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="python -m helpers bench",
        description="Compare the engine with llama.cpp itself, side by side, on this machine.",
    )
    parser.add_argument("--rounds", type=int, help="times each pair is measured (5; servers: 1)")
    parser.add_argument(
        "--grammar", action="store_true", help="measure what a grammar costs per token instead"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the table to this file; a sweep goes on from what is there",
    )
    parser.add_argument("--llama-bench", metavar="PATH", help="compare with this llama-bench too")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="measure `python -m helpers serve` against llama-server instead (see --llama-server)",
    )
    parser.add_argument(
        "--speed", action="store_true", help="measure what helps here: guessed tokens, each setting"
    )
    parser.add_argument(
        "--levers", action="store_true", help="measure what each setting does here, alone"
    )
    parser.add_argument("--draft", metavar="FILE", help="a draft model to guess with, with --speed")
    parser.add_argument("--llama-server", metavar="PATH", help="the program to compare with")
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        choices=(1, 8, 30),
        default=(1, 8, 30),
        help="how many ask at once, with --serve (1 8 30)",
    )
    add_sweep_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.sweep or arguments.best:
        return run_sweep(arguments)
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.serve else 5
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds} must be 1 or more")
    if arguments.llama_bench is not None and not Path(arguments.llama_bench).is_file():
        parser.error(f"--llama-bench {arguments.llama_bench}: there is no such file")

    def say(line: str) -> None:
        print(f"  {line} …", file=sys.stderr, flush=True)

    result: Any
    if arguments.serve:
        if arguments.llama_server is None or not Path(arguments.llama_server).is_file():
            parser.error(
                "--serve needs --llama-server PATH, a file; build it from the source of the "
                "installed llama-cpp-python: cmake --build … --target llama-server"
            )
        from helpers.bench.serving import compare_servers

        result = compare_servers(
            arguments.llama_server, rounds=arguments.rounds, clients=arguments.clients, say=say
        )
    elif arguments.levers:
        from helpers.bench.levers import what_helps

        guesses = ("lookup", *([arguments.draft] if arguments.draft else []))
        result = what_helps(
            arguments.model,
            rounds=arguments.rounds,
            speculate=guesses,
            on_step=lambda what, share: say(f"{share:4.0%} {what}"),
        )
    elif arguments.speed:
        from helpers.bench.speed import compare_speed

        result = compare_speed(rounds=arguments.rounds, draft=arguments.draft, say=say)
    elif arguments.grammar:
        from helpers.bench.constrained import compare_constrained

        result = compare_constrained(rounds=arguments.rounds, say=say)
    else:
        from helpers.bench.compare import compare

        bench = arguments.llama_bench
        result = compare(rounds=arguments.rounds, llama_bench=bench, say=say)
    print(result)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    return 0
