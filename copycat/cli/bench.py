"""``copycat bench``: how fast three nodes on this machine are, and what that costs.

Reads the command line and prints; what is measured is in :mod:`copycat.cli.bench_scenarios`.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import click
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from copycat.cli.bench_cluster import RunFailed
from copycat.cli.bench_items import HEAD_BYTES
from copycat.cli.bench_recovery import barrier, failover, idle, late_join, restart
from copycat.cli.bench_scenarios import Row, Scenario, Setup, half_load, lone_client, saturation
from copycat.cli.demo import tidy_exit
from copycat.cli.worker_process import WorkerGone, WorkerRefused

EXIT_FAILED = 1
PAYLOAD_MAX = 1 << 20
TABLE_COLUMNS = 160
BAR_COLUMNS = 60
DEFAULTS = Setup()
SCENARIOS: dict[str, Scenario] = {
    "saturation": saturation,
    "lone": lone_client,
    "half-load": half_load,
    "barrier": barrier,
    "failover": failover,
    "late-join": late_join,
    "restart": restart,
    "idle": idle,
}


@click.command(short_help="Measure three nodes on this machine.")
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option(
    "--payload",
    type=click.IntRange(HEAD_BYTES, PAYLOAD_MAX),
    default=DEFAULTS.payload,
    show_default=True,
    help="Bytes of each proposal.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULTS.in_flight,
    show_default=True,
    help="Proposals in flight, per proposer.",
)
@click.option(
    "--groups",
    type=click.IntRange(1, 1000),
    default=DEFAULTS.groups,
    show_default=True,
    help="Data structures that are proposed to at once.",
)
@click.option(
    "--proposers",
    type=click.Choice(["leader", "follower", "all"]),
    default=DEFAULTS.proposers,
    show_default=True,
    help="Which nodes propose.",
)
@click.option(
    "--durability",
    type=click.Choice(["fsync", "os"]),
    default=DEFAULTS.durability,
    show_default=True,
    help="As in the configuration of a node.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=DEFAULTS.seconds,
    show_default=True,
    help="Length of a measurement, after the warm-up.",
)
@click.option("--transport", default=DEFAULTS.transport, show_default=True, help="As in the configuration of a node.")
@click.option("--storage", default=DEFAULTS.storage, show_default=True, help="As in the configuration of a node.")
@click.option(
    "--failovers",
    type=click.IntRange(1, 1000),
    default=DEFAULTS.failovers,
    show_default=True,
    help="How often the leader is killed.",
)
@click.option(
    "--plot", is_flag=True, help="Print bars, too: one block for each column that several rows have in common."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, and no table.")
def bench(scenarios: tuple[str, ...], as_json: bool, plot: bool, **asked: object) -> int:
    """Measure three nodes on this machine: all SCENARIOS, or those that are named.

    Each scenario starts three processes on loopback in a temporary directory, warms them up, measures, and removes them.
    Consumers on all nodes check every item: exits with 1 if one is lost, repeated or out of order. Processor time, bytes
    written and memory are of all node processes, their clients included; memory is that of the largest one.
    """
    setup = dataclasses.replace(DEFAULTS, **asked)  # type: ignore[arg-type]
    rows: list[Row] = []
    with tidy_exit():
        for name in scenarios or SCENARIOS:
            try:
                with tempfile.TemporaryDirectory(prefix="copycat-bench-", ignore_cleanup_errors=True) as directory:
                    row = SCENARIOS[name](setup, Path(directory))
            except (RunFailed, WorkerGone, WorkerRefused, TimeoutError) as error:
                click.echo(f"copycat bench: {name}: {error}", err=True)
                return EXIT_FAILED
            rows.append(row)
            if as_json:
                click.echo(json.dumps(row.as_dict()))
    if not as_json:
        console = Console(highlight=False)
        console.width = max(console.width, TABLE_COLUMNS)
        console.print(table_of(rows))
        if plot:
            console.print(*bars_of(rows), sep="\n")
    return 0


def bars_of(rows: list[Row]) -> list[Table]:
    """A bar chart for each figure that any row has, the longest bar being the largest."""
    charts = []
    figures = (
        *(
            (unit, [row.per_second if row.unit == unit else None for row in rows])
            for unit in {row.unit: 0 for row in rows}
        ),
        ("p50 ms", [row.p50_ms for row in rows]),
        ("p99 ms", [row.p99_ms for row in rows]),
        ("CPU µs/commit", [row.cpu_us_per_commit for row in rows]),
    )
    for title, values in figures:
        known = [(row.scenario, value) for row, value in zip(rows, values, strict=True) if value is not None]
        if not known:
            continue
        chart = Table(title=f"\n{title}", title_justify="left", box=None, show_header=False, pad_edge=False)
        longest = max(value for _, value in known) or 1.0
        for name, value in known:
            chart.add_row(name, Bar(longest, 0, value, width=BAR_COLUMNS), f"{value:,.2f}")
        charts.append(chart)
    return charts


def table_of(rows: list[Row]) -> Table:
    """One line a row."""
    table = Table(box=None, pad_edge=False)  # wide: a terminal wraps it
    table.add_column("scenario")
    for name in ("rate", "p50 ms", "p99 ms", "CPU µs/commit", "bytes/commit", "peak MiB"):
        table.add_column(name, justify="right")
    table.add_column("note")
    for row in rows:
        digits = 1 if row.per_second is not None and row.per_second < 100 else 0
        rate = "" if row.per_second is None else f"{row.per_second:,.{digits}f} {row.unit}"
        measured = (row.p50_ms, row.p99_ms, row.cpu_us_per_commit, row.written_bytes_per_commit, row.peak_mib)
        formats = (",.2f", ",.2f", ",.2f", ",.0f", ",.0f")
        cells = ["" if value is None else format(value, shape) for value, shape in zip(measured, formats, strict=True)]
        table.add_row(row.scenario, rate, *cells, row.note)
    return table
