"""The command line's root: which commands there are, and what becomes of an error.

Typed errors become one line on stderr. Exit codes: 0, done; 1, the cluster or this node failed; 2, a wrong command line,
configuration or environment, which the same call will meet again; 3, a node is unhealthy, or its data is damaged.
"""

from __future__ import annotations

import sys

import click

from copycat.cli import rotation  # noqa: F401  # adds to gossip-keys
from copycat.cli.backup import backup, restore
from copycat.cli.bench import bench
from copycat.cli.demo import demo
from copycat.cli.health import health
from copycat.cli.inspect import inspect
from copycat.cli.keys import gossip_keys, keygen, trust
from copycat.cli.node import node
from copycat.cli.operating import forget, leave, recover, replicas, transfer_leader
from copycat.cli.seeing import groups, members, status, top
from copycat.errors import CopyCatError, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="copycat", prog_name="copycat")
def root() -> None:
    """Replicate data structures across processes, machines and data centres."""


for command in (
    *(node, demo, bench),
    *(status, members, groups, top, health, inspect),
    *(transfer_leader, replicas, forget, leave, recover),
    *(backup, restore),
    *(keygen, trust, gossip_keys),
):
    root.add_command(command)


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line, run it and exit."""
    try:
        exit_code = root.main(arguments, prog_name="copycat", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("copycat: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CopyCatError as error:
        click.echo(f"copycat: {type(error).__name__}: {' '.join(str(error).split())}", err=True)
        sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
    sys.exit(exit_code if isinstance(exit_code, int) else 0)
