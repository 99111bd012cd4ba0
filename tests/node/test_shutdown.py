"""The end of a node: in the middle of traffic, from everywhere, twice, or never. The fixture looks for what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from copycat import errors
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster


def nothing() -> bytes:
    return b""


def test_shutdown_in_the_middle_of_traffic_settles_or_reports_everything(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, in_flight_proposals_max=1_000)
    group = cluster.group(nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in nodes]
    stop = threading.Event()
    sent = [0, 0, 0]
    futures: list[list] = [[], [], []]  # type: ignore[type-arg]

    def propose(index: int) -> None:
        while not stop.is_set():
            try:
                futures[index].append(copies[index].sub.propose.submit(b"%d:%d" % (index, sent[index]), PATIENCE_S))
            except errors.Closed:
                return
            sent[index] += 1

    threads = [threading.Thread(target=propose, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    for copy in copies:
        copy.wait(300)
    nodes[1].shutdown()
    copies[0].wait(len(copies[0].items) + 100)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    for index in (0, 2):
        copies[index].sub.flush(PATIENCE_S)
        assert [future.exception(0) for future in futures[index]] == [None] * sent[index]
    copies[0].sub.barrier(PATIENCE_S)
    whole = list(copies[0].items)
    for future in futures[1]:
        assert future.done()
        assert future.exception(0) is None or isinstance(
            future.exception(0), (errors.OutcomeUnknown, errors.ProposalDropped)
        )
    for index in range(3):
        mine = [item for item in whole if item.startswith(b"%d:" % index)]
        assert mine == [b"%d:%d" % (index, number) for number in range(len(mine))]
        acknowledged = sum(future.exception(0) is None for future in futures[index])
        assert acknowledged <= len(mine) <= sent[index]
    copies[1].join()
    assert copies[1].items == whole[: len(copies[1].items)]


def test_shutdown_twice_from_many_threads_and_from_consumers(cluster: NodeCluster) -> None:
    nodes = cluster.start(2)
    group = cluster.group(nodes[0], replicas=2)
    sub = nodes[0].subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)

    def consume() -> None:
        for _ in sub.commits:
            nodes[0].shutdown()

    threads = [threading.Thread(target=consume, daemon=True)]
    threads += [threading.Thread(target=nodes[1].shutdown, daemon=True) for _ in range(3)]
    sub.propose.submit(b"x").result(PATIENCE_S)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    nodes[0].shutdown()
    sub.close()
    with pytest.raises(errors.Closed):
        nodes[0].members()
    with pytest.raises(errors.Closed):
        sub.propose.send(b"y")


def test_shutdown_from_within_a_provider(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1, snapshot_log_entries=1)
    called = threading.Event()

    def provider() -> bytes:
        called.set()
        node.shutdown()
        return b"state"

    sub = node.subscribe_to_data_structure(node.new_data_structure_id(), provider, timeout=PATIENCE_S)
    sub.propose.send_many([b"a", b"b"])
    sub.flush(PATIENCE_S)
    assert set(sub.commits) <= {b"a", b"b"}
    assert called.is_set()


def test_shutdown_from_a_future_s_callback_on_the_library_s_own_thread(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    sub = node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S)
    called = threading.Event()

    def shut_down(_: object) -> None:
        node.shutdown()
        sub.close()
        called.set()

    sub.propose.submit(b"x").add_done_callback(shut_down)
    assert called.wait(PATIENCE_S)
    assert list(sub.commits) == [b"x"]


def test_waiters_of_every_kind_are_released_by_shutdown(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(2, leave_timeout_s=0.5)
    group = one_cluster.group(nodes[0], replicas=2)
    sub = nodes[0].subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    sub.propose.submit(b"x").result(PATIENCE_S)
    one_cluster.stop(nodes[1])  # no majority: nothing commits any more
    future = sub.propose.submit(b"y")
    calls = [sub.commits.receive, sub.errors.receive, sub.flush, sub.barrier, lambda: list(sub.commits)]
    outcomes: list[BaseException | None] = [None] * len(calls)
    begun = threading.Barrier(len(calls) + 1)

    def wait(number: int) -> None:
        begun.wait(PATIENCE_S)
        try:
            while True:
                calls[number]()
                if number == 4:
                    return
        except errors.CopyCatError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    begun.wait(PATIENCE_S)
    nodes[0].shutdown()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert isinstance(future.exception(0), (errors.OutcomeUnknown, errors.ProposalDropped))
    assert isinstance(outcomes[0], errors.Closed)
    assert isinstance(outcomes[1], errors.Closed)
    assert isinstance(outcomes[2], (errors.Closed, errors.OutcomeUnknown, errors.ProposalDropped))
    assert isinstance(outcomes[3], errors.Closed)


def test_many_lives_leave_no_socket_file_or_thread(one_cluster: NodeCluster, tmp_path: Path) -> None:
    me = psutil.Process()
    config = one_cluster.config(data_dir=str(tmp_path / "lives"))

    def live() -> None:
        with CopyCat(config) as node:
            sub = node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S)
            sub.propose.submit(b"x").result(PATIENCE_S)

    live()
    before = me.num_fds(), threading.active_count()
    for _ in range(5):
        live()
    assert (me.num_fds(), threading.active_count()) == before


NEVER = """
import sys, copycat
node = copycat.CopyCat(copycat.Config(copycat_port=0, gossip_port=0, gossip_profile="local", data_dir=sys.argv[1]))
sub = node.subscribe_to_data_structure(node.new_data_structure_id(), lambda: b"", timeout=30)
for number in range(2000):
    sub.propose.send(b"%d" % number)
assert sub.commits.receive(30) == b"0"
print("end")
"""


@pytest.mark.parametrize(
    "how",
    [
        "",
        "raise SystemExit(0)",
        "import threading; threading.Thread(target=list, args=(sub.commits,), daemon=True).start()",
    ],
)
def test_an_interpreter_that_never_shuts_its_node_down_exits_without_noise(tmp_path: Path, how: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", NEVER + how, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDEVMODE": ""},
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")
