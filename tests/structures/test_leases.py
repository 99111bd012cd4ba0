"""Locks, elections and queues: one holder at a time, fencing tokens that grow, items that are taken once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from copycat.errors import Full, LeaseLost, Timeout, UsageError
from copycat.structures import Dict, Election, Leader, Lock, Queue

TIMEOUT_S = 20.0


def test_one_at_a_time_and_tokens_grow(three):
    id_ = three.allocate()
    tokens, inside, seen = [], [], []

    def work(cat):
        with Lock(cat, id_) as lock:
            for _ in range(3):
                with lock.hold(TIMEOUT_S) as token:
                    inside.append(token)
                    tokens.append(token)
                    seen.append(len(inside))
                    inside.remove(token)

    threads = [threading.Thread(target=work, args=(cat,)) for cat in three.cats]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert tokens == list(range(1, 10))
    assert seen == [1] * 9


def test_the_owner_is_known_to_all_and_only_it_can_release(three):
    id_ = three.allocate()
    with Lock(three.cats[0], id_) as mine, Lock(three.cats[1], id_) as yours:
        assert not mine.locked
        token = mine.acquire()
        assert mine.held
        yours.barrier()
        assert (yours.owner, yours.token, yours.locked, yours.held) == (mine.client, token, True, False)
        with pytest.raises(UsageError):
            mine.acquire()
        with pytest.raises(UsageError):
            yours.release()
        with pytest.raises(Timeout):
            yours.acquire(timeout=0.05)
        mine.release()
        assert yours.acquire(TIMEOUT_S) == token + 1
        assert not mine.held


def test_a_living_holder_goes_on_renewing(three):
    id_ = three.allocate()
    with Lock(three.cats[0], id_, lease_s=0.3) as mine, Lock(three.cats[1], id_) as yours:
        watch = yours.watch()
        token = mine.acquire()
        renewals = 0
        while renewals < 4:  # the first is sent at once
            event = watch.receive(TIMEOUT_S)
            renewals += event.operation == "renew" and event.result
        assert (yours.token, yours.owner) == (token, mine.client)
        mine.release()


def test_a_silent_holder_loses_it_and_stops_believing_first(three):
    id_ = three.allocate()
    mine = Lock(three.cats[0], id_, lease_s=0.3).open()
    with Lock(three.cats[1], id_, lease_s=0.3) as yours:
        token = mine.acquire()
        mine._subscription.close()  # it can't renew any more
        held_when_taken = []
        yours.on_change(lambda event: event.operation == "expire" and held_when_taken.append(mine.held))
        assert yours.acquire(TIMEOUT_S) == token + 1
        assert held_when_taken == [False]
    mine.close()


def test_an_expiry_that_comes_after_a_renewal_does_nothing(three):
    id_ = three.allocate()
    with Lock(three.cats[0], id_) as mine, Lock(three.cats[1], id_) as yours:
        token = mine.acquire()
        yours.barrier()
        renewal = yours._holding.renewal
        assert mine.renew(mine.client, token)
        assert not yours.expire(token, renewal)
        assert not yours.expire(token - 1, renewal + 1)
        mine.release()


def test_whoever_lost_it_is_told_on_release(three):
    id_ = three.allocate()
    with Lock(three.cats[0], id_, lease_s=5.0) as mine, Lock(three.cats[1], id_) as yours:
        token = mine.acquire()
        own = mine._own
        mine.barrier()
        while not yours.expire(token, yours._holding.renewal):
            yours.barrier()
        mine.barrier()
        mine._own = own  # as if it had not noticed yet
        with pytest.raises(LeaseLost):
            mine.release()


def test_closing_releases(three):
    id_ = three.allocate()
    with Lock(three.cats[1], id_) as yours:
        with Lock(three.cats[0], id_) as mine:
            mine.acquire()
        assert yours.acquire(TIMEOUT_S) == 2


def test_tasks_take_turns(three):
    id_ = three.allocate()

    async def main():
        async with Lock(three.cats[0], id_) as mine, Lock(three.cats[1], id_) as yours:
            await mine.aacquire()
            waiting = asyncio.ensure_future(yours.aacquire(TIMEOUT_S))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await mine.arelease()
            assert await waiting == 2
            await yours.arelease()

    asyncio.run(main(), debug=True)


def test_the_elected_says_who_it_is_and_its_successor_has_a_later_term(three):
    id_ = three.allocate()
    with (
        Election(three.cats[0], id_, candidate={"name": "a"}) as first,
        Election(three.cats[1], id_, candidate="b") as second,
    ):
        assert first.leader is None
        term = first.campaign()
        second.barrier()
        assert second.leader == Leader({"name": "a"}, term)
        assert (first.leads, second.leads) == (True, False)
        first.resign()
        assert second.campaign(TIMEOUT_S) == term + 1
        first.barrier()
        assert first.leader == Leader("b", term + 1)


# --- queues ---


def test_each_item_is_taken_once_by_whoever_asks(three):
    id_ = three.allocate()
    taken: list[int] = []

    def take(cat):
        with Queue(cat, id_) as queue:
            while (item := queue.get(TIMEOUT_S)) is not None:
                taken.append(item)

    threads = [threading.Thread(target=take, args=(cat,)) for cat in three.cats]
    for thread in threads:
        thread.start()
    with Queue(three.cats[0], id_) as queue:
        for number in range(60):
            queue.put(number)
        queue.put_many([None] * 3)
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert sorted(taken) == list(range(60))


def test_a_full_queue_makes_putting_wait(one):
    with Queue(one.cats[0], one.allocate(), maxsize=2) as queue:
        queue.put_many([1, 2])
        with pytest.raises(Full):
            queue.put(3, timeout=0.01)
        putting = threading.Thread(target=queue.put, args=(3, TIMEOUT_S))
        putting.start()
        assert queue.get() == 1
        putting.join(TIMEOUT_S)
        assert list(queue) == [2, 3]
        with pytest.raises(Full):
            queue.put_many([1, 2, 3], timeout=0.01)


def test_what_was_taken_for_a_cancelled_task_is_given_back(three):
    id_ = three.allocate()

    async def main():
        async with Queue(three.cats[0], id_) as queue:
            for number in range(20):
                await queue.aput(number)
            got = []
            for turns in range(20):
                task = asyncio.ensure_future(queue.aget(0))
                for _ in range(turns % 5):
                    await asyncio.sleep(0.0002 * turns)
                task.cancel()
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(outcome, int):
                    got.append(outcome)
            while len(got) < 20:
                got.append(await queue.aget(TIMEOUT_S))
            assert sorted(got) == list(range(20))

    asyncio.run(main(), debug=True)


def test_a_dict_is_a_mapping_for_whoever_expects_one(one):
    with Dict(one.cats[0], one.allocate()) as shared:
        shared.update({"a": 1}, b=2)
        assert {**shared} == {"a": 1, "b": 2}
        assert shared == {"a": 1, "b": 2}
        assert list(shared.values()) == [1, 2]
