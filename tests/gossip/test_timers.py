"""Deadlines, and protocol time under clocks that jump and processes that stall."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.gossip.awareness import Awareness
from copycat.gossip.timers import ProtocolTime, Timers


def test_time_stands_still_while_the_clock_jumps_back_and_goes_on_from_there() -> None:
    time = ProtocolTime(0.25)
    time.start(100.0)
    assert time.advance(101.0, math.inf) == 0.0
    assert time.advance(41.0, math.inf) == 0.0
    assert time.now == 101.0
    time.advance(42.0, math.inf)
    assert time.now == 102.0
    assert time.to_caller(103.0) == 43.0


def test_of_a_stall_only_the_time_up_to_the_deadline_counts() -> None:
    time = ProtocolTime(0.25)
    time.start(0.0)
    assert time.advance(10.0, due=1.0) == pytest.approx(9.0)
    assert time.now == 1.0
    assert time.to_caller(2.0) == pytest.approx(11.0)


def test_lateness_within_the_threshold_is_no_stall() -> None:
    time = ProtocolTime(0.25)
    time.start(0.0)
    assert time.advance(1.2, due=1.0) == 0.0
    assert time.now == 1.2


@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.floats(0.01, 10.0))
def test_time_never_runs_backwards(clock: list[float], threshold_s: float) -> None:
    time = ProtocolTime(threshold_s)
    time.start(0.0)
    for now in clock:
        before = time.now
        time.advance(now, before + 1.0)
        assert before <= time.now <= before + 1.0 + threshold_s + 1e-6


def test_a_process_that_is_always_late_still_sees_time_go_on() -> None:
    time = ProtocolTime(0.25)
    time.start(0.0)
    for turn in range(1, 101):
        time.advance(turn * 1.0, due=time.now + 0.1)
    assert time.now == pytest.approx(10.0)


def test_timers_run_in_order_and_a_name_has_one_deadline() -> None:
    timers = Timers()
    ran: list[str] = []
    timers.set("b", 2.0, lambda _: ran.append("b"))
    timers.set("a", 5.0, lambda _: ran.append("a late"))
    timers.set("a", 1.0, lambda _: ran.append("a"))
    timers.set("c", 3.0, lambda _: ran.append("c"))
    timers.cancel("c")
    assert timers.next_at() == 1.0
    timers.run_due(10.0)
    assert ran == ["a", "b"]
    assert timers.next_at() == math.inf


def test_timers_agree_with_a_plain_dictionary() -> None:
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    timers = Timers()
    twin: dict[int, float] = {}
    ran: list[int] = []
    for step in range(3000):
        key = rng.randrange(40)
        what = rng.random()
        if what < 0.7:
            at = step + rng.random() * 50
            timers.set(key, at, lambda _, key=key: ran.append(key))
            twin[key] = at
        elif what < 0.85:
            timers.cancel(key)
            twin.pop(key, None)
        else:
            ran.clear()
            timers.run_due(step)
            due = sorted((at, key) for key, at in twin.items() if at <= step)
            assert ran == [key for _, key in due]
            for _, key in due:
                del twin[key]
        assert timers.next_at() == min(twin.values(), default=math.inf)


def test_local_health_stays_within_its_bounds_and_stretches_periods() -> None:
    awareness = Awareness(8)
    awareness.add(-1)
    assert awareness.scale(0.5) == 0.5
    awareness.add(3)
    assert awareness.scale(0.5) == 2.0
    awareness.add(100)
    assert awareness.score == 8
