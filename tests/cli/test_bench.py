"""The benchmark in its short form: it measures, finds what is wrong, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from copycat.cli.bench import bars_of
from copycat.cli.bench_cluster import BenchCluster, RunFailed
from copycat.cli.bench_items import OutOfOrder, Tally, make_items
from copycat.cli.bench_recovery import barrier, failover, late_join, restart
from copycat.cli.bench_scenarios import Row, Setup, half_load
from copycat.cli.local_cluster import Deadline

TOOLS = Path(__file__).parents[2] / "tools"


def bench(*arguments: str, timeout: float = 60.0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "copycat.cli", "bench", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_tally_takes_the_items_of_several_proposers_in_any_mixture() -> None:
    tally, twin = Tally(), Tally()
    ours, theirs = make_items(1, 1, 4, 16), make_items(2, 1, 4, 16)
    tally.take([ours[0], theirs[0], theirs[1], *ours[1:], *theirs[2:]])
    for item in (ours[0], theirs[0], theirs[1], *ours[1:], *theirs[2:]):
        twin.take([item])
    assert tally.counts() == {1: 4, 2: 4}
    assert (tally.count, tally.checksum) == (twin.count, twin.checksum)


@pytest.mark.parametrize("wrong", [[0, 2], [0, 0], [1, 0], [0, 1, 3]], ids=["lost", "repeated", "swapped", "lost late"])
@pytest.mark.parametrize("payload", [8, 100])
def test_a_tally_refuses_what_is_lost_repeated_or_swapped(wrong: list[int], payload: int) -> None:
    items = make_items(3, 1, 4, payload)
    with pytest.raises(OutOfOrder):
        Tally().take([items[number] for number in wrong])


def test_a_tally_goes_on_from_its_snapshot() -> None:
    tally = Tally()
    tally.take(make_items(1, 1, 3, 16))
    restored = Tally.unpack(tally.pack())
    restored.take(make_items(1, 4, 2, 16))
    assert (restored.count, restored.counts()) == (5, {1: 5})
    with pytest.raises(OutOfOrder):
        restored.take(make_items(1, 7, 1, 16))


@pytest.mark.slow
@pytest.mark.parametrize("proposers", ["leader", "follower", "all"])
def test_saturation_is_measured_and_checked(proposers: str) -> None:
    (row,) = bench("saturation", "--seconds", "0.5", "--proposers", proposers, "--groups", "2", "--in-flight", "4000")
    assert row["per_second"] > 0
    assert row["cpu_us_per_commit"] > 0
    assert row["peak_mib"] > 0
    assert row["setup"]["proposers"] == proposers


@pytest.mark.slow
def test_a_lone_client_is_timed() -> None:
    (row,) = bench("lone", "--seconds", "0.5", "--durability", "os")
    assert 0 < row["p50_ms"] <= row["p99_ms"]


@pytest.mark.slow
def test_half_load_is_timed_and_watched(tmp_path: Path) -> None:
    row = half_load(Setup(seconds=0.5, durability="os"), tmp_path)
    assert row.per_second
    assert row.p50_ms
    assert 0 < row.p50_ms <= (row.p99_ms or 0)
    assert row.longest_pause_ms
    assert "resident MiB" in row.note


def test_a_plot_has_a_bar_for_each_figure() -> None:
    rows = [
        Row("pipelined, from leader", 500_000.0, cpu_us_per_commit=1.0),
        Row("lone client on leader", 1000.0, p50_ms=1.0, p99_ms=2.0, cpu_us_per_commit=900.0),
        Row("idle", 0.5, "% of a core a node"),
    ]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(*bars_of(rows))
    text = console.export_text()
    for title in ("commits/s", "% of a core a node", "p50 ms", "p99 ms", "CPU µs/commit"):
        assert text.count(title) == 1
    lines = text.splitlines()
    costs = lines[lines.index(next(line for line in lines if "CPU" in line)) + 1 :]
    assert "█" * 60 in next(line for line in costs if "900.00" in line)
    assert "█" not in next(line for line in costs if "1.00" in line)


@pytest.mark.slow
def test_a_run_that_lost_an_item_fails(tmp_path: Path) -> None:
    with BenchCluster(tmp_path, Deadline(30)) as cluster:
        cluster.start()
        cluster.ask(0, "next_commit", group=0, proposer=0, payload=16, timeout=10.0)
        cluster.check({(0, 0): 1})
        with pytest.raises(RunFailed, match="sent by proposer"):
            cluster.check({(0, 0): 2})
        cluster.close()


@pytest.mark.slow
def test_the_bare_pipeline_runs() -> None:
    pytest.importorskip("plyvel", reason="plyvel is not installed")
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bare_pipeline.py"), "--seconds", "0.5"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["per_second"] > 0


@pytest.mark.slow
def test_barriers_are_timed(tmp_path: Path) -> None:
    row = barrier(Setup(seconds=0.5), tmp_path)
    assert row.per_second
    assert row.p50_ms
    assert 0 < row.p50_ms <= (row.p99_ms or 0)


@pytest.mark.slow
def test_a_failover_is_timed_and_nothing_is_lost(tmp_path: Path) -> None:
    row = failover(Setup(failovers=1), tmp_path)
    assert row.p50_ms


@pytest.mark.slow
def test_a_late_joiner_loads_the_whole_snapshot(tmp_path: Path) -> None:
    row = late_join(Setup(durability="os"), tmp_path, snapshot_bytes=8 << 20)
    assert row.per_second
    assert row.note.startswith("8 MiB")


@pytest.mark.slow
def test_a_restart_with_proposals_in_the_log_is_timed(tmp_path: Path) -> None:
    row = restart(Setup(durability="os"), tmp_path, proposals=5_000)
    assert row.per_second


@pytest.mark.slow
def test_idling_is_measured_for_several_groups() -> None:
    (row,) = bench("idle", "--seconds", "1", "--groups", "3")
    assert 0 <= row["per_second"] < 100 * 2
    assert row["note"].startswith("3 groups")


@pytest.mark.slow
def test_the_peers_are_compared_and_each_goal_is_judged() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench_peers.py"), "--short", "--only", "128"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    judged = [line for line in done.stdout.splitlines() if line.startswith(("holds", "MISSED"))]
    assert sum("128 B" in line for line in judged) == 2
