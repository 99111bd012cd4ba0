"""What a node keeps about itself: the format of its database, its cluster's label, its id, and small named records.

A node's id is made once, together with the label and the format's version, in one synced write: a database has all three
or is empty. A wiped directory therefore is a new node, and one of another cluster is refused. What belongs to a group is
the business of :mod:`copycat.replicastore`; this only lists the replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from copycat import keys
from copycat.errors import StorageForeign, StorageVersion
from copycat.ports import Storage, WriteBatch
from copycat.records import ReplicaRecord, missing, seal, unseal, unseal_record

_OWN_NAMES = frozenset(key[1:].decode() for key in (keys.FORMAT_KEY, keys.LABEL_KEY, keys.NODE_ID_KEY))


class NodeStore:
    """Use :meth:`open`. Reads from any thread, staging from the thread that owns the batch."""

    __slots__ = ("_node_id", "_storage")

    def __init__(self, storage: Storage, node_id: str) -> None:
        self._storage = storage
        self._node_id = node_id

    @classmethod
    def open(cls, storage: Storage, data_dir: Path, cluster_label: str, new_node_id: Callable[[], str]) -> NodeStore:
        """Open ``storage`` in ``data_dir``; ``new_node_id`` is called once in a directory's life.

        Raises what :meth:`copycat.ports.Storage.open` raises, :class:`~copycat.errors.StorageVersion` for a format this
        version can't read, :class:`~copycat.errors.StorageForeign` for another cluster's directory, and
        :class:`~copycat.errors.StorageCorrupt`. The storage is closed again then.
        """
        storage.open(data_dir)
        try:
            if storage.get(keys.FORMAT_KEY) is None:
                _create(storage, data_dir, cluster_label, new_node_id)
            return cls(storage, _checked_node_id(storage, data_dir, cluster_label))
        except BaseException:
            storage.close()
            raise

    @property
    def node_id(self) -> str:
        """26 characters; durable before anyone saw it."""
        return self._node_id

    @property
    def storage(self) -> Storage:
        return self._storage

    def get(self, name: str) -> bytes | None:
        """A small record of the node. Raises :class:`~copycat.errors.StorageCorrupt` or ``StorageFailed``."""
        return _read(self._storage, keys.node_key(name))

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Name and record of all whose name begins with ``prefix``. Raises as :meth:`get`."""
        start = keys.node_key(prefix)
        for key, value in self._storage.scan(start, start + b"\xff"):
            yield key[1:].decode(), unseal(key, value)

    def stage_put(self, batch: WriteBatch, name: str, record: bytes) -> None:
        key = _free_key(name)
        batch.put(key, seal(key, record))

    def stage_delete(self, batch: WriteBatch, name: str) -> None:
        batch.delete(_free_key(name))

    def replicas(self) -> Iterator[tuple[bytes, ReplicaRecord]]:
        """Group id (16 bytes) and record of every replica this node has or, with ``destroyed`` set, had."""
        for key, value in self._storage.scan(keys.REPLICA, keys.GROUP):
            yield keys.group_of_replica_key(key), unseal_record(key, value, ReplicaRecord)

    def close(self) -> None:
        """Close the storage. May be called twice."""
        self._storage.close()


def _create(storage: Storage, data_dir: Path, cluster_label: str, new_node_id: Callable[[], str]) -> None:
    for key, _ in storage.scan(b"", b"\xff" * keys.KEY_BYTES):
        if keys.NODE <= key < keys.END:
            raise missing(keys.FORMAT_KEY, f"the format of the database in {data_dir}")
        raise StorageForeign(f"{data_dir} holds a database that is not CopyCat's; choose another data_dir")
    batch = WriteBatch()
    for key, record in (
        (keys.FORMAT_KEY, str(keys.FORMAT_VERSION).encode()),
        (keys.LABEL_KEY, cluster_label.encode()),
        (keys.NODE_ID_KEY, new_node_id().encode()),
    ):
        batch.put(key, seal(key, record))
    storage.write(batch, sync=True)


def _checked_node_id(storage: Storage, data_dir: Path, cluster_label: str) -> str:
    version = _required(storage, keys.FORMAT_KEY, "the format of the database")
    if version != str(keys.FORMAT_VERSION).encode():
        raise StorageVersion(
            f"{data_dir} was written in format {version.decode(errors='replace')!r}, and this version of CopyCat reads "
            f"{keys.FORMAT_VERSION}; run the version that wrote it"
        )
    label = _required(storage, keys.LABEL_KEY, "the cluster's label").decode()
    if label != cluster_label:
        raise StorageForeign(
            f"{data_dir} belongs to cluster {label!r}, and this node is configured for {cluster_label!r}; "
            "correct cluster_label, or choose another data_dir"
        )
    return _required(storage, keys.NODE_ID_KEY, "the node's id").decode()


def _required(storage: Storage, key: bytes, what: str) -> bytes:
    record = _read(storage, key)
    if record is None:
        raise missing(key, what)
    return record


def _read(storage: Storage, key: bytes) -> bytes | None:
    value = storage.get(key)
    return None if value is None else unseal(key, value)


def _free_key(name: str) -> bytes:
    if name in _OWN_NAMES:
        raise ValueError(f"the node's record {name!r} is written once, when its database is created")
    return keys.node_key(name)
