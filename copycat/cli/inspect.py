"""``copycat inspect``: what lies in a stopped node's data directory, with every checksum verified. It writes nothing itself.

It goes through the storage port, so it works on any storage; it takes the directory's lock, so never beside a running node.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from copycat import keys, registry
from copycat.administration import recovery_form
from copycat.cli.asking import data_dir_option, json_option, print_json
from copycat.cli.tables import console, size_text
from copycat.codec import unpack_record
from copycat.departures import MARK_KEY
from copycat.errors import CodecError, InvalidConfChange, StorageCorrupt, UsageError
from copycat.genesis import Genesis
from copycat.group import founders_of
from copycat.ids import DataStructureId
from copycat.messages import EntryType
from copycat.nodestore import NodeStore
from copycat.ports import Storage
from copycat.raft.confchange import unpack_conf_change
from copycat.raft.tracker import Tracker
from copycat.records import ReplicaRecord
from copycat.recovery import RECORD_PREFIX, Recovery
from copycat.replicastore import ReplicaStore
from copycat.sequencer import Sequencer
from copycat.sessions import SessionTable

EXIT_DAMAGED = 3
PAGE_BYTES = 1 << 20


@click.command(short_help="Look into a stopped node's data directory, and verify it.")
@data_dir_option
@click.option("--storage", default=None, help="The storage that wrote it; by default what the directory says.")
@click.option("--quick", is_flag=True, help="Don't read snapshots and the data of entries: only what a start reads.")
@json_option
def inspect(data_dir: Path, storage: str | None, quick: bool, as_json: bool) -> int:
    """Look into the data directory of a node that does not run: its identity, groups, logs, snapshots, sessions and recoveries.

    Every checksum is verified. Exits with 0 if all is whole, and with 3 if something is damaged, after naming it.
    """
    opened = registry.make_storage(storage or _storage_of(data_dir))
    opened.open(data_dir)
    try:
        found = examine(opened, data_dir, quick)
    finally:
        opened.close()
    if as_json:
        print_json(found)
    else:
        _show(found)
    return EXIT_DAMAGED if found["damaged"] else 0


def _storage_of(data_dir: Path) -> str:
    """The name that the directory's marker says. Raises :class:`~copycat.errors.UsageError`, and creates nothing."""
    try:
        words = (data_dir / "COPYCAT").read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{data_dir} is no data directory of a node; name one with --data-dir") from None
    known = registry.registered(registry.STORAGES)
    for word in words:
        if word.strip(".,;:") in known:
            return word.strip(".,;:")
    raise UsageError(f"{data_dir} was written by a storage that is not installed here; name it with --storage")


def examine(storage: Storage, data_dir: Path, quick: bool = False) -> dict[str, Any]:
    """Everything that ``inspect`` tells, as plain values. Damage is reported in it, not raised."""
    damaged: list[str] = []
    node: dict[str, Any] = {"node_id": None, "cluster_label": None, "format": None, "departed": None, "recoveries": []}
    store = NodeStore(storage, "")
    for name, key in (
        ("format", "format"),
        ("cluster_label", "cluster-label"),
        ("node_id", "node-id"),
        ("departed", MARK_KEY),
    ):
        with _Noting(damaged):
            value = store.get(key)
            node[name] = None if value is None else value.decode(errors="replace")
    if node["node_id"] is None and not damaged:
        damaged.append("the node's id is missing")
    with _Noting(damaged):
        node["recoveries"] = [recovery_form(unpack_record(Recovery, value)) for _, value in store.scan(RECORD_PREFIX)]
    groups = [
        _examine_group(storage, keys.group_of_replica_key(found), damaged, quick)
        for found, _ in storage.scan(keys.REPLICA, keys.GROUP)
    ]
    return {"data_dir": os.path.abspath(data_dir), **node, "groups": groups, "damaged": damaged}


class _Noting:
    """Notes damage that turns up in the block, and goes on behind it."""

    def __init__(self, damaged: list[str]) -> None:
        self._damaged = damaged

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, (StorageCorrupt, CodecError)):
            self._damaged.append(str(error))
            return True
        return False


def _examine_group(storage: Storage, group_id: bytes, damaged: list[str], quick: bool) -> dict[str, Any]:
    form: dict[str, Any] = {
        "id": str(DataStructureId(group_id)),
        "raft_id": None,
        "destroyed": False,
        "earlier_raft_ids": 0,
        "term": None,
        "commit": None,
        "first_index": None,
        "last_index": None,
        "log_bytes": None,
        "snapshot": None,
        "position": None,
        "sessions": None,
        "members": None,
        "whole": False,
    }
    before = len(damaged)
    with _Noting(damaged):
        store = ReplicaStore.load(storage, group_id)
        record: ReplicaRecord = store.record
        form.update(raft_id=str(record.raft_id), destroyed=record.destroyed, earlier_raft_ids=len(record.retired))
        if not record.destroyed:
            _examine_log(store, form, quick)
    form["whole"] = len(damaged) == before
    return form


def _examine_log(store: ReplicaStore, form: dict[str, Any], quick: bool) -> None:
    hard_state, conf_state = store.initial_state()
    genesis = unpack_record(Genesis, store.record.genesis)
    meta = store.snapshots.current
    form.update(
        term=hard_state.term,
        commit=hard_state.commit,
        first_index=store.first_index(),
        last_index=store.last_index(),
        log_bytes=store.log_bytes,
        snapshot=None if meta is None else {"index": meta.index, "term": meta.term, "bytes": meta.size},
    )
    sequencer = Sequencer.unpack(meta.state) if meta is not None else Sequencer(founders_of(genesis))
    tracker = Tracker(store.record.raft_id, 1, 1)
    tracker.restore(conf_state, store.last_index())
    if not quick and meta is not None:
        for _ in store.snapshots.chunks(meta):
            pass  # each is verified, and the whole at the end
    committed = min(hard_state.commit, store.last_index())
    if not quick:
        for entry in _entries(store, sequencer.index + 1, committed):
            sequencer.apply(entry)
            if entry.type is not EntryType.NORMAL:
                with contextlib.suppress(InvalidConfChange):  # then no replica takes it
                    tracker.install(tracker.changer(entry.index).apply(unpack_conf_change(entry.data)))
        for _ in _entries(store, committed + 1, store.last_index()):
            pass
    sessions: SessionTable = sequencer.sessions
    form.update(
        position=sequencer.position,
        sessions=[
            {"session": name.hex(), "node_id": session.node_id, "next": session.due}
            for name, session in sessions.sessions.items()
        ],
        members=[
            {
                "raft_id": str(raft_id),
                "node_id": one.node_id,
                "role": "voter" if raft_id in tracker.voters() else "learner",
            }
            for raft_id, one in sequencer.members.items()
        ],
    )


def _entries(store: ReplicaStore, low: int, high: int) -> Iterator[Any]:
    while low <= high:
        page = store.entries(low, high + 1, PAGE_BYTES)
        yield from page
        low += len(page)


def _show(found: dict[str, Any]) -> None:
    screen = console()
    screen.print(
        f"node {found['node_id']} of cluster {found['cluster_label']!r}, format {found['format']}, in {found['data_dir']}",
        markup=False,
    )
    if found["departed"]:
        screen.print(f"this node {found['departed']}: it never starts again", markup=False)
    table = Table(
        "group", "term", "log", "commit", "bytes", "snapshot", "position", "members", "sessions", "state", box=None
    )
    for group in found["groups"]:
        if group["destroyed"]:
            table.add_row(group["id"], *["-"] * 8, "removed")
            continue
        snapshot = group["snapshot"]
        table.add_row(
            group["id"],
            str(group["term"]),
            f"{group['first_index']}-{group['last_index']}",
            str(group["commit"]),
            size_text(group["log_bytes"] or 0),
            "-" if snapshot is None else f"{snapshot['index']} ({size_text(snapshot['bytes'])})",
            str(group["position"]),
            str(len(group.get("members") or ())),
            str(len(group["sessions"] or ())),
            "[green]whole[/green]" if group["whole"] else "[red]damaged[/red]",
        )
    screen.print(table)
    for recovery in found["recoveries"]:
        screen.print(
            f"recovered: {recovery['group']} at {recovery['at']} by {recovery['operator']}: {recovery['reason']}",
            markup=False,
        )
    for damage in found["damaged"]:
        screen.print(f"damaged: {damage}", markup=False, style="red")
