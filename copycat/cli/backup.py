"""``copycat backup`` and ``copycat restore``: what data structures hold, taken out of a running cluster and put into one.

Both go piece by piece through the admin socket of one node, one data structure after the other, and hold one piece in memory.
What fails with one data structure does not keep the others from being done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from ulid import ULID

from copycat.cli.asking import AdminClient, asks_node, node_options, print_json
from copycat.cli.backupfile import SUFFIX, BackupWriter, Content, Header, examine, read_frames
from copycat.errors import CopyCatError, StorageCorrupt, UsageError
from copycat.ids import DataStructureId

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 3
WORK_TIMEOUT_S = 30.0
ITEMS_BYTES_MAX = 1 << 20
"""Of the items in one request, unless a single one is longer."""
ITEMS_MAX = 8192

_Report = Callable[[int], None]


class _Outcome:
    """What was done, and what could not be, one data structure after the other."""

    def __init__(self, verb: str, as_json: bool) -> None:
        self._verb = verb
        self._as_json = as_json
        self._done: list[dict[str, Any]] = []
        self._failed: list[dict[str, str]] = []
        self._exit_code = 0

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        try:
            yield
        except (CopyCatError, OSError) as error:
            self._failed.append({"what": name, "error": type(error).__name__, "message": str(error)})
            code = EXIT_DAMAGED if isinstance(error, StorageCorrupt) else EXIT_FAILED
            code = EXIT_USAGE if isinstance(error, UsageError) else code
            self._exit_code = max(self._exit_code, code)
            if not self._as_json:
                click.echo(f"copycat: {name}: {type(error).__name__}: {error}", err=True)

    def add(self, form: dict[str, Any], text: str) -> None:
        self._done.append(form)
        if not self._as_json:
            click.echo(text)

    def end(self) -> int:
        if self._as_json:
            print_json({self._verb: self._done, "failed": self._failed})
        return self._exit_code


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on stderr, if that is a terminal."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        yield progress


def _reporter(progress: Progress, task: TaskID) -> _Report:
    return lambda completed: progress.update(task, completed=completed)


@click.command(short_help="Write what data structures hold into files, while they are in use.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.argument("ids", metavar="[GROUPS]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every data structure of which the asked node has a replica.")
@click.option(
    "--led", is_flag=True, help="Every one that the asked node leads: on each node, that is all of a cluster, once."
)
@click.option(
    "--local",
    is_flag=True,
    help="What the asked node's replicas know to be committed, also where no leader confirms it.",
)
@asks_node
def backup(
    client: AdminClient,
    as_json: bool,
    directory: Path,
    ids: tuple[str, ...],
    everything: bool,
    led: bool,
    local: bool,
) -> int:
    """Write each of GROUPS into a file of its own in DIRECTORY, from the asked node's replicas, while they are in use.

    A file holds one state in which every consumer was: everything that was acknowledged before the backup of that data
    structure began, and nothing that follows. An earlier backup in DIRECTORY is replaced once the new one is whole.
    """
    if bool(ids) + everything + led != 1:
        raise click.UsageError("name groups, or say --all or --led")
    status = client.ask("status")
    if everything or led:
        ids = tuple(group["id"] for group in client.groups() if everything or group["role"] == "leader")
    directory.mkdir(parents=True, exist_ok=True)
    outcome = _Outcome("backed_up", as_json)
    with _progress() as progress:
        for one in ids:
            task = progress.add_task(one, total=None)
            with outcome.attempt(one):
                form = _back_up(
                    client, directory, str(DataStructureId.parse(one)), status, local, _reporter(progress, task)
                )
                outcome.add(form, f"{one}: {form['position']} items, {form['bytes']} bytes in {form['file']}")
            progress.remove_task(task)
    return outcome.end()


def _back_up(
    client: AdminClient, directory: Path, one: str, status: dict[str, Any], local: bool, report: _Report
) -> dict[str, Any]:
    begun = client.ask("backup_begin", WORK_TIMEOUT_S, id=one, local=local, timeout=WORK_TIMEOUT_S)
    reader = begun["reader"]
    header = Header(
        id=one,
        replicas=begun["replicas"],
        data_center_replicas=begun["data_center_replicas"],
        cluster_label=status["cluster_label"],
        node_id=status["node_id"],
        at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    path = directory / f"{one}{SUFFIX}"
    try:
        with BackupWriter(path, header) as writer:
            while (piece := client.ask("backup_read", WORK_TIMEOUT_S, reader=reader))["kind"] != "end":
                if piece["kind"] == "begin":
                    writer.restart()
                if piece.get("items") != []:
                    writer.write(piece)
                report(writer.bytes)
            writer.finish(piece["position"])
    except BaseException:
        with contextlib.suppress(CopyCatError):
            client.ask("backup_close", reader=reader)
        raise
    return {"group": one, "file": str(path), "position": piece["position"], "bytes": writer.bytes, "at": header.at}


@click.command(short_help="Put what a backup holds into a cluster.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--check",
    is_flag=True,
    help="Only read the files, and say what they hold and whether they are whole. Asks no node.",
)
@click.option("--new-id", is_flag=True, help="Under a new id each, so that a data structure can be beside what it was.")
@click.option("--replicas", type=click.IntRange(1, 64), help="How many voters; by default as many as it had.")
@node_options
def restore(
    data_dir: Path,
    timeout: float,
    as_json: bool,
    files: tuple[Path, ...],
    check: bool,
    new_id: bool,
    replicas: int | None,
) -> int:
    """Create a data structure from each of FILES in the asked node's cluster, with the content and positions it had.

    A file is read whole before anything is created. A data structure that exists is refused. It begins on the asked node, and
    gets its other replicas as any other. Consumers may subscribe to it at once.
    """
    outcome = _Outcome("checked" if check else "restored", as_json)
    with contextlib.ExitStack() as stack:
        client = None if check else stack.enter_context(AdminClient(data_dir, timeout))
        progress = stack.enter_context(_progress())
        for path in files:
            with outcome.attempt(str(path)):
                content = examine(path)
                if client is None:
                    outcome.add(_form_of(path, content), f"{path}: whole; {_said_of(content)}")
                    continue
                group = str(DataStructureId.parse(ULID())) if new_id else content.header.id
                task = progress.add_task(group, total=content.file_bytes)
                position = _restore(client, path, content, group, replicas, _reporter(progress, task))
                progress.remove_task(task)
                form = {"file": str(path), "group": group, "was": content.header.id, "position": position}
                outcome.add(form, f"{group}: restored up to position {position}, {_said_of(content)}")
    return outcome.end()


def _form_of(path: Path, content: Content) -> dict[str, Any]:
    return {
        "file": str(path),
        **asdict(content.header),
        "position": content.position,
        "snapshot_position": content.snapshot_position,
        "snapshot_bytes": content.snapshot_bytes,
        "items": content.items,
    }


def _said_of(content: Content) -> str:
    snapshot = f"a snapshot of {content.snapshot_bytes} bytes and " if content.snapshot_position else ""
    return f"{snapshot}{content.items} items, of {content.header.id} at {content.header.at}"


def _restore(
    client: AdminClient, path: Path, content: Content, group: str, replicas: int | None, report: _Report
) -> int:
    header = content.header
    wanted = replicas or header.replicas
    limits = client.ask(
        "restore_begin",
        WORK_TIMEOUT_S,
        id=group,
        replicas=wanted,
        data_center_replicas=min(header.data_center_replicas, wanted),
        position=content.snapshot_position,
        snapshot_bytes=content.snapshot_bytes,
        timeout=WORK_TIMEOUT_S,
    )
    try:
        done = 0
        frames = read_frames(path)
        for kind, value in _requests(frames, limits["chunk_bytes"]):
            if kind == "chunk":
                client.ask("restore_chunk", WORK_TIMEOUT_S, id=group, data=value)
                done += len(value)
            else:
                client.ask("restore_items", WORK_TIMEOUT_S, id=group, items=value)
                done += sum(map(len, value))
            report(done)
    except BaseException:
        with contextlib.suppress(CopyCatError):
            client.ask("restore_give_up", id=group)
        raise
    answer = client.ask(
        "restore_finish", 2 * WORK_TIMEOUT_S, id=group, position=content.position, timeout=WORK_TIMEOUT_S
    )
    position: int = answer["position"]
    return position


def _requests(frames: Iterable[dict[str, Any]], chunk_bytes: int) -> Iterator[tuple[str, Any]]:
    """Chunks and items as this cluster takes them, whatever they were cut to in the other."""
    buffer = bytearray()
    for frame in frames:
        if frame["kind"] == "chunk":
            buffer += frame["data"]
            while len(buffer) >= chunk_bytes:
                yield "chunk", bytes(buffer[:chunk_bytes])
                del buffer[:chunk_bytes]
        elif frame["kind"] == "items":
            if buffer:
                yield "chunk", bytes(buffer)
                buffer.clear()
            for items in _cut(frame["items"]):
                yield "items", items
    if buffer:
        yield "chunk", bytes(buffer)


def _cut(items: list[bytes]) -> Iterator[list[bytes]]:
    size, batch = 0, list[bytes]()
    for item in items:
        if batch and (size + len(item) > ITEMS_BYTES_MAX or len(batch) >= ITEMS_MAX):
            yield batch
            size, batch = 0, []
        batch.append(item)
        size += len(item)
    if batch:
        yield batch
