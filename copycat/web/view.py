"""Starts and ends a view of a node."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from copycat.config import Config
from copycat.endpoint import Endpoint
from copycat.errors import UsageError
from copycat.security.exposure import is_loopback
from copycat.web.access import Guard, new_token, token_from
from copycat.web.answers import SAFE, Answers
from copycat.web.history import History
from copycat.web.looks import Looked

log = logging.getLogger(__name__)

TOKEN_FILE = "view.token"  # noqa: S105  (where it is, not what it is)
TIMEOUT_S = 5.0


class Viewed(Looked, Protocol):
    """A node: see :class:`copycat.CopyCat`."""

    config: Config


class View:
    """A view that is being served; made by :func:`serve`. A context manager; every method is safe from any thread."""

    def __init__(self, endpoint: Endpoint, history: History, token: str, token_file: Path | None) -> None:
        self._endpoint = endpoint
        self._history = history
        self._token = token
        self.token_file = token_file
        """Where the token is; None if it is nowhere but here, because the node keeps nothing on disk."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @property
    def port(self) -> int:
        """Where it listens, also if it was started on port 0."""
        return self._endpoint.port

    @property
    def url(self) -> str:
        """The page's address, without the token."""
        host = self._endpoint.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def token(self) -> str:
        """What lets somebody look. A secret: don't log it."""
        return self._token

    def close(self) -> None:
        """Stop. May be called twice. The node goes on."""
        self._endpoint.close()
        self._history.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(
    node: Viewed,
    port: int = 8458,
    host: str = "127.0.0.1",
    token_file: Path | str | None = None,
    beyond_loopback: bool = False,
    names: Sequence[str] = (),
) -> View:
    """Show ``node`` in a browser on ``host`` and ``port`` (0: a free one), until closed.

    ``token_file``: where the token is, and is put if the file isn't there; default: ``view.token`` in the data directory. What is
    sent is not encrypted, so a ``host`` that isn't loopback is refused unless ``beyond_loopback`` is set; a tunnel, or a
    proxy with TLS in front, is better. ``names``: hosts under which browsers ask for it, besides ``localhost``, loopback's
    addresses and ``host``.

    Raises :class:`~copycat.errors.UsageError` if it would be reached from other machines unbidden,
    :class:`~copycat.errors.KeyFileInvalid` if the token's file can't be used, and :class:`~copycat.errors.AddressInUse` if it
    can't listen there.
    """
    local = is_loopback(host)
    if not local and not beyond_loopback:
        raise UsageError(
            f"{host!r} can be reached from other machines, and nothing is encrypted: serve the view on 127.0.0.1, and reach it "
            "through a tunnel; or, where the network may be trusted, set beyond_loopback"
        )
    path = Path(token_file) if token_file is not None else None
    if path is None and Path(node.config.data_dir).is_dir():
        path = Path(node.config.data_dir) / TOKEN_FILE
    token = new_token() if path is None else token_from(path)
    history = History(lambda: node.measure(0, TIMEOUT_S))
    answers = Answers(node, Guard(token, (host, *names)), history, TIMEOUT_S)
    endpoint = Endpoint(host, port, answers, "copycat-view", SAFE)
    answers.cookie_name = (
        f"copycat-view-{endpoint.port}"  # cookies don't know ports; two nodes on one machine must not share
    )
    if not local:
        log.warning("the view can be reached from other machines, and is not encrypted", extra={"bind_address": host})
    history.start()
    return View(endpoint, history, token, path)
