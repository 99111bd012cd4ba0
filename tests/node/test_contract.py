"""The interface as a stranger reads it: every promise of a channel, a subscription and a node, tried from outside alone."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import copycat
from copycat import errors
from copycat.testing.nodes import PATIENCE_S, NodeCluster, take, wait_until

SMALL = {"snapshot_log_bytes": 4_000, "snapshot_chunk_bytes": 500, "batch_proposals_max": 5}


def nothing() -> bytes:
    return b""


def subscribe(node: copycat.CopyCat, group: Any = None, provider: Callable[[], Any] = nothing) -> copycat.Subscription:
    return node.subscribe_to_data_structure(
        node.new_data_structure_id() if group is None else group, provider, timeout=PATIENCE_S
    )


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Runs it in another thread; the list gets what it returns or raises."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


# --- sending and receiving ------------------------------------------------------------------------------------------


def test_every_way_of_sending_keeps_one_order(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    with subscribe(node) as sub:
        sub.propose.send(b"1")
        sub.propose.send(b"2", timeout=0)
        sub.propose.send_many([b"3", b"4"])
        sub.propose.send_many(item for item in (b"5", b""))
        sub.propose.send_many([])
        future = sub.propose.submit(b"7")
        sub.propose.send(b"8", timeout=PATIENCE_S)
        assert future.result(PATIENCE_S) == 7
        sub.flush(PATIENCE_S)
        assert take(sub.commits, 8) == [b"1", b"2", b"3", b"4", b"5", b"", b"7", b"8"]


def test_what_is_no_list_of_byte_strings_is_refused_and_nothing_of_it_is_queued(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1, proposal_bytes_max=10)
    with subscribe(node) as sub:
        for wrong in (None, 7, b"bytes", "text", [b"good", None], [b"good", memoryview(b"x")]):
            with pytest.raises(errors.InvalidProposal):
                sub.propose.send_many(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.ProposalTooLarge):
            sub.propose.submit(bytes(11))
        assert sub.propose.submit(bytes(10)).result(PATIENCE_S) == 1

        class Text(bytes):
            pass

        sub.propose.send_many([Text(b"a"), b"b"])
        sub.propose.send(Text(b"c"))
        got = take(sub.commits, 4)
        assert got == [bytes(10), b"a", b"b", b"c"]
        assert {type(item) for item in got} == {bytes}


def test_waiting_in_vain_is_a_timeout_of_both_kinds_and_loses_nothing(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    with subscribe(node) as sub:
        for timeout in (0, 0.01, -1):
            for call in (sub.commits.receive, sub.errors.receive):
                with pytest.raises(copycat.Timeout) as caught:
                    call(timeout)
                assert isinstance(caught.value, TimeoutError)
            assert sub.commits.receive_many(3, timeout) == []
        assert sub.commits.position == 0
        sub.propose.send_many([b"a", b"b", b"c"])
        assert sub.commits.receive(PATIENCE_S) == b"a"
        assert sub.commits.position == 1
        sub.flush(PATIENCE_S)
        assert sub.commits.receive_many(1, PATIENCE_S) == [b"b"]
        assert sub.commits.position == 2
        assert sub.commits.receive_many(100, PATIENCE_S) == [b"c"]
        for wrong in (0, -1, 1.5, "1", None):
            with pytest.raises(errors.UsageError):
                sub.commits.receive_many(wrong, 0)  # type: ignore[arg-type]


def test_a_sender_that_is_blocked_goes_on_by_itself_and_one_that_waits_at_the_end_is_told(
    one_cluster: NodeCluster,
) -> None:
    nodes = one_cluster.start(3, in_flight_proposals_max=5, leave_timeout_s=0.3)
    group = one_cluster.group(nodes[0], replicas=3)
    sub = subscribe(nodes[0], group)
    thread, outcome = in_thread(lambda: sub.propose.send_many([b"%d" % number for number in range(50)]))
    assert take(sub.commits, 50) == [b"%d" % number for number in range(50)]
    thread.join(PATIENCE_S)
    assert outcome == [None]
    for node in nodes[1:]:
        one_cluster.stop(node)
    thread, outcome = in_thread(lambda: sub.propose.send_many([b"x"] * 50))
    with pytest.raises(errors.Full):
        sub.propose.send_many([b"y"] * 50, 0.05)
    sub.close()
    thread.join(PATIENCE_S)
    assert isinstance(outcome[0], copycat.Closed)


def test_callbacks_of_a_future_may_call_anything_and_nothing_hangs(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    sub = subscribe(node)
    told: list[object] = []
    over = threading.Event()

    def called(_: object) -> None:
        attempts: list[Callable[[], object]] = [
            lambda: sub.barrier(PATIENCE_S),
            lambda: sub.status(),
            lambda: node.members(),
            lambda: node.groups(),
            lambda: sub.propose.submit(b"again").result(0),
            lambda: sub.flush(),
            lambda: sub.commits.receive(),
            lambda: sub.commits.receive(),
            lambda: sub.errors.receive(),
            lambda: sub.close(),
            lambda: node.shutdown(),
        ]
        for attempt in attempts:
            try:
                told.append(attempt())
            except Exception as error:
                told.append(error)
        over.set()

    sub.propose.submit(b"first").add_done_callback(called)
    assert over.wait(PATIENCE_S), f"it hangs after {told}"
    unexpected = [each for each in told if isinstance(each, Exception) and not isinstance(each, TimeoutError)]
    assert unexpected == []
    node.shutdown()


# --- the end --------------------------------------------------------------------------------------------------------


def closed_calls(sub: copycat.Subscription) -> list[Callable[[], object]]:
    return [
        lambda: sub.propose.send(b""),
        lambda: sub.propose.send_many([b""]),
        lambda: sub.propose.submit(b""),
        lambda: sub.commits.receive(),
        lambda: sub.commits.receive_many(5),
        lambda: sub.errors.receive(),
        lambda: sub.snapshot_consumer(),
        lambda: sub.barrier(),
        lambda: sub.status(),
        lambda: sub.committed().result(),
    ]


@pytest.mark.parametrize("how", ["close", "propose.close", "shutdown", "with"])
def test_after_the_end_every_call_says_closed_and_closing_again_is_fine(one_cluster: NodeCluster, how: str) -> None:
    (node,) = one_cluster.start(1)
    sub = subscribe(node)
    waiting = [in_thread(lambda call=call: call()) for call in (sub.commits.receive, sub.errors.receive)]  # type: ignore[misc]
    iterating, got = in_thread(lambda: [list(sub.errors), list(sub.commits)])
    if how == "close":
        sub.close()
    elif how == "propose.close":
        sub.propose.close()
    elif how == "shutdown":
        node.shutdown()
    else:
        with sub as same:
            assert same is sub
    for thread, outcome in waiting:
        thread.join(PATIENCE_S)
        assert isinstance(outcome[0], copycat.Closed)
    iterating.join(PATIENCE_S)
    assert got == [[[], []]]
    for call in closed_calls(sub):
        with pytest.raises(copycat.Closed):
            call()
    sub.flush(PATIENCE_S)  # nothing was sent, so everything is committed
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda close: close(), [sub.close, sub.propose.close, node.shutdown, sub.close] * 2))
    with pytest.raises(copycat.Closed):
        subscribe(node, b"0" * 16)
    for call in (node.members, node.groups, node.allocate_new_data_structure):
        with pytest.raises(copycat.Closed):
            call()
    assert len(node.node_id) == 26
    assert str(node.new_data_structure_id())


def test_what_was_handed_over_before_the_end_is_still_received(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    group = one_cluster.group(node, replicas=1)
    reader = subscribe(node, group)
    with subscribe(node, group) as writer:
        writer.propose.send_many([b"%d" % number for number in range(100)])
    assert reader.committed().result(PATIENCE_S) == 100  # the engine has handed over as much, too
    reader.close()
    assert list(reader.commits) == [b"%d" % number for number in range(100)]


def test_a_provider_or_a_consumer_may_close_its_own_subscription(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1, **SMALL)
    subs: list[copycat.Subscription] = []

    def provider() -> bytes:
        subs[0].close()
        return b"too late"

    subs.append(subscribe(node, None, provider))
    subs[0].propose.send_many([bytes(100)] * 300)
    thread, outcome = in_thread(lambda: list(subs[0].commits))
    thread.join(PATIENCE_S)
    assert len(outcome) == 1
    assert not isinstance(outcome[0], Exception)


# --- snapshots ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "produced",
    [
        b"",
        b"bytes",
        bytearray(b"array"),
        [],
        [b"", b"a", b"", b"b"],
        (b"x" * 500, b"y" * 500),
        [b"z" * 499, b"z"],
        [bytes(5_000)],
    ],
    ids=["empty", "bytes", "bytearray", "no-chunks", "empty-chunks", "chunk-sized", "just-one-chunk", "large"],
)
def test_whatever_a_provider_returns_comes_out_of_the_snapshot_consumer(
    one_cluster: NodeCluster, produced: bytes | Iterable[bytes]
) -> None:
    (node,) = one_cluster.start(1, **SMALL)
    group = one_cluster.group(node, replicas=1)
    ran: list[int] = []

    def provider() -> Any:
        ran.append(threading.get_ident())
        return produced if isinstance(produced, (bytes, bytearray)) else iter(produced)

    with subscribe(node, group, provider) as sub:
        sub.propose.send_many([bytes(100)] * 100)
        assert take(sub.commits, 100) == [bytes(100)] * 100
        wait_until(
            lambda: sub.commits.receive_many(1, 0) == [] and sub.status().snapshot_position > 0, "a snapshot is made"
        )
        assert set(ran) == {threading.get_ident()}, "it ran on the thread that receives"
        late = subscribe(node, group)
        assert late.commits.receive(PATIENCE_S) is None
        at = late.commits.position
        assert 0 < at <= 100
        whole = produced if isinstance(produced, (bytes, bytearray)) else b"".join(produced)
        assert late.snapshot_consumer() == late.snapshot_consumer() == bytes(whole)
        assert type(late.snapshot_consumer()) is bytes
        rest = 100 - at
        sub.propose.send(b"end")
        assert take(late.commits, rest + 1) == [bytes(100)] * rest + [b"end"]
        assert late.commits.position == 101
        with pytest.raises(errors.UsageError):
            late.snapshot_consumer()


def test_a_chunk_is_asked_of_the_provider_only_when_there_is_room_for_it(one_cluster: NodeCluster) -> None:
    """The provider's iterable is drawn by the consumer's thread, inside its receive, and may raise half-way."""
    (node,) = one_cluster.start(1, **SMALL)
    fails = [True]
    threads: set[int] = set()

    def chunks() -> Iterable[bytes]:
        for number in range(50):
            threads.add(threading.get_ident())
            if number == 30 and fails:
                fails.clear()
                raise RuntimeError("half-way")
            yield bytes(500)

    with subscribe(node, None, lambda: chunks()) as sub:
        sub.propose.send_many([bytes(100)] * 100)
        sub.flush(PATIENCE_S)
        failure = next(errors_of(sub))
        assert isinstance(failure, errors.SnapshotProviderFailed)
        assert isinstance(failure.__cause__, RuntimeError)
        wait_until(
            lambda: bool(sub.commits.receive_many(10, 0)) or sub.status().snapshot_position > 0, "the next one is made"
        )
        assert threads == {threading.get_ident()}


def errors_of(sub: copycat.Subscription) -> Iterator[errors.CopyCatError]:
    """Receives meanwhile: only then is the provider run."""
    while True:
        sub.commits.receive_many(10, 0)
        try:
            yield sub.errors.receive(0.01)
        except copycat.Timeout:
            continue


# --- reads and status -----------------------------------------------------------------------------------------------


def test_a_barrier_waits_for_the_hand_over_and_a_flush_for_the_commit(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    group = one_cluster.group(node, replicas=1)
    writer, reader = subscribe(node, group), subscribe(node, group)
    writer.propose.send_many([b"a", b"b"])
    writer.flush(PATIENCE_S)
    with pytest.raises(copycat.Timeout):
        reader.barrier(0.05)
    thread, outcome = in_thread(lambda: reader.barrier(PATIENCE_S))
    assert take(reader.commits, 2) == [b"a", b"b"]
    thread.join(PATIENCE_S)
    assert outcome == [None]
    reader.barrier(PATIENCE_S)
    reader.barrier()
    writer.flush()


def test_what_is_told_is_frozen_and_says_who_is_who(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(3)
    allocation = nodes[0].allocate_new_data_structure(replicas=2, data_center_replicas=1)
    early = allocation.id
    allocation.wait(timeout=PATIENCE_S)
    allocation.wait(0)
    assert allocation.id == early
    assert copycat.DataStructureId.parse(str(early)) == early
    subs = [subscribe(node, str(early)) for node in nodes]
    subs[0].propose.submit(b"x").result(PATIENCE_S)
    for sub in subs:
        assert sub.commits.receive(PATIENCE_S) == b"x"

    def roles() -> list[str]:
        return sorted(sub.status().role for sub in subs)

    wait_until(lambda: roles() == ["follower", "leader", "learner"], "two voters and a learner")
    leader = next(sub for sub in subs if sub.status().role == "leader")
    wait_until(lambda: set(leader.status().lag.values()) == {0}, "nobody lags")
    status = leader.status()
    assert len(status.voters) == 2
    assert len(status.learners) == 1
    assert {peer.node_id for peer in (*status.voters, *status.learners)} == {node.node_id for node in nodes}
    assert set(status.lag) == {peer.raft_id for peer in (*status.voters, *status.learners)} - {status.raft_id}
    assert status.commit_position == status.applied_position == 1
    assert status.term >= 1
    frozen: list[Any] = [status, status.voters[0], nodes[0].members()[0]]
    for value in frozen:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)
    for node, sub in zip(nodes, subs, strict=True):
        wait_until(lambda sub=sub: sub.status().leader == status.leader, "all name one leader")  # type: ignore[misc]
        assert node.groups()[early].role == sub.status().role
        assert type(node.node_id) is str


def test_an_id_can_be_subscribed_to_while_it_is_being_allocated_and_by_many_at_once(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(3)
    allocation = nodes[0].allocate_new_data_structure(replicas=3)
    fresh = nodes[1].new_data_structure_id()
    with ThreadPoolExecutor(9) as pool:
        known = [pool.submit(subscribe, node, allocation.id) for node in nodes]
        new = [pool.submit(subscribe, node, fresh) for node in nodes for _ in range(2)]
        for subs in ([each.result() for each in known], [each.result() for each in new]):
            for number, sub in enumerate(subs):
                sub.propose.send(b"%d" % number)
            sequences = [take(sub.commits, len(subs)) for sub in subs]
            assert all(sequence == sequences[0] for sequence in sequences)
            assert sorted(sequences[0]) == [b"%d" % number for number in range(len(subs))]  # type: ignore[type-var]
    assert all(len(node.groups()) == 2 for node in nodes)
