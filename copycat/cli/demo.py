"""``copycat demo``: three processes replicate a text file, lose their leader half way, and must agree in the end.

This module reads the file, shows progress and prints the summary; the story itself is :mod:`copycat.cli.replicate`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from copycat.cli.local_cluster import Deadline, LocalCluster
from copycat.cli.replicate import Outcome, replicate
from copycat.cli.worker_process import WorkerGone, WorkerRefused

NODES = 3
LINES_MAX = 200_000
DEFAULT_MODULES = ("_pydecimal", "typing", "argparse")
EXIT_DIFFERENT = 1


@click.command(short_help="Watch three nodes replicate a file and lose their leader.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds, altogether."
)
def demo(file: Path | None, timeout_s: float) -> int:
    """Watch three nodes replicate the lines of FILE and lose their leader.

    Three processes on this machine share one replicated map (copycat/examples/hash_map.py) and propose the lines of FILE
    from all three at once. Half way the leader is killed with SIGKILL, and later started again. In the end the three
    copies are compared: what is in them, and what each process was handed, in which order and how often.

    Without FILE, a module of Python's standard library is replicated. Exits with 1 on any difference.
    """
    path = default_file() if file is None else file
    texts = read_lines(path)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with (
        tidy_exit(),
        tempfile.TemporaryDirectory(prefix="copycat-demo-", ignore_cleanup_errors=True) as directory,
        progress_of(console, len(texts)) as bar,
        LocalCluster(Path(directory), NODES, Deadline(timeout_s), cluster_label="copycat-demo") as cluster,
    ):
        task = bar.task_ids[0]
        started = time.perf_counter()
        try:
            bar.console.print(f"starting {NODES} nodes; then {len(texts):,} lines of {path}, from all of them at once")
            cluster.start()
            outcome = replicate(
                cluster, texts, bar.console.print, lambda count: bar.update(task, completed=count, refresh=False)
            )
            cluster.close()
        except (WorkerGone, WorkerRefused, TimeoutError) as error:
            bar.stop()
            report_failure(cluster, error)
            return EXIT_DIFFERENT
        elapsed_s = time.perf_counter() - started
    for line in summary(outcome, elapsed_s):
        console.print(line)
    return EXIT_DIFFERENT if outcome.differences else 0


def default_file() -> Path:
    """Some thousand lines of text that every Python has."""
    for name in DEFAULT_MODULES:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None and Path(found.origin).suffix == ".py":
            return Path(found.origin)
    raise click.UsageError("this Python ships without the source of its library; name a FILE")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, in whatever encoding. Raises :class:`click.UsageError` if there are none, or too many."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise click.UsageError(f"{path} can't be read: {error.strerror}") from error
    if not 0 < len(texts) <= LINES_MAX:
        raise click.UsageError(f"{path} has {len(texts):,} lines; the demo takes 1 to {LINES_MAX:,}")
    return texts


def summary(outcome: Outcome, elapsed_s: float) -> list[str]:
    """What is printed in the end."""
    facts = [
        ("lines", f"{outcome.lines:,}"),
        ("commits/s", f"{outcome.commits_per_s:,.0f} while all nodes lived, each synced to the disks of a majority"),
        ("without a leader", f"{outcome.leaderless_s:.2f} s, from the kill until the next leader was known"),
        ("rejoin", f"{outcome.rejoin_s:.2f} s, from starting the process until it had caught up"),
        (
            "proposed again",
            f"{outcome.proposed_again:,} of {outcome.unconfirmed:,} lines that {outcome.killed} had left unconfirmed "
            "or unsent; the rest had been committed",
        ),
        ("altogether", f"{elapsed_s:.1f} s"),
    ]
    verdict = (
        [f"DIFFERENT: {difference}" for difference in outcome.differences]
        if outcome.differences
        else [f"the same on all {NODES}: map, count and order; every line was handed out exactly once"]
    )
    return [f"{name:<17} {value}" for name, value in facts] + verdict


def report_failure(cluster: LocalCluster, error: Exception) -> None:
    """Say on stderr what went wrong, with the end of what each node wrote."""
    click.echo(f"copycat demo: {error}", err=True)
    for seat in cluster.seats:
        if seat.worker is not None and seat.worker.last_words:
            click.echo(f"--- {seat.name} wrote:\n{seat.worker.last_words.rstrip()}", err=True)


@contextlib.contextmanager
def progress_of(console: Console, lines: int) -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere."""
    bar = Progress(
        TextColumn("confirmed"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    bar.add_task("confirmed", total=lines)
    with bar:
        yield bar


@contextlib.contextmanager
def tidy_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that nothing is left behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
