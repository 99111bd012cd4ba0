"""The interface as coroutines, over a real node."""

# ruff: noqa: SIM117 (a structure is entered inside its node)

from __future__ import annotations

import asyncio
import random
import threading

import pytest

import copycat
import copycat.aio
from copycat.channels.commit import CommitChannel, Delivery
from copycat.errors import Closed, Full, ProposalTooLarge, Timeout, UsageError

TIMEOUT_S = 20.0


def state() -> bytes:
    return b"state"


async def a_structure(cat: copycat.aio.CopyCat) -> copycat.DataStructureId:
    allocation = cat.allocate_new_data_structure(replicas=1)
    await allocation.wait(TIMEOUT_S)
    assert allocation.done
    return allocation.id


def test_what_is_sent_comes_back_in_order_on_the_four_channels(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            async with await cat.subscribe_to_data_structure(await a_structure(cat), state, TIMEOUT_S) as subscription:
                propose, commits, errors, snapshot_consumer = subscription
                await propose.send(b"one")
                await propose.send_many([b"two", b"three"])
                assert await propose.submit(b"four", TIMEOUT_S) == 4
                assert [await commits.receive(TIMEOUT_S) for _ in range(2)] == [b"one", b"two"]
                assert commits.position == 2
                assert await commits.receive_many(10, TIMEOUT_S) == [b"three", b"four"]
                with pytest.raises(Timeout):
                    await commits.receive(0.01)
                assert await commits.receive_many(10, 0.0) == []
                with pytest.raises(Timeout):
                    await errors.receive(0.0)
                with pytest.raises(UsageError):
                    await snapshot_consumer()
                assert (await subscription.status()).role == "leader"
            with pytest.raises(Closed):
                await propose.send(b"late")
            with pytest.raises(Closed):
                await commits.receive()
            assert [item async for item in commits] == []
            assert [error async for error in errors] == []

    run(main())


def test_positions_of_many_submitted_at_once_are_those_of_the_sequence(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            async with await cat.subscribe_to_data_structure(await a_structure(cat), state) as subscription:
                positions = await asyncio.gather(*[subscription.propose.submit(b"%d" % n) for n in range(500)])
                assert positions == list(range(1, 501))
                await subscription.flush(TIMEOUT_S)
                got = []
                async for item in subscription.commits:
                    got.append(item)
                    if len(got) == 500:
                        break
                assert got == [b"%d" % n for n in range(500)]

    run(main())


def test_cancelling_a_receive_loses_nothing(run, make_memory_config):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)

    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            async with await cat.subscribe_to_data_structure(await a_structure(cat), state) as subscription:
                commits = subscription.commits
                got = []

                async def receive():
                    if rng.random() < 0.5:
                        got.append(await commits.receive())
                    else:
                        got.extend(await commits.receive_many(3, 0.001))

                for number in range(300):
                    await subscription.propose.send(b"%d" % number)
                    task = asyncio.ensure_future(receive())
                    for _ in range(rng.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                while len(got) < 300:
                    got.append(await commits.receive(TIMEOUT_S))
                assert got == [b"%d" % n for n in range(300)]

    run(main())


def test_a_slow_task_holds_back_only_its_own_subscription(run, make_memory_config):
    async def main():
        config = make_memory_config(commit_queue_bytes_max=1000)
        async with copycat.aio.CopyCat(config) as cat:
            id_ = await a_structure(cat)
            async with await cat.subscribe_to_data_structure(id_, state) as quick:
                async with await cat.subscribe_to_data_structure(id_, state) as slow:
                    assert len(await drain(quick, 0)) == 0
                    for _ in range(20):
                        await quick.propose.send_many([b"x" * 100] * 50)
                        assert len(await drain(quick, 50)) == 50
                    assert slow.commits.position == 0
                    assert len(await drain(slow, 1000)) == 1000

    async def drain(subscription, count):
        got = []
        while len(got) < count:
            got += await subscription.commits.receive_many(count - len(got), TIMEOUT_S)
        return got

    run(main())


def test_a_task_that_need_not_wait_lets_others_run(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            async with await cat.subscribe_to_data_structure(await a_structure(cat), state) as subscription:
                await subscription.propose.send_many([b"x"] * 20_000)
                await subscription.flush(TIMEOUT_S)
                turns = 0

                async def other():
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                task = asyncio.ensure_future(other())
                seen, items = 0, 0
                async for _ in subscription.commits:
                    items += 1
                    seen = max(seen, turns)
                    if items == 20_000:
                        break
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert seen >= 2

    run(main())


def test_a_batch_wakes_the_loop_once_however_many_items_it_has():
    async def main():
        from copycat.aio.bridge import Bridge
        from copycat.aio.channels import CommitChannel as AioCommitChannel

        loop = asyncio.get_running_loop()
        wakes = 0
        real = loop.call_soon_threadsafe

        def counted(*arguments):
            nonlocal wakes
            wakes += 1
            return real(*arguments)

        loop.call_soon_threadsafe = counted
        threaded = CommitChannel(state, lambda: None, 1 << 20)
        commits = AioCommitChannel(Bridge(), threaded)
        got = []

        async def receive():
            async for item in commits:
                got.append(item)

        task = asyncio.ensure_future(receive())
        for batch in range(1, 6):
            while not threaded._state.listeners:
                await asyncio.sleep(0)
            push = threading.Thread(target=threaded.push, args=(Delivery([b"x"] * 1000, 1000 * batch, 1000),))
            push.start()
            push.join()
        while len(got) < 5000:
            await asyncio.sleep(0)
        assert wakes == 5
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main(), debug=True)


def test_the_snapshot_provider_runs_on_the_loops_thread_between_two_items(run, make_memory_config):
    async def main():
        calls = []
        got = []

        def provider():
            calls.append((threading.current_thread(), len(got)))
            return b",".join(got)

        async with copycat.aio.CopyCat(make_memory_config(snapshot_log_entries=10)) as cat:
            id_ = await a_structure(cat)
            async with await cat.subscribe_to_data_structure(id_, provider) as subscription:
                for number in range(60):  # an entry each
                    await subscription.propose.submit(b"%d" % number)
                    got.append(await subscription.commits.receive(TIMEOUT_S))
                assert calls
                assert {thread for thread, _ in calls} == {threading.current_thread()}
                with pytest.raises(Timeout):
                    await subscription.commits.receive(0.0)
            async with await cat.subscribe_to_data_structure(id_, provider) as late:
                _, commits, _, snapshot_consumer = late
                assert await commits.receive(TIMEOUT_S) is None
                held = (await snapshot_consumer()).split(b",")
                assert len(held) == commits.position
                await late.barrier(0) if commits.position == 60 else None
                while len(held) < 60:
                    held.append(await commits.receive(TIMEOUT_S))
                assert held == got

    run(main())


def test_a_provider_that_is_a_coroutine_is_refused(run, make_memory_config):
    async def main():
        async def provider():
            return b""

        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            with pytest.raises(UsageError):
                await cat.subscribe_to_data_structure(cat.new_data_structure_id(), provider)

    run(main())


def test_sending_waits_for_room_and_says_how_far_it_came(run):
    async def main():
        from copycat.aio.bridge import Bridge
        from copycat.aio.channels import ProposeChannel as AioProposeChannel
        from copycat.channels.propose import ProposeChannel

        threaded = ProposeChannel(lambda: None, lambda: None, 100, 1 << 20, 10)
        propose = AioProposeChannel(Bridge(), threaded)
        await propose.send_many([b"x"] * 8)
        with pytest.raises(Full) as full:
            await propose.send_many([b"y"] * 5, timeout=0.01)
        assert full.value.accepted == 2
        with pytest.raises(Full):
            await propose.send(b"z", timeout=0.01)
        waiting = asyncio.ensure_future(propose.send(b"z"))
        cancelled = asyncio.ensure_future(propose.send(b"never"))
        many = asyncio.ensure_future(propose.send_many([b"m"] * 25))
        flush = asyncio.ensure_future(propose.flush())
        await asyncio.sleep(0.01)
        cancelled.cancel()
        taken = []
        while not (waiting.done() and many.done()):
            batch = threaded.take(4, 1 << 20)
            if batch is not None:
                taken += batch.items
                threaded.settle(len(batch.items), batch.size, len(taken))
            await asyncio.sleep(0)
        await asyncio.gather(waiting, many, flush)
        while (batch := threaded.take(4, 1 << 20)) is not None:
            taken += batch.items
        assert sorted(taken) == sorted([b"x"] * 8 + [b"y"] * 2 + [b"z"] + [b"m"] * 25)
        with pytest.raises(ProposalTooLarge):
            await propose.send_many([b"x", b"x" * 101])
        with pytest.raises(Timeout):
            await propose.flush(0.0)

    run(main())


def test_a_barrier_waits_until_everything_committed_is_handed_out(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            id_ = await a_structure(cat)
            async with await cat.subscribe_to_data_structure(id_, state) as writer:
                async with await cat.subscribe_to_data_structure(id_, state) as reader:
                    await writer.propose.send_many([b"x"] * 100)
                    await writer.flush(TIMEOUT_S)
                    with pytest.raises(Timeout):
                        await reader.barrier(0.05)
                    barrier = asyncio.ensure_future(reader.barrier(TIMEOUT_S))
                    for _ in range(99):
                        await reader.commits.receive(TIMEOUT_S)
                    await asyncio.sleep(0)
                    assert not barrier.done()
                    await reader.commits.receive(TIMEOUT_S)
                    await barrier

    run(main())


def test_three_nodes_see_one_sequence_and_each_other(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as first:
            peers = {"peers_to_contact": [first.address]}
            async with (
                copycat.aio.CopyCat(make_memory_config(**peers)) as second,
                copycat.aio.CopyCat(make_memory_config(**peers)) as third,
            ):
                allocation = first.allocate_new_data_structure(replicas=3)
                await allocation.wait(TIMEOUT_S)
                cats = (first, second, third)
                subscriptions = await asyncio.gather(
                    *[cat.subscribe_to_data_structure(allocation.id, state, TIMEOUT_S) for cat in cats]
                )

                async def use(subscription, name):
                    await subscription.propose.send_many([b"%s %d" % (name, n) for n in range(50)])
                    return [await subscription.commits.receive(TIMEOUT_S) for _ in range(150)]

                sequences = await asyncio.gather(*map(use, subscriptions, (b"a", b"b", b"c")))
                assert sequences[0] == sequences[1] == sequences[2]
                assert len(await first.members()) == 3
                assert allocation.id in await second.groups()
                await asyncio.gather(*[subscription.close() for subscription in subscriptions])

    run(main())


def test_a_cancelled_subscribe_leaves_no_subscription(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            id_ = await a_structure(cat)
            for _ in range(5):
                task = asyncio.ensure_future(cat.subscribe_to_data_structure(id_, state))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            while any(thread.name == "copycat-aio-subscribe" for thread in threading.enumerate()):
                await asyncio.sleep(0.01)
            assert not (await cat.groups())[id_].interactive

    run(main())


def test_closing_ends_those_who_wait(run, make_memory_config):
    async def main():
        async with copycat.aio.CopyCat(make_memory_config()) as cat:
            subscription = await cat.subscribe_to_data_structure(await a_structure(cat), state)
            receiving = asyncio.ensure_future(subscription.commits.receive())
            erring = asyncio.ensure_future(subscription.errors.receive())
            await asyncio.sleep(0)
            await subscription.propose.close()
            await subscription.close()
            for task in (receiving, erring):
                with pytest.raises(Closed):
                    await task
        await cat.shutdown()
        with pytest.raises(Closed):
            await cat.members()

    run(main())


def test_a_node_that_is_not_started_says_so():
    cat = copycat.aio.CopyCat()
    with pytest.raises(UsageError):
        _ = cat.node_id
    with pytest.raises(UsageError):
        cat.new_data_structure_id()


def test_the_engine_survives_a_loop_that_ended_without_closing_anything(make_memory_config):
    loop = asyncio.new_event_loop()

    async def begin():
        cat = await copycat.aio.CopyCat(make_memory_config()).open()
        subscription = await cat.subscribe_to_data_structure(await a_structure(cat), state)
        waiting = asyncio.ensure_future(subscription.commits.receive())
        await asyncio.sleep(0)
        return cat, subscription, waiting

    cat, _, waiting = loop.run_until_complete(begin())
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    with cat.threaded.subscribe_to_data_structure(next(iter(cat.threaded.groups())), state) as other:
        other.propose.send(b"x")
        assert other.commits.receive(TIMEOUT_S) == b"x"
    cat.threaded.shutdown()
