"""No wake is lost, and none costs a system call while nobody sleeps."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest

from copycat.transports.wakeup import Wakeup

DEADLINE_S = 20.0


class Sleeper:
    """Sleeps as a polling thread does."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self.descriptor = self.wakeup.open()

    def is_raised(self) -> bool:
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def sleep(self, timeout_s: float) -> bool:
        """True if a wake ended it."""
        woken = not self.wakeup.arm()
        if not woken:
            woken = bool(select.select([self.descriptor], [], [], timeout_s)[0])
        self.wakeup.disarm()
        return woken


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    made = Sleeper()
    yield made
    made.wakeup.close()


def test_a_wake_while_nobody_sleeps_touches_no_descriptor(sleeper: Sleeper) -> None:
    for _ in range(10):
        sleeper.wakeup.wake()
    assert not sleeper.is_raised()


def test_many_wakes_before_a_sleep_end_one_sleep(sleeper: Sleeper) -> None:
    for _ in range(10):
        sleeper.wakeup.wake()
    assert sleeper.sleep(DEADLINE_S)
    assert not sleeper.sleep(0.01)


def test_many_wakes_during_a_sleep_end_one_sleep(sleeper: Sleeper) -> None:
    assert sleeper.wakeup.arm()
    for _ in range(10):
        sleeper.wakeup.wake()
    assert sleeper.is_raised()
    sleeper.wakeup.disarm()
    assert not sleeper.is_raised()
    assert not sleeper.sleep(0.01)


def test_a_wake_between_arming_and_sleeping_ends_the_sleep(sleeper: Sleeper) -> None:
    assert sleeper.wakeup.arm()
    sleeper.wakeup.wake()
    assert select.select([sleeper.descriptor], [], [], DEADLINE_S)[0]
    sleeper.wakeup.disarm()


def test_wakes_of_several_threads_are_never_lost(sleeper: Sleeper) -> None:
    """Each waker hands over one item and waits until it is taken: one lost wake would stop everything."""
    rounds, wakers = 1000, 4
    handed: list[threading.Event] = []
    lock = threading.Lock()

    def hand_over() -> None:
        for _ in range(rounds):
            taken = threading.Event()
            with lock:
                handed.append(taken)
            sleeper.wakeup.wake()
            if not taken.wait(DEADLINE_S):
                return

    threads = [threading.Thread(target=hand_over) for _ in range(wakers)]
    for thread in threads:
        thread.start()
    count = 0
    while count < rounds * wakers:
        assert sleeper.sleep(DEADLINE_S / 2), f"a wake was lost after {count} items"
        with lock:
            items, handed[:] = handed[:], []
        for taken in items:
            taken.set()
        count += len(items)
    for thread in threads:
        thread.join(DEADLINE_S)


def test_a_closed_wakeup_may_be_woken_and_closed(sleeper: Sleeper) -> None:
    sleeper.wakeup.close()
    sleeper.wakeup.wake()
    sleeper.wakeup.close()


def test_one_that_was_never_opened_may_be_woken_and_closed() -> None:
    wakeup = Wakeup()
    wakeup.wake()
    wakeup.close()
