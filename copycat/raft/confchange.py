"""How a configuration turns into the next one (paper, section 6; thesis, chapter 4), and how a change is packed.

One voter may be added or removed in a simple step, because then the majorities before and after overlap. Any other
change goes through a joint configuration, in which every decision needs a majority of the incoming *and* of the
outgoing voters. A voter that is demoted meanwhile stays one in the outgoing half, so it can't be a learner yet: it
waits in ``learners_next`` until the joint configuration is left.

Nothing here changes its arguments: a refused change leaves no trace.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from copycat.errors import CodecError, InvalidConfChange
from copycat.messages import (
    NONE,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
)
from copycat.raft.progress import Progress

_ADD_VOTER = ConfChangeType.ADD_VOTER
_ADD_LEARNER = ConfChangeType.ADD_LEARNER
_REMOVE = ConfChangeType.REMOVE


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who takes part. ``outgoing`` is empty unless the configuration is joint."""

    voters: frozenset[int] = frozenset()
    outgoing: frozenset[int] = frozenset()
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    @classmethod
    def of(cls, state: ConfState) -> Configuration:
        """What ``state`` describes. Raises :class:`~copycat.errors.InvalidConfChange` if that can't be."""
        config = cls(
            frozenset(state.voters),
            frozenset(state.voters_outgoing),
            frozenset(state.learners),
            frozenset(state.learners_next),
            state.auto_leave,
        )
        if (config.outgoing or config.learners) and not config.voters:
            raise InvalidConfChange("removed all voters")
        if config.learners & (config.voters | config.outgoing) or not config.learners_next <= config.outgoing:
            raise InvalidConfChange(f"{state} makes a replica voter and learner at once")
        return config

    def conf_state(self) -> ConfState:
        return ConfState(
            voters=tuple(sorted(self.voters)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )


Members = dict[int, Progress]
"""Progress of every replica of a configuration, by id."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A configuration and the members that it has."""

    config: Configuration
    members: Members


class Changer:
    """Derives the configuration after a change from the one before it.

    ``new_member`` makes the progress of a replica that was no member before; it is told whether that is a learner.
    """

    __slots__ = ("_config", "_members", "_new_member")

    def __init__(self, config: Configuration, members: Members, new_member: Callable[[bool], Progress]) -> None:
        self._config = config
        self._members = members
        self._new_member = new_member

    def after(self, changed: Changed) -> Changer:
        """What derives the configuration that follows ``changed``."""
        return Changer(changed.config, changed.members, self._new_member)

    def apply(self, change: ConfChange) -> Changed:
        """Take the step that ``change`` asks for. Raises :class:`~copycat.errors.InvalidConfChange`."""
        if leaves_joint(change):
            return self.leave_joint()
        if change.v1 or (change.transition is ConfChangeTransition.AUTO and len(change.changes) == 1):
            return self.simple(change.changes)
        return self.enter_joint(change.changes, change.transition is not ConfChangeTransition.JOINT_EXPLICIT)

    def simple(self, changes: Iterable[ConfChangeSingle]) -> Changed:
        """Change at most one voter, and any learners."""
        if self._config.joint:
            raise InvalidConfChange("can't apply simple config change in joint config")
        draft = self._draft()
        draft.apply(changes)
        if len(draft.voters ^ self._config.voters) > 1:
            raise InvalidConfChange("more than one voter changed without entering joint config")
        return draft.finish(self._config.auto_leave)

    def enter_joint(self, changes: Iterable[ConfChangeSingle], auto_leave: bool) -> Changed:
        """Keep the present voters as the outgoing half, and change the incoming one at will."""
        if self._config.joint:
            raise InvalidConfChange("config is already joint")
        if not self._config.voters:
            raise InvalidConfChange("can't make a zero-voter config joint")
        draft = self._draft()
        draft.outgoing = set(draft.voters)
        draft.apply(changes)
        return draft.finish(auto_leave)

    def leave_joint(self) -> Changed:
        """Drop the outgoing half; what waited for that becomes a learner."""
        if not self._config.joint:
            raise InvalidConfChange("can't leave a non-joint config")
        draft = self._draft()
        for replica in draft.learners_next:
            draft.learners.add(replica)
            draft.members[replica].is_learner = True
        for replica in draft.outgoing - draft.voters - draft.learners:
            draft.members.pop(replica, None)
        draft.learners_next, draft.outgoing = set(), set()
        return draft.finish(False)

    def _draft(self) -> _Draft:
        return _Draft(self._config, self._members, self._new_member)


class _Draft:
    """A configuration that is being changed."""

    __slots__ = ("_new_member", "learners", "learners_next", "members", "outgoing", "voters")

    def __init__(self, config: Configuration, members: Members, new_member: Callable[[bool], Progress]) -> None:
        self.voters = set(config.voters)
        self.outgoing = set(config.outgoing)
        self.learners = set(config.learners)
        self.learners_next = set(config.learners_next)
        self.members = {replica: progress.copy() for replica, progress in members.items()}
        self._new_member = new_member

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        for change in changes:
            if change.id == NONE:
                continue
            if change.type == _ADD_VOTER:
                self._add_voter(change.id)
            elif change.type == _ADD_LEARNER:
                self._add_learner(change.id)
            elif change.type == _REMOVE:
                self._remove(change.id)
        if not self.voters:
            raise InvalidConfChange("removed all voters")

    def _add_voter(self, replica: int) -> None:
        progress = self.members.get(replica)
        if progress is None:
            self.members[replica] = self._new_member(False)
        else:
            progress.is_learner = False
        self.learners.discard(replica)
        self.learners_next.discard(replica)
        self.voters.add(replica)

    def _add_learner(self, replica: int) -> None:
        progress = self.members.get(replica)
        if progress is None:
            self.members[replica] = self._new_member(True)
            self.learners.add(replica)
            return
        if progress.is_learner:
            return
        self._remove(replica)
        self.members[replica] = progress
        if replica in self.outgoing:
            self.learners_next.add(replica)
        else:
            progress.is_learner = True
            self.learners.add(replica)

    def _remove(self, replica: int) -> None:
        self.voters.discard(replica)
        self.learners.discard(replica)
        self.learners_next.discard(replica)
        if replica not in self.outgoing:
            self.members.pop(replica, None)

    def finish(self, auto_leave: bool) -> Changed:
        config = Configuration(
            frozenset(self.voters),
            frozenset(self.outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        return Changed(config, self.members)


def leaves_joint(change: ConfChange) -> bool:
    """Whether ``change`` asks to leave a joint configuration."""
    return not change.v1 and not change.changes and change.transition is ConfChangeTransition.AUTO


# --- packing --------------------------------------------------------------------------------------------------------

_VERSION = 1
_HEAD = struct.Struct("<BBBHI")  # version, is v1, transition, number of changes, length of the context
_SINGLE = struct.Struct("<BQ")  # type, replica


def pack_conf_change(change: ConfChange) -> bytes:
    """The data of a configuration change's entry. To leave a joint configuration is no bytes at all.

    That keeps the change that ends a joint configuration outside the limit of uncommitted bytes: it must get through.
    """
    if leaves_joint(change) and not change.context:
        return b""
    head = _HEAD.pack(_VERSION, change.v1, change.transition, len(change.changes), len(change.context))
    return head + b"".join([_SINGLE.pack(single.type, single.id) for single in change.changes]) + change.context


def unpack_conf_change(data: bytes) -> ConfChange:
    """The reverse of :func:`pack_conf_change`. Raises :class:`~copycat.errors.CodecError` for anything else."""
    if not data:
        return ConfChange()
    try:
        version, v1, transition, count, context_length = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise CodecError(f"configuration change of version {version}: this release reads version {_VERSION}")
        end = _HEAD.size + count * _SINGLE.size
        if v1 > 1 or (v1 and count != 1) or len(data) != end + context_length:
            raise CodecError("configuration change of a wrong length")
        changes = tuple(
            ConfChangeSingle(ConfChangeType(kind), replica)
            for kind, replica in _SINGLE.iter_unpack(data[_HEAD.size : end])
        )
        return ConfChange(changes, ConfChangeTransition(transition), data[end:], bool(v1))
    except (struct.error, ValueError) as error:
        raise CodecError(f"not a configuration change: {error}") from error
