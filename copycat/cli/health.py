"""``copycat health``: whether a node does what it is there for, and if not, why; made for probes, which look at the exit code."""

from __future__ import annotations

from typing import Any

import click

from copycat.cli.asking import AdminClient, asks_node, print_json
from copycat.cli.tables import console, problem_text
from copycat.health import LAG_ENTRIES_MAX

EXIT_UNHEALTHY = 3


@click.command(short_help="Say whether a node is healthy, by exit code, and why not.")
@click.option(
    "--lag-max",
    type=click.IntRange(1),
    default=LAG_ENTRIES_MAX,
    show_default=True,
    help="Entries that a replica may be behind its leader, and a consumer behind its replica.",
)
@asks_node
def health(client: AdminClient, as_json: bool, lag_max: int) -> int:
    """Say whether a running node is healthy.

    Exits with 0 if it is, with 3 if it is not and why, and with 1 if it could not be asked. Under-replicated groups are
    mentioned, but don't make a node unhealthy: they serve.
    """
    found: dict[str, Any] = client.ask("health", lag_max=lag_max)
    if as_json:
        print_json(found)
    else:
        screen = console()
        screen.print("[green]healthy[/green]" if found["healthy"] else "[red]unhealthy[/red]")
        for problem in found["problems"]:
            screen.print(problem_text(problem))
    return 0 if found["healthy"] else EXIT_UNHEALTHY
