"""Every command once as a real process, against one cluster of three that stays for the whole module.

What is only looked at again, or in its form for people, is asked in this process: a process takes long to start.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from copycat.cli.asking import AdminClient
from copycat.cli.commands import root
from copycat.cli.local_cluster import Deadline, LocalCluster
from copycat.errors import CopyCatError

NODES = 3
TIMEOUT_S = 900.0
WAIT_S = 180.0

pytestmark = pytest.mark.slow


class Cluster:
    """Three processes, and what the command says of them."""

    def __init__(self, local: LocalCluster) -> None:
        self.local = local

    def data_dir(self, index: int) -> Path:
        return self.local.seats[index].directory / "db"

    def run(self, index: int, *arguments: str, code: int = 0) -> str:
        """stdout of ``copycat ... --data-dir`` of that seat."""
        done = copycat(*arguments, "--data-dir", str(self.data_dir(index)))
        assert done.returncode == code, f"{arguments}: {done.returncode}, {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if code in (0, 3) else done.stderr

    def text(self, index: int, *arguments: str) -> str:
        """The same in this process, where it went well."""
        done = CliRunner().invoke(root, [*arguments, "--data-dir", str(self.data_dir(index))], standalone_mode=False)
        assert done.exception is None, done.exception
        return done.stdout

    def refusal(self, index: int, *arguments: str) -> str:
        """The same, where it did not."""
        done = CliRunner().invoke(root, [*arguments, "--data-dir", str(self.data_dir(index))], standalone_mode=False)
        if isinstance(done.exception, CopyCatError):
            return str(done.exception)
        assert done.exception is None
        return done.stderr

    def group(self, index: int) -> dict[str, Any]:
        with AdminClient(self.data_dir(index)) as client:
            (found,) = client.groups()
        return found

    def json(self, index: int, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(index, *arguments, "--json", code=code))

    def leader(self) -> int:
        return self.local.leader()

    def node_id(self, index: int) -> str:
        return self.local.seats[index].node_id

    def until(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.1)


def copycat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "copycat.cli", *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nothing is replaced by itself: the tests say when a node is gone."""
    directory = tmp_path_factory.mktemp("cluster")
    with LocalCluster(directory, NODES, Deadline(TIMEOUT_S), cluster_label="test", repair_delay_s=600.0) as local:
        local.start()
        local.worker(0).ask("put", items={f"key-{number}": "" for number in range(100)}, timeout=30.0)
        yield Cluster(local)


def test_the_socket_is_its_owner_s_alone(cluster: Cluster) -> None:
    folder = cluster.data_dir(0) / "admin"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600


def test_status(cluster: Cluster) -> None:
    found = cluster.json(0, "status")
    assert found["node_id"] == cluster.node_id(0)
    assert found["members"] == {"alive": NODES, "suspect": 0, "dead": 0, "left": 0}
    assert found["groups_hosted"] == 1
    assert found["problems"] == []
    assert cluster.node_id(0) in cluster.text(0, "status")


def test_members(cluster: Cluster) -> None:
    found = cluster.json(1, "members")
    assert {member["node_id"] for member in found} == {cluster.node_id(index) for index in range(NODES)}
    assert [member["node_id"] for member in found if member["this"]] == [cluster.node_id(1)]
    assert {member["state"] for member in found} == {"alive"}
    assert cluster.text(1, "members").count("alive") == NODES


def test_groups(cluster: Cluster) -> None:
    (found,) = cluster.json(cluster.leader(), "groups")
    assert found["id"] == cluster.local.map_id
    assert found["role"] == "leader"
    assert found["applied_position"] >= 100
    assert len(found["voters"]) == NODES
    assert {peer["raft_id"] for peer in found["lag"]} == {
        peer["raft_id"] for peer in found["voters"] if peer["node_id"] != cluster.node_id(cluster.leader())
    }
    assert found["has_quorum"]
    assert json.loads(cluster.text(0, "groups", cluster.local.map_id, "--json"))[0]["id"] == found["id"]
    assert json.loads(cluster.text(0, "groups", "--troubled", "--json")) == []
    assert found["id"] in cluster.text(0, "groups")
    assert "InvalidId" in cluster.run(0, "groups", "nonsense", code=2)


def test_top_prints_once_where_there_is_no_terminal(cluster: Cluster) -> None:
    found = cluster.json(0, "top", "--every", "0.2")
    assert found["status"]["node_id"] == cluster.node_id(0)
    assert found["rates"]["turns"] > 0
    assert cluster.local.map_id in cluster.text(0, "top", "--every", "0.2")


def test_top_is_live_on_a_terminal(cluster: Cluster) -> None:
    import pty

    ours, theirs = pty.openpty()
    arguments = ("top", "--every", "0.2", "--count", "3", "--data-dir", str(cluster.data_dir(0)))
    process = subprocess.Popen(
        [sys.executable, "-m", "copycat.cli", *arguments],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "160", "LINES": "50", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # its end was closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert shown.count(cluster.local.map_id.encode()) >= 2
    assert b"\x1b[?1049l" in shown, "the terminal is given back as it was"


def test_health(cluster: Cluster) -> None:
    assert cluster.json(0, "health") == {"healthy": True, "problems": []}
    assert cluster.text(0, "health").startswith("healthy")


def test_transfer_leader(cluster: Cluster) -> None:
    target = next(index for index in range(NODES) if index != cluster.leader())
    cluster.run(0, "transfer-leader", cluster.local.map_id, cluster.node_id(target))
    cluster.until(lambda: cluster.leader() == target, "it leads")
    assert "has no voter" in cluster.refusal(0, "transfer-leader", cluster.local.map_id, "0" * 26)


def test_replicas(cluster: Cluster) -> None:
    group = cluster.local.map_id

    def refusal(*words: str, of: int = 0) -> str:
        """What the leader says, or the node ``of`` places behind it. The lead may move: hence all the trying again."""
        return cluster.refusal((cluster.leader() + of) % NODES, "replicas", *words)

    def node(behind: int) -> str:
        return cluster.node_id((cluster.leader() + behind) % NODES)

    def voters() -> set[str]:
        return {peer["node_id"] for peer in cluster.group(cluster.leader())["voters"]}

    cluster.until(lambda: "does not lead it" in refusal("remove", group, of=1), "a follower refuses")
    cluster.until(lambda: not refusal("remove", group, node(1)), "two are wanted")
    cluster.until(lambda: len(voters()) == 2, "two vote")  # which, is placement's choice in the end
    cluster.until(lambda: "leads the group" in refusal("remove", group, node(0)), "a leader is not removed")
    cluster.until(lambda: not refusal("add", group), "three are wanted again")
    cluster.until(lambda: len(voters()) == NODES, "three vote again")
    cluster.local.sync()


def test_nobody_there_is_said_in_one_line(tmp_path: Path) -> None:
    done = copycat("status", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("copycat: NodeNotRunning: no node answers at ")
    assert done.stderr.count("\n") == 1


def test_a_running_node_is_not_inspected(cluster: Cluster) -> None:
    assert "StorageLocked" in cluster.run(0, "inspect", code=2)


def test_two_of_three_are_lost_and_the_third_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """The last test of the module, as it takes the cluster apart."""
    local, group = cluster.local, cluster.local.map_id
    local.sync()
    survivor = cluster.leader()
    lost = [index for index in range(NODES) if index != survivor]
    before = local.items(survivor)
    for index in lost:
        local.kill(index)
        shutil.rmtree(cluster.data_dir(index))
    cluster.until(lambda: cluster.group(survivor)["leader"] is None, "no leader")
    cluster.until(lambda: not cluster.group(survivor)["has_quorum"], "no quorum")
    with AdminClient(cluster.data_dir(survivor)) as client:
        cluster.until(lambda: "no_quorum" in str(client.ask("health")["problems"]), "that it lasts")
    problems = {problem["what"] for problem in cluster.json(survivor, "health", code=3)["problems"]}
    assert {"no_quorum", "no_majority"} <= problems
    assert "no quorum" in cluster.text(survivor, "groups", "--troubled")

    assert "give them up first" in cluster.run(survivor, "recover", group, "--yes", code=2)
    assert "no majority" in cluster.refusal(survivor, "forget", cluster.node_id(lost[0]))
    for index in lost:
        cluster.run(survivor, "forget", cluster.node_id(index), "--force")
    found = cluster.json(survivor, "recover", "--all", "--yes", "--reason", "two disks are gone")
    assert [record["group"] for record in found["recovered"]] == [group]
    assert found["failed"] == []
    assert found["recovered"][0]["reason"] == "two disks are gone"

    local.worker(survivor).ask("put", items={"after": "it"}, timeout=30.0)
    assert local.items(survivor) == {**before, "after": "it"}
    first, handed = local.handed(survivor)
    keys = [json.loads(change)[1] for change in handed]
    assert len(keys) == len(set(keys)), "something was handed out twice"
    assert first + len(handed) - 1 == cluster.group(survivor)["applied_position"]
    assert json.loads(cluster.text(survivor, "status", "--json"))["recoveries"] == found["recovered"]
    assert "nothing to recover" in cluster.refusal(survivor, "recover", group, "--yes")

    # A new node on each lost one's machine: the group grows back, and holds all.
    for index in lost:
        local.seats[index].node_id = ""
        local.restart(index)
    cluster.until(lambda: len(cluster.group(survivor)["voters"]) == NODES, "it grows back")
    local.sync()
    for index in lost:
        assert local.items(index) == {**before, "after": "it"}
    assert json.loads(cluster.text(survivor, "health", "--json"))["healthy"]

    node_id = cluster.node_id(lost[0])
    local.close()
    inspected = cluster.json(survivor, "inspect")
    assert inspected["node_id"] == cluster.node_id(survivor)
    assert inspected["damaged"] == []
    (replica,) = inspected["groups"]
    assert replica["whole"]
    assert replica["id"] == group
    assert {member["node_id"] for member in replica["members"]} >= {node_id, cluster.node_id(survivor)}
    assert [record["group"] for record in inspected["recoveries"]] == [group]
    assert group in cluster.text(survivor, "inspect")


def test_a_node_process_that_is_told_to_leave_ends_well(tmp_path: Path) -> None:
    ports = ("--copycat-port", "0", "--gossip-port", "0", "--gossip-profile", "local", "--leave-timeout-s", "0.5")
    arguments = [sys.executable, "-m", "copycat.cli", "node", "--data-dir", str(tmp_path / "db"), *ports]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            done = copycat("leave", "--data-dir", str(tmp_path / "db"))
            assert done.returncode == 0, done.stderr
            output, errors = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert (process.returncode, output[:5]) == (0, "left "), errors
    assert "LeftForGood" in copycat("node", "--data-dir", str(tmp_path / "db"), *ports).stderr
