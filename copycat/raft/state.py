"""Everything one replica remembers, and the two things that every rule does with it: send, and start over.

The rules themselves are functions in the modules beside this one, each about one part of the protocol; they share this
state and nothing else. Which function handles which message is written in :mod:`copycat.raft.core`.

Two lists of messages leave here, and which one a rule uses is a matter of safety: ``messages`` may go at once,
``messages_after_append`` only when everything that was unstable at that moment is durable. Every acknowledgement and
every vote, also to oneself, belongs to the second (figure 2: "updated on stable storage before responding").
"""

from __future__ import annotations

from copycat.errors import InvalidConfig
from copycat.messages import NONE, HardState, Message
from copycat.raft.config import RaftConfig, ReadOnly
from copycat.raft.log import RaftLog
from copycat.raft.readonly import ReadQueue
from copycat.raft.ready import ReadState, Role, SoftState
from copycat.raft.tracker import Tracker


class Raft:
    """The state of figure 2, and what its later extensions need."""

    __slots__ = (
        "check_quorum",
        "disable_conf_change_validation",
        "disable_proposal_forwarding",
        "election_elapsed",
        "election_tick",
        "heartbeat_elapsed",
        "heartbeat_tick",
        "id",
        "install_older_snapshots",
        "lead",
        "lead_transferee",
        "log",
        "messages",
        "messages_after_append",
        "pending_conf_index",
        "pre_vote",
        "randomized_election_timeout",
        "read_only",
        "read_states",
        "reads",
        "reads_before_commit",
        "rng",
        "role",
        "size_per_msg_max",
        "step_down_on_removal",
        "term",
        "tracker",
        "uncommitted_size",
        "uncommitted_size_max",
        "vote",
        "waiting_reads_max",
    )

    def __init__(self, config: RaftConfig) -> None:
        hard_state, conf_state = config.storage.initial_state()
        self.id = config.id
        self.rng = config.rng
        self.election_tick = config.election_tick
        self.heartbeat_tick = config.heartbeat_tick
        self.check_quorum = config.check_quorum
        self.pre_vote = config.pre_vote
        self.read_only: ReadOnly = config.read_only
        self.waiting_reads_max = config.waiting_reads_max
        self.size_per_msg_max = config.size_per_msg_max
        self.uncommitted_size_max = config.uncommitted_size_max
        self.disable_conf_change_validation = config.disable_conf_change_validation
        self.disable_proposal_forwarding = config.disable_proposal_forwarding
        self.step_down_on_removal = config.step_down_on_removal
        self.install_older_snapshots = config.install_older_snapshots

        self.log = RaftLog(config.storage, config.committed_size_per_ready_max)
        self.tracker = Tracker(config.id, config.inflight_msgs_max, config.inflight_bytes_max)
        self.tracker.restore(conf_state, self.log.last_index)

        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.lead = NONE
        self.lead_transferee = NONE
        """To whom leadership is being handed, on a leader."""
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = 0
        self.pending_conf_index = 0
        """The last configuration change in the log is at or before this; none may follow until it is applied."""
        self.uncommitted_size = 0
        """Payload bytes of entries proposed in this term and not applied yet."""
        self.reads = ReadQueue()
        self.reads_before_commit: list[Message] = []
        """Reads that came before this leader committed an entry of its own term."""
        self.read_states: list[ReadState] = []
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []

        if not hard_state.is_empty():
            self.log.commit_to(hard_state.commit)
        if config.applied:
            if not self.log.applied <= config.applied <= self.log.last_index:
                raise InvalidConfig(
                    f"applied is {config.applied}: the log is compacted to {self.log.applied} and ends at "
                    f"{self.log.last_index}"
                )
            # What is applied is committed, even if the commit index itself was not synced.
            self.log.commit_to(config.applied)
            self.log.applied_to(config.applied)
        self.become_follower(self.term, NONE)

    # --- seen from outside ---

    def soft_state(self) -> SoftState:
        return SoftState(self.lead, self.role)

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    # --- sending ---

    def send(self, message: Message) -> None:
        """May go at once."""
        self.messages.append(message)

    def send_after_append(self, message: Message) -> None:
        """May go when what is unstable now is durable."""
        self.messages_after_append.append(message)

    # --- starting over ---

    def reset(self, term: int) -> None:
        """Forget what belonged to the last role; the vote too, if the term is another."""
        if self.term != term:
            self.term = term
            self.vote = NONE
        self.lead = NONE
        self.lead_transferee = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        # Randomised anew each time, so that a split vote is not repeated (paper, 5.2).
        self.randomized_election_timeout = self.rng.randint(self.election_tick, 2 * self.election_tick - 1)
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.reads = ReadQueue()
        self.reads_before_commit = []
        last = self.log.last_index
        tracker = self.tracker
        tracker.votes = {}
        for _, progress in tracker.peers:
            progress.reset(0, last + 1)
        if tracker.own is not None:
            tracker.own.reset(last, last + 1)

    def become_follower(self, term: int, lead: int) -> None:
        self.reset(term)
        self.lead = lead
        self.role = Role.FOLLOWER

    def promotable(self) -> bool:
        """Whether this replica may stand for election: a voter whose log is not being replaced."""
        tracker = self.tracker
        return tracker.own is not None and not tracker.is_learner and self.log.unstable.snapshot is None
