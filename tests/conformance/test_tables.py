"""Quorum arithmetic and configuration changes behave as the reference tables say."""

from __future__ import annotations

from pathlib import Path

from copycat.errors import InvalidConfChange
from copycat.messages import ConfState
from copycat.raft import PeerStatus, quorum
from copycat.raft.confchange import Changed
from copycat.raft.tracker import Tracker

from . import formats
from .datadriven import Case, NotUnderstood, normalise, parse
from .environment import operations


def _majority(case: Case, name: str) -> list[int]:
    values = case.take("cfg", "cfgj", "idx", "votes").get(name, [])
    return [] if values == ["zero"] else [int(value) for value in values if value]


def _by_id(case: Case, name: str) -> dict[int, str]:
    voters = list(dict.fromkeys([*_majority(case, "cfg"), *_majority(case, "cfgj")]))
    values = case.take("cfg", "cfgj", "idx", "votes").get(name, [])
    if len(values) != len(voters):
        raise NotUnderstood(f"line {case.line}: {len(values)} values for {len(voters)} voters")
    return {voter: value for voter, value in zip(voters, values, strict=True) if value != "_"}


def _index_text(index: int) -> str:
    return "∞" if index == quorum.INFINITE else str(index)


def _committed(case: Case) -> str:
    incoming, outgoing = _majority(case, "cfg"), _majority(case, "cfgj")
    acknowledged = {voter: int(value) for voter, value in _by_id(case, "idx").items()}
    index = quorum.joint_committed_index(incoming, outgoing, acknowledged)
    # The other order must not matter, nor an empty other half.
    assert index == quorum.joint_committed_index(outgoing, incoming, acknowledged)
    if not outgoing:
        assert index == quorum.committed_index(incoming, acknowledged)
    voters = sorted({*incoming, *outgoing})
    if not voters:
        return f"<empty majority quorum>{_index_text(index)}"
    width = len(voters)
    bars: dict[int, int] = {}
    ranked = sorted((acknowledged.get(voter, 0), voter) for voter in voters)
    for position, (acked, voter) in enumerate(ranked):
        if position == 0:
            bars[voter] = 0
        elif acked > ranked[position - 1][0]:
            bars[voter] = position
        else:
            bars[voter] = bars[ranked[position - 1][1]]
    lines = [" " * (width + 4) + "idx"]
    for voter in voters:
        bar = bars[voter]
        lead = "x" * bar + ">" + " " * (width - bar) if voter in acknowledged else "?" + " " * width
        lines.append(f"{lead} {acknowledged.get(voter, 0):>5}    (id={voter})")
    return "\n".join([*lines, _index_text(index)])


def _vote(case: Case) -> str:
    incoming, outgoing = _majority(case, "cfg"), _majority(case, "cfgj")
    votes: dict[int, bool] = {}
    for voter, value in _by_id(case, "votes").items():
        if value not in ("y", "n"):
            raise NotUnderstood(f"line {case.line}: vote {value}")
        votes[voter] = value == "y"
    result = quorum.joint_vote_result(incoming, outgoing, votes)
    assert result is quorum.joint_vote_result(outgoing, incoming, votes)
    if not outgoing:
        assert result is quorum.vote_result(incoming, votes)
    return f"Vote{result.value.capitalize()}"


def _check_form(case: Case, *, takes_input: bool) -> None:
    if case.bare() or (case.input and not takes_input):
        raise NotUnderstood(f"line {case.line}: {case.command} with something unknown")


def test_quorum_table(quorum_file: Path) -> None:
    for case in parse(quorum_file):
        _check_form(case, takes_input=False)
        if case.command == "committed":
            printed = _committed(case)
        elif case.command == "vote":
            printed = _vote(case)
        else:
            raise NotUnderstood(f"line {case.line}: unknown command {case.command}")
        assert normalise(printed) == normalise(case.expected), f"{quorum_file.name}, line {case.line}"


def _change(tracker: Tracker, case: Case, last_index: int) -> Changed:
    _check_form(case, takes_input=case.command != "leave-joint")
    changer = tracker.changer(last_index)
    changes = operations(case)
    if case.command == "simple":
        case.take()
        return changer.simple(changes)
    if case.command == "enter-joint":
        case.take("autoleave")
        auto_leave = case.one("autoleave", "false")
        if auto_leave not in ("true", "false"):
            raise NotUnderstood(f"line {case.line}: autoleave={auto_leave}")
        return changer.enter_joint(changes, auto_leave == "true")
    if case.command == "leave-joint":
        case.take()
        return changer.leave_joint()
    raise NotUnderstood(f"line {case.line}: unknown command {case.command}")


def _describe(tracker: Tracker) -> str:
    lines = [formats.configuration(tracker.config)]
    for ident, progress in sorted(tracker.members.items()):
        status = PeerStatus.of(progress)
        lines.append(formats.progress(ident, status))
    return "\n".join(lines)


def test_confchange_table(confchange_file: Path) -> None:
    tracker = Tracker(own_id=0, inflight_msgs_max=10, inflight_bytes_max=1 << 20)
    tracker.restore(ConfState(), 0)
    for last_index, case in enumerate(parse(confchange_file)):
        before = _describe(tracker)
        try:
            tracker.install(_change(tracker, case, last_index))
            printed = _describe(tracker)
        except InvalidConfChange as error:
            printed = str(error)
            assert _describe(tracker) == before
        assert normalise(printed) == normalise(case.expected), f"{confchange_file.name}, line {case.line}"
