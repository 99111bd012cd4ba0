"""How what a node tells is shown to people. Nothing here asks or decides; JSON never comes through here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 160
_STATE_STYLES = {"alive": "green", "suspect": "yellow", "dead": "red", "left": "dim"}


def console() -> Console:
    """Prints to stdout as it is now; wide enough not to cut ids where there is no terminal."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def status_table(status: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    members = ", ".join(f"{count} {state}" for state, count in status["members"].items() if count)
    rows = [
        ("node", status["node_id"]),
        ("process", str(status["pid"])),
        ("gossip address", status["address"]),
        ("cluster", status["cluster_label"]),
        ("data centre, rack", f"{status['data_center'] or '-'}, {status['rack'] or '-'}"),
        ("data directory", status["data_dir"]),
        ("members", members),
        (
            "groups",
            f"{status['groups_hosted']} hosted, {status['groups_led']} led, {status['groups_interactive']} with a consumer",
        ),
        ("log on disk", size_text(status["log_bytes"])),
        ("oldest write", f"{status['write_age_s']:.2f} s"),
    ]
    if status["leaving"]:
        rows.append(("leaving", status["leaving"]))
    for recovery in status["recoveries"]:
        rows.append(("recovered", f"{recovery['group']} at {recovery['at']} by {recovery['operator']}"))
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def problem_text(problem: dict[str, Any]) -> Text:
    """One line of what ails a node, as its ``health`` tells it."""
    line = f"{problem['what']}: {problem['message']}"
    if problem["examples"]:
        more = ", ..." if problem["groups"] > len(problem["examples"]) else ""
        line += f", {problem['groups']} groups ({', '.join(problem['examples'])}{more})"
    return Text(line, style="red" if problem["serious"] else "yellow")


def rings_table(nodes: Iterable[dict[str, Any]], silent: Iterable[str]) -> Table:
    table = Table("node", "seals with", "understands too", "", box=None, pad_edge=False)
    for node in nodes:
        first, *others = node["keys"] or ["-"]
        table.add_row(node["node_id"], first, " ".join(others), escape(node["error"] or ""))
    for node_id in silent:
        table.add_row(node_id, "-", "", "[red]no answer[/red]")
    return table


def members_table(members: Iterable[dict[str, Any]]) -> Table:
    table = Table("node", "gossip address", "state", "data centre", "rack", box=None, pad_edge=False)
    for member in members:
        style = _STATE_STYLES.get(member["state"], "")
        state = (
            member["state"] + (", for good" if member["for_good"] else "") + (", leaving" if member["leaving"] else "")
        )
        name = member["node_id"] + (" (this)" if member["this"] else "")
        places = [escape(member["data_center"]) or "-", escape(member["rack"]) or "-"]
        table.add_row(name, escape(member["address"]), f"[{style}]{state}[/{style}]" if style else state, *places)
    return table


def groups_table(groups: Iterable[dict[str, Any]], rates: dict[str, float] | None = None) -> Table:
    headers = ["group", "role", "leader", "term", "position", "voters", "lag", "log", "state"]
    if rates is not None:
        headers.insert(5, "items/s")
    table = Table(*headers, box=None, pad_edge=False)
    for group in groups:
        problem = group_problem(group)
        lag = max([peer["entries"] for peer in group["lag"]], default=0)
        row = [
            group["id"],
            group["role"] + ("*" if group["interactive"] else ""),
            group["leader"] or "-",
            str(group["term"]),
            str(group["applied_position"]),
            f"{len(group['voters'])}/{group['replicas_wanted']}"
            + (f"+{len(group['learners'])}" if group["learners"] else ""),
            str(lag) if group["role"] == "leader" else "-",
            size_text(group["log_bytes"]),
            f"[red]{problem}[/red]" if problem else "[green]ok[/green]",
        ]
        if rates is not None:
            row.insert(5, f"{rates.get(group['id'], 0.0):.1f}")
        table.add_row(*row)
    return table


def group_problem(group: dict[str, Any]) -> str | None:
    """What is wrong with a group in few words, the worst first; None if nothing is."""
    if not group["has_quorum"]:
        return "no quorum"
    if group["leader"] is None:
        return "no leader"
    return "under-replicated" if group["under_replicated"] else None


def size_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
