"""The consumers of this node: how one is attached to its group's replica, lives through its loss, and is detached."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from copycat import sessions
from copycat.channels.commit import CommitChannel, SnapshotProvider
from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.errors import Closed, CopyCatError, GroupUnavailable
from copycat.feed import Feed
from copycat.founding import PATIENCE, Wish
from copycat.group import Group
from copycat.proposer import Proposer
from copycat.reads import Barrier
from copycat.sequencer import Sequencer
from copycat.sessions import SESSION_BYTES
from copycat.status import GroupStatus
from copycat.subscription import Subscription

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

SEEK_AGAIN_S = 10.0
GRACE_S = 0.5
"""Left to whoever seeks the group, to say what was wrong."""
ORPHANS_EVERY_TICKS = 40


class Consumer:
    """One subscription, seen from the engine. The ``ask_`` methods are a :class:`copycat.subscription.Desk`: any thread."""

    def __init__(
        self, engine: Engine, group_id: bytes, provider: SnapshotProvider, opened: Future[Subscription], deadline: float
    ) -> None:
        config = engine.config
        self._engine = engine
        self.group_id = group_id
        self.opened: Future[Subscription] | None = opened
        self.open_until = deadline
        self.group: Group | None = None
        self.feed: Feed | None = None
        self.close_until: float | None = None
        self.closed: list[Future[None]] = []
        self.ended = False
        self.barriers: list[Barrier] = []
        """Asked while there was no replica to ask."""
        self.commits = CommitChannel(provider, self._wake, config.commit_queue_bytes_max)
        self.errors = ErrorChannel(config.errors_max)
        self.propose = ProposeChannel(
            self._wake,
            lambda: self.subscription.close(),
            config.proposal_bytes_max,
            config.in_flight_bytes_max,
            config.in_flight_proposals_max,
        )
        self.proposer = Proposer(
            self.propose,
            self.errors,
            engine.node_id,
            engine.boot,
            lambda: engine.rng.getrandbits(8 * SESSION_BYTES).to_bytes(SESSION_BYTES, "big"),
            config.batch_proposals_max,
            config.batch_bytes_max,
            2 * config.election_ticks * config.tick_ms / 1000,
            engine.tally,
        )
        self.subscription = Subscription(self, self.propose, self.commits, self.errors, config.leave_timeout_s)

    def _wake(self) -> None:
        self._engine.post(self._touch)

    def _touch(self) -> None:
        if self.group is not None:
            self._engine.touch(self.group)

    def ask_barrier(self) -> Future[int]:
        barrier = Barrier()

        def asked() -> None:
            if self.group is not None:
                self.group.barrier(barrier)
            elif self.is_over:
                barrier.answer.set_exception(Closed("the subscription is closed"))
            else:
                self.barriers.append(barrier)

        if not self._engine.post(asked):
            barrier.answer.set_exception(Closed("the node has been shut down"))
        return barrier.answer

    def ask_status(self) -> Future[GroupStatus]:
        answer: Future[GroupStatus] = Future()
        self._ask(answer, lambda group: answer.set_result(self._engine.stewardship.status_of(group)))
        return answer

    def ask_close(self) -> Future[None]:
        answer: Future[None] = Future()
        if not self._engine.post(lambda: self._engine.consumers.close(self, answer)):
            answer.set_result(None)
        return answer

    def _ask(self, answer: Future[Any], ask: Callable[[Group], None]) -> None:
        def asked() -> None:
            if self.group is not None:
                ask(self.group)
            elif self.is_over:
                answer.set_exception(Closed("the subscription is closed"))
            else:
                answer.set_exception(GroupUnavailable("this node's replica is being replaced; try again"))

        if not self._engine.post(asked):
            answer.set_exception(Closed("the node has been shut down"))

    @property
    def is_over(self) -> bool:
        """Whether this consumer is being, or has been, detached for good."""
        return self.ended or self.close_until is not None

    def attach(self, group: Group) -> None:
        """Listen and propose through this replica. A feed that exists goes on where it is."""
        if self.feed is None:
            self.feed = Feed(self.commits, self.errors, Sequencer(dict(group.founders)))
        self.group = group
        group.attach(self.proposer, self.feed)
        self._engine.cluster.hosts(group)
        barriers, self.barriers = self.barriers, []
        for barrier in barriers:
            group.barrier(barrier)

    def end(self, reason: CopyCatError) -> None:
        """Nothing will come any more: say so on every channel."""
        self.ended = True
        for barrier in self.barriers:
            if not barrier.answer.done():
                barrier.answer.set_exception(Closed(str(reason)))
        self.barriers.clear()
        if self.group is not None and self.feed is not None:
            self.group.detach(self.proposer, self.feed)
        self.group = None
        self.proposer.end(reason)
        self.commits.end(reason)
        self.errors.end(reason)
        if self.opened is not None:
            if self.opened.set_running_or_notify_cancel():
                self.opened.set_exception(reason)
            self.opened = None
        for closed in self.closed:
            if not closed.done():
                closed.set_result(None)


class Consumers:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._consumers: list[Consumer] = []
        self._closing: list[Consumer] = []
        self._ticks = 0

    def subscribe(
        self, group_id: bytes, provider: SnapshotProvider, timeout_s: float, opened: Future[Subscription]
    ) -> None:
        """Make a consumer of the group, which is found, joined or created; ``opened`` gets its subscription."""
        consumer = Consumer(self._engine, group_id, provider, opened, self._engine.now + PATIENCE * timeout_s)
        self._consumers.append(consumer)
        self._seek(consumer, timeout_s)

    def _seek(self, consumer: Consumer, timeout_s: float) -> None:
        wish = Wish(self._engine.config.replicas)
        self._engine.founding.seek(consumer.group_id, wish, timeout_s, True, lambda error: self._found(consumer, error))

    def _found(self, consumer: Consumer, error: CopyCatError | None) -> None:
        if consumer not in self._consumers or consumer.group is not None:
            return
        if error is None:
            group = self._engine.hosting.groups.get(consumer.group_id)
            if group is not None:
                consumer.attach(group)
                self._open_if_led(consumer)
            return
        if consumer.opened is not None:
            self._remove(consumer, error)

    def _open_if_led(self, consumer: Consumer) -> None:
        if consumer.opened is not None and consumer.group is not None and consumer.group.leader:
            opened, consumer.opened = consumer.opened, None
            if opened.set_running_or_notify_cancel():
                opened.set_result(consumer.subscription)
            else:
                self._remove(consumer, Closed("nobody waits for the subscription any more"))

    def changed_role(self, group: Group) -> None:
        """The group has another leader, or none."""
        for consumer in [each for each in self._consumers if each.group is group]:
            self._open_if_led(consumer)

    def lost_replica(self, group: Group) -> None:
        """The group removed the replica from under its consumers: they ask for another."""
        for consumer in self._consumers:
            if consumer.group is group:
                assert consumer.feed is not None
                group.detach(consumer.proposer, consumer.feed)
                consumer.group = None
                consumer.barriers += group.reads.take()
                self._seek(consumer, SEEK_AGAIN_S)

    def succeeded(self, earlier: Group, group: Group) -> None:
        """Another replica goes on where ``earlier`` was: its consumers move, and keep their place and their sessions."""
        for consumer in self._consumers:
            if consumer.group is earlier:
                assert consumer.feed is not None
                earlier.detach(consumer.proposer, consumer.feed)
                consumer.barriers += earlier.reads.take()
                consumer.attach(group)

    def close(self, consumer: Consumer, closed: Future[None]) -> None:
        """Detach the consumer once what it has in flight is settled, or time is up."""
        if consumer not in self._consumers:
            closed.set_result(None)
            return
        consumer.closed.append(closed)
        if consumer.close_until is None:
            consumer.close_until = self._engine.now + self._engine.config.leave_timeout_s
            self._closing.append(consumer)
            consumer.proposer.drain(Closed("the subscription is closed"))
            if consumer.group is not None:
                self._engine.touch(consumer.group)
        self._close_if_drained(consumer)

    def _close_if_drained(self, consumer: Consumer) -> None:
        assert consumer.close_until is not None
        if consumer.proposer.drained or self._engine.now >= consumer.close_until:
            self._remove(consumer, Closed("the subscription is closed"))

    def _remove(self, consumer: Consumer, reason: CopyCatError) -> None:
        self._consumers.remove(consumer)
        if consumer in self._closing:
            self._closing.remove(consumer)
        group = consumer.group
        consumer.end(reason)
        if group is not None and not group.interactive:
            self._engine.stewardship.deserted(group)

    def settled(self, group: Group) -> None:
        """The group has done its turn: those who are closing may have been waiting for it."""
        if self._closing:
            for consumer in [each for each in self._closing if each.group is group]:
                self._close_if_drained(consumer)

    def tick(self) -> None:
        now = self._engine.now
        for consumer in list(self._consumers):
            if consumer.close_until is not None:
                self._close_if_drained(consumer)
            elif consumer.opened is not None and now >= consumer.open_until + (0.0 if consumer.group else GRACE_S):
                self._remove(
                    consumer, GroupUnavailable("the data structure exists, but its group had no leader in time")
                )
            elif (
                consumer.group is None
                and consumer.opened is None
                and not self._engine.founding.seeks(consumer.group_id)
            ):
                self._seek(consumer, SEEK_AGAIN_S)
        self._ticks += 1
        if self._ticks % ORPHANS_EVERY_TICKS == 0:
            self._close_orphans()

    def _close_orphans(self) -> None:
        """Close sessions of this node that no subscription here has: of an earlier start, or left by a lost message."""
        mine = {consumer.proposer.session for consumer in self._consumers}
        for group in self._engine.hosting.groups.values():
            for name, session in group.sequencer.sessions.sessions.items():
                if session.node_id == self._engine.node_id and name not in mine:
                    group.propose(sessions.pack_close(name))
                    self._engine.touch(group)

    @property
    def count(self) -> int:
        return len(self._consumers)

    def queue_bytes(self) -> tuple[int, int]:
        """Bytes of proposals that are not committed, and of commits that are not received, all consumers together."""
        proposals = sum(consumer.propose.bytes_in_flight for consumer in self._consumers)
        return proposals, sum(consumer.commits.bytes_waiting for consumer in self._consumers)

    def drain_all(self) -> list[Future[None]]:
        """Close every consumer; the futures tell when each is."""
        futures: list[Future[None]] = []
        for consumer in list(self._consumers):
            closed: Future[None] = Future()
            futures.append(closed)
            if consumer.opened is not None:
                self._remove(consumer, Closed("the node is being shut down"))
                closed.set_result(None)
            else:
                self.close(consumer, closed)
        return futures

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for consumer in self._consumers:
            consumer.end(reason)
        self._consumers.clear()
