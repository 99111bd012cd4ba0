"""What this harness makes of files: nothing is left out, and what it can't understand is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from .datadriven import NotUnderstood, normalise, parse
from .environment import Environment
from .suite import find
from .test_scripts import test_script as run_script
from .test_tables import test_confchange_table as run_confchange_table
from .test_tables import test_quorum_table as run_quorum_table

SCRIPT = "add-nodes 1 voters=(1) index=2\n----\nok\n"
QUORUM = "committed\n----\n<empty majority quorum>∞\n"
CONFCHANGE = "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n"


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("folders", [("scripts", "quorum", "confchange"), ("", "", ""), ("a/scripts", "quorum/x", "y")])
def test_files_are_found_in_folders_and_side_by_side(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    script = _write(tmp_path / folders[0] / "one.txt", SCRIPT)
    quorum = _write(tmp_path / folders[1] / "two", QUORUM)
    confchange = _write(tmp_path / folders[2] / "three.txt", "# with a comment\n\n" + CONFCHANGE)
    _write(tmp_path / "README.md", "no script")
    _write(tmp_path / "LICENSE", "no script")
    assert find(tmp_path) == {"scripts": [script], "quorum": [quorum], "confchange": [confchange]}
    run_script(script)
    run_quorum_table(quorum)
    run_confchange_table(confchange)


@pytest.mark.parametrize("text", ["", "what is this", "# only a comment\n"])
def test_a_file_that_nobody_understands_fails_as_a_script(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "strange.txt", text)
    assert find(tmp_path)["scripts"] == [path]
    with pytest.raises(NotUnderstood):
        run_script(path)


@pytest.mark.parametrize(
    "directive",
    [
        "dance 1",
        "campaign",
        "campaign 1 2",
        "campaign 3",
        "campaign 0",
        "campaign x",
        "campaign 1 prevote=true",
        "campaign 1\nv1",
        "propose 1",
        "propose 1 two words",
        "add-nodes",
        "add-nodes 1 max-inflight=3",
        "add-nodes 1 prevote=yes",
        "add-nodes 1 voters=(1)",
        "add-nodes 1 voters=(1) index=1",
        "add-nodes 1 read-only=perhaps",
        "add-nodes 1 inflight=(1,2)",
        "propose-conf-change 1 transition=later\nv1",
        "propose-conf-change 1 v1=maybe\nv1",
        "propose-conf-change 1 v1=true\nv1 v2",
        "propose-conf-change 1 v1=true transition=explicit\nv1",
        "propose-conf-change 1\nx1",
        "deliver-msgs 1 keep=2",
        "deliver-msgs 1 type=MsgHello",
        "deliver-msgs 1 drop=1",
        "deliver-msgs 7",
        "stabilize 1 log-level=loud",
        "stabilize 1 quietly=true",
        "log-level",
        "log-level loud",
        "raft-state 1",
        "status",
        "transfer-leadership from=1",
        "transfer-leadership from=0 to=1",
        "set-randomized-election-timeout 1",
        "set-randomized-election-timeout 1 timeout=soon",
        "compact 1",
        "send-snapshot 1",
        "send-snapshot 1 9",
        "report-unreachable 1",
        "process-ready",
        "process-ready 1 (2)=",
    ],
)
def test_an_unknown_command_or_option_is_a_failure(tmp_path: Path, directive: str) -> None:
    path = _write(tmp_path / "script.txt", f"add-nodes 2 voters=(1,2) index=2\n----\nok\n\n{directive}\n----\nok\n")
    with pytest.raises(NotUnderstood):
        run_script(path)


@pytest.mark.parametrize("text", ["committed 1", "committed cfg=(1)", "vote cfg=(1) votes=(x)", "toss cfg=(1)"])
def test_a_quorum_table_with_something_unknown_is_a_failure(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotUnderstood):
        run_quorum_table(_write(tmp_path / "table.txt", f"{text}\n----\nok\n"))


@pytest.mark.parametrize("text", ["leave-joint\nv1", "simple 1\nv1", "enter-joint autoleave=x\nv1", "merge\nv1"])
def test_a_confchange_table_with_something_unknown_is_a_failure(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotUnderstood):
        run_confchange_table(_write(tmp_path / "table.txt", f"simple\nv1\n----\n{_ONE}\n\n{text}\n----\nok\n"))


_ONE = "voters=(1)\n1: StateProbe match=0 next=1"


def test_a_wrong_expectation_is_a_failure(tmp_path: Path) -> None:
    for expected in ("voter=(1)", "1: StateFollower (Voter) Term:1 Lead:0", ""):
        path = _write(tmp_path / "script.txt", f"{SCRIPT}\nraft-state\n----\n{expected}\n")
        with pytest.raises(AssertionError):
            run_script(path)
    run_script(_write(tmp_path / "right.txt", f"{SCRIPT}\nraft-state\n----\n1: StateFollower (Voter) Term:0 Lead:0\n"))


def test_log_lines_a_final_newline_and_a_lone_ok_do_not_count_and_nothing_else_is_left_out() -> None:
    assert normalise("INFO 1 became leader\n  DEBUG x\nok\n") == normalise("") == []
    assert normalise("ok\nok") == ["ok", "ok"]
    assert normalise("  INFORMATION\n") == ["  INFORMATION"]
    assert normalise("a\n\n") == ["a", ""]


def test_words_keep_their_quotes_and_lists_are_trimmed(tmp_path: Path) -> None:
    path = _write(tmp_path / "script.txt", 'propose 1 "f(oo)" x=(a, b,c ) y=z w=\n----\n\n')
    (case,) = parse(path)
    assert case.bare() == ["1", '"f(oo)"']
    assert case.take("x", "y", "w") == {"x": ["a", "b", "c"], "y": ["z"], "w": [""]}


def test_at_level_none_only_a_commands_own_error_is_printed(tmp_path: Path) -> None:
    quiet = "log-level none\n----\nok\n\nraft-state\n----\nok\n\npropose 1 x\n----\nraft proposal dropped\n"
    run_script(_write(tmp_path / "script.txt", f"{SCRIPT}\n{quiet}"))


def test_the_environment_starts_empty() -> None:
    environment = Environment(seed=1)
    assert (environment.nodes, environment.in_flight) == ([], [])
