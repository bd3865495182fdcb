"""Calls that join and leave one lane: pieces of prompts, shared beginnings, fairness, endings.

The tiny model shows what happens in which order. Its weights are no quantized ones, for which ggml
rounds a matrix with one row differently from one with more, so that only the first token of an
answer, which its prompt decides, is the same to the last bit in company; the embedded model's are.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import predict_memory
from helpers.engine import Chunk, Completion, Engine, Request, preparation
from helpers.engine import core as core_module
from helpers.engine.lane import TILE
from helpers.engine.sequence import Job
from helpers.engine.waiting import Waiting
from helpers.errors import ContextOverflowError, DeviceError, HelpersError
from helpers.grammars import Grammar
from helpers.isolation import make_core
from helpers.models import default_model
from helpers.native.context import Context
from tests.engine.test_engine_windows import prompt
from tests.memory.test_windowed import write as write_windowed
from tests.models.gguf_builders import tiny_llama, tiny_mamba
from tests.support import options, wait_for

NO_END = ((0, -1e5), (1, -1e5), (2, -1e5))


def request(tokens: list[int], **changes: Any) -> Request:
    wanted = {"max_tokens": 6, "temperature": 0, "repeat_penalty": 1.0, "logit_bias": NO_END}
    return Request(prompt=tuple(tokens), **{**wanted, **changes})


def told(done: Completion) -> tuple[str, Any]:
    return done.text, done.logprobs


class Call:
    """A job and what became of it."""

    def __init__(self, asked: Request) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.job = Job(asked, self._note)
        self.began = threading.Event()
        self.ended = threading.Event()
        self.end: Any = None

    def _note(self, event: Any) -> None:
        if isinstance(event, Chunk):
            self.began.set()
        else:
            self.end = event
            self.ended.set()

    def result(self) -> Any:
        assert self.ended.wait(120), "nothing came"
        return self.end


def submitted(engine: Engine, *requests: Request) -> list[Call]:
    calls = [Call(one) for one in requests]
    engine._core.submit([call.job for call in calls])
    return calls


def endless(salt: int = 0, **changes: Any) -> Request:
    return request(prompt(9, salt), max_tokens=None, **changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("lane") / "tiny.gguf", context=4096))


@pytest.fixture
def lane(model: str) -> Iterator[Engine]:
    """Four sequences."""
    with serving(model) as engine:
        yield engine


def serving(model: str, **changes: Any) -> Engine:
    few = {"n_ctx": 4096, "n_parallel": 4, "continuous_batching": True}
    return Engine(options(model_path=model, **{**few, **changes}), make_core)


def scheduler(engine: Engine) -> Any:
    return engine._core._scheduler  # type: ignore[attr-defined]


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sequences of each decode, as they come: `(sequence, tokens)` of a piece, or all of one
    token each."""
    seen: list[tuple[int, ...]] = []
    one, several = Context.decode, Context.decode_runs

    def decode(
        context: Context, tokens: Any, position: int, sequence: int, *, logits: bool
    ) -> None:
        seen.append((-1 - sequence, len(tokens)))
        one(context, tokens, position, sequence, logits=logits)

    def decode_runs(context: Context, runs: Any, guesses: int = 0) -> list[int]:
        seen.append(tuple(slot for _, _, slot in runs))
        return several(context, runs, guesses)

    monkeypatch.setattr(Context, "decode", decode)
    monkeypatch.setattr(Context, "decode_runs", decode_runs)
    return seen


class Gate:
    """Lets decodes through one by one: what happens between two is in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived, self.passes = threading.Semaphore(0), threading.Semaphore(0)
        self.open = False
        run = Context._run

        def held(context: Context, count: int) -> None:
            if not self.open:
                self.arrived.release()
                assert self.passes.acquire(timeout=120)
            run(context, count)

        monkeypatch.setattr(Context, "_run", held)

    def wait(self) -> None:
        assert self.arrived.acquire(timeout=120), "no decode began"

    def let(self, count: int = 1) -> None:
        """Let the decode that waits through, and wait for the next one."""
        for _ in range(count):
            self.passes.release()
            self.wait()

    def release(self) -> None:
        self.open = True
        self.passes.release()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.release()


# -- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [False, True])
def test_answers_in_company_are_those_of_a_lone_call(isolate: bool) -> None:
    lengths = [1, 61] if isolate else [5, 60, 64, 65, 129, 190]
    asked = [request(prompt(n, n), max_tokens=8, logprobs=2) for n in lengths]
    with Engine(options(n_ctx=512)) as engine:
        alone = [engine.generate(one) for one in asked]
    with serving(str(default_model()), n_ctx=512, isolate=isolate) as engine:
        running = engine.stream(request(prompt(20), max_tokens=200))
        next(running)
        together = engine.generate_many(asked)
        running.close()
    assert [told(done) for done in together] == [told(done) for done in alone]


LENGTHS = [2, 63, 128, 129, 300, 511, 513, 700, 1023, 1024, 1025, 1087, 1500, 3000]


@pytest.mark.filterwarnings("ignore:n_ctx=1536 is more than")
@pytest.mark.parametrize("kind", ["llama", "windows", "mamba"])
def test_no_piece_shows_in_what_follows_a_prompt(model: str, kind: str, tmp_path: Path) -> None:
    path, more = model, {}
    if kind == "windows":
        path = str(write_windowed(tmp_path / "gemma.gguf", "gemma3", 6, sliding_window=64))
        more = {"n_ctx": 1536}
    elif kind == "mamba":
        path = str(tiny_mamba(tmp_path / "mamba.gguf"))
    lengths = [n for n in LENGTHS if n < more.get("n_ctx", 4096)]
    asked = [request(prompt(n, n), max_tokens=1, logprobs=5) for n in lengths]
    with Engine(options(model_path=path, **{"n_ctx": 4096, **more})) as engine:
        alone = [engine.generate(one) for one in asked]
    with serving(path, **more) as engine:
        running = submitted(engine, endless(1), endless(2))
        assert all(call.began.wait(60) for call in running)
        together = engine.generate_many(asked)
        assert not any(call.ended.is_set() for call in running)
    assert [told(done) for done in together] == [told(done) for done in alone]


def test_a_prompt_is_read_in_pieces_between_the_tokens_of_others(
    lane: Engine, decodes: list[tuple[int, ...]]
) -> None:
    lane.generate(request(prompt(1500), max_tokens=1))
    assert decodes == [(-1, 512), (-1, 512), (-1, 476)]  # nobody else runs
    running = submitted(lane, endless(1), endless(2))
    assert all(call.began.wait(60) for call in running)
    decodes.clear()
    done = lane.generate(request(prompt(1500, 3), max_tokens=2))
    assert done.timings.prompt_tokens == 1500 and done.timings.first_token_ms
    pieces = [at for at, (first, *_) in enumerate(decodes) if first < 0]
    assert [decodes[at][1] for at in pieces] == [TILE] * 11 + [92]
    assert all(b - a == 2 for a, b in itertools.pairwise(pieces))
    assert all(len(decodes[at + 1]) == 2 for at in pieces[:-1])
    assert 0 < (done.timings.prompt_ms or 0) < (done.timings.first_token_ms or 0)


def test_short_prompts_join_several_at_a_time(lane: Engine, decodes: list[tuple[int, ...]]) -> None:
    (running,) = submitted(lane, endless())
    assert running.began.wait(60)
    decodes.clear()
    lane.generate_many([request(prompt(30, salt), max_tokens=9) for salt in (1, 2, 3)])
    pieces = [at for at, (first, *_) in enumerate(decodes) if first < 0]
    assert len(pieces) == 3 and pieces[2] - pieces[0] <= 3


# -- what is computed once ------------------------------------------------------------------------


def test_a_common_beginning_is_computed_once_for_all(lane: Engine) -> None:
    common = prompt(700)
    calls = submitted(
        lane, *(request([*common, *prompt(40, n)], user=f"u{n}", max_tokens=20) for n in range(8))
    )
    computed = [call.result().timings.prompt_tokens for call in calls]
    assert sorted(computed)[-1] == 740
    # The beginning in whole tiles is copied; up to a tile of it is read with what follows.
    assert sum(computed) <= 740 + 7 * (40 + TILE)


def test_the_first_grammar_lets_nobody_wait(lane: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "Vocabulary", None)  # it was prepared at the load
    asked = request(prompt(8), grammar=Grammar.from_string("root ::= [a-z0-9]+"), logit_bias=())
    assert set(lane.generate(asked).text) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


def test_conversations_keep_their_sequence(model: str) -> None:
    with serving(model) as engine:
        system = prompt(300)
        talks = [[*system, *prompt(50, salt)] for salt in (1, 2, 3)]
        for number in range(4):
            for salt, talk in enumerate(talks):
                done = engine.generate(request(talk))
                if number:
                    assert (done.timings.cached_tokens or 0) >= len(talk) - 40
                talk += [*done_tokens(engine, talk), *prompt(30, 10 * number + salt)]
            # Strangers with the same system text come and go beside them.
            engine.generate(request([*system, *prompt(60, 50 + number)]))


def done_tokens(engine: Engine, talk: list[int]) -> list[int]:
    """What a sequence holds after a prompt."""
    held: list[int] = next(
        held for held in scheduler(engine)._lane.held if held[: len(talk)] == talk
    )
    return held[len(talk) :]


def test_prompts_on_the_disk_serve_the_lane_too(model: str, tmp_path: Path) -> None:
    asked = request([*prompt(1200), *prompt(30, 5)], max_tokens=1, logprobs=3)
    with serving(model, cache_dir=tmp_path) as engine:
        cold = engine.generate(asked)
        assert wait_for(lambda: list(tmp_path.glob("*.prefix")))
    with serving(model, cache_dir=tmp_path) as engine:
        running = submitted(engine, endless())
        warm = engine.generate(asked)
        assert not running[0].ended.is_set()
    with serving(model, cache_dir=tmp_path, n_parallel=2) as engine:
        other = engine.generate(asked)  # llama.cpp reads no state of a lane of four: none is tried
    assert other.notes == () and other.timings.cached_tokens == 0
    assert told(warm) == told(other) == told(cold)
    assert (warm.timings.cached_tokens or 0) > 1000


# -- whose turn it is -----------------------------------------------------------------------------


def test_one_of_two_users_does_not_wait_for_forty_jobs_of_the_other(model: str) -> None:
    order: list[str] = []

    def job(user: str, salt: int) -> Job:
        asked = request(prompt(20, salt), user=user, max_tokens=12)
        return Job(asked, lambda event: None if isinstance(event, Chunk) else order.append(user))

    with serving(model, n_parallel=2) as engine:
        engine._core.submit([job("many", n) for n in range(40)])
        assert wait_for(lambda: len(order) > 3)
        came = len(order)
        engine._core.submit([job("few", n) for n in (50, 51)])
        assert wait_for(lambda: len(order) == 42)
    # The two sequences are at work, a few more may end while the jobs come in.
    assert [n for n, user in enumerate(order) if user == "few"][-1] <= came + 12
    assert order[-10:] == ["many"] * 10


def test_a_short_prompt_overtakes_a_long_one_that_is_being_read(lane: Engine, gate: Gate) -> None:
    (long,) = submitted(lane, request(prompt(3000), user="long"))
    gate.wait()
    short, same = submitted(
        lane, request(prompt(20, 1), user="short"), request(prompt(20, 2), user="long")
    )
    gate.let()  # the first piece of 512
    gate.let()  # the short prompt
    assert short.began.is_set() and not long.began.is_set()
    gate.release()
    assert isinstance(same.result(), Completion)  # of the same user: in the order of coming
    assert long.ended.is_set()


def job_of(user: str) -> Job:
    return Job(Request(prompt="x", user=user), lambda event: None)


def read(waiting: Waiting, rest: dict[Job, int], piece: int = 100) -> tuple[str, int]:
    """Read one piece of the prompt whose turn it is; whose, and how many tokens."""
    first = {job.request.user: job for job in reversed(rest)}.values()
    chosen = min(first, key=lambda job: waiting.rank(job, rest[job]))
    if chosen in list(waiting.heads()):
        waiting.remove(chosen)
        waiting.begins(chosen)
    tokens = min(piece, rest[chosen])
    waiting.has_read(chosen, tokens)
    rest[chosen] -= tokens
    if not rest[chosen]:
        del rest[chosen]
        waiting.leaves_prompt(chosen)
        waiting.ends(chosen)
    return chosen.request.user, tokens


def test_ever_new_short_prompts_cannot_keep_a_long_one_waiting() -> None:
    waiting, long = Waiting(), job_of("long")
    waiting.add(long)
    rest, overtaken = {long: 3000}, 0
    for number in range(1000):
        short = job_of(f"short {number}")
        waiting.add(short)
        rest[short] = 100
        overtaken += read(waiting, rest)[0] != "long"
        if long not in rest:
            break
    assert long not in rest
    assert overtaken <= 31  # as many tokens as it has itself


def test_equal_long_prompts_are_read_one_after_the_other() -> None:
    waiting = Waiting()
    rest = {job_of(user): 1000 for user in "abc"}
    for job in rest:
        waiting.add(job)
    users = [read(waiting, rest)[0] for _ in range(30)]
    assert [user for user, _ in itertools.groupby(users)] == ["a", "b", "c"]


def test_users_share_what_they_use_and_save_nothing_up() -> None:
    waiting, rest = Waiting(), dict[Job, int]()

    def come(user: str, count: int, tokens: int) -> None:
        for _ in range(count):
            job = job_of(user)
            waiting.add(job)
            rest[job] = tokens

    come("a", 50, 200)
    for _ in range(30):  # b is away; that gives it no claim to all of the engine later
        read(waiting, rest)
    come("b", 200, 50)  # whose prompts are smaller, and more
    served = {"a": 0, "b": 0}
    for _ in range(60):
        user, tokens = read(waiting, rest)
        served[user] += tokens
    assert 0.7 < served["a"] / served["b"] < 1.4


# -- endings --------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_refused_while_all_sequences_are_taken(lane: Engine) -> None:
    running = submitted(lane, *(endless(n) for n in range(4)))
    assert all(call.began.wait(60) for call in running)
    (call,) = submitted(lane, request(prompt(4096)))
    assert isinstance(call.result(), ContextOverflowError)
    (empty,) = submitted(lane, Request(prompt=(70_000,)))
    assert "not in the vocabulary" in str(empty.result())
    assert not any(one.ended.is_set() for one in running)


def test_a_cancelled_call_ends_wherever_it_is(lane: Engine, gate: Gate) -> None:
    (reading,) = submitted(lane, request(prompt(3000)))
    gate.wait()
    users = [request(prompt(3000, n), user=f"u{n}") for n in range(1, 6)]
    calls = submitted(lane, *users)
    lane._core.cancel(calls[4].job)  # nobody has looked at it yet: ended before the decode is
    assert calls[4].end.finish_reason == "cancelled"
    gate.let()
    lane._core.cancel(calls[3].job)  # it waits for its turn
    assert calls[3].end.finish_reason == "cancelled"
    lane._core.cancel(reading.job)  # a decode of its own is at work
    gate.release()
    assert reading.result().finish_reason == "cancelled"
    assert all(isinstance(call.result(), Completion) for call in calls[:3])
    assert [call.end.finish_reason for call in calls[:3]] == ["length"] * 3


def test_a_call_cancelled_between_two_pieces_harms_no_other(lane: Engine, gate: Gate) -> None:
    (running,) = submitted(lane, endless(1))
    gate.wait()
    gate.let()
    (reading,) = submitted(lane, request(prompt(1500)))
    gate.let(4)  # pieces and tokens in turns
    assert running.began.is_set() and not reading.began.is_set()
    lane._core.cancel(reading.job)
    gate.release()
    assert reading.result().finish_reason == "cancelled"
    again = lane.generate(request(prompt(1500), logprobs=2, max_tokens=1))
    assert 0 < (again.timings.cached_tokens or 0) < 1500
    assert not running.ended.is_set()
    lane._core.cancel(running.job)
    cold = lane.generate(request([*prompt(1500)][::-1], max_tokens=1))
    assert cold.timings.cached_tokens == 0
    assert not scheduler(lane)._lane.active and not scheduler(lane)._waiting


def test_an_error_in_a_piece_fails_its_call_alone(
    lane: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = submitted(lane, endless(1), endless(2))
    assert all(call.began.wait(60) for call in running)
    decode, left = Context.decode, [2]

    def failing(context: Context, *arguments: Any, **named: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise DeviceError("no memory for this piece")
        decode(context, *arguments, **named)

    monkeypatch.setattr(Context, "decode", failing)
    (call,) = submitted(lane, request(prompt(1500)))
    assert "no memory" in str(call.result())
    done = lane.generate(request(prompt(1500)))
    assert done.timings.cached_tokens == 0 and done.generated_tokens == 6
    assert not any(one.ended.is_set() for one in running)


def test_closing_ends_calls_in_every_state(model: str, gate: Gate) -> None:
    engine = serving(model, n_parallel=2)
    calls = submitted(engine, endless(1))
    gate.wait()
    gate.let()
    calls += submitted(engine, request(prompt(3000), user="a"), request(prompt(9), user="b"))
    gate.let(2)  # one runs, one is being read, one waits, one has just come
    calls += submitted(engine, request(prompt(8), user="c"))
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert wait_for(lambda: scheduler_closing(engine))
    gate.release()
    closing.join(120)
    assert all(isinstance(call.result(), HelpersError) for call in calls)
    assert all("closed" in str(call.end) for call in calls)


def scheduler_closing(engine: Engine) -> bool:
    core: Any = engine._shared.core
    return bool(core._scheduler._closing)


def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(model: str) -> None:
    draw = random.Random(5)
    lengths = [3, 40, 64, 128, 200, 513, 1100]
    asked = {n: request(prompt(n, n), max_tokens=1, logprobs=2) for n in lengths}
    with Engine(options(model_path=model, n_ctx=2048)) as engine:
        alone = {n: told(engine.generate(one)) for n, one in asked.items()}
    with serving(model, n_ctx=2048) as engine:
        calls = []
        for number in range(150):
            length = draw.choice(lengths)
            user = f"u{draw.randrange(5)}"
            if draw.random() < 0.3:
                one = request(prompt(length, draw.randrange(9)), max_tokens=30, user=user)
            else:
                one = replace(asked[length], user=user)
            calls += [(length, call) for call in submitted(engine, one)]
            if draw.random() < 0.3:
                engine._core.cancel(draw.choice(calls)[1].job)
            if number % 10 == 0:
                calls[-1][1].ended.wait(0.2)
        for length, call in calls:
            done = call.result()
            assert isinstance(done, Completion)
            if done.finish_reason == "length" and done.logprobs is not None:
                assert told(done) == alone[length]
        core = scheduler(engine)
        assert wait_for(lambda: not core.ready)
        assert not core._lane.active
        assert not any(user.busy or user.reading for user in core._waiting._users.values())


# -- memory ---------------------------------------------------------------------------------------


def test_the_plan_counts_the_sequences_of_the_one_lane(model: str) -> None:
    with serving(model, n_ctx=1024) as engine:
        report = engine.load_report
    plan = predict_memory(model, n_gpu_layers=0, n_ctx=1024, n_parallel=4, continuous_batching=True)
    assert plan.by_device["CPU"]["kv"] == pytest.approx(report.by_device["CPU"]["kv"], abs=0.1)


def test_a_lane_that_the_memory_cannot_hold_is_refused_at_the_load(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "available_mib", lambda: 3.0)
    with pytest.raises(DeviceError, match=r"of 4 sequences.*n_parallel to less than 4"):
        serving(model, isolate=False)
