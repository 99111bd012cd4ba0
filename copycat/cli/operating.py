"""Commands that change something through a running node: leaderships, replicas, members, and groups that lost their quorum."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

import click

from copycat.cli.asking import AdminClient, asks_node, print_json
from copycat.cli.tables import console
from copycat.errors import CopyCatError, UsageError

LEAVE_TIMEOUT_S = 60.0
WORK_TIMEOUT_S = 10.0


def _report(as_json: bool, form: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(form)
    else:
        console().print(text, markup=False)


@click.command("transfer-leader", short_help="Move a group's leadership to another of its voters.")
@click.argument("group")
@click.argument("node")
@asks_node
def transfer_leader(client: AdminClient, as_json: bool, group: str, node: str) -> None:
    """Let the leader of GROUP be on NODE, which has a voter of it; returns once the asked node has seen it there."""
    client.ask("transfer_leader", WORK_TIMEOUT_S, id=group, node_id=node, timeout=WORK_TIMEOUT_S)
    _report(as_json, {"group": group, "leader": node}, f"{group} is led by {node}")


@click.group(short_help="Let a group have more or fewer voters.")
def replicas() -> None:
    """Let a group have one voter more or less, for good. Ask the node that leads it ('copycat groups' says which)."""


@replicas.command("add", short_help="Let a group have one voter more.")
@click.argument("group")
@click.argument("node", required=False, default="")
@asks_node
def replicas_add(client: AdminClient, as_json: bool, group: str, node: str) -> None:
    """Let GROUP have one voter more, beginning on NODE, or where placement puts it.

    Returns once that is committed; the new replica then catches up and votes.
    """
    _resize(client, as_json, group, 1, node)


@replicas.command("remove", short_help="Let a group have one voter less.")
@click.argument("group")
@click.argument("node", required=False, default="")
@asks_node
def replicas_remove(client: AdminClient, as_json: bool, group: str, node: str) -> None:
    """Let GROUP have one voter less: that on NODE, or the one that is placed worst."""
    _resize(client, as_json, group, -1, node)


def _resize(client: AdminClient, as_json: bool, group: str, step: int, node: str) -> None:
    wanted = client.ask("replicas", WORK_TIMEOUT_S, id=group, step=step, node_id=node, timeout=WORK_TIMEOUT_S)
    _report(as_json, {"group": group, "replicas_wanted": wanted}, f"{group} is to have {wanted} voters")


@click.command(short_help="Give up a dead node for good.")
@click.argument("node")
@click.option("--force", is_flag=True, help="Even if the asked node sees no majority of the members alive.")
@asks_node
def forget(client: AdminClient, as_json: bool, node: str, force: bool) -> None:
    """Give up NODE, which is dead and never comes back: it is no longer counted, and its voters are replaced at once.

    If it does come back, it is refused and stops for good.
    """
    client.ask("forget", node_id=node, force=force)
    _report(as_json, {"forgotten": node}, f"{node} is given up")


@click.command(short_help="Let a node leave its cluster for good.")
@click.option(
    "--within",
    type=click.FloatRange(1.0, 3600.0),
    default=LEAVE_TIMEOUT_S,
    show_default=True,
    help="Seconds it may take; if they don't suffice, the node goes on.",
)
@asks_node
def leave(client: AdminClient, as_json: bool, within: float) -> None:
    """Let the asked node leave: its replicas move to others first, then it stops, and its directory never starts again."""
    node_id = client.ask("status")["node_id"]
    client.ask("leave", within + WORK_TIMEOUT_S, timeout=within)
    _report(as_json, {"left": node_id}, f"{node_id} has left its cluster for good")


@click.command(short_help="Let a group that lost its quorum for good go on from this node.")
@click.argument("ids", metavar="[GROUPS]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every group of the asked node that has no quorum.")
@click.option("--reason", default="", help="Kept in the record of it.")
@click.option(
    "--force", is_flag=True, help="Whatever living replicas say of their logs, and even if a majority seems to live."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@asks_node
def recover(
    client: AdminClient, as_json: bool, ids: tuple[str, ...], everything: bool, reason: str, force: bool, yes: bool
) -> int:
    """Let GROUPS that lost their quorum for good go on from the asked node's replicas alone.

    What only lost replicas held is gone. First give up each lost node with 'copycat forget', and destroy its disk. Read "A quorum
    that is lost for good" in docs/operations.md before. A record of it stays in the data directory.
    """
    if bool(ids) == everything:
        raise click.UsageError("name groups, or say --all")
    if everything:
        ids = tuple(group["id"] for group in client.groups() if not group["has_quorum"])
    if not yes and ids:
        click.confirm(
            f"{len(ids)} groups go on from this node's replicas alone; what only lost ones held is gone. Go on?",
            abort=True,
            err=True,
        )
    operator = f"{getpass.getuser()}@{socket.gethostname()} (uid {os.getuid()})"
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    wrong_usage = False
    for one in ids:
        try:
            done.append(
                client.ask(
                    "recover",
                    2 * WORK_TIMEOUT_S,
                    id=one,
                    operator=operator,
                    reason=reason,
                    force=force,
                    timeout=WORK_TIMEOUT_S,
                )
            )
        except CopyCatError as error:
            wrong_usage = wrong_usage or isinstance(error, UsageError)
            failed.append({"group": one, "error": type(error).__name__, "message": str(error)})
    if as_json:
        print_json({"recovered": done, "failed": failed})
    for record in [] if as_json else done:
        click.echo(f"{record['group']} goes on from entry {record['last_index']}, in term {record['new_term']}")
    for failure in [] if as_json else failed:
        click.echo(f"copycat: {failure['group']}: {failure['error']}: {failure['message']}", err=True)
    return 0 if not failed else 2 if wrong_usage else 1
