"""``copycat gossip-keys status`` and ``rotate``: the keys of all nodes' gossip, seen and changed through one running node."""

from __future__ import annotations

from typing import Any

import click

from copycat.cli.asking import AdminClient, asks_node, print_json
from copycat.cli.keys import gossip_keys
from copycat.cli.tables import console, rings_table
from copycat.errors import ClusterError, UsageError

STEP_TIMEOUT_S = 10.0


def _take(client: AdminClient, step: str, key: str = "") -> dict[str, Any]:
    taken: dict[str, Any] = client.ask("gossip_keys", STEP_TIMEOUT_S, step=step, key=key, timeout=STEP_TIMEOUT_S)
    return taken


@gossip_keys.command("status", short_help="Which keys each node has.")
@asks_node
def ring_status(client: AdminClient, as_json: bool) -> int:
    """Print the ids of the keys that each node has, the one that seals first; exits with 1 if they differ."""
    seen = _take(client, "look")
    alike = not seen["silent"] and len({tuple(node["keys"]) for node in seen["nodes"]}) == 1
    form = {"alike": alike, "nodes": seen["nodes"], "silent": seen["silent"]}
    _print(form, as_json)
    return 0 if alike else 1


@gossip_keys.command("rotate", short_help="Change the key on all nodes while they run.")
@click.option("--to", "target", metavar="KEY", default="", help="Go on with a change to this key that was interrupted.")
@click.option("--leave-behind", is_flag=True, help="Go on without nodes that don't answer: they need the file by hand.")
@asks_node
def rotate(client: AdminClient, as_json: bool, target: str, leave_behind: bool) -> None:
    """Make a new key, bring it to the files of all nodes, seal with it everywhere, and remove the old ones.

    Each step is taken on all nodes before the next. It stops, with nothing lost, if a node does not answer or can't change its
    file; go on with --to once it can. A node that is down meanwhile finds no one who understands its old key: hence
    --leave-behind.
    """
    seen = _take(client, "look")
    names = sorted({name for node in seen["nodes"] for name in node["keys"]})
    if not target and len(names) != 1:
        raise UsageError(
            f"nodes have the keys {', '.join(names)}: a change is under way, or was interrupted. Say with --to which of them is "
            "to stay ('copycat gossip-keys status' shows who has which)"
        )
    behind = _missing(seen, lambda node: not node["error"])
    _check(behind, leave_behind, "nothing was changed", target)
    added = _take(client, "add", target)
    target = added["key"]
    if not as_json:
        click.echo(
            f"the new key is {target}; if this is interrupted, go on with: copycat gossip-keys rotate --to {target}"
        )
    behind |= _missing(added, lambda node: target in node["keys"])
    _check(behind, leave_behind, "not all have the new key, and it is not in use", target)
    behind |= _missing(_take(client, "use", target), lambda node: node["keys"][:1] == [target])
    _check(behind, leave_behind, "not all seal with the new key, and the old one is understood still", target)
    for name in names:
        if name != target:
            behind |= _missing(_take(client, "remove", name), lambda node: name not in node["keys"])  # noqa: B023
    _check(behind, leave_behind, "the old key was not removed everywhere", target)
    done = _take(client, "look")
    form = {"key": target, "nodes": done["nodes"], "silent": done["silent"]}
    _print(form, as_json)


def _missing(taken: dict[str, Any], done: Any) -> set[str]:
    """Nodes that have not taken a step, each with the reason."""
    refused = {
        f"{node['node_id']} ({node['error'] or 'without a reason'})" for node in taken["nodes"] if not done(node)
    }
    return refused | {f"{node_id} (no answer)" for node_id in taken["silent"]}


def _check(behind: set[str], leave_behind: bool, so_far: str, target: str) -> None:
    if behind and not leave_behind:
        on = f" --to {target}" if target else ""
        raise ClusterError(
            f"{so_far}: {', '.join(sorted(behind))}. Bring these nodes back and call 'copycat gossip-keys rotate{on}' again; or "
            "'copycat forget' those that are gone for good; or say --leave-behind, and bring the file to them by hand"
        )


def _print(form: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(form)
        return
    console().print(rings_table(form["nodes"], form["silent"]))
