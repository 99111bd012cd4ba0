"""What makes a node unhealthy, what is only mentioned, and that everybody who asks is told the same."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from copycat.cli.commands import root
from copycat.cli.tables import problem_text
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until


def asked(node: CopyCat, *arguments: str) -> tuple[int, Any]:
    given = ["health", "--data-dir", node.config.data_dir, "--json", *arguments]
    done = CliRunner().invoke(root, given, standalone_mode=False)
    assert done.exception is None, done.exception
    return done.return_value, json.loads(done.stdout)


def names(problems: Any, serious: bool) -> list[str]:
    return [problem["what"] for problem in problems if problem["serious"] == serious]


def lose_one(cluster: NodeCluster) -> tuple[CopyCat, Any]:
    """A leader with one of its two followers gone, which is behind by some entries."""
    nodes = cluster.start(3, repair_delay_s=600.0)
    group = cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    wait_until(lambda: nodes[0].groups()[group].leader is not None, "a leader")
    leader = next(node for node in nodes if node.node_id == nodes[0].groups()[group].leader)
    cluster.stop(next(node for node in nodes[1:] if node is not leader))
    for number in range(5):
        copy.sub.propose.send(b"%d" % number)
        copy.sub.propose.flush(PATIENCE_S)
    return leader, group


def test_a_replica_that_lags_makes_its_leader_unhealthy_and_a_missing_one_is_mentioned(cluster: NodeCluster) -> None:
    leader, group = lose_one(cluster)
    wait_until(lambda: leader.groups()[group].under_replicated, "it is missed")
    code, found = asked(leader)
    assert (code, found["healthy"], names(found["problems"], True)) == (0, True, [])
    assert names(found["problems"], False) == ["under_replicated"]
    assert leader.health().healthy
    assert [problem.what for problem in leader.health().problems] == ["under_replicated"]
    code, found = asked(leader, "--lag-max", "3")
    assert (code, found["healthy"], names(found["problems"], True)) == (3, False, ["lag"])
    assert found["problems"][0]["examples"] == [str(group)]


def test_a_consumer_that_lags_makes_its_node_unhealthy(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1, replicas=1, commit_queue_bytes_max=4096)
    group = cluster.group(node)
    sub = node.subscribe_to_data_structure(group, lambda: b"")
    for _ in range(40):
        sub.propose.send(bytes(1000))
        sub.propose.flush(PATIENCE_S)
    code, found = asked(node, "--lag-max", "20")
    assert (code, names(found["problems"], True)) == (3, ["slow_consumer"])
    while sub.commits.position < 40:
        sub.commits.receive_many(100)
    wait_until(lambda: asked(node, "--lag-max", "20")[0] == 0, "it has caught up")


def test_a_stopped_node_is_not_well_and_says_why(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    cluster.stop(node)
    health = node.health()
    assert not health.healthy
    assert [problem.what for problem in health.problems] == ["stopped"]
    assert health.reasons == (str(health.problems[0]),)


def test_a_problem_fits_on_a_line_however_many_groups_it_concerns() -> None:
    problem = {"what": "lag", "message": "too slow", "serious": True, "groups": 5000, "examples": ["a", "b", "c"]}
    assert str(problem_text(problem)) == "lag: too slow, 5000 groups (a, b, c, ...)"
    assert str(problem_text({**problem, "groups": 1, "examples": ["a"]})) == "lag: too slow, 1 groups (a)"
