"""Damages headers and lets llama.cpp load and decode what the checks take: nothing may die of it.

`python -m tests.models.fuzz_headers --count 12000` does so with each kind of small model in turn.
A file that the checks know whole (`is_proved`) is loaded in the kernel and must live; another is
tried in a child first (`helpers.models.trial`), which this fuzzer's own child stands for.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from helpers import ModelFileError, default_model
from helpers.models import verdict
from helpers.models.check import checked_header
from helpers.models.info import _describe
from helpers.models.proof import is_proved
from helpers.models.purpose import check_generates
from tests.models.gguf_builders import tiny_llama
from tests.models.header_fuzz import mutants

SEED = 20_261


def judge(path: Path) -> str:
    """What becomes of a file: "refused", "makes no text", "to be tried" or "proved".

    Anything but acceptance and ModelFileError is a fault.
    """
    try:
        headers = checked_header(path)
    except ModelFileError as error:
        assert str(path) in str(error) and len(str(error)) < 2_000
        return "refused"
    info = _describe(headers)
    assert str(info) and info._repr_html_()
    try:
        check_generates(headers[0])
    except ModelFileError:
        return "makes no text"
    return "proved" if is_proved(headers) else "to be tried"


class NativeChild:
    """llama.cpp in a process of its own, started again whenever it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def use(self, path: Path) -> str:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("native_child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # Without this, ggml forks a debugger when it aborts.
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )
        process = self.process
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if answer:
            return answer
        words = process.stderr.read()[-300:].strip()
        self.close()
        return f"died with {process.returncode}: {words}"

    def close(self) -> None:
        if self.process is not None:
            with self.process:
                assert self.process.stdin
                self.process.stdin.close()
            self.process = None


def bases(folder: Path) -> list[Path]:
    """Small models of several kinds, each of which loads and generates."""

    def with_factors(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
        writer.add_tensor("output.weight", np.ones((266, 64), np.float32))

    def with_biases(writer: gguf.GGUFWriter) -> None:
        for layer in range(2):
            for name, size in {"attn_q": 64, "attn_k": 32, "attn_v": 32}.items():
                writer.add_tensor(f"blk.{layer}.{name}.bias", np.ones(size, np.float32))

    return [
        tiny_llama(folder / "llama.gguf"),
        tiny_llama(folder / "factors.gguf", edit=with_factors),
        tiny_llama(folder / "qwen2.gguf", architecture="qwen2", edit=with_biases),
        tiny_llama(
            folder / "qwen3.gguf",
            architecture="qwen3",
            norms={"attn_q_norm": 16, "attn_k_norm": 16},
        ),
        tiny_llama(folder / "experts.gguf", experts=4),
        tiny_llama(folder / "gemma.gguf", architecture="gemma"),
    ]


def fuzz(
    base: Path, seed: int, count: int, folder: Path
) -> tuple[collections.Counter[str], list[str]]:
    """Damage one model `count` times.

    Returns:
        How often each thing happened, and what died that should have lived.
    """
    outcomes, faults = collections.Counter[str](), []
    path = folder / "damaged.gguf"
    child = NativeChild()
    try:
        for mutant in mutants(base.read_bytes(), seed, count):
            mutant.write(path)
            verdict = judge(path)
            outcome = child.use(path) if verdict in ("proved", "to be tried") else ""
            died = outcome.startswith("died")
            if died and verdict == "proved":
                faults.append(f"{base.stem}, {mutant.what}: {outcome}")
            outcomes[f"{verdict}: {'died' if died else outcome}" if outcome else verdict] += 1
    finally:
        child.close()
    return outcomes, faults


def main() -> None:
    """Fuzz as the command line says; exit status 1 where something died."""
    parser = argparse.ArgumentParser(description="fuzz the header check and llama.cpp behind it")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=12_000, help="damaged headers, of all models")
    parser.add_argument("--embedded", action="store_true", help="damage the embedded model alone")
    arguments = parser.parse_args()
    # Doubts are refused: what llama.cpp would say to them costs a process each.
    verdict._ask = lambda *_: "refuses it"  # type: ignore[assignment]
    faults = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [Path(default_model())] if arguments.embedded else bases(folder)
        for number, base in enumerate(models):
            count = arguments.count // len(models)
            outcomes, found = fuzz(base, arguments.seed + number, count, folder)
            print(base.stem, dict(outcomes.most_common()), flush=True)
            print(*found, sep="\n", flush=True)
            faults += found
    sys.exit(f"{len(faults)} died" if faults else 0)


if __name__ == "__main__":
    main()
