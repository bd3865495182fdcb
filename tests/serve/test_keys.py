"""The file of keys, and what a key may use."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from helpers.errors import HelpersError
from helpers.serve.command import main
from helpers.serve.keys import Key, KeyFile, add_keys, digest_of, remove_keys
from helpers.serve.limits import Admission
from helpers.serve.problems import Problem
from helpers.serve.settings import KeyLimits


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.txt"


async def test_a_key_is_known_by_its_hash_alone(file: Path) -> None:
    made = add_keys(file, ["ada"]) | add_keys(file, ["tina"], teacher=True)
    text = file.read_text()
    assert not any(key in text for key in made.values())
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store = KeyFile(file)
    found = {name: await store.find(key) for name, key in made.items()}
    assert [(key.name, key.teacher) for key in found.values() if key] == [
        ("ada", False), ("tina", True)
    ]  # fmt: skip
    for wrong in ("", made["ada"][:-1], made["ada"] + "x", digest_of(made["ada"]), "\udc80"):
        assert await store.find(wrong) is None


async def test_a_change_of_the_file_counts_at_once(file: Path) -> None:
    made = add_keys(file, ["ada", "bob"])
    store = KeyFile(file)
    assert await store.find(made["bob"])
    remove_keys(file, ["bob"])
    assert await store.find(made["bob"]) is None and await store.find(made["ada"])
    more = add_keys(file, ["eve"])
    assert await store.find(more["eve"])
    file.unlink()
    assert await store.find(made["ada"]) is None


async def test_lines_by_hand(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = add_keys(file, ["ada"])
    hashes = [digest_of(f"key {number}") for number in range(4)]
    with file.open("a") as stream:
        stream.write(
            f"\n# a note\nbob {hashes[0]} in_flight=2 # of room 3\nbroken {hashes[1][:-1]}\n"
            f"odd {hashes[2]} everything=1\nada {hashes[3]}\n"
        )
    store = KeyFile(file, KeyLimits(tokens_per_minute=77))
    bob = await store.find("key 0")
    assert bob is not None and bob.limits == KeyLimits(in_flight=2, tokens_per_minute=77)
    assert [key.name for key in store.read()] == ["ada", "bob"]
    assert await store.find(made["ada"])  # the first of a name counts
    assert len([one for one in caplog.messages if "is left out" in one]) == 6


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
async def test_a_file_that_others_write_to_lets_nobody_in(file: Path) -> None:
    made = add_keys(file, ["ada"])
    file.chmod(0o622)
    assert await KeyFile(file).find(made["ada"]) is None
    with pytest.raises(HelpersError, match="chmod 600"):
        add_keys(file, ["bob"])


def test_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--keys", str(file)]
    assert main(["keys", "add", "ada", "bob", *keys, "--in-flight", "2", "--teacher"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert digest_of(printed["ada"]) in file.read_text()
    assert main(["keys", "add", "eve", "bob", *keys]) == 2
    assert "already" in capsys.readouterr().err
    assert "eve" not in file.read_text()  # all or none
    assert main(["keys", "add", "two words", *keys]) == 2
    assert main(["keys", "remove", "bob", "zoe", *keys]) == 2
    assert main(["keys", "remove", "bob", *keys]) == 0
    capsys.readouterr()
    assert main(["keys", "list", *keys]) == 0
    assert capsys.readouterr().out == "ada in_flight=2 tokens_per_minute=20000 teacher\n"


def test_others_are_not_served_without_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "0.0.0.0"]) == 2
    assert "keys add" in capsys.readouterr().err
    file.parent.mkdir()
    file.write_text("# nobody\n")
    assert main(["--host", "0.0.0.0", "--keys", str(file)]) == 2
    assert "has no keys" in capsys.readouterr().err


# -- what a key may use ---------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    limits = KeyLimits(in_flight=2, tokens_per_minute=600)
    return Admission(n_parallel=2, queue=2, limits=limits, clock=clock)


ADA, BOB, EVE = (Key(name) for name in ("ada", "bob", "eve"))


def refused(admission: Admission, key: Key, answers: int = 1) -> Problem:
    with pytest.raises(Problem) as caught, admission.admit(key, answers):
        pass
    return caught.value


def test_answers_in_flight(admission: Admission) -> None:
    with admission.admit(ADA, 1), admission.admit(ADA, 1):
        problem = refused(admission, ADA)
        assert (problem.status, problem.code) == (429, "rate_limit_exceeded")
        assert problem.retry_after is not None and problem.retry_after >= 1
        with admission.admit(BOB, 2):  # has limits of its own
            full = refused(admission, EVE)
            assert (full.status, full.code) == (429, "queue_full")
        with admission.admit(EVE, 1):
            pass
    assert admission.in_flight == 0 and admission.users["ada"].in_flight == 0
    with admission.admit(ADA, 2):
        pass


def test_when_to_come_again_follows_the_last_answers(admission: Admission, clock: Clock) -> None:
    for _ in range(50):
        with admission.admit(BOB, 1):
            clock.now += 40
    with admission.admit(ADA, 2), admission.admit(BOB, 2):  # 40 s each, four at a time
        assert refused(admission, EVE).retry_after == pytest.approx(10, rel=0.01)
        assert refused(admission, ADA).retry_after == pytest.approx(20, rel=0.01)


def test_tokens_come_back_with_time(admission: Admission, clock: Clock) -> None:
    with admission.admit(ADA, 1) as ticket:
        ticket.tokens = 900  # 300 more than there were
    problem = refused(admission, ADA)
    assert problem.code == "rate_limit_exceeded"
    assert problem.retry_after == pytest.approx(30.1)
    clock.now += 30
    refused(admission, ADA)
    clock.now += 0.2
    with admission.admit(ADA, 1):
        pass
    clock.now += 3600  # a pause saves up a minute's tokens, not an hour's
    assert admission.user(ADA).level == 600


def test_what_fails_is_paid_and_ends(admission: Admission) -> None:
    with pytest.raises(KeyError), admission.admit(ADA, 1) as ticket:
        ticket.tokens = 10
        raise KeyError
    usage = admission.users["ada"]
    assert (usage.today, usage.in_flight, usage.errors) == (10, 0, 1)


def test_a_stopping_server_takes_nobody(admission: Admission) -> None:
    admission.stopping = True
    problem = refused(admission, ADA)
    assert (problem.status, problem.code) == (503, "shutting_down")
