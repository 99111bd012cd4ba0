"""Asking a running node over its admin socket, and the options that all commands share which do.

What the node answers with an error is raised as that error here, so it ends like one of this process.
"""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from copycat import errors
from copycat.adminwire import ANSWER_BYTES_MAX, VERSION, FrameReader, pack_frame, socket_address
from copycat.config import Config
from copycat.errors import ClusterError, CodecError, CopyCatError, Timeout, UsageError

F = TypeVar("F", bound=Callable[..., Any])

ANSWER_TIMEOUT_S = 10.0
READ_BYTES = 256 * 1024


class NodeNotRunning(ClusterError):
    """Nothing answers at the data directory's admin socket."""


class AdminClient:
    """One connection to the node in ``data_dir``. One thread. A context manager.

    Raises :class:`NodeNotRunning`, and :class:`~copycat.errors.UsageError` if this user may not ask.
    """

    def __init__(self, data_dir: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.data_dir = data_dir
        self._timeout_s = timeout_s
        self._reader = FrameReader(ANSWER_BYTES_MAX)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            with socket_address(data_dir) as address:
                self._sock.connect(address)
        except PermissionError as error:
            self._sock.close()
            raise UsageError(f"only the owner of the node in {data_dir} may ask it; run this as that user") from error
        except OSError as error:
            self._sock.close()
            raise NodeNotRunning(
                f"no node answers at {data_dir} ({error.strerror or error}): name its directory with --data-dir, start it, or, "
                "if it runs, let it have its admin_socket; for a stopped node there is 'copycat inspect'"
            ) from error

    def ask(self, do: str, patience_s: float = 0.0, **arguments: Any) -> Any:
        """The node's answer. ``patience_s`` is what the request itself may take, beyond the time that any answer may.

        Raises the error that the node answers with, and :class:`~copycat.errors.Timeout`.
        """
        self._sock.settimeout(self._timeout_s + patience_s)
        try:
            self._sock.sendall(pack_frame({"version": VERSION, "do": do, "with": arguments}))
            while (answer := self._reader.take()) is None:
                data = self._sock.recv(READ_BYTES)
                if not data:
                    raise NodeNotRunning(
                        "the node ended the connection before it answered: it is stopping, or too busy with others"
                    )
                self._reader.feed(data)
        except TimeoutError as error:
            raise Timeout(
                f"the node at {self.data_dir} did not answer within {self._timeout_s + patience_s:g} s: its process is stopped, "
                "or overloaded; look at its log"
            ) from error
        except CodecError as error:
            raise UsageError(
                f"what answers at {self.data_dir} is of another version than this command: {error}"
            ) from error
        except OSError as error:
            raise NodeNotRunning(f"the connection to the node broke: {error.strerror or error}") from error
        if "error" in answer:
            raise _error_from(str(answer["error"]), str(answer.get("message", "")))
        return answer.get("ok")

    def groups(self) -> Iterator[dict[str, Any]]:
        """The status of every group that the node hosts, page by page."""
        after = ""
        while True:
            page = self.ask("groups", after=after)
            yield from page["groups"]
            if page["next"] is None:
                return
            after = page["next"]

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _error_from(name: str, message: str) -> CopyCatError:
    found = getattr(errors, name, None)
    if not (isinstance(found, type) and issubclass(found, CopyCatError)):
        return ClusterError(f"{name}: {message}")
    made: CopyCatError = found(message)
    return made


def asks_node(command: F) -> F:
    """Decorate a click command with ``--data-dir``, ``--timeout`` and ``--json``; it gets a client, and if JSON is wanted."""

    @functools.wraps(command)
    def asking(data_dir: Path, timeout: float, as_json: bool, **given: Any) -> Any:
        with AdminClient(data_dir, timeout) as client:
            return command(client, as_json, **given)

    return node_options(asking)  # type: ignore[no-any-return]


def node_options(command: Any) -> Any:
    """The options of a command that asks a node, for one that does so only now and then: see :func:`asks_node`."""
    decorated: Any = json_option(command)
    decorated = click.option(
        "--timeout",
        type=click.FloatRange(0.1, 3600.0),
        default=ANSWER_TIMEOUT_S,
        show_default=True,
        help="Seconds to wait for the node.",
    )(decorated)
    return data_dir_option(decorated)


def data_dir_option(command: Any) -> Any:
    """``--data-dir``, which the environment may give, too."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        default=Config.data_dir,
        envvar="COPYCAT_DATA_DIR",
        show_default=True,
        show_envvar=True,
        help="The node's data directory.",
    )(command)


def json_option(command: Any) -> Any:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, in the form that docs/commands.md describes."
    )(command)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
