"""The commit channel by itself: what is handed out, when the provider runs, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from copycat.channels.commit import CommitChannel, Delivery, Reload, SnapshotProvider
from copycat.errors import Closed, StorageFailed, Timeout, UsageError

PATIENCE_S = 30.0


class Task:
    """A snapshot task that calls the provider and keeps what it returned."""

    def __init__(self) -> None:
        self.made: list[object] = []

    def run(self, provider: SnapshotProvider, deadline: float | None) -> bool:
        self.made.append(provider())
        return True


class Consumer:
    """A list of what was processed: an item counts once its receiver asks for more."""

    def __init__(self, bytes_max: int = 1 << 20) -> None:
        self.state: list[bytes] = []
        self.woken = 0
        self.channel = CommitChannel(lambda: b",".join(self.state), self._wake, bytes_max)

    def _wake(self) -> None:
        self.woken += 1


def items(*numbers: int, task: Task | None = None) -> Delivery:
    return Delivery([b"%d" % number for number in numbers], numbers[-1], len(numbers), task)


@pytest.mark.parametrize("many", [1, 2, 3, 100])
def test_a_snapshot_never_holds_items_that_the_caller_has_not_seen(many: int) -> None:
    consumer = Consumer()
    tasks = [Task() for _ in range(4)]
    channel = consumer.channel
    channel.push(items(1, 2, task=tasks[0]))
    channel.push(items(3))
    channel.push(Delivery([], 3, 0, tasks[1]))  # an entry without items may be the one at which a snapshot is due
    channel.push(items(4, 5))
    channel.push(Delivery([], 5, 0, tasks[2]))
    channel.push(Delivery([], 5, 0, tasks[3]))
    while True:
        received = channel.receive_many(many, 0)
        if not received:
            break
        consumer.state += [item for item in received if item is not None]
        assert channel.position == len(consumer.state)
    assert [task.made for task in tasks] == [[b"1,2"], [b"1,2,3"], [b"1,2,3,4,5"], [b"1,2,3,4,5"]]


def test_receive_runs_the_provider_between_two_items() -> None:
    consumer = Consumer()
    task = Task()
    consumer.channel.push(items(1, task=task))
    consumer.channel.push(items(2))
    consumer.state.append(consumer.channel.receive(0) or b"?")
    assert task.made == []
    assert consumer.channel.receive(0) == b"2"
    assert task.made == [b"1"]


def test_none_announces_a_snapshot_and_comes_alone() -> None:
    consumer = Consumer()
    released: list[int] = []
    channel = consumer.channel
    channel.push(items(1, 2))
    channel.push(Reload(10, lambda: b"state", lambda: released.append(1)))
    channel.push(items(11))
    assert channel.receive_many(10, 0) == [b"1", b"2"]
    assert channel.receive_many(10, 0) == [None]
    assert channel.position == 10
    assert channel.snapshot() == channel.snapshot() == b"state"
    assert released == []
    assert channel.receive(0) == b"11"
    assert channel.position == 11
    assert released == [1], "whoever receives on has loaded it"
    with pytest.raises(UsageError):
        channel.snapshot()


def test_a_newer_snapshot_replaces_one_that_was_announced() -> None:
    channel = Consumer().channel
    released: list[int] = []
    for position in (10, 20):
        channel.push(Reload(position, lambda at=position: b"%d" % at, lambda at=position: released.append(at)))  # type: ignore[misc]
    assert channel.receive(0) is None
    assert channel.receive(0) is None
    assert channel.snapshot() == b"20"
    assert released == [10]


def test_the_end_lets_queued_items_out_but_no_snapshot_that_can_not_be_loaded() -> None:
    channel = Consumer().channel
    released: list[int] = []
    channel.push(items(1))
    channel.push(Reload(10, lambda: b"", lambda: released.append(1)))
    channel.push(items(11))
    channel.end(Closed("closed"))
    channel.end(Closed("again"))
    channel.push(items(12))
    assert released == [1]
    assert channel.receive(0) == b"1"
    for _ in range(2):
        with pytest.raises(Closed, match="closed"):
            channel.receive()
        with pytest.raises(Closed):
            channel.receive_many(5)


def test_a_snapshot_that_fails_to_load_because_of_the_end_says_that_it_is_the_end() -> None:
    channel = Consumer().channel

    def load() -> bytes:
        channel.end(Closed("closed"))
        raise StorageFailed("the storage is closed")

    channel.push(Reload(10, load, lambda: None))
    assert channel.receive(0) is None
    with pytest.raises(Closed):
        channel.snapshot()
    with pytest.raises(Closed):
        channel.snapshot()


def test_a_provider_that_receives_is_told_so_instead_of_waiting_for_itself() -> None:
    told: list[Exception] = []

    def provider() -> bytes:
        try:
            channel.receive(0)
        except UsageError as error:
            told.append(error)
        return b""

    channel = CommitChannel(provider, lambda: None, 100)
    channel.push(items(1, task=Task()))
    channel.push(items(2))
    assert [channel.receive(0), channel.receive(0)] == [b"1", b"2"]
    assert len(told) == 1


def test_while_the_provider_runs_others_wait_and_the_engine_does_not() -> None:
    entered, leave = threading.Event(), threading.Event()

    def provider() -> bytes:
        entered.set()
        assert leave.wait(PATIENCE_S)
        return b""

    channel = CommitChannel(provider, lambda: None, 100)
    channel.push(items(1, task=Task()))
    channel.push(items(2, 3))
    got: list[object] = [channel.receive(0)]
    receivers = [threading.Thread(target=lambda: got.append(channel.receive(PATIENCE_S))) for _ in range(2)]
    receivers[0].start()
    assert entered.wait(PATIENCE_S)
    receivers[1].start()
    channel.push(items(4))
    with pytest.raises(Timeout):
        channel.receive(0.01)
    leave.set()
    for receiver in receivers:
        receiver.join(PATIENCE_S)
    assert sorted(got[1:]) == [b"2", b"3"]  # type: ignore[type-var]
    assert channel.receive(0) == b"4"


def test_the_engine_is_woken_once_a_full_channel_has_room_again() -> None:
    consumer = Consumer(bytes_max=10)
    for number in range(1, 11):
        assert consumer.channel.has_room()
        consumer.channel.push(items(number))
    assert not consumer.channel.has_room()
    for _ in range(4):
        consumer.channel.receive(0)
    assert consumer.woken == 0
    for _ in range(6):
        consumer.channel.receive(0)
    assert consumer.woken == 1
    assert consumer.channel.has_room()


def wait_in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_waiting_for_a_position_ends_when_it_was_handed_out_or_never_will_be() -> None:
    channel = Consumer().channel
    reached, outcome = wait_in_thread(lambda: channel.wait_for(2, PATIENCE_S))
    never, failure = wait_in_thread(lambda: channel.wait_for(3, PATIENCE_S))
    channel.push(items(1, 2))
    channel.receive(0)
    channel.receive(0)
    reached.join(PATIENCE_S)
    assert outcome == [None]
    channel.end(Closed("closed"))
    never.join(PATIENCE_S)
    assert isinstance(failure[0], Closed)
    with pytest.raises(Timeout):
        Consumer().channel.wait_for(1, 0)


def test_a_receiver_that_waits_is_woken_by_an_item_and_by_the_end() -> None:
    channel = Consumer().channel
    thread, outcome = wait_in_thread(channel.receive)
    channel.push(items(1))
    thread.join(PATIENCE_S)
    assert outcome == [b"1"]
    thread, outcome = wait_in_thread(lambda: list(channel))
    channel.push(items(2))
    channel.end(Closed("closed"))
    thread.join(PATIENCE_S)
    assert outcome == [[b"2"]]
