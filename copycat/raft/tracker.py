"""The members of a group as one replica sees them: configuration, progress of each, votes of the present election.

Everything that asks "does a quorum ..." is answered here, from :mod:`copycat.raft.quorum` and the configuration.
"""

from __future__ import annotations

from copycat.messages import ConfState
from copycat.raft import quorum
from copycat.raft.confchange import Changed, Changer, Configuration, Members
from copycat.raft.inflights import Inflights
from copycat.raft.progress import Progress
from copycat.raft.quorum import VoteResult


class Tracker:
    """Configuration, progress and votes. ``peers`` is ascending by id and leaves out this replica itself."""

    __slots__ = (
        "_inflight_bytes_max",
        "_inflight_msgs_max",
        "_majorities",
        "_own_id",
        "config",
        "is_learner",
        "members",
        "own",
        "peers",
        "votes",
    )

    def __init__(self, own_id: int, inflight_msgs_max: int, inflight_bytes_max: int) -> None:
        self._own_id = own_id
        self._inflight_msgs_max = inflight_msgs_max
        self._inflight_bytes_max = inflight_bytes_max
        self.votes: dict[int, bool] = {}
        self.install(Changed(Configuration(), {}))

    config: Configuration
    members: Members
    peers: list[tuple[int, Progress]]
    own: Progress | None

    def install(self, changed: Changed) -> None:
        """Rule by this configuration from now on."""
        config, members = changed.config, changed.members
        self.config = config
        self.members = members
        self.peers = [(replica, members[replica]) for replica in sorted(members) if replica != self._own_id]
        self.own = members.get(self._own_id)
        self.is_learner = self.own is not None and self.own.is_learner
        self._majorities = [
            [members[replica] for replica in sorted(half)] for half in (config.voters, config.outgoing) if half
        ]

    def restore(self, state: ConfState, last_index: int) -> None:
        """Start anew from a configuration that was stored or came with a snapshot.

        Raises :class:`~copycat.errors.InvalidConfChange` for one that can't be.
        """
        config = Configuration.of(state)
        members = {
            replica: self._member(last_index, replica in config.learners)
            for replica in config.voters | config.outgoing | config.learners
        }
        self.install(Changed(config, members))

    def changer(self, last_index: int) -> Changer:
        """What derives the next configuration; new members are probed from ``last_index`` downwards."""
        return Changer(self.config, self.members, lambda is_learner: self._member(last_index, is_learner))

    def _member(self, last_index: int, is_learner: bool) -> Progress:
        window = Inflights(self._inflight_msgs_max, self._inflight_bytes_max)
        # Counted as heard from: otherwise a leader under check-quorum could step down before a new member had a chance.
        return Progress(0, max(last_index, 1), window, is_learner=is_learner, active=True)

    def voters(self) -> frozenset[int]:
        """Voters of both halves."""
        return self.config.voters | self.config.outgoing

    def sole_voter(self) -> int | None:
        """The one voter that decides alone, if that is so."""
        if len(self.config.voters) == 1 and not self.config.outgoing:
            return next(iter(self.config.voters))
        return None

    def committed_index(self) -> int:
        """The largest index that a quorum has acknowledged."""
        majorities = self._majorities
        if len(majorities) == 1:
            return quorum.majority_index([progress.match for progress in majorities[0]])
        return min(
            (quorum.majority_index([progress.match for progress in half]) for half in majorities),
            default=quorum.INFINITE,
        )

    def quorum_of(self, acknowledged: dict[int, int]) -> int:
        """The largest number that a quorum has acknowledged in ``acknowledged``."""
        return quorum.joint_committed_index(self.config.voters, self.config.outgoing, acknowledged)

    def quorum_is_active(self) -> bool:
        """Whether this replica and those heard from lately make a quorum."""
        active = {replica: progress.active for replica, progress in self.members.items() if not progress.is_learner}
        if self._own_id in active:
            active[self._own_id] = True
        return quorum.joint_vote_result(self.config.voters, self.config.outgoing, active) is VoteResult.WON

    def record_vote(self, voter: int, granted: bool) -> None:
        """The first answer of each counts."""
        self.votes.setdefault(voter, granted)

    def election_result(self) -> VoteResult:
        return quorum.joint_vote_result(self.config.voters, self.config.outgoing, self.votes)
