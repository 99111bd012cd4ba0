"""Push-pull: two nodes compare their tables, and exchange them only if they differ.

News can get lost; a node can be cut off for longer than news travels. So each node now and then offers a random member
the digest of its table. The exchange::

    OFFER (digest, own record)  ->
                                <-  SAME, or STATE_ASK (the other's table)
    STATE (our table, less what the other said itself)  ->

Every message is one or more pages of at most 256 KiB, each of which stands for itself, so that a lost one harms
nothing. What comes in is treated as news: a member said to be dead is only suspected if it was thought alive here, so
that it can refute. Members that left and are unknown here are not learned, so that they can be forgotten.
"""

from __future__ import annotations

import hashlib

from copycat.errors import CodecError
from copycat.gossip.joining import Joiner
from copycat.gossip.membership import Membership
from copycat.gossip.records import MemberRecord, MemberState
from copycat.gossip.wire import (
    PAGE_BYTES_MAX,
    PAGE_HEAD_BYTES,
    Page,
    PageKind,
    PageRecord,
    PageState,
    pack_page,
    pack_page_record,
    unpack_page,
)


class AntiEntropy:
    """Makes and takes pages; keeps nothing between them."""

    def __init__(self, membership: Membership, joiner: Joiner) -> None:
        self._membership = membership
        self._joiner = joiner

    def offer(self) -> list[bytes]:
        """The first message of an exchange."""
        me = self._membership.me
        page = Page(PageKind.OFFER, me.node_id, self._joiner.belongs, digest=self._digest())
        return [pack_page(page, [pack_page_record(PageRecord(PageState.ALIVE, me))])]

    def receive(self, now: float, from_node: str, data: bytes) -> list[bytes]:
        """Take a page; returns the pages to send back to ``from_node``.

        Raises :class:`~copycat.errors.CodecError`, before anything was changed.
        """
        page = unpack_page(data)
        if page.sender != from_node:
            raise CodecError("a page that says it comes from somebody else")
        me = self._membership.me.node_id
        if page.kind is PageKind.OFFER:
            self._merge(now, page)
            digest = self._digest()
            if digest == page.digest:
                return [pack_page(Page(PageKind.SAME, me, self._joiner.belongs, digest=digest), [])]
            return self._pages(PageKind.STATE_ASK, {})
        if page.kind is PageKind.SAME:
            self._met(page)
            return []
        self._merge(now, page)
        if page.index + 1 < page.count:
            return []
        self._met(page)
        if page.kind is PageKind.STATE:
            return []
        return self._pages(PageKind.STATE, {item.record.node_id: item for item in page.records})

    def _met(self, page: Page) -> None:
        if page.belongs:
            self._joiner.joined()

    def _merge(self, now: float, page: Page) -> None:
        membership = self._membership
        # A joiner hears what all others know already; spreading that again would be noise.
        spread = self._joiner.is_in
        for item in page.records:
            record = item.record
            state = item.state
            if state is PageState.ALIVE:
                membership.hear_alive(now, record, spread)
            elif state is PageState.SUSPECT or (state is PageState.DEAD and self._is_live(record.node_id)):
                if state is PageState.SUSPECT:
                    membership.hear_alive(now, record.with_state(MemberState.ALIVE, record.incarnation), spread)
                membership.hear_suspect(now, record.node_id, record.incarnation, page.sender)
            elif state is PageState.DEAD:
                membership.learn_dead(now, record)
                membership.hear_dead(now, record.node_id, record.incarnation, page.sender)
            elif state is PageState.LEFT:
                membership.hear_left(now, record.node_id, record.incarnation)
            else:
                membership.learn_remembered(now, record)

    def _is_live(self, node_id: str) -> bool:
        record = self._membership.record_of(node_id)
        return record is not None and record.state in (MemberState.ALIVE, MemberState.SUSPECT)

    def _pages(self, kind: PageKind, known: dict[str, PageRecord]) -> list[bytes]:
        """This node's table, less what ``known`` says already."""
        membership = self._membership
        own = membership.me
        items = [PageRecord(PageState.LEFT if membership.leaving else PageState.ALIVE, own)]
        for member in membership.table.entries.values():
            record = member.record
            state = PageState(record.state) if member.verified else PageState.REMEMBERED
            theirs = known.get(record.node_id)
            if theirs is not None and theirs.state is state and theirs.record.incarnation == record.incarnation:
                continue
            items.append(PageRecord(state, record))
        batches: list[list[bytes]] = [[]]
        room = PAGE_BYTES_MAX - PAGE_HEAD_BYTES
        for item in items:
            packed = pack_page_record(item)
            if len(packed) > room:
                batches.append([])
                room = PAGE_BYTES_MAX - PAGE_HEAD_BYTES
            batches[-1].append(packed)
            room -= len(packed)
        belongs = self._joiner.belongs
        return [
            pack_page(Page(kind, own.node_id, belongs, index, len(batches)), batch)
            for index, batch in enumerate(batches)
        ]

    def _digest(self) -> bytes:
        """What must be equal on both sides for an exchange to be pointless.

        Suspicion is passing and tombstones expire at different times, so neither counts.
        """
        lines = [_line(member.record) for member in self._membership.table.entries.values()]
        if not self._membership.leaving:
            lines.append(_line(self._membership.me))
        lines.sort()
        return hashlib.blake2b("".join(lines).encode(), digest_size=8).digest()


def _line(record: MemberRecord) -> str:
    if record.state is MemberState.LEFT:
        return ""
    state = "-" if record.state is MemberState.DEAD else "+"
    return f"{record.node_id}{state}{record.incarnation};"
