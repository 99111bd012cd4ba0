"""When a replica that the log has removed may be let go.

A removed replica is destroyed only after an entry is committed that was appended once its removal had been applied. Until
then a majority of those that stay might have forgotten, in a crash, that the removal is committed, come back in the old
configuration, and need the vote of a replica that is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copycat.group import Group


class Farewell:
    """Of one replica's group. Belongs to the engine's thread."""

    __slots__ = ("_due", "_group", "_index")

    def __init__(self, group: Group) -> None:
        self._group = group
        self._index = 0
        self._due = False

    def begin(self) -> None:
        """There is another leader, or another configuration: count from the end of the log as it is now."""
        self._index = self._group.raft.last_index
        self._due = bool(self._group.sequencer.departed)

    @property
    def may_dismiss(self) -> bool:
        """Whether removed replicas may be destroyed, as far as this leader knows.

        An append carries the leader's commit index and is written together with it, so that a majority has it on disk that
        the removal is committed once an entry is committed that was appended after the removal had been applied.
        """
        return self._group.leads and self._group.sequencer.index > self._index

    def came(self) -> bool:
        """Whether :attr:`may_dismiss` has become true since the last call; said once."""
        if not self._due or not self.may_dismiss:
            return False
        self._due = False
        return True

    def hasten(self) -> None:
        """Append the entry that :attr:`may_dismiss` waits for, unless there is one."""
        group = self._group
        if group.leads and group.raft.last_index <= self._index:
            group.propose(b"")
            group.host.touch(group)
