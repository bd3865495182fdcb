"""2,000 damaged headers at full file size: refused or accepted, and what is accepted never kills.

With more of them, and other seeds: `python -m tests.models.fuzz_headers --count 12000`.
"""

from __future__ import annotations

import collections
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from helpers.models import plausible, verdict, vocabulary
from tests.models.fuzz_headers import SEED, NativeChild, bases, fuzz, judge
from tests.models.gguf_builders import tiny_llama
from tests.models.header_fuzz import mutants

COUNT = 2_000
ASKED = 20  # doubtful ones that are put to llama.cpp in a process each
NATIVE = 100  # of each base; what is accepted is handed to llama.cpp


def test_2000_damaged_headers_are_refused_or_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fifty of them would be put to llama.cpp: that is the next test's work.
    monkeypatch.setattr(verdict, "_ask", lambda *_: "refuses it")
    base = tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    verdicts = collections.Counter[str]()
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
    assert verdicts["proved"] > 200 and verdicts["refused"] > 1_000
    assert path.stat().st_blocks * 512 < 2**22


def test_what_is_proved_never_ends_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "_ask", lambda *_: "refuses it")
    outcomes = collections.Counter[str]()
    for number, base in enumerate(bases(tmp_path)):
        counts, faults = fuzz(base, SEED + number, NATIVE, tmp_path)
        assert not faults
        outcomes += counts
    # All is there, or the test shows nothing.
    assert outcomes["proved: ok"] > 50 and outcomes["to be tried: ok"] > 20
    assert outcomes["to be tried: died"] > 5


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
            if judge(path) != "refused":
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
    assert judge(path) == "refused"
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
