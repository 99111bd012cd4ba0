"""What this node's users asked for and wait to see done: groups to create, leaderships to move.

Others do the work; this watches for the outcome, up to a deadline on the engine's clock, and tells whoever asked.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from copycat.errors import CopyCatError, ProposalDropped, Timeout, UsageError
from copycat.founding import Wish
from copycat.ids import name_of

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

REPLICAS_MAX = 99


@dataclass(slots=True)
class _Allocation:
    group_id: bytes
    deadline: float
    ready: Future[None]


@dataclass(frozen=True, slots=True)
class _Transfer:
    """An operator waits for ``to`` to lead."""

    group_id: bytes
    to: int
    deadline: float
    moved: Future[None]


@dataclass(frozen=True, slots=True)
class _Resizing:
    """An operator waits until it is committed that the group is to have ``wanted`` voters."""

    group_id: bytes
    wanted: int
    deadline: float
    done: Future[int]


class Errands:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._allocations: list[_Allocation] = []
        self._transfers: list[_Transfer] = []
        self._resizings: list[_Resizing] = []

    def tick(self) -> None:
        self._check_allocations()
        self._check_transfers()
        self._check_resizings()

    def allocate(self, group_id: bytes, wish: Wish, timeout_s: float, ready: Future[None]) -> None:
        """Create a group that need not have a replica here; ``ready`` is resolved when it has a leader."""
        deadline = self._engine.now + timeout_s

        def founded(error: CopyCatError | None) -> None:
            if error is None:
                allocation = _Allocation(group_id, deadline, ready)
                if not self._is_over(allocation):
                    self._allocations.append(allocation)
            elif not ready.done():
                ready.set_exception(error)

        self._engine.founding.seek(group_id, wish, timeout_s, False, founded)

    def _check_allocations(self) -> None:
        self._allocations = [allocation for allocation in self._allocations if not self._is_over(allocation)]

    def _is_over(self, allocation: _Allocation) -> bool:
        """Whether its group has a leader, or time is up; whoever waits has been told then."""
        if self._engine.cluster.is_led(allocation.group_id):
            allocation.ready.set_result(None)
        elif self._engine.now >= allocation.deadline:
            allocation.ready.set_exception(Timeout("the group was created, but had no leader in time"))
        else:
            return False
        return True

    def transfer_leader(self, group_id: bytes, node_id: str, timeout_s: float, moved: Future[None]) -> None:
        """Ask the group's leader to hand over to ``node_id``; ``moved`` is resolved once that leads.

        Raises :class:`~copycat.errors.UsageError` if the group isn't hosted here, or has no voter there.
        """
        group = self._engine.hosting.groups.get(group_id)
        if group is None:
            hosts = ", ".join(self._engine.cluster.hosts_of(group_id)) or "none that is known"
            raise UsageError(f"this node does not host the group; its hosts are: {hosts}")
        voters = group.voters()
        heirs = [one for one, member in group.sequencer.members.items() if member.node_id == node_id and one in voters]
        if not heirs:
            nodes = ", ".join(sorted(group.node_of(one) or "?" for one in voters))
            raise UsageError(f"{node_id} has no voter of the group; the voters are on: {nodes}")
        log.warning("an operator moves a leadership", extra={"group": name_of(group_id), "node_id": node_id})
        self._transfers.append(_Transfer(group_id, heirs[0], self._engine.now + timeout_s, moved))
        if group.leader != heirs[0]:
            group.raft.transfer_leader(heirs[0])
            self._engine.touch(group)

    def change_replicas(self, group_id: bytes, step: int, node_id: str, timeout_s: float, done: Future[int]) -> None:
        """Let the group have one voter more (``step`` 1) or one less (-1); ``done`` gets how many, once that is committed.

        With ``node_id`` it begins there; without, placement chooses. The leader's repair carries it out from there. Raises
        :class:`~copycat.errors.UsageError` if this node does not lead the group, or the node named doesn't fit.
        """
        group = self._engine.hosting.groups.get(group_id)
        if group is None or not group.leads:
            leader = group.node_of(group.leader) if group is not None and group.leader else None
            where = f"node {leader} does" if leader else "and no leader is known here"
            raise UsageError(f"only the group's leader changes its replicas: this node does not lead it, {where}")
        wanted = group.replicas_wanted + step
        if abs(step) != 1 or not 1 <= wanted <= REPLICAS_MAX:
            raise UsageError(f"a group has 1 to {REPLICAS_MAX} replicas, and changes by one at a time")
        log.warning(
            "an operator changes the replicas",
            extra={"group": name_of(group_id), "replicas": wanted, "node_id": node_id},
        )
        if not self._engine.stewardship.change_wanted(group, wanted, node_id, add=step > 0):
            raise ProposalDropped("another change of the group's replicas is under way; try again in a moment")
        self._resizings.append(_Resizing(group_id, wanted, self._engine.now + timeout_s, done))

    def _check_resizings(self) -> None:
        still = []
        for resizing in self._resizings:
            group = self._engine.hosting.groups.get(resizing.group_id)
            if group is not None and group.replicas_wanted == resizing.wanted:
                resizing.done.set_result(resizing.wanted)
            elif self._engine.now >= resizing.deadline:
                resizing.done.set_exception(
                    Timeout("the change was not committed in time; it may be yet: look at the group")
                )
            else:
                still.append(resizing)
        self._resizings = still

    def _check_transfers(self) -> None:
        still = []
        for transfer in self._transfers:
            group = self._engine.hosting.groups.get(transfer.group_id)
            if group is not None and group.leader == transfer.to:
                transfer.moved.set_result(None)
            elif self._engine.now >= transfer.deadline:
                transfer.moved.set_exception(Timeout("the leadership has not moved in time; the group keeps a leader"))
            else:
                still.append(transfer)
        self._transfers = still

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for allocation in self._allocations:
            allocation.ready.set_exception(reason)
        self._allocations.clear()
        for transfer in self._transfers:
            transfer.moved.set_exception(reason)
        self._transfers.clear()
        for resizing in self._resizings:
            resizing.done.set_exception(reason)
        self._resizings.clear()
