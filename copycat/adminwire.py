"""What travels over a node's admin socket, and where that socket lies: shared by the node and by whoever asks it.

A frame is its length (4 bytes, big-endian), then msgpack. A request is ``{"version": 1, "do": name, "with": {...}}``; its
answer is ``{"version": 1, "ok": value}`` or ``{"version": 1, "error": class, "message": text}``, where the class is one of
:mod:`copycat.errors`. One request at a time per connection. Nothing here executes what it reads.

The socket is ``admin/socket`` in the data directory: the folder has mode 0700 and the socket 0600. A Unix socket's path may
have only about a hundred bytes; a longer one is reached through the open folder (``/proc/self/fd``), which Linux has.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from copycat.codec import pack, unpack
from copycat.errors import CodecError, UsageError

VERSION = 1
REQUEST_BYTES_MAX = 64 * 1024 * 1024
"""A restore hands in what a backup has."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
FOLDER = "admin"
SOCKET = "socket"
PATH_BYTES_MAX = 100
"""Of what the operating system is asked to bind or to connect to; Linux takes 107, others 103."""

_LENGTH_BYTES = 4


def pack_frame(value: dict[str, Any]) -> bytes:
    body = pack(value)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a stream into frames. It never holds more than one frame of ``bytes_max`` and what came with it."""

    __slots__ = ("_buffer", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._buffer = bytearray()
        self._bytes_max = bytes_max

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> dict[str, Any] | None:
        """The next frame; None if it is not whole yet. Raises :class:`~copycat.errors.CodecError`: close the connection."""
        buffer = self._buffer
        if len(buffer) < _LENGTH_BYTES:
            return None
        size = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
        if size > self._bytes_max:
            raise CodecError(f"a frame of {size} bytes, and {self._bytes_max} are allowed")
        if len(buffer) < _LENGTH_BYTES + size:
            return None
        value = unpack(bytes(buffer[_LENGTH_BYTES : _LENGTH_BYTES + size]))
        del buffer[: _LENGTH_BYTES + size]
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise CodecError(f"not a frame of version {VERSION}")
        return value


@contextlib.contextmanager
def socket_address(data_dir: Path) -> Iterator[str]:
    """What to bind or to connect to for the node in ``data_dir``, valid within the block.

    Raises :class:`~copycat.errors.UsageError` if the path is too long and this system has no way around that, and OSError if
    the folder isn't there.
    """
    folder = data_dir.absolute() / FOLDER
    path = folder / SOCKET
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise UsageError(
            f"the path {path} is longer than a Unix socket's may be: choose a shorter data_dir, or a link to it"
        )
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def make_folder(data_dir: Path) -> Path:
    """The socket's folder, made if it is absent, and open to its owner only. Raises OSError."""
    folder = data_dir.absolute() / FOLDER
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{folder} is no folder of this user")
    folder.chmod(0o700)
    return folder
