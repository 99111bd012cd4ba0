"""``copycat health``: whether a node does what it is there for, and if not, why; made for probes, which look at the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import click

from copycat.cli.asking import AdminClient, asks_node, print_json
from copycat.cli.tables import console

EXIT_UNHEALTHY = 3
LAG_ENTRIES_MAX = 10_000
NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """``what`` is one of ``stalled_disk``, ``no_quorum``, ``no_leader``, ``lag``, ``under_replicated``.

    ``serious``: the node is unhealthy. ``groups``: how many it concerns, ``examples`` some of their ids.
    """

    what: str
    serious: bool
    message: str
    groups: int = 0
    examples: tuple[str, ...] = ()


def judge(status: dict[str, Any], groups: Iterable[dict[str, Any]], lag_max: int = LAG_ENTRIES_MAX) -> list[Problem]:
    """What is wrong, the serious first. Pure; both arguments are as the admin socket gives them."""
    problems = []
    age, limit = status["write_age_s"], status["stalled_disk_hand_over_s"]
    if age >= limit:
        problems.append(
            Problem(
                "stalled_disk",
                True,
                f"a write has been waiting for {age:.1f} s (allowed are {limit:g} s): check the disk",
            )
        )
    kinds: dict[str, list[str]] = {"no_quorum": [], "no_leader": [], "lag": [], "under_replicated": []}
    for group in groups:
        if not group["has_quorum"]:
            kinds["no_quorum"].append(group["id"])
        elif group["leader"] is None:
            kinds["no_leader"].append(group["id"])
        if any(peer["entries"] > lag_max for peer in group["lag"]):
            kinds["lag"].append(group["id"])
        if group["under_replicated"]:
            kinds["under_replicated"].append(group["id"])
    advice = {
        "no_quorum": "a majority of the voters is away: bring their nodes back, or see 'copycat recover'",
        "no_leader": "an election is under way, or voters can't reach each other",
        "lag": f"a replica is more than {lag_max} entries behind its leader",
        "under_replicated": "fewer voters live than are wanted; it grows when there are nodes",
    }
    for what, ids in kinds.items():
        if ids:
            examples = tuple(ids[:NAMED_MAX])
            problems.append(
                Problem(what, what != "under_replicated", f"{len(ids)} groups: {advice[what]}", len(ids), examples)
            )
    return problems


@click.command(short_help="Say whether a node is healthy, by exit code, and why not.")
@click.option(
    "--lag-max",
    type=click.IntRange(1),
    default=LAG_ENTRIES_MAX,
    show_default=True,
    help="Entries that a replica may be behind its leader.",
)
@asks_node
def health(client: AdminClient, as_json: bool, lag_max: int) -> int:
    """Say whether a running node is healthy.

    Exits with 0 if it is, with 3 if it is not and why, and with 1 if it could not be asked. Under-replicated groups are
    mentioned, but don't make a node unhealthy: they serve.
    """
    problems = judge(client.ask("status"), client.groups(), lag_max)
    healthy = not any(problem.serious for problem in problems)
    if as_json:
        print_json({"healthy": healthy, "problems": [asdict(problem) for problem in problems]})
    else:
        screen = console()
        screen.print("[green]healthy[/green]" if healthy else "[red]unhealthy[/red]")
        for problem in problems:
            screen.print(f"{problem.what}: {problem.message}{_named(problem)}", markup=False)
    return 0 if healthy else EXIT_UNHEALTHY


def _named(problem: Problem) -> str:
    if not problem.examples:
        return ""
    more = ", ..." if problem.groups > len(problem.examples) else ""
    return f" ({', '.join(problem.examples)}{more})"
