"""2,000 damaged headers at full file size: refused or accepted, and what is accepted never kills.

By hand with more seeds and with the embedded model's header:
`python -m tests.models.test_models_fuzz --seed 5 --count 4000 [--embedded]`.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from helpers import ModelFileError, default_model
from helpers.models import plausible, verdict, vocabulary
from helpers.models.check import checked_header
from helpers.models.info import _describe
from tests.models.gguf_builders import tiny_llama
from tests.models.header_fuzz import Mutant, mutants

SEED = 20_261
COUNT = 2_000
ASKED = 20  # doubtful ones that are put to llama.cpp in a process each
NATIVE = 200  # accepted ones that are handed to llama.cpp, a few seconds of them


def judge(path: Path) -> bool:
    """Say whether a file is accepted; anything but acceptance and ModelFileError is a fault."""
    try:
        headers = checked_header(path)
    except ModelFileError as error:
        assert str(path) in str(error) and len(str(error)) < 2_000
        return False
    info = _describe(headers)
    assert str(info) and info._repr_html_()
    return True


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


def test_2000_damaged_headers_are_refused_or_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fifty of them would be put to llama.cpp: that is the next test's work.
    monkeypatch.setattr(verdict, "_ask", lambda *_: "refuses it")
    base = tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    verdicts = collections.Counter[bool]()
    for number, mutant in enumerate(mutants(base, SEED, COUNT)):
        mutant.write(path)
        # Measuring memory is slow: every fortieth is enough to find a header that asks for much.
        if number % 40 == 0:
            tracemalloc.start()
        verdicts[judge(path)] += 1
        if number % 40 == 0:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 100 * 2**20, mutant.what
    # The damages are of both kinds, or the test shows nothing.
    assert verdicts[True] > 200 and verdicts[False] > 1_000
    assert path.stat().st_blocks * 512 < 2**22


def test_what_is_accepted_never_ends_a_process(tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    path = tmp_path / "damaged.gguf"
    outcomes = collections.Counter[str]()
    child = NativeChild()
    try:
        assert child.use(tiny) == "ok"
        for mutant in mutants(tiny.read_bytes(), SEED + 1, COUNT):
            mutant.write(path)
            if judge(path):
                outcome = child.use(path)
                assert not outcome.startswith("died"), f"{mutant.what}: {outcome}"
                outcomes[outcome] += 1
            if outcomes.total() >= NATIVE:
                break
    finally:
        child.close()
    assert outcomes.total() == NATIVE
    assert outcomes["ok"] > NATIVE / 2


def test_without_lists_what_llama_cpp_takes_never_ends_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plausible, "ARCHITECTURES", frozenset())
    monkeypatch.setattr(vocabulary, "PRE_TOKENIZERS", frozenset())
    answers: list[str | None] = []
    ask = verdict._ask

    def asked(*request: Any) -> str | None:
        answers.append(ask(*request))
        return answers[-1]

    monkeypatch.setattr(verdict, "_ask", asked)
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    path = tmp_path / "damaged.gguf"
    child = NativeChild()
    try:
        for mutant in mutants(tiny.read_bytes(), SEED + 2, COUNT):
            mutant.write(path)
            if judge(path):
                outcome = child.use(path)
                assert not outcome.startswith("died"), f"{mutant.what}: {outcome}"
            if len(answers) >= ASKED:
                break
    finally:
        child.close()
    # It takes some and refuses some, or the test shows nothing.
    assert ASKED / 5 < answers.count(None) < ASKED * 4 / 5


def test_the_child_reports_a_death(tmp_path: Path) -> None:
    # Two equal tokens end llama.cpp with an assertion: the check knows, and the child must tell.
    base = tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    one, other = b"\x01" + bytes(7) + b"!", b"\x01" + bytes(7) + b'"'
    assert base.count(one) == 1
    path = tmp_path / "twice.gguf"
    path.write_bytes(base.replace(one, other))
    assert not judge(path)
    child = NativeChild()
    try:
        outcome = child.use(path)
    finally:
        child.close()
    if sys.platform != "win32":
        assert outcome.startswith("died with -6")


@pytest.mark.parametrize("seed", [1, 2])
def test_damages_are_always_the_same(tmp_path: Path, seed: int) -> None:
    base = tiny_llama(tmp_path / "tiny.gguf").read_bytes()

    def heads() -> list[tuple[str, bytes, int]]:
        return [(m.what, m.head, m.size) for m in mutants(base, seed, 50)]

    assert heads() == heads()


def _by_hand() -> None:
    parser = argparse.ArgumentParser(description="fuzz the header check and llama.cpp behind it")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--embedded", action="store_true", help="damage the embedded model")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    arguments = parser.parse_args()
    tiny = tiny_llama(arguments.folder / f"fuzz-base-{arguments.seed}.gguf")
    base = default_model() if arguments.embedded else tiny
    path = arguments.folder / f"fuzz-{arguments.seed}.gguf"
    outcomes = collections.Counter[str]()
    child = NativeChild()

    def run(mutant: Mutant) -> None:
        mutant.write(path)
        outcome = child.use(path) if judge(path) else "refused by the check"
        outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("died"):
            print(mutant.what, outcome)

    for mutant in mutants(base.read_bytes(), arguments.seed, arguments.count):
        run(mutant)
    child.close()
    tiny.unlink()
    path.unlink()
    print(dict(outcomes))


if __name__ == "__main__":
    _by_hand()
