"""The file that holds one data structure's backup: written piece by piece, and believed only if it is whole.

A magic line, then frames: length and CRC-32 as big-endian 32-bit numbers, then a msgpack map with a ``kind``. ``header`` comes
first; then, if there is one, the snapshot as ``begin`` and ``chunk`` frames; then ``items``; last ``end``, with the position
reached and the SHA-256 of every byte before it. A file without a right ``end`` is none: until then it has another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from zlib import crc32

from copycat.codec import pack, unpack
from copycat.errors import CodecError, InvalidId, StorageCorrupt, UsageError
from copycat.ids import DataStructureId

SUFFIX = ".copycat-backup"
UNFINISHED = ".part"
MAGIC = b"copycat backup\n"
VERSION = 1
FRAME_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup is of, and when and where it was made. ``at`` is UTC in ISO 8601."""

    id: str
    replicas: int
    data_center_replicas: int
    cluster_label: str
    node_id: str
    at: str
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Content:
    """What a whole file was found to hold."""

    header: Header
    position: int
    """Of the last item: how many the data structure had been given in all."""
    snapshot_position: int
    snapshot_bytes: int
    items: int
    file_bytes: int


class BackupWriter:
    """Writes one backup; a context manager. Left by an error, nothing stays; otherwise :meth:`finish` was called before."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.bytes = 0
        self._header = header
        self._unfinished = path.with_name(path.name + UNFINISHED)
        descriptor = os.open(self._unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self.restart()

    def restart(self) -> None:
        """Begin again: what was written so far is not the data structure's state."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._append(MAGIC)
        self.write({"kind": "header", **asdict(self._header)})

    def write(self, frame: dict[str, Any]) -> None:
        body = pack(frame)
        self._append(len(body).to_bytes(4, "big") + crc32(body).to_bytes(4, "big"))
        self._append(body)

    def finish(self, position: int) -> None:
        """Seal the file, which ends with the item at ``position``, make it durable, and give it its name.

        An earlier one of that name is replaced.
        """
        self.write({"kind": "end", "position": position, "sha256": self._digest.digest()})
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.bytes += len(data)

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)


def read_frames(path: Path) -> Iterator[dict[str, Any]]:
    """All frames of a backup, each checked; whether the file is whole is known when the last, its ``end``, has come.

    Raises :class:`~copycat.errors.UsageError` if it is no backup, or one of another version, and
    :class:`~copycat.errors.StorageCorrupt` if it is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UsageError(f"{path} is no backup")
        digest = hashlib.sha256(MAGIC)
        while True:
            before = digest.digest()
            frame = _read_frame(path, file, digest)
            ends = frame["kind"] == "end"
            if ends and (frame.get("sha256") != before or file.read(1)):
                raise _damaged(path, "its checksum is another, or something follows its end")
            yield frame
            if ends:
                return


def _read_frame(path: Path, file: IO[bytes], digest: Any) -> dict[str, Any]:
    head = file.read(8)
    size = int.from_bytes(head[:4], "big")
    if len(head) < 8 or size > FRAME_BYTES_MAX:
        raise _damaged(path, "it is cut off" if len(head) < 8 else "a length in it can't be")
    body = file.read(size)
    if len(body) < size or crc32(body) != int.from_bytes(head[4:], "big"):
        raise _damaged(path, "it is cut off" if len(body) < size else f"a checksum fails before byte {file.tell()}")
    digest.update(head)
    digest.update(body)
    with contextlib.suppress(CodecError):
        frame = unpack(body)
        if isinstance(frame, dict) and isinstance(frame.get("kind"), str):
            return frame
    raise _damaged(path, "it holds something that is no frame")


def header_of(path: Path, frame: dict[str, Any]) -> Header:
    """What the first frame says. Raises as :func:`read_frames`."""
    if frame.get("kind") != "header":
        raise _damaged(path, "it does not begin with a header")
    if frame.get("version") != VERSION:
        raise UsageError(f"{path} is a backup of version {frame.get('version')!r}, and this command reads {VERSION}")
    fields = {name: value for name, value in frame.items() if name in Header.__dataclass_fields__}
    try:
        header = Header(**fields)
        DataStructureId.parse(header.id)
        numbers = (header.replicas, header.data_center_replicas)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("numbers")
    except (TypeError, ValueError, InvalidId) as error:
        raise _damaged(path, "its header is none") from error
    return header


def examine(path: Path) -> Content:
    """Read the whole file, and check that it is a backup from which its data structure can be restored.

    Raises as :func:`read_frames`.
    """
    frames = read_frames(path)
    header = header_of(path, next(frames, {}))
    position = snapshot_position = snapshot_bytes = received = items = ended = 0
    for frame in frames:
        kind = frame["kind"]
        if kind == "begin" and not items and not snapshot_position:
            snapshot_position = position = _number(path, frame.get("position"), 1)
            snapshot_bytes = _number(path, frame.get("bytes"), 0)
        elif kind == "chunk" and snapshot_position and not items and isinstance(frame.get("data"), bytes):
            received += len(frame["data"])
        elif kind == "items" and received == snapshot_bytes and isinstance(frame.get("items"), list):
            if not all(type(item) is bytes for item in frame["items"]):
                raise _damaged(path, "an item of it is no byte string")
            items += len(frame["items"])
            position += len(frame["items"])
        elif kind == "end":
            ended = _number(path, frame.get("position"), 0)
        else:
            raise _damaged(path, "its parts are not in their order")
    if received != snapshot_bytes or position != ended:
        raise _damaged(path, "parts of it are missing")
    return Content(header, position, snapshot_position, snapshot_bytes, items, path.stat().st_size)


def _number(path: Path, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise _damaged(path, "a number in it can't be")
    return value


def _damaged(path: Path, why: str) -> StorageCorrupt:
    return StorageCorrupt(f"the backup {path} is damaged: {why}; use another one")
