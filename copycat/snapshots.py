"""A group's snapshots on this node: made by a consumer, fetched from a peer, and what may be compacted because of them.

A snapshot stands for everything up to one log index: the consumer's bytes, and the packed sequencer of the feed that had come
exactly there. It becomes due by the log that a feed has passed since the last one. The task then travels down the
commit channel behind the item it belongs to; the consumer's own thread calls the provider when it comes there, and hands
the bytes over in chunks, a few at a time, so that memory stays bounded and the engine never waits.

A replica without a consumer can't make one. It asks its peers for theirs, and so may compact, too. A follower that needs a
snapshot because its leader's log begins later fetches it before Raft is told of it: Raft only ever sees snapshots that
are whole and on this node's disk.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from copycat.codec import pack, pack_snapshot
from copycat.errors import CopyCatError, NodeFailure
from copycat.feed import Feed
from copycat.ids import name_of
from copycat.messages import Entry, Message, Snapshot
from copycat.plausibility import check_snapshot
from copycat.protocol import SnapshotAsk, SnapshotFailed, SnapshotOffer
from copycat.records import SnapshotMeta, unpack_descriptor
from copycat.sequencer import Sequencer
from copycat.snapshot_making import Making
from copycat.transfer import Fetch

if TYPE_CHECKING:
    from copycat.group import Group

log = logging.getLogger(__name__)

GARBAGE_KEYS_PER_TICK = 2048
ASK_EVERY_TICKS = 20
SENDING_S_MAX = 5.0
"""How long a follower that was told to fetch a snapshot may be silent before it is told again."""
PROVIDER_RETRY_S = 1.0
PROVIDER_RETRY_S_MAX = 60.0


class SnapshotDesk:
    """Belongs to the engine's thread, but for what :class:`Making` calls: ``wants``, ``post`` and ``ended``."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._store = group.store
        self._making: Making | None = None
        self._fetch: Fetch | None = None
        self._for_raft: Message | None = None
        self._sending: dict[int, tuple[int, float]] = {}
        self._held_back: list[Making] = []
        """Once for each chunk that may come when the disk is less busy; at most as many as may be on their way."""
        self._ticks = 0
        self._asked = 0
        self._seen = self._store.snapshots.current
        self.since = group.host.now
        """When the current snapshot was first seen, to a tick; after a restart, that."""
        self.readers: list[Sequencer] = []
        """How far backups have come that read this replica."""
        self.ended = False

    # --- making one ---

    def due(self, feed: Feed, entry: Entry) -> Making | None:
        """What the consumer of ``feed`` is asked for at ``entry``, if it is time."""
        return self._task(feed, entry.term) if self._is_due(feed, entry.index) else None

    def _is_due(self, feed: Feed, index: int) -> bool:
        if feed.bytes_passed < self._due_bytes and feed.entries_passed < self._group.host.config.snapshot_log_entries:
            return False
        return feed.retry_at is None and index > self._newest()

    @property
    def _due_bytes(self) -> int:
        """Log that makes a snapshot due; in any case long before the log is full."""
        config = self._group.host.config
        return min(config.snapshot_log_bytes, config.log_bytes_max // 2)

    def _task(self, feed: Feed, term: int) -> Making:
        feed.restart_count()
        feed.asked += 1
        index = feed.sequencer.index
        conf_state = self._group.conf_state_at(index)
        chunk_bytes = self._group.host.config.snapshot_chunk_bytes
        return Making(self, feed, index, term, conf_state, feed.sequencer.pack(), chunk_bytes)

    def _remind(self, feed: Feed) -> None:
        """Ask for what became due between two entries, or failed some time ago: a full log gets no further entry."""
        failed = feed.retry_at is not None
        if feed.asked or self._making is not None or (failed and self._group.host.now < (feed.retry_at or 0.0)):
            return
        feed.retry_at = None
        index = feed.sequencer.index
        held = self._store.first_index() <= index <= self._group.sequencer.index
        if held and index > self._newest() and (failed or self._is_due(feed, index)):
            feed.ask(self._task(feed, self._store.term(index)))

    def _count_from(self, feed: Feed, index: int) -> None:
        """What the feed has passed behind a snapshot at ``index`` counts towards the next one, if none is asked for."""
        if feed.asked:
            return
        at = feed.sequencer.index
        feed.restart_count(self._store.bytes_between(index + 1, at + 1), max(at - index, 0))

    @property
    def position(self) -> int:
        """Position that the current snapshot stands for; 0 if there is none."""
        current = self._store.snapshots.current
        return 0 if current is None else Sequencer.unpack(current.state).position

    def _newest(self) -> int:
        return self._store.snapshots.staged_index()

    def wants(self, making: Making) -> bool:
        """Whether a snapshot at this place is still of use. A hint; from any thread."""
        return not self.ended and self._making is None and making.index > self._newest()

    def post(self, action: Callable[[], None]) -> bool:
        return self._group.host.post(action)

    def chunk(self, making: Making, number: int, data: bytes) -> None:
        if making.refused or not self._begun(making):
            return
        assert making.generation is not None
        batch = self._group.host.stage(True, lambda: self._make_room(making))
        self._store.snapshots.stage_chunk(batch, making.generation, number, data)

    def _make_room(self, making: Making) -> None:
        """One chunk is on the disk: the next one may come, unless the disk has enough to do; then with a later tick."""
        if self._group.host.disk_congested():
            self._held_back.append(making)
        else:
            making.room.release()

    def _begun(self, making: Making) -> bool:
        """Whether this is the snapshot that is being made, which the first that asks becomes."""
        if self._making is making:
            return True
        if (
            self.ended
            or self._making is not None
            or making.index <= self._newest()
            or making.index < self._store.first_index()
        ):
            self.dropped(making)
            making.refuse()
            return False
        self._making = making
        making.generation = self._store.snapshots.begin()
        return True

    def finished(self, making: Making) -> None:
        if making.refused or not self._begun(making):
            return
        assert making.generation is not None
        meta = SnapshotMeta(
            making.index,
            making.term,
            making.conf_state,
            making.state,
            making.size,
            making.count,
            making.generation,
            making.checksum,
        )

        def durable() -> None:
            self._store.complete(pending)
            log.info("snapshot made", extra={"group": name_of(self._group.id), "index": meta.index, "bytes": meta.size})
            self.compact()

        self._making = None
        self._over(making)
        making.feed.failures = 0
        if meta.index <= self._newest():
            self._store.snapshots.abandon()
            return
        batch = self._group.host.stage(True, durable)
        pending = self._store.snapshots.stage_snapshot(batch, meta)
        for feed in self._group.feeds:
            self._count_from(feed, meta.index)

    def failed(self, making: Making, error: CopyCatError) -> None:
        self.dropped(making)
        feed = making.feed
        feed.retry_at = self._group.host.now + min(PROVIDER_RETRY_S * 2**feed.failures, PROVIDER_RETRY_S_MAX)
        feed.failures = min(feed.failures + 1, 16)
        feed.errors.push(error)

    def _over(self, making: Making) -> None:
        """The consumer is past this one, however it went."""
        if not making.over:
            making.over = True
            making.feed.asked -= 1

    def dropped(self, making: Making) -> None:
        """This one is not made after all."""
        self._over(making)
        self._count_from(making.feed, self._newest())
        if self._making is making:
            self._making = None
            self._store.snapshots.abandon()

    def left(self, feed: Feed) -> None:
        """The feed's consumer is detached."""
        if self._making is not None and self._making.feed is feed:
            making = self._making
            self.dropped(making)
            making.refuse()

    def end(self) -> None:
        """The replica is closed."""
        self.ended = True
        if self._making is not None:
            self._making.refuse()
        if self._fetch is not None:
            self._fetch.replaced()
            self._fetch = None

    # --- handing one to a consumer ---

    def reload(self, feed: Feed) -> bool:
        """Let the consumer of ``feed`` go on from the current snapshot, if it is ahead; False if not."""
        meta = self._store.snapshots.current
        if meta is None or meta.index <= feed.sequencer.index:
            return False
        snapshots = self._store.snapshots
        snapshots.retain(meta.generation)
        feed.reload(
            meta.state,
            lambda: self._load(meta),
            lambda: self.post(lambda: snapshots.release(meta.generation)),
        )
        return True

    def _load(self, meta: SnapshotMeta) -> bytes:
        """On the consumer's thread. What can't be read any more stops the node."""
        whole = io.BytesIO()  # joining an iterator would hold all chunks a second time
        try:
            for chunk in self._store.snapshots.chunks(meta):
                whole.write(chunk)
            return whole.getvalue()
        except NodeFailure as error:
            failure = error

            def stop() -> None:
                raise failure

            self.post(stop)
            raise

    # --- fetching one ---

    def fetch_for_raft(self, sender: str, message: Message) -> None:
        """The leader says that this replica needs a snapshot: fetch it first, and only then tell Raft."""
        assert message.snapshot is not None
        raft = self._group.raft
        if message.snapshot.index <= raft.committed:
            raft.step(message)
            return
        meta = unpack_descriptor(message.snapshot.data)
        check_snapshot(message.snapshot, meta)
        self._for_raft = message
        self._fetch_from(sender, meta)

    def _fetch_from(self, node_id: str, meta: SnapshotMeta) -> None:
        if self._fetch is not None:
            if self._fetch.is_of(node_id, meta):
                return
            self._fetch.replaced()
        self._fetch = Fetch(self._group, node_id, meta)

    def offered(self, sender: str, snapshot: Snapshot) -> None:
        """A peer has a snapshot that this replica may compact its log by."""
        if self.ended:
            return
        meta = unpack_descriptor(snapshot.data)
        check_snapshot(snapshot, meta)
        usable = self._newest() < meta.index <= self._group.sequencer.index
        if self._fetch is None and usable and meta.index >= self._store.first_index():
            self._fetch_from(sender, meta)

    @property
    def fetch(self) -> Fetch | None:
        """The transfer that is under way."""
        return self._fetch

    def _fetched(self, fetch: Fetch) -> None:
        message, self._for_raft = self._for_raft, None
        meta = fetch.local_meta()
        if message is not None and message.snapshot is not None and message.snapshot.index == meta.index:
            self._group.raft.step(message)
            if not self._group.raft.restoring:
                self._fetch = None  # Raft did not need it after all, or its leader is of the past
            return
        self._fetch = None
        if meta.index <= self._newest() or meta.index > self._group.sequencer.index:
            batch = self._group.host.stage(True, lambda: self._store.complete(abandoned))
            abandoned = self._store.snapshots.stage_receive_abandoned(batch)
            return

        def durable() -> None:
            self._store.complete(pending)
            self.compact()

        batch = self._group.host.stage(True, durable)
        pending = self._store.stage_adopt(batch, meta)

    def fetched(self, snapshot: Snapshot) -> SnapshotMeta:
        """The local description of the snapshot that Raft is installing."""
        assert self._fetch is not None
        fetch, self._fetch = self._fetch, None
        meta = fetch.local_meta()
        assert meta.index == snapshot.index, f"fetched {meta.index}, Raft installs {snapshot.index}"
        if self._making is not None:
            making = self._making
            self.dropped(making)
            making.refuse()
        return meta

    def _fetch_failed(self, fetch: Fetch) -> None:
        self._fetch = None
        message, self._for_raft = self._for_raft, None
        log.warning(
            "could not fetch a snapshot: %s",
            fetch.failed,
            extra={"group": name_of(self._group.id), "node_id": fetch.node_id, "index": fetch.meta.index},
        )
        if message is not None:
            self._group.host.send(fetch.node_id, SnapshotFailed(self._group.id, self._group.raft_id))

    # --- giving one ---

    def sending(self, message: Message) -> None:
        """Raft tells a follower to fetch the current snapshot: the log behind it is kept meanwhile."""
        assert message.snapshot is not None
        self._sending[message.to] = (message.snapshot.index, self._group.host.now + SENDING_S_MAX)

    def still_sending(self, node_id: str) -> None:
        """The node has asked for chunks: the replica there is alive, and takes its time."""
        until = self._group.host.now + SENDING_S_MAX
        for raft_id, (index, _) in self._sending.items():
            if self._group.node_of(raft_id) == node_id:
                self._sending[raft_id] = (index, until)

    def unreachable(self, raft_id: int) -> None:
        """Something for this follower was dropped, maybe the announcement: say it again once the follower answers."""
        if raft_id in self._sending:
            self.peer_failed(raft_id)

    def peer_failed(self, raft_id: int) -> None:
        """The follower could not fetch what it was told to."""
        self._sending.pop(raft_id, None)
        self._group.raft.report_snapshot(raft_id, False)
        self._group.host.touch(self._group)

    # --- time ---

    def turn(self) -> None:
        """Before Raft is asked what is to be done: it installs in the same turn what it is told of here."""
        if self._fetch is not None:
            if self._fetch.done:
                self._fetched(self._fetch)
            elif self._fetch.failed:
                self._fetch_failed(self._fetch)

    def tick(self) -> None:
        now = self._group.host.now
        if self._store.snapshots.current is not self._seen:
            self._seen = self._store.snapshots.current
            self.since = now
        for feed in self._group.feeds:
            self._remind(feed)
        if self._fetch is not None:
            self._fetch.tick()
        if self._held_back and not self._group.host.disk_congested():
            for making in self._held_back:
                making.room.release()
            self._held_back.clear()
        for raft_id in [raft_id for raft_id, (_, until) in self._sending.items() if now > until]:
            del self._sending[raft_id]
            self._group.raft.report_snapshot(raft_id, False)
        if self._store.has_garbage():
            self._store.stage_garbage(self._group.host.stage(False, _nothing), GARBAGE_KEYS_PER_TICK)
        self._ticks += 1
        if self._ticks % ASK_EVERY_TICKS == 0:
            self.compact()
            self._ask_peers()

    def _ask_peers(self) -> None:
        """Without a consumer here, somebody else's snapshot is the only way to compact; or with one that takes nothing."""
        group = self._group
        if self._fetch is not None or self._making is not None:
            return
        low = max(self._newest() + 1, self._store.first_index())
        behind = self._store.bytes_between(low, self._store.last_index() + 1)
        enough = 2 if group.interactive else 1
        entries = self._store.last_index() - low
        if behind < enough * self._due_bytes and entries < enough * group.host.config.snapshot_log_entries:
            return
        others = [member.node_id for raft_id, member in group.sequencer.members.items() if raft_id != group.raft_id]
        if others:
            group.host.send(others[self._asked % len(others)], SnapshotAsk(group.id, self._newest()))
            self._asked += 1

    # --- compaction ---

    def compact(self) -> None:
        """Drop the log that the current snapshot stands for, but for what a follower or a consumer here still needs."""
        current = self._store.snapshots.current
        first = self._store.first_index()
        if self.ended or current is None or current.index < first:
            return
        config = self._group.host.config
        budget = min(config.follower_log_bytes_max, config.log_bytes_max // 4)
        target = self._trail(current.index)
        for index in self._needed():
            if first <= index < target and self._store.bytes_between(index + 1, current.index + 1) <= budget:
                target = index
        if target < first:
            return
        # Synced: what it frees is deleted later without a sync, and a power failure must not take this and leave that.
        batch = self._group.host.stage(True, lambda: self._store.complete(pending))
        pending = self._store.stage_compaction(batch, target)
        self._group.forget_conf_states(target)

    def _needed(self) -> list[int]:
        """Indices behind which somebody still wants the log: followers, transfers, consumers."""
        needed = [index for index, _ in self._sending.values()]
        needed += [feed.sequencer.index for feed in self._group.feeds]
        needed += [reader.index for reader in self.readers if reader.index]
        needed += self._group.follower_matches()
        return needed

    def _trail(self, index: int) -> int:
        """Keep a little log behind the snapshot, for those that are only just behind."""
        keep = self._due_bytes // 4
        low, high = self._store.first_index() - 1, index
        while low < high:
            middle = (low + high + 1) // 2
            if self._store.bytes_between(middle + 1, index + 1) >= keep:
                low = middle
            else:
                high = middle - 1
        return low

    def handle_ask(self, sender: str, ask: SnapshotAsk) -> None:
        current = self._store.snapshots.current
        if current is not None and current.index > ask.index:
            self._group.host.send(sender, SnapshotOffer(self._group.id, self._packed_current()))

    def _packed_current(self) -> bytes:
        return pack(pack_snapshot(self._store.snapshot()))


def _nothing() -> None:
    """Deleting waste matters to nobody."""
