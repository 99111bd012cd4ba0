"""The propose and the error channel by themselves: limits, order, futures, and what every failed proposal is told."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.errors import (
    Closed,
    Full,
    LogFull,
    OutcomeUnknown,
    PositionUnknown,
    ProposalDropped,
    StorageFailed,
    Timeout,
    UnreceivedErrors,
)

PATIENCE_S = 30.0


class Wakes:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def make(bytes_max: int = 100, count_max: int = 10, wake: Wakes | None = None) -> ProposeChannel:
    return ProposeChannel(wake or Wakes(), lambda: None, 50, bytes_max, count_max)


def accepted_of(channel: ProposeChannel, items: list[bytes]) -> int:
    """How many the channel took at once."""
    try:
        channel.send_many(items, timeout=0)
    except Full as full:
        return full.accepted
    return len(items)


@given(st.lists(st.one_of(st.lists(st.binary(max_size=20), max_size=8), st.integers(1, 5)), max_size=30))
@settings(deadline=None, derandomize=True)
def test_what_is_taken_is_what_was_sent_in_order_and_within_the_limits(script: list[list[bytes] | int]) -> None:
    channel = make(bytes_max=60, count_max=9)
    sent: list[bytes] = []
    taken: list[bytes] = []
    settled = 0
    for step in script:
        if isinstance(step, list):
            accepted = accepted_of(channel, step)
            sent += step[:accepted]
            in_flight = sent[settled:]
            assert accepted == len(step) or len(in_flight) >= 9 or sum(map(len, in_flight)) >= 60
        else:
            batch = channel.take(step, 30)
            if batch is None:
                assert len(taken) == len(sent)
                continue
            assert batch.first == len(taken) + 1
            assert len(batch.items) <= step
            assert batch.size == sum(map(len, batch.items))
            assert batch.size <= 30 or len(batch.items) == 1
            taken += batch.items
            channel.settle(len(batch.items), batch.size, len(taken))
            settled = len(taken)
        assert channel.unsettled() == len(sent) - settled
        assert channel.unsettled() <= 9
    assert taken == sent[: len(taken)]


def test_one_wake_up_until_the_engine_takes() -> None:
    wake = Wakes()
    channel = make(wake=wake)
    channel.send(b"a")
    channel.send(b"b")
    channel.send_many([b"c", b"d"])
    channel.submit(b"e")
    assert wake.count == 1
    assert channel.take(10, 100) is not None
    channel.send(b"f")
    assert wake.count == 2


def test_a_sender_that_waits_for_room_goes_on_when_something_commits() -> None:
    channel = make(count_max=2)
    channel.send_many([b"a", b"b"])
    waiting = threading.Thread(target=lambda: channel.send_many([b"c", b"d", b"e"], PATIENCE_S), daemon=True)
    waiting.start()
    got: list[bytes] = []
    while len(got) < 5:
        taken = channel.take(10, 100)
        if taken is not None:
            got += taken.items
            channel.settle(len(taken.items), taken.size, len(got))
    waiting.join(PATIENCE_S)
    assert got == [b"a", b"b", b"c", b"d", b"e"]


def test_futures_tell_positions_errors_and_that_a_position_is_lost() -> None:
    channel = make()
    futures = [channel.submit(b"%d" % number) for number in range(6)]
    channel.take(10, 100)
    channel.settle(2, 2, 12)
    assert [future.result(0) for future in futures[:2]] == [11, 12]
    channel.settle(1, 1, None)
    assert isinstance(futures[2].exception(0), PositionUnknown)
    failure = OutcomeUnknown("unknown", 4, 2)
    assert channel.fail(2, 2, failure) == 0
    assert futures[3].exception(0) is futures[4].exception(0) is failure
    assert not futures[5].cancel(), "what is on its way can't be called back"
    error = channel.end(Closed("closed"), lambda count: ProposalDropped("dropped", 6, count))
    assert error is None, "the future was told"
    assert isinstance(futures[5].exception(0), ProposalDropped)


def test_the_end_tells_how_many_had_no_future() -> None:
    channel = make()
    channel.send(b"a")
    channel.submit(b"b")
    error = channel.end(Closed("closed"), lambda count: ProposalDropped("dropped", 1, count))
    assert isinstance(error, ProposalDropped)
    assert error.count == 2
    assert channel.end(Closed("again"), lambda count: ProposalDropped("dropped", 1, count)) is None
    for call in (lambda: channel.send(b"x"), lambda: channel.submit(b"x"), lambda: channel.send_many([b"x"])):
        with pytest.raises(Closed, match="closed"):
            call()


def test_flush_returns_when_everything_is_committed_and_raises_each_loss_once() -> None:
    channel = make()
    channel.flush(0)
    channel.send(b"a")
    with pytest.raises(Timeout):
        channel.flush(0)
    channel.take(10, 100)
    channel.settle(1, 1, 1)
    channel.flush(0)
    channel.send_many([b"b", b"c"])
    channel.take(10, 100)
    channel.fail(1, 1, OutcomeUnknown("lost", 2, 1))
    channel.settle(1, 1, 2)
    with pytest.raises(OutcomeUnknown):
        channel.flush(0)
    channel.flush(0)


def test_flush_ends_when_the_channel_does() -> None:
    channel = make()
    channel.send(b"a")
    outcome: list[Exception] = []

    def flush() -> None:
        try:
            channel.flush(PATIENCE_S)
        except Exception as error:
            outcome.append(error)

    waiting = threading.Thread(target=flush, daemon=True)
    waiting.start()
    channel.refuse_more(Closed("closing"))
    channel.end(Closed("closed"), lambda count: ProposalDropped("dropped", 1, count))
    waiting.join(PATIENCE_S)
    assert isinstance(outcome[0], (Closed, ProposalDropped))


def test_a_full_log_refuses_at_once_and_takes_again_afterwards() -> None:
    channel = make()
    channel.send(b"a")
    channel.set_log_full(True)
    for call in (lambda: channel.send(b"x"), lambda: channel.submit(b"x"), lambda: channel.send_many([b"x"])):
        with pytest.raises(LogFull):
            call()
    channel.set_log_full(False)
    channel.send(b"b")
    taken = channel.take(10, 100)
    assert taken is not None
    assert taken.items == [b"a", b"b"]


def test_each_error_is_handed_out_once_and_the_surplus_is_counted() -> None:
    channel = ErrorChannel(2)
    pushed = [OutcomeUnknown(str(number)) for number in range(5)]
    for error in pushed:
        channel.push(error)
    assert [channel.receive(0), channel.receive(0)] == pushed[:2]
    surplus = channel.receive(0)
    assert isinstance(surplus, UnreceivedErrors)
    assert surplus.count == 3
    with pytest.raises(Timeout):
        channel.receive(0)
    channel.push(pushed[0])
    channel.end(Closed("closed"))
    assert list(channel) == [pushed[0]]
    with pytest.raises(Closed, match="closed"):
        channel.receive()


def test_a_failure_of_the_node_is_told_last_and_once_however_many_errors_wait() -> None:
    channel = ErrorChannel(1)
    for number in range(3):
        channel.push(OutcomeUnknown(str(number)))
    failure = StorageFailed("the disk is gone")
    channel.end(failure)
    channel.end(Closed("again"))
    kinds = [type(error) for error in channel]
    assert kinds == [OutcomeUnknown, UnreceivedErrors, StorageFailed]
    with pytest.raises(Closed, match="the disk is gone"):
        channel.receive()
