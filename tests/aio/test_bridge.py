"""From other threads to the loop: nothing is lost, and the loop is woken once for many."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from copycat.aio.bridge import Bridge, Signal


class CountedLoop:
    """Counts how often the loop is woken from other threads."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.wakes = 0
        real = loop.call_soon_threadsafe

        def counted(*arguments, **named):
            self.wakes += 1
            return real(*arguments, **named)

        loop.call_soon_threadsafe = counted


def test_many_calls_wake_the_loop_once(run):
    async def main():
        counted = CountedLoop()
        bridge = Bridge()
        got = []
        thread = threading.Thread(target=lambda: [bridge.call(lambda n=n: got.append(n)) for n in range(1000)])
        thread.start()
        thread.join()  # the loop can't run meanwhile
        await asyncio.sleep(0)
        while len(got) < 1000:
            await asyncio.sleep(0)
        assert got == list(range(1000))
        return counted.wakes

    try:
        assert run(main()) == 1
    except AttributeError:
        pytest.skip("this loop's methods can't be counted")


def test_calls_of_many_threads_all_arrive_and_keep_each_threads_order(run):
    async def main():
        bridge = Bridge()
        got = []
        done = asyncio.Event()

        def caller(name):
            for number in range(2000):
                bridge.call(lambda number=number: got.append((name, number)))
            bridge.call(lambda: len(got) >= 8000 and done.set())

        threads = [threading.Thread(target=caller, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 30)
        for thread in threads:
            thread.join()
        for name in range(4):
            assert [number for who, number in got if who == name] == list(range(2000))

    run(main())


def test_a_call_to_a_closed_loop_harms_nobody():
    async def main():
        return Bridge()

    loop = asyncio.new_event_loop()
    bridge = loop.run_until_complete(main())
    loop.close()
    bridge.call(lambda: None)
    bridge.call(lambda: None)


def test_a_future_is_awaited_with_its_result_and_its_error(run):
    async def main():
        bridge = Bridge()
        good, bad, cancelled = Future(), Future(), Future()
        awaited = [bridge.wrap(future) for future in (good, bad, cancelled)]
        threading.Timer(0.0, lambda: (good.set_result(7), bad.set_exception(KeyError("x")), cancelled.cancel())).start()
        assert await awaited[0] == 7
        with pytest.raises(KeyError):
            await awaited[1]
        with pytest.raises(asyncio.CancelledError):
            await awaited[2]
        while threading.active_count() > 1 and any(isinstance(t, threading.Timer) for t in threading.enumerate()):
            await asyncio.sleep(0)

    run(main())


def test_a_signal_is_never_missed_between_looking_and_waiting(run):
    async def main():
        bridge = Bridge()
        signal = Signal(bridge)
        count = 0
        lock = threading.Lock()
        listeners = set()

        def produce():
            nonlocal count
            for _ in range(3000):
                with lock:
                    count += 1
                    called, left = set(listeners), listeners.clear()
                    assert left is None
                    for listener in called:
                        listener()

        def at_least(number):
            def ready(listener):
                with lock:
                    if count >= number:
                        return True
                    listeners.add(listener)
                    return False

            return ready

        thread = threading.Thread(target=produce)
        thread.start()
        for number in range(0, 3001, 3):
            assert await signal.until(at_least(number), bridge.loop.time() + 30)
        thread.join()
        assert not await signal.until(at_least(5000), bridge.loop.time() + 0.001)

    run(main())


def test_what_a_cancelled_call_returned_is_discarded(run):
    async def main():
        bridge = Bridge()
        go_on, discarded = threading.Event(), threading.Event()

        def slow():
            go_on.wait(30)
            return "result"

        task = asyncio.ensure_future(bridge.in_thread(slow, "slow", lambda result: discarded.set()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert discarded.wait(30)
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "slow"] or [None]
        if thread is not None:
            thread.join(30)

    run(main())
