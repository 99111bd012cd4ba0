"""A structure of one's own: operations, results, snapshots, events, and what stops a copy."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import copycat.aio
from copycat.errors import (
    ApplyTimeout,
    Closed,
    InvalidValue,
    NotOpen,
    OperationFailed,
    OutcomeUnknown,
    Refused,
    ResultLost,
    Timeout,
    UnknownOperation,
    UsageError,
)
from copycat.structures import (
    Change,
    Counter,
    Dict,
    Lock,
    Log,
    Missed,
    Queue,
    Reloaded,
    Replicated,
    Set,
    operation,
    query,
)
from copycat.structures.outstanding import Outstanding
from copycat.structures.packing import Packed, pack, pack_operation
from copycat.structures.results import ResultTable
from copycat.testing.nodes import wait_until

TIMEOUT_S = 20.0


class Account(Replicated):
    """A balance that never falls below zero."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._balance = 0
        self._log: list[str] = []

    def snapshot(self) -> Any:
        return [self._balance, self._log]

    def restore(self, state: Any) -> None:
        self._balance, self._log = state

    @operation
    def deposit(self, amount: int, reason: str = "gift") -> int:
        self._balance += amount
        self._log.append(reason)
        return self._balance

    @operation
    def withdraw(self, amount: int) -> int:
        if amount > self._balance:
            raise Refused(f"there are only {self._balance}")
        return self.deposit(-amount, reason="withdrawal")

    @operation
    def reasons(self) -> list[str]:
        return self._log

    @operation
    def stumble(self) -> None:
        raise ZeroDivisionError("a bug")

    @query
    def balance(self) -> int:
        return self._balance


def test_an_operation_returns_its_result_and_shows_on_every_copy(three):
    id_ = three.allocate()
    with Account(three.cats[0], id_) as mine, Account(three.cats[1], id_) as yours:
        assert mine.deposit(5) == 5
        assert mine.balance() == 5
        assert yours.deposit(amount=2, reason="pay") == 7
        with pytest.raises(Refused, match="there are only 7"):
            mine.withdraw(8)
        assert mine.withdraw(3) == 4
        assert yours.reasons() == ["gift", "pay", "withdrawal"]
        mine.barrier()
        yours.barrier()
        assert yours.balance() == 4
        assert (mine.snapshot(), mine.position) == (yours.snapshot(), yours.position)


def test_results_are_copies(one):
    with Account(one.cats[0], one.allocate()) as account:
        account.deposit(1)
        account.reasons().append("forged")
        assert account.reasons() == ["gift"]
    with Dict(one.cats[0], one.allocate()) as shared:
        value = {"list": [1]}
        shared["a"] = value
        value["list"].append(2)
        shared["a"]["list"].append(3)
        shared.copy()["a"]["list"].append(4)
        assert shared["a"] == {"list": [1]}


def test_submitted_operations_are_applied_in_order(one):
    with Account(one.cats[0], one.allocate()) as account:
        futures = [account.deposit.submit(1) for _ in range(3000)]
        assert [future.result(TIMEOUT_S) for future in futures] == list(range(1, 3001))


def test_many_threads_get_each_its_own_results(three):
    id_ = three.allocate()
    results: list[int] = []

    def add(copy):
        mine = [copy.add(1) for _ in range(50)]
        results.extend(mine)

    with Counter(three.cats[0], id_) as one_, Counter(three.cats[1], id_) as other:
        threads = [threading.Thread(target=add, args=(copy,)) for copy in (one_, one_, other, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert sorted(results) == list(range(1, 201))


def test_tasks_and_threads_use_the_same_structure(one):
    async def main():
        async with Account(one.cats[0], id_) as account:
            results = await asyncio.gather(*[account.deposit.aio(1) for _ in range(1500)])
            assert sorted(results) == list(range(1, 1501))
            await account.abarrier()
            with pytest.raises(Refused):
                await account.withdraw.aio(5000)
            assert await asyncio.to_thread(account.deposit, 1) == 1501
        with pytest.raises(Closed):
            await account.deposit.aio(1)

    id_ = one.allocate()
    asyncio.run(main(), debug=True)


def test_a_structure_stands_on_a_node_of_either_kind(tmp_path):
    async def main():
        config = copycat.Config(
            copycat_port=0, gossip_port=0, data_dir=str(tmp_path), transport="memory", storage="memory", replicas=1
        )
        async with copycat.aio.CopyCat(config) as cat, Counter(cat, cat.new_data_structure_id()) as counter:
            assert await counter.add.aio(3) == 3

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, object(), 1 << 64, [b"x", (1,)], b"x".join, "\ud800"])
def test_what_msgpack_does_not_carry_is_refused_before_it_is_sent(one, value):
    with Dict(one.cats[0], one.allocate()) as shared:
        with pytest.raises(InvalidValue):
            shared["key"] = value
        shared["key"] = 1
        assert (shared.copy(), shared.position) == ({"key": 1}, 1)


@pytest.mark.parametrize("key", [(1, 2), [1], float("nan"), {}])
def test_only_scalars_can_be_keys(one, key):
    with Dict(one.cats[0], one.allocate()) as shared:
        with pytest.raises(InvalidValue):
            shared[key] = 1
        with pytest.raises(InvalidValue):
            shared.pop(key)


def test_wrong_arguments_of_an_operation_are_refused_and_stop_nobody(one):
    cat = one.cats[0]
    with Dict(cat, one.allocate()) as shared:
        for wrong in (
            lambda: shared.put([1], 1),
            lambda: shared.put_all([["a", 1], [{}, 2]]),
            lambda: shared.put_all(5),
            lambda: shared.put_all([1]),
            lambda: shared.take([]),
            lambda: shared.put_if_absent({}, 1),
            lambda: shared.compare_and_put([], 1, 1),
        ):
            with pytest.raises(Refused):
                wrong()
        assert shared.copy() == {}
    with Set(cat, one.allocate()) as tags, Queue(cat, one.allocate()) as queue, Log(cat, one.allocate()) as log:
        for wrong in (
            lambda: tags.insert([[1]]),
            lambda: tags.delete(7),
            lambda: queue.append(1, 1),
            lambda: queue.append([1], "x"),
            lambda: log.append_all(3),
            lambda: log.truncate("x"),
        ):
            with pytest.raises(Refused):
                wrong()
    with Lock(cat, one.allocate()) as lock, Counter(cat, one.allocate()) as counter:
        for wrong in (
            lambda: lock.seize("me", 1.0, None),
            lambda: lock.seize(b"me", "long", None),
            lambda: counter.add("1"),
            lambda: counter.add((1 << 63) - 1) and counter.add(1),
            lambda: counter.compare_and_set(0, 1.5),
        ):
            with pytest.raises(Refused):
                wrong()


def test_before_it_is_opened_and_after_it_is_closed_it_says_so(one):
    shared = Dict(one.cats[0], one.allocate())
    for use in (lambda: shared["a"], lambda: len(shared), lambda: shared.put("a", 1), shared.barrier):
        with pytest.raises(NotOpen):
            use()
    assert "not open" in repr(shared)
    with shared:
        shared["a"] = 1
        assert "1 items" in repr(shared)
        assert str(shared.id) in repr(shared)
        with pytest.raises(UsageError):
            shared.open()
    shared.close()
    for use in (lambda: shared["a"], lambda: shared.put("a", 1), shared.barrier):
        with pytest.raises(Closed):
            use()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "copycat-dict"]


@pytest.mark.parametrize(
    "foreign",
    [
        pack_operation(Packed(b"client", 1, 0, "deposit", 2, [1])),
        pack_operation(Packed(b"client", 1, 0, "no_such_operation", 1, [])),
        pack([2, b"client", 1, 0, "deposit", 1, [1]]),
        b"",
        b"\xc1",
        b"\x93\x01\x02",
    ],
)
def test_an_operation_that_is_not_known_stops_the_copy_and_no_other(one, foreign):
    id_ = one.allocate()
    with Account(one.cats[0], id_) as account:
        account.deposit(5)
        with one.cats[0].subscribe_to_data_structure(id_, lambda: b"") as raw:
            raw.propose.send(foreign)
            raw.flush(TIMEOUT_S)
            with pytest.raises(UnknownOperation):
                account.deposit(1)
            with pytest.raises(UnknownOperation):
                account.balance()
            with pytest.raises(UnknownOperation):
                account.barrier()
            assert raw.commits.receive(TIMEOUT_S) is not None


def test_an_operation_that_fails_stops_the_copy(one):
    with Account(one.cats[0], one.allocate()) as account:
        with pytest.raises(OperationFailed) as failed:
            account.stumble()
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        with pytest.raises(OperationFailed):
            account.deposit(1)


def test_an_older_version_of_an_operation_goes_on_being_applied(one):
    class Meters(Counter):
        pass

    class Newer(Counter):
        @operation(name="add", version=1)
        def _add_once(self, amount: int = 1) -> int:
            return self._set(amount)

        @operation(name="add", version=2)
        def add(self, amount: int = 1) -> int:  # type: ignore[override]
            return self._set(2 * amount)

        def _set(self, amount: int) -> int:
            self._value += amount
            return self._value

    id_ = one.allocate()
    with Meters(one.cats[0], id_) as old:
        assert old.add(1) == 1
    with Newer(one.cats[0], id_) as new:
        assert new.add(1) == 3


def test_changes_are_told_to_callbacks_and_watches(three):
    id_ = three.allocate()
    with Dict(three.cats[0], id_) as mine, Dict(three.cats[1], id_) as yours:
        called: list[Any] = []
        mine.on_change(lambda event: 1 / 0)
        mine.on_change(called.append)
        watch, short = mine.watch(), mine.watch(events_max=1)
        yours["a"] = 1
        mine["b"] = [2]
        expected = [Change("put", ("a", 1), None, False), Change("put", ("b", [2]), None, True)]
        assert [watch.receive(TIMEOUT_S) for _ in range(2)] == expected
        assert [short.receive(TIMEOUT_S) for _ in range(2)] == [expected[0], Missed(1)]
        with pytest.raises(Timeout):
            watch.receive(0)

        async def tasks():
            seen = []
            async for event in watch:
                seen.append(event)
                if len(seen) == 2:
                    break
            return seen

        mine.put("c", 3)
        yours.pop("c")
        assert [event.operation for event in asyncio.run(tasks(), debug=True)] == ["put", "take"]
        short.close()
    assert called[:2] == expected
    assert list(watch) == []


def test_the_copys_own_thread_can_not_wait_for_operations(one):
    with Dict(one.cats[0], one.allocate()) as shared:
        caught: list[Exception] = []
        told = threading.Event()

        def callback(event):
            try:
                shared["again"] = 1
            except Exception as error:
                caught.append(error)
            told.set()

        shared.on_change(callback)
        shared["a"] = 1
        assert told.wait(TIMEOUT_S)
        assert [type(error) for error in caught] == [UsageError]


def test_an_operation_that_takes_too_long_may_be_applied_yet(one):
    id_ = one.allocate()
    with Counter(one.cats[0], id_, timeout=0.05) as counter:
        counter.add(1)
        go_on, blocked = threading.Event(), threading.Event()

        def block(event):
            blocked.set()
            go_on.wait(TIMEOUT_S)

        counter.on_change(block)
        counter.add.submit(1)
        assert blocked.wait(TIMEOUT_S)
        with pytest.raises(ApplyTimeout) as late:
            counter.add(1)
        assert isinstance(late.value, (OutcomeUnknown, TimeoutError))
        go_on.set()
        counter.barrier(TIMEOUT_S)
        assert counter.value == 3


def test_a_copy_that_is_given_a_snapshot_gets_the_results_it_waits_for(make_cluster):
    cluster = make_cluster(1, snapshot_log_bytes=400, commit_queue_bytes_max=1, follower_log_bytes_max=1)
    id_ = cluster.allocate()
    cat = cluster.cats[0]
    with Queue(cat, id_) as slow, Queue(cat, id_) as quick:
        go_on, blocked = threading.Event(), threading.Event()
        events = slow.watch()

        def block(event):
            blocked.set()
            go_on.wait(TIMEOUT_S)

        slow.put_many(range(5))
        slow.on_change(block)
        quick.put(5)
        assert blocked.wait(TIMEOUT_S)
        taken = [slow.take.submit() for _ in range(4)]
        for number in range(40):
            quick.put(number)

        def is_left_behind() -> bool:
            status = cat.groups()[id_]
            return status.snapshot_position > 20 and status.log_bytes < 2000

        wait_until(is_left_behind, "the log behind the slow copy is compacted")
        go_on.set()
        assert [future.result(TIMEOUT_S) for future in taken] == [[0], [1], [2], [3]]
        slow.barrier(TIMEOUT_S)
        quick.barrier(TIMEOUT_S)
        assert slow.copy() == quick.copy()
        seen = []
        while True:
            try:
                seen.append(events.receive(0))
            except Timeout:
                break
        assert Reloaded() in seen, "the copy was never given a snapshot: this shows nothing"


def test_a_late_copy_starts_from_a_snapshot(make_cluster):
    cluster = make_cluster(1, snapshot_log_entries=5)
    id_ = cluster.allocate()
    with Dict(cluster.cats[0], id_) as early:
        for number in range(40):
            early[number] = [number]
        expected = early.copy()
    with Dict(cluster.cats[0], id_) as late:
        late.barrier()
        assert late.copy() == expected
        late[40] = 1
        assert len(late) == 41


# --- the results that snapshots carry ---


def outstanding_with(count):
    outstanding = Outstanding(1 << 20, 100)
    from concurrent.futures import Future

    futures = [outstanding.begin(lambda number, acknowledged: b"x", lambda data: Future()) for _ in range(count)]
    return outstanding, futures


def test_a_snapshot_answers_exactly_the_operations_it_covers():
    outstanding, futures = outstanding_with(3)
    table = ResultTable()
    table.record(b"me", 1, 0, pack([False, "first"]))
    table.record(b"other", 1, 0, pack([False, "not mine"]))
    table.record(b"me", 2, 0, None)
    outstanding.skipped(b"me", ResultTable.unpack(table.pack()))
    assert [futures[0].result(0), futures[1].result(0), futures[2].done()] == ["first", None, False]
    outstanding.finish(3, pack([True, "no"]))
    with pytest.raises(Refused):
        futures[2].result(0)


def test_a_client_that_the_snapshot_never_heard_of_goes_on_waiting():
    outstanding, futures = outstanding_with(2)
    outstanding.skipped(b"me", ResultTable())
    assert not any(future.done() for future in futures)


def test_a_client_that_was_forgotten_is_told_that_its_results_are_lost(monkeypatch):
    monkeypatch.setattr("copycat.structures.results.CLIENTS_MAX", 2)
    outstanding, futures = outstanding_with(1)
    table = ResultTable()
    for name in (b"me", b"a", b"b"):
        table.record(name, 1, 0, pack([False, 1]))
    assert set(table.clients) == {b"a", b"b"}
    outstanding.skipped(b"me", table)
    with pytest.raises(ResultLost):
        futures[0].result(0)


def test_results_are_kept_until_they_are_acknowledged_and_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr("copycat.structures.results.RESULTS_MAX", 3)
    table = ResultTable()
    for number in range(1, 6):
        table.record(b"me", number, 0, b"%d" % number)
    assert table.clients[b"me"].results == {3: b"3", 4: b"4", 5: b"5"}
    table.record(b"me", 6, 4, None)
    assert table.clients[b"me"].results == {5: b"5"}
    table.leave(b"me")
    assert table.clients == {}


def test_the_table_of_results_stays_small(one):
    with Counter(one.cats[0], one.allocate()) as counter:
        for _ in range(50):
            counter.add(1)
        (client,) = counter._results.clients.values()
        assert len(client.results) <= 1
