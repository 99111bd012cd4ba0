"""``copycat node``: a process without a consumer, which lends its disk and its vote to the groups of others.

Prints one line when it is ready. SIGTERM and SIGINT make it leave gracefully; a second one ends it at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

import copycat
from copycat import metrics
from copycat.cli.logs import LEVELS, logging_to_stderr
from copycat.cli.options import config_from, config_options

HEALTH_CHECK_S = 1.0


@click.command(short_help="Run a node that lends its disk to the data structures of others.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What goes to stderr.")
@click.option(
    "--metrics-port", type=int, help="Serve /metrics (Prometheus) and /health on this port.  [default: don't]"
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where to serve them.")
@click.option("--web-port", type=int, help="Serve a page about the node on this port.  [default: don't]")
@click.option("--web-host", default="127.0.0.1", show_default=True, help="Where to serve it.")
@click.option("--web-beyond-loopback", is_flag=True, help="Serve it where other machines can reach it, unencrypted.")
@click.option("--web-name", "web_names", multiple=True, help="A host name under which browsers ask for it; repeatable.")
@click.option(
    "--web-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What a browser has to know; made if it isn't there.  [default: view.token in the data directory]",
)
@config_options
def node(
    config_file: Path | None,
    log_level: str,
    metrics_port: int | None,
    metrics_host: str,
    web_port: int | None,
    web_host: str,
    web_beyond_loopback: bool,
    web_names: tuple[str, ...],
    web_token_file: Path | None,
    **given: Any,
) -> None:
    """Run a node that lends its disk to the data structures of others.

    It hosts detached replicas: they store and vote, and run no code of any consumer. Once it is ready it prints one line with
    its id and its gossip address, which is what others put into --peers-to-contact. SIGTERM and SIGINT make it leave
    gracefully.
    """
    config = config_from(config_file, given)
    with contextlib.ExitStack() as running:
        running.enter_context(logging_to_stderr(log_level))
        stopped = running.enter_context(stop_signals())
        cat = running.enter_context(copycat.CopyCat(config))
        ready = f"ready node_id={cat.node_id} address={cat.address}"
        if metrics_port is not None:
            endpoint = running.enter_context(metrics.serve(cat, metrics_port, metrics_host))
            ready += f" metrics=http://{metrics_host}:{endpoint.port}/metrics"
        if web_port is not None:
            from copycat import web  # loads Python's HTTP server

            view = web.serve(cat, web_port, web_host, web_token_file, web_beyond_loopback, web_names)
            running.enter_context(view)
            ready += f" web={view.url}"  # without the token: the line may end up in a log
        click.echo(ready)
        while not stopped.wait(HEALTH_CHECK_S):
            if cat.left:
                click.echo(f"left node_id={cat.node_id}")
                return
            cat.members()  # raises once the node has stopped by itself, as it does when its disk fails


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; after the first, both act as they did before."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        restore()
