"""The simulated class: against the formulas of queueing theory, and against a recorded class."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.plots.serving import plot_serving
from helpers.serve.simulate import Amount, Lesson, ServiceTimes, machines_needed, simulate
from tests.serve.record_times import CHECK, FILE, LEARNERS

TIMES = ServiceTimes(prompt_ms=2.0, decode_ms=(11, 19, 26, 33, 38, 43, 48, 50))


def erlang_c(servers: int, load: float) -> float:
    """The share of those who have to wait, of Poisson arrivals at exponential servers."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("machines", "slots", "use"), [(1, 1, 0.6), (1, 8, 0.85), (4, 2, 0.8)])
def test_waiting_is_what_erlang_c_says(machines: int, slots: int, use: float) -> None:
    # Where slots do not slow each other down and prompts cost nothing, slots are M/M/k's servers;
    # a large class that seldom asks arrives as Poisson's.
    token_s, tokens, servers = 0.005, 400, machines * slots
    service = token_s * tokens
    learners = 1000
    think = learners * service / (use * servers) - service
    minutes = 15_000 * service / (use * servers) / 60
    lesson = Lesson(Amount(think, 1.0), Amount(1), Amount(tokens, 1.0), minutes=minutes)
    times = ServiceTimes(0.0, (token_s * 1000,) * slots)
    load = simulate(times, learners, machines, lesson=lesson, seed=3)
    assert load.requests > 13_000
    waited = np.array(load.waiting_s)
    share = erlang_c(servers, use * servers)
    # A question also waits for the decode under way, one token's time at most.
    assert np.mean(waited > token_s) == pytest.approx(share, abs=0.04)
    expected = share * service / (servers * (1 - use))
    assert waited.mean() == pytest.approx(expected, rel=0.15)


def test_alone_a_question_takes_its_prompt_and_then_its_tokens() -> None:
    times = ServiceTimes(2.0, (10.0, 100.0))
    load = simulate(times, 1, lesson=Lesson(Amount(100), Amount(1000), Amount(10), minutes=2))
    assert load.requests == 1
    assert load.waiting_s == (0.0,)
    assert load.first_token(50) == pytest.approx(2.0)  # 1,000 tokens at 2 ms, in two decodes
    assert load.tokens_per_second == pytest.approx(10 / (100 + 2.0 + 9 * 0.010))


def test_who_joins_waits_for_the_decode_under_way_and_slows_the_others_down() -> None:
    # Both ask after 10 s, the second a moment later: its prompt joins the first one's next decode.
    times = ServiceTimes(1.0, (10.0, 30.0))
    both = simulate(times, 2, lesson=Lesson(Amount(10), Amount(5), Amount(3), minutes=0.2))
    # 5 ms: the first prompt. Then one token beside the second prompt: 10 + 5 ms. Then both have
    # one token in 30 ms, which ends the first answer, and the second ends alone.
    assert both.first_token_s == pytest.approx((0.005, 0.020))
    assert both.tokens_per_second == pytest.approx(6 / (10 + 0.005 + 0.015 + 0.030 + 0.010))
    one_slot = ServiceTimes(1.0, (10.0,))
    after = simulate(one_slot, 2, lesson=Lesson(Amount(10), Amount(5), Amount(3), minutes=0.2))
    assert after.waiting_s == pytest.approx((0.0, 0.025))
    assert after.longest_queue == 1


def test_the_same_seed_is_the_same_class_and_more_machines_are_no_worse() -> None:
    lesson = Lesson(minutes=5)
    one = simulate(TIMES, 60, 1, lesson=lesson, seed=7)
    assert one == simulate(TIMES, 60, 1, lesson=lesson, seed=7)
    assert one != simulate(TIMES, 60, 1, lesson=lesson, seed=8)
    two, four = (simulate(TIMES, 60, n, lesson=lesson, seed=7) for n in (2, 4))
    assert one.waiting() > two.waiting() >= four.waiting() == 0
    assert one.longest_queue > two.longest_queue
    assert min(one.waiting_s) == 0
    assert len(one.waiting_s) == len(one.first_token_s) == one.requests
    assert all(length >= 0 for _, length in one.queue)
    assert one.queue[-1][1] == 0


def test_the_fewest_machines_that_keep_to_the_time() -> None:
    lesson = Lesson(minutes=5)
    needed = machines_needed(TIMES, 100, first_token_s=3, lesson=lesson)
    assert needed.first_token() <= 3
    fewer = simulate(TIMES, 100, needed.machines - 1, lesson=lesson)
    assert fewer.first_token() > 3
    assert machines_needed(TIMES, 3, first_token_s=30, lesson=lesson).machines == 1


def test_no_machines_read_a_prompt_faster_than_one() -> None:
    with pytest.raises(ValueError, match="No number of machines"):
        machines_needed(TIMES, 5, first_token_s=0.001, lesson=Lesson(minutes=5))


def test_a_thousand_learners_are_simulated_in_steps_not_in_tokens() -> None:
    began = time.process_time()
    load = simulate(TIMES, 1000, 20, lesson=Lesson(minutes=10))
    assert load.requests > 5000
    # Not a measurement: token by token it would be minutes.
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learners": 0}, "at least one"), ({"machines": 0}, "at least one"),
     ({"micro_batch": 8}, "no room")],
)  # fmt: skip
def test_what_cannot_be_simulated(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(TIMES, **{"learners": 1, "machines": 1, **change})
    with pytest.raises(ValueError, match="takes some time"):
        ServiceTimes(1.0, ())


def test_the_figure_shows_queue_times_and_machines() -> None:
    lesson = Lesson(minutes=5)
    loads = {f"{n} learners": simulate(TIMES, n, 2, lesson=lesson) for n in (10, 100)}
    figure = plot_serving(loads, target_s=5)
    queue, first, machines = figure.axes
    assert [bar.get_width() for bar in machines.patches] == [2, 2]
    expected = [load.first_token() for load in loads.values()]
    assert [bar.get_width() for bar in first.patches] == expected
    assert max(queue.lines[1].get_ydata()) == loads["100 learners"].longest_queue > 0
    assert "100 learners: 2 machines" in repr(figure)
    figure.draw_without_rendering()
    with pytest.raises(ValueError, match="1 to 6"):
        plot_serving({})
    with pytest.raises(ValueError, match="three"):
        plot_serving(loads, ax=[queue])


def test_recorded_times_are_read_with_straight_lines_between(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    rows = [
        "1,decode,1,10",
        "1,decode,4,40",
        "1,prompt,512,1024",
        "2,decode,1,7",
        "2,prompt,100,50",
    ]
    file.write_text("# a machine\nthreads,what,count,ms\n" + "\n".join(rows) + "\n", "utf-8")
    assert ServiceTimes.read(file, threads=1) == ServiceTimes(2.0, (10.0, 20.0, 30.0, 40.0))
    assert ServiceTimes.read(file) == ServiceTimes(0.5, (7.0,))
    with pytest.raises(ValueError, match=r"with \[1, 2\] threads, not with 3"):
        ServiceTimes.read(file, threads=3)


@pytest.mark.skipif(not FILE.exists(), reason="record it: python -m tests.serve.record_times")
def test_a_small_class_waited_as_long_as_it_does_in_the_simulation() -> None:
    with FILE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    checks = [row for row in rows if row["what"].startswith("check p")]
    assert checks
    for row in checks:
        times = ServiceTimes.read(FILE, threads=int(row["threads"]))
        load = simulate(times, LEARNERS, lesson=CHECK)
        simulated = load.first_token(float(row["what"].removeprefix("check p")))
        assert simulated == pytest.approx(float(row["ms"]) / 1000, rel=0.5, abs=0.1), row
        assert load.requests == pytest.approx(int(row["count"]), rel=0.25)
