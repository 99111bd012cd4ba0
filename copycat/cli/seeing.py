"""Commands that look at a running node: ``status``, ``members``, ``groups`` and ``top``. They change nothing."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Group as Stack
from rich.live import Live
from rich.text import Text

from copycat.cli.asking import AdminClient, asks_node, print_json
from copycat.cli.tables import console, group_problem, groups_table, members_table, problem_text, status_table

TOP_GROUPS_MAX = 40


@click.command(short_help="Show a running node.")
@asks_node
def status(client: AdminClient, as_json: bool) -> None:
    """Show a running node: who it is, what it hosts, and what is wrong."""
    found = client.ask("status")
    problems = client.ask("health")["problems"]
    if as_json:
        print_json({**found, "problems": [problem["what"] for problem in problems]})
        return
    screen = console()
    screen.print(status_table(found))
    for problem in problems:
        screen.print(problem_text(problem))


@click.command(short_help="List the nodes of the cluster.")
@asks_node
def members(client: AdminClient, as_json: bool) -> None:
    """List every node that the asked one knows, itself included, with how it sees it."""
    found = client.ask("members")
    if as_json:
        print_json(found)
    else:
        console().print(members_table(found))


@click.command(short_help="List the groups that a node hosts.")
@click.argument("ids", nargs=-1)
@click.option("--troubled", is_flag=True, help="Only those without quorum or leader, or with too few voters.")
@asks_node
def groups(client: AdminClient, as_json: bool, ids: tuple[str, ...], troubled: bool) -> None:
    """List the groups that the asked node hosts, or those with the IDS given.

    Lag is told by leaders alone: entries that the slowest replica is behind. A star behind the role: a consumer is attached here.
    """
    found = [client.ask("group", id=one) for one in ids] if ids else list(client.groups())
    if troubled:
        found = [group for group in found if group_problem(group)]
    if as_json:
        print_json(found)
    else:
        console().print(groups_table(found))


@click.command(short_help="Watch a node live.")
@click.option(
    "--every", type=click.FloatRange(0.2, 60.0), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--count", type=click.IntRange(1), default=None, help="Looks until it ends by itself.")
@asks_node
def top(client: AdminClient, as_json: bool, every: float, count: int | None) -> None:
    """Watch a node and its busiest groups; Ctrl-C ends it.

    Where the output is no terminal, or with --json, it looks twice, prints once, and ends.
    """
    screen = console()
    look = Look(client)
    if as_json or not screen.is_terminal:
        time.sleep(every)
        look.again()
        if as_json:
            print_json({"status": look.status, "rates": look.rates(), "groups": look.groups})
        else:
            screen.print(look.shown())
        return
    with Live(look.shown(), console=screen, screen=True, auto_refresh=False) as live:
        looks = 1
        try:
            while count is None or looks < count:
                time.sleep(every)
                look.again()
                live.update(look.shown(), refresh=True)
                looks += 1
        except KeyboardInterrupt:
            return


class Look:
    """What was seen last, and how fast it changes since the time before."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._before: tuple[float, dict[str, Any], dict[str, int]] | None = None
        self._see()

    def again(self) -> None:
        self._before = (self._at, self.status, {group["id"]: group["applied_position"] for group in self.groups})
        self._see()

    def _see(self) -> None:
        self.status = self._client.ask("status")
        self.groups = list(self._client.groups())
        self.problems = self._client.ask("health")["problems"]
        self._at = time.monotonic()

    def rates(self) -> dict[str, float]:
        """What happens on this node each second, all groups together."""
        if self._before is None:
            return {}
        at, status, _ = self._before
        took = max(self._at - at, 1e-3)
        names = ("turns", "frames_received", "frames_sent", "writes", "write_bytes")
        rates = {name: (self.status["counters"][name] - status["counters"][name]) / took for name in names}
        return {**rates, "items": sum(self.group_rates().values())}

    def group_rates(self) -> dict[str, float]:
        """Items a second, by group."""
        if self._before is None:
            return {}
        at, _, positions = self._before
        took = max(self._at - at, 1e-3)
        return {
            group["id"]: max(0, group["applied_position"] - positions.get(group["id"], group["applied_position"]))
            / took
            for group in self.groups
        }

    def shown(self) -> Stack:
        rates = self.group_rates()
        busiest = sorted(self.groups, key=lambda group: (group_problem(group) is None, -rates.get(group["id"], 0.0)))
        whole = "  ".join(f"{name} {rate:,.0f}/s" for name, rate in self.rates().items())
        lines: list[Any] = [status_table(self.status), Text(whole)]
        lines += [problem_text(problem) for problem in self.problems]
        lines.append(groups_table(busiest[:TOP_GROUPS_MAX], rates))
        if len(busiest) > TOP_GROUPS_MAX:
            lines.append(Text(f"... and {len(busiest) - TOP_GROUPS_MAX} more"))
        return Stack(*lines)
