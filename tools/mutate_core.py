"""Break one rule of the core at a time, and see a test fail for each.

    python tools/mutate_core.py [--only WORD] [--chaos]

Works on a copy. A rule that can be broken unseen ends the run with status 1. With ``--chaos`` it asks only the seeded
world, to learn what that alone would find.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Mutation:
    rule: str
    module: str
    before: str
    after: str


MUTATIONS = (
    Mutation(
        "follower-side backtracking by term",
        "following",
        "log.probable_match(min(previous, log.last_index), message.log_term)",
        "min(previous, log.last_index)",
    ),
    Mutation("leader-side backtracking by term", "replication", "if message.log_term > 0:", "if False:"),
    Mutation(
        "an acknowledgement of an older term is ignored (ABA)",
        "core",
        "elif kind == _Type.STORAGE_APPEND_RESP and message.snapshot is not None:",
        "elif kind == _Type.STORAGE_APPEND_RESP:\n        _handle_stored(raft, message)\n    elif False:",
    ),
    Mutation(
        "an acknowledgement counts only for the entry it names",
        "unstable",
        "and self.entries[position].term == term",
        "",
    ),
    Mutation("snapshots go to active peers only", "replication", "if not progress.active:", "if False:"),
    Mutation(
        "no campaign with an unapplied configuration change",
        "election",
        "and not has_unapplied_conf_change(raft)",
        "",
    ),
    Mutation(
        "pause when the size limit cut the list",
        "log",
        "or self.applying < last",
        "",
    ),
    Mutation("a lease expires", "core", "and raft.election_elapsed < raft.election_tick", ""),
    Mutation("a lease is honoured", "core", "and hears_leader(raft)", "and False"),
    Mutation("no proposals during a transfer", "membership", "if raft.lead_transferee != NONE:", "if False:"),
    Mutation(
        "a probe with entries pauses",
        "progress",
        "elif count:\n            self.flow_paused = True",
        "else:\n            pass",
    ),
    Mutation("an empty probe does not pause", "progress", "elif count:", "else:"),
    Mutation(
        "an empty append tells a commit index that was not sent",
        "replication",
        "elif is_peer and progress.commit_is_news(raft.log.committed):",
        "elif False:",
    ),
    Mutation(
        "no empty append for a commit index that was sent",
        "progress",
        "return commit > self.sent_commit and self.sent_commit < self.next - 1",
        "return True",
    ),
    Mutation(
        "a heartbeat counts as telling its commit index",
        "heartbeat",
        "commit = progress.sent_commit = min(",
        "commit = min(",
    ),
    Mutation("a heartbeat tells no more than the peer has", "heartbeat", "min(progress.match, committed)", "committed"),
    Mutation(
        "auto-leave waits for the pending change",
        "membership",
        "and log.applied >= raft.pending_conf_index",
        "",
    ),
    Mutation(
        "a joint configuration is left automatically", "membership", "raft.tracker.config.auto_leave and", "False and"
    ),
    Mutation(
        "one pending change counts from the applied index",
        "membership",
        "if pending_conf_index > raft.log.applied:",
        "if pending_conf_index > raft.log.committed:",
    ),
    Mutation("a new leader assumes a pending change", "election", "raft.pending_conf_index = log.last_index", "pass"),
    Mutation("a safe read waits for a quorum", "reads", "if raft.read_only is ReadOnly.LEASE_BASED or", "if True or"),
    Mutation("a leased read does not wait", "reads", "raft.read_only is ReadOnly.LEASE_BASED or", ""),
    Mutation(
        "reads wait for an entry of the leader's term", "reads", "if log.term(log.committed) != raft.term:", "if False:"
    ),
    Mutation(
        "an answer vouches only for reads before it",
        "readonly",
        "self._acknowledged[replica] = count",
        "self._acknowledged[replica] = self._count",
    ),
    Mutation(
        "the per-message limit",
        "replication",
        "log.entries(first, raft.size_per_msg_max)",
        "log.entries(first, 1 << 60)",
    ),
    Mutation("the in-flight bytes limit", "inflights", "or self.bytes >= self.bytes_max", ""),
    Mutation("the in-flight messages limit", "inflights", "len(self._window) >= self.count_max or", ""),
    Mutation(
        "the uncommitted bytes limit",
        "membership",
        "raft.uncommitted_size + payload > raft.uncommitted_size_max",
        "False",
    ),
    Mutation(
        "an empty tail takes any proposal", "membership", "if payload and raft.uncommitted_size and", "if payload and"
    ),
    Mutation(
        "only entries of the own term are committed by counting", "replication", "or log.term(index) != raft.term", ""
    ),
    Mutation("one vote a term", "election", "or (raft.vote == NONE and raft.lead == NONE)", "or True"),
    Mutation(
        "votes only for up-to-date logs",
        "election",
        "granted = can_vote and raft.log.is_up_to_date(message.log_term, message.index)",
        "granted = can_vote",
    ),
    Mutation(
        "one's own vote waits for the disk",
        "election",
        "            raft.send_after_append(Message(answer, to=voter, sender=raft.id, term=term))\n"
        "            continue",
        "            raft.tracker.record_vote(voter, True)\n            continue",
    ),
    Mutation(
        "one's own entries count when they are durable",
        "replication",
        "    raft.messages_after_append.append(\n"
        "        Message(APP_RESP, to=raft.id, sender=raft.id, term=raft.term, index=entries[-1].index)\n"
        "    )",
        "    if raft.tracker.own is not None:\n        raft.tracker.own.acknowledge(entries[-1].index)",
    ),
    Mutation(
        "acknowledgements wait for the disk",
        "following",
        "raft.messages_after_append.append(Message(APP_RESP,",
        "raft.messages.append(Message(APP_RESP,",
    ),
    Mutation(
        "an overlapping append drops only conflicts",
        "log",
        "        for position, entry in enumerate(entries):\n            if self.term(entry.index) != entry.term:",
        "        for position, entry in enumerate(entries):\n            if True:",
    ),
    Mutation(
        "a follower commits only what the message proves",
        "following",
        "log.commit_to(min(message.commit, previous + count))",
        "log.commit_to(min(message.commit, log.last_index))",
    ),
    Mutation(
        "asynchronous entries are applied once written",
        "log",
        "return committed if allow_unstable else min(committed, self.unstable.offset - 1)",
        "return committed",
    ),
    Mutation("learners do not stand", "state", "and not tracker.is_learner", ""),
    Mutation("check-quorum steps down", "heartbeat", "if not raft.tracker.quorum_is_active():", "if False:"),
    Mutation(
        "check-quorum forgets who was active",
        "progress",
        "self.was_active = self.active\n        self.active = False",
        "pass",
    ),
    Mutation(
        "pre-vote changes no term",
        "core",
        "if kind == _Type.PRE_VOTE or (kind == _Type.PRE_VOTE_RESP and not message.reject):",
        "if False:",
    ),
    Mutation(
        "a joint election needs both majorities",
        "quorum",
        "    first, second = vote_result(incoming, votes), vote_result(outgoing, votes)",
        "    first = second = vote_result(incoming, votes)",
    ),
    Mutation(
        "a joint commit needs both majorities",
        "tracker",
        "(config.voters, config.outgoing) if half",
        "(config.voters,) if half",
    ),
    Mutation(
        "a demoted voter waits while the configuration is joint",
        "confchange",
        "if replica in self.outgoing:\n            self.learners_next.add(replica)",
        "if False:\n            self.learners_next.add(replica)",
    ),
    Mutation(
        "one voter at a time in a simple change",
        "confchange",
        "if len(draft.voters ^ self._config.voters) > 1:",
        "if False:",
    ),
    Mutation("a removed leader steps down", "membership", "if raft.step_down_on_removal:", "if False:"),
    Mutation(
        "a transfer ends after an election timeout", "heartbeat", "        raft.lead_transferee = NONE", "        pass"
    ),
    Mutation(
        "a hand-over says so",
        "election",
        'context = TRANSFER_CONTEXT if campaign is Campaign.TRANSFER else b""',
        'context = b""',
    ),
    Mutation("stale refusals are ignored", "progress", "if rejected <= self.match:", "if False:"),
    Mutation(
        "a snapshot that the log holds replaces nothing",
        "following",
        "if raft.log.holds(snapshot.index, snapshot.term):",
        "if False:",
    ),
    Mutation(
        "nobody installs a snapshot without itself",
        "following",
        "if not known and not raft.install_older_snapshots:",
        "if False:",
    ),
    Mutation(
        "a changed vote must be synced",
        "node",
        "must_sync = must_sync or raft.term != hard.term or raft.vote != hard.vote",
        "pass",
    ),
    Mutation("a leader of the past is told so", "core", "if raft.check_quorum or raft.pre_vote:", "if False:"),
    Mutation("strangers' answers are refused", "core", "and sender not in raft.tracker.members", "and False"),
    Mutation(
        "a heartbeat's answer revives the flow",
        "replication",
        "    progress.flow_paused = False\n    if progress.match",
        "    if progress.match",
    ),
    Mutation(
        "a full window sends empty messages only",
        "replication",
        "(state is not REPLICATE or not progress.inflights.full)",
        "True",
    ),
    Mutation("the window frees as messages arrive", "replication", "progress.inflights.free_to(index)", "pass"),
    Mutation(
        "an answer at the known match ends probing",
        "replication",
        "and not (state is PROBE and index == progress.match)",
        "",
    ),
    Mutation(
        "any snapshot that the log continues ends the wait for one",
        "replication",
        "progress.match + 1 >= raft.log.first_index()",
        "index >= progress.pending_snapshot",
    ),
    Mutation(
        "a return to probing forgets the commit index that was sent",
        "progress",
        "self.next = next_index\n        self._cap_sent_commit()",
        "self.next = next_index",
    ),
    Mutation(
        "a refusal of a probe forgets the commit index that was sent",
        "progress",
        "self._cap_sent_commit()\n        self.flow_paused = False",
        "self.flow_paused = False",
    ),
    Mutation(
        "a refusal never goes below the match", "progress", "max(min(rejected, guess + 1), self.match + 1)", "guess + 1"
    ),
    Mutation("a refused probe goes where the hint says", "progress", "min(rejected, guess + 1)", "rejected"),
    Mutation("a probe's stale refusal is ignored", "progress", "if rejected != self.next - 1:", "if False:"),
    Mutation(
        "a probe goes on behind the snapshot that was sent", "progress", "if self.state is SNAPSHOT:", "if False:"
    ),
    Mutation(
        "a leader's word holds elections off",
        "following",
        "raft.election_elapsed = 0\n    raft.lead = message.sender\n    log",
        "raft.lead = message.sender\n    log",
    ),
    Mutation(
        "a heartbeat holds elections off",
        "heartbeat",
        "raft.election_elapsed = 0\n    raft.lead = message.sender",
        "raft.lead = message.sender",
    ),
    Mutation(
        "a granted vote restarts the timer", "election", "raft.election_elapsed = 0\n        raft.vote", "raft.vote"
    ),
    Mutation("a repeated request gets the same vote", "election", "raft.vote == message.sender\n        or (", "("),
    Mutation("a vote is forgotten with its term", "state", "self.vote = NONE\n        self.lead", "self.lead"),
    Mutation("the election timeout is random", "state", "2 * self.election_tick - 1", "self.election_tick"),
    Mutation(
        "the first answer of each voter counts",
        "tracker",
        "self.votes.setdefault(voter, granted)",
        "self.votes[voter] = granted",
    ),
    Mutation(
        "only answers of the present phase count",
        "core",
        "_ANY_CANDIDATE | {_Type.VOTE_RESP: election.handle_vote}",
        "_ANY_CANDIDATE | {_Type.VOTE_RESP: election.handle_vote, _Type.PRE_VOTE_RESP: election.handle_vote}",
    ),
    Mutation("a hand-over breaks the lease", "core", "message.context != election.TRANSFER_CONTEXT and", ""),
    Mutation(
        "leased reads forbid to forget the leader", "core", "if raft.read_only is not ReadOnly.LEASE_BASED:", "if True:"
    ),
    Mutation("a pre-candidate of the past is answered", "core", "election.answer_vote(raft, message, False)", "pass"),
    Mutation(
        "a snapshot is stored in whatever term",
        "core",
        "        _snapshot_stored(raft, message.snapshot.index)\n\n\n#",
        "        pass\n\n\n#",
    ),
    Mutation(
        "a lone message of the past changes nothing",
        "core",
        "_handle_lower_term(raft, message)\n            return",
        "_handle_lower_term(raft, message)",
    ),
    Mutation(
        "a new member counts as heard from",
        "tracker",
        "is_learner=is_learner, active=True",
        "is_learner=is_learner, active=False",
    ),
    Mutation("a new member is probed from the log's end", "tracker", "max(last_index, 1)", "1"),
    Mutation(
        "a new member is sent what it lacks at once",
        "membership",
        "            replication.send_entries(raft, peer, progress)",
        "            pass",
    ),
    Mutation("a smaller quorum commits at once", "membership", "if replication.maybe_commit(raft):", "if False:"),
    Mutation(
        "a transfer ends if its target votes no more",
        "membership",
        "if raft.lead_transferee not in tracker.voters():",
        "if False:",
    ),
    Mutation("one change in a proposal", "membership", "            pending_conf_index = index", "            pass"),
    Mutation(
        "a joint configuration is left before the next change",
        "membership",
        "return raft.tracker.config.joint == (not change.changes)",
        "return True",
    ),
    Mutation("a removed leader takes no proposals", "membership", "if raft.tracker.own is None:", "if False:"),
    Mutation("learners are no targets of a transfer", "transfer", "progress.is_learner or", ""),
    Mutation(
        "a transfer waits until the target has all", "transfer", "if progress.match == raft.log.last_index:", "if True:"
    ),
    Mutation("nothing is applied while a snapshot waits", "log", "or self.unstable.snapshot is not None:", ":"),
    Mutation(
        "the limit on entries being applied",
        "log",
        "bytes_max = self._applying_bytes_max - self._applying_bytes",
        "bytes_max = 1 << 60",
    ),
    Mutation(
        "what was overwritten is written anew",
        "unstable",
        "self.in_progress_to = min(self.in_progress_to, first)",
        "pass",
    ),
    Mutation(
        "a write without entries acknowledges those on their way",
        "node",
        "if self.raft.log.unstable.entries or ready.snapshot is not None:\n                work",
        "if ready.entries or ready.snapshot is not None:\n                work",
    ),
    Mutation(
        "a snapshot of what is committed replaces nothing",
        "following",
        "snapshot is None or snapshot.index <= raft.log.committed",
        "snapshot is None",
    ),
    Mutation(
        "an append from before the commit index is not examined",
        "following",
        "if previous < log.committed:",
        "if False:",
    ),
    Mutation(
        "waiting reads end with the term",
        "state",
        "self.reads = ReadQueue()\n        self.reads_before_commit = []\n        last",
        "last",
    ),
    Mutation(
        "reads that wait are bounded",
        "reads",
        "or len(raft.reads) + len(raft.reads_before_commit) >= raft.waiting_reads_max",
        "",
    ),
    Mutation(
        "what is left of a joint configuration is forgotten",
        "confchange",
        "            draft.members.pop(replica, None)",
        "            pass",
    ),
    Mutation(
        "who waits becomes a learner when the configuration is left",
        "confchange",
        "draft.members[replica].is_learner = True",
        "pass",
    ),
)


def _copy(into: Path) -> None:
    for name in ("copycat", "tests"):
        shutil.copytree(ROOT / name, into / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy(ROOT / "pyproject.toml", into)


def _first_failure(folder: Path, chaos: bool) -> str | None:
    """The first test that fails, if any does."""
    tests = "tests/raft/test_chaos.py" if chaos else "tests/raft"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    if not chaos:
        command += ["--deselect", "tests/raft/test_chaos.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py(?:::\S+)?)", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"pytest did not run:\n{done.stdout}\n{done.stderr}")
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only rules whose name or module has this word")
    parser.add_argument("--chaos", action="store_true", help="ask only the seeded world")
    options = parser.parse_args()
    chosen = [each for each in MUTATIONS if options.only in f"{each.module} {each.rule}"]
    unseen: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _copy(folder)
        if _first_failure(folder, options.chaos) is not None:
            raise SystemExit("the tests fail before anything is broken")
        for mutation in chosen:
            path = folder / "copycat" / "raft" / f"{mutation.module}.py"
            source = path.read_text()
            if source.count(mutation.before) != 1:
                raise SystemExit(f"{mutation.rule}: its text occurs {source.count(mutation.before)} times")
            path.write_text(source.replace(mutation.before, mutation.after))
            try:
                failure = _first_failure(folder, options.chaos)
            finally:
                path.write_text(source)
            print(f"{'seen  ' if failure else 'UNSEEN'}  {mutation.rule}: {failure or '-'}", flush=True)
            if failure is None:
                unseen.append(mutation.rule)
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} broken rules were seen")
    if unseen:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
