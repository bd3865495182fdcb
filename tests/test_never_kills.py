"""Nothing that a user does ends the interpreter: each hostile use, in an interpreter of its own."""

from __future__ import annotations

import ast
import collections
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hostile import (
    answers,
    chat,
    concurrency,
    devices,
    documents,
    embeddings,
    files,
    frame,
    grammars,
    index,
    isolation,
    lifecycle,
    parameters,
    prefix_cache,
    prompts,
)
from tests.hostile.base import MARK, Exits, Gives, Raises, Says, Use
from tests.support import ROOT

_SECONDS = 240
GROUPS = (
    grammars, files, parameters, prompts, chat, embeddings, documents, index, answers,
    prefix_cache, concurrency, lifecycle, isolation, devices,
)  # fmt: skip
USES = [use for group in GROUPS for use in group.use.table]


class Pool:
    """Runs uses ahead of the tests that ask for them, one on each of two cores."""

    def __init__(self, uses: list[Use], folder: Path) -> None:
        self._uses = uses
        self._folder = folder
        self._executor = ThreadPoolExecutor(2)
        self._started: dict[int, Future[subprocess.CompletedProcess[str]]] = {}

    def outcome(self, use: Use) -> subprocess.CompletedProcess[str]:
        index = self._uses.index(use)
        for ahead in range(index, min(index + 3, len(self._uses))):
            if ahead not in self._started:
                self._started[ahead] = self._executor.submit(self._run, ahead)
        return self._started[index].result()

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _run(self, index: int) -> subprocess.CompletedProcess[str]:
        folder = self._folder / str(index)
        folder.mkdir()
        use = self._uses[index]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        try:
            return subprocess.run(
                [sys.executable, "-X", "utf8", "-m", "tests.hostile", use.group, use.name],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SECONDS,
            )
        finally:
            for file in folder.rglob("*.gguf"):  # copies of a model: many, and large
                file.unlink()


@pytest.fixture(scope="module")
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = [call.params["use"] for call in calls if call is not None and "use" in call.params]
    made = Pool(chosen, tmp_path_factory.mktemp("hostile"))
    yield made
    made.close()


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.group}: {use.name}")
def test_ends_by_itself_with_the_expected_outcome(use: Use, pool: Pool) -> None:
    if use.posix and sys.platform == "win32":
        pytest.skip("signals, fork and special files of POSIX")
    done = pool.outcome(use)
    tail = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    if isinstance(use.expected, Exits):
        assert done.returncode == use.expected.status, tail
        assert use.expected.printed in done.stdout
        return
    assert done.returncode == 0, f"ended with status {done.returncode}\n{tail}"
    *_, line = [line for line in done.stdout.splitlines() if line.startswith(MARK)] or [""]
    assert line, f"no outcome\n{tail}"
    kind, *details = ast.literal_eval(line.removeprefix(MARK))
    if isinstance(use.expected, Raises):
        assert kind == "raised", f"nothing was raised, but {details}\n{tail}"
        kinds, message = details
        assert use.expected.kind in kinds, (kinds, message)
        for word in use.expected.words:
            assert word in message
        return
    assert kind == "gave", f"{details}\n{tail}"
    if isinstance(use.expected, Gives):
        assert details[0] == use.expected.value, tail
    elif isinstance(use.expected, Says):
        for word in use.expected.words:
            assert word in str(details[0])


def test_the_table_is_broad() -> None:
    count = collections.Counter(use.group for use in USES)
    assert sum(count.values()) >= 157
    assert min(count.values()) >= 5
    # A use is run by the names of its group and itself.
    assert [group.use.group for group in GROUPS] == [
        group.__name__.rpartition(".")[2] for group in GROUPS
    ]
    names = [(use.group, use.name) for use in USES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("use", frame.use.table, ids=lambda use: use.name)
def test_a_use_that_does_not_meet_its_expectation_is_seen(use: Use, tmp_path: Path) -> None:
    """The frame itself: an abort, a wrong answer and the like must not pass for the outcome."""
    pool = Pool([use], tmp_path)
    with pytest.raises(AssertionError):
        test_ends_by_itself_with_the_expected_outcome(use, pool)
    pool.close()
