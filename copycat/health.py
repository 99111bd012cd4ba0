"""What ails a node: one judgement, for ``cat.health()``, the endpoint, the metric and the command line alike.

Runs on the engine's thread, between two turns, and costs some microseconds for each replica on the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from copycat.ids import DataStructureId
from copycat.status import Health, Problem

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

LEADERLESS_S = 5.0
"""An election takes less."""
LAG_ENTRIES_MAX = 10_000
"""What is further behind does not keep up: a replica behind its leader, or a consumer behind its replica."""
EXAMPLES_MAX = 3


def check(engine: Engine, lag_max: int = LAG_ENTRIES_MAX) -> Health:
    """Whether this node is well, and why not. ``lag_max`` is in log entries."""
    found = [*_of_the_node(engine), *_of_its_groups(engine, lag_max)]
    serious = [problem for problem in found if problem.serious]
    return Health(not serious, tuple(map(str, serious)), (*serious, *[each for each in found if not each.serious]))


def consumer_lag(group: Group) -> int:
    """Entries that the slowest consumer of the group on this node has yet to be handed."""
    return max([group.sequencer.index - feed.sequencer.index for feed in group.feeds], default=0)


def replica_lag(group: Group) -> int:
    """Entries that the slowest replica is behind its leader; 0 if that isn't here."""
    if not group.leads:
        return 0
    return group.raft.last_index - min(group.matches().values(), default=group.raft.last_index)


def _of_the_node(engine: Engine) -> list[Problem]:
    found = []
    age = engine.write_age()
    if age >= engine.config.stalled_disk_hand_over_s:
        found.append(Problem("stalled_disk", f"the disk stands still: a write has not come back for {age:.1f} s"))
    swim = engine.cluster.swim
    if not swim.joined:
        found.append(Problem("no_cluster", f"this node is in no cluster: {swim.reason}"))
    known, alive = len(swim.known()), len(swim.alive())
    if 2 * alive <= known:
        found.append(Problem("no_majority", f"no majority of the cluster: {alive} of {known} known nodes are alive"))
    return found


def _of_its_groups(engine: Engine, lag_max: int) -> list[Problem]:
    groups = list(engine.hosting.groups.values())
    leaderless = [group for group in groups if not group.leader and engine.now - group.led_at >= LEADERLESS_S]
    mute = [group for group in leaderless if not engine.recoveries.has_quorum(group)]
    waiting = [group for group in leaderless if group not in mute]
    full = [group for group in groups if group.log_full or group.log_full_until]
    lagging = [group for group in groups if replica_lag(group) > lag_max]
    slow = [group for group in groups if consumer_lag(group) > lag_max]
    nodes = engine.stewardship.nodes()
    few = [group for group in groups if engine.stewardship.is_under_replicated(group, nodes)]
    found = [
        _concerning(
            mute, "no_quorum", "no quorum: a majority of the voters is away; see 'copycat recover' if for good"
        ),
        _concerning(waiting, "no_leader", f"no leader for {LEADERLESS_S:g} s or more: voters can't reach each other"),
        _concerning(full, "log_full", "the log is full"),
        _concerning(lagging, "lag", f"a replica is more than {lag_max} entries behind its leader here"),
        _concerning(slow, "slow_consumer", f"a consumer here lags by more than {lag_max} entries"),
        _concerning(few, "under_replicated", "fewer voters live than are wanted", serious=False),
    ]
    return [problem for problem in found if problem.groups]


def _concerning(groups: Sequence[Group], what: str, message: str, serious: bool = True) -> Problem:
    examples = tuple([str(DataStructureId(group.id)) for group in groups[:EXAMPLES_MAX]])
    return Problem(what, message, serious, len(groups), examples)
