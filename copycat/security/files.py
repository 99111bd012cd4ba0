"""Files and directories with permissions that matter: checked before they are read, right from the moment they exist.

A file is checked on the descriptor that it is then read from, so what was looked at is what is used. A file is written
beside its place and renamed into it, so that whoever reads it again on change finds the old one or the new one, whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from copycat.errors import KeyFileInvalid

FILE_BYTES_MAX = 65_536
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}


def read_secret(path: Path) -> bytes:
    """The content of a file that its owner alone can read.

    Raises :class:`~copycat.errors.KeyFileInvalid` if it can't be read, is no file, is too long, belongs to another user,
    or others have any permission on it.
    """
    return _read(path, stat.S_IRWXG | stat.S_IRWXO, "0600")


def read_public(path: Path) -> bytes:
    """The content of a file that its owner alone can change. Raises :class:`~copycat.errors.KeyFileInvalid`."""
    return _read(path, stat.S_IWGRP | stat.S_IWOTH, "0644")


def check_directory(path: Path) -> None:
    """Raises :class:`~copycat.errors.KeyFileInvalid` unless it is a directory that its owner alone can change."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise KeyFileInvalid(f"{path} is no directory")
    _check_owner(path, found)
    _check_mode(path, found, stat.S_IWGRP | stat.S_IWOTH, "0755")


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Make a file that wasn't there, durably. Raises :class:`~copycat.errors.KeyFileInvalid` if it was, or can't be made."""
    _write(path, content, mode, replace=False)


def write_over(path: Path, content: bytes, mode: int) -> None:
    """Put a file in the place of another, or of none, durably. Raises :class:`~copycat.errors.KeyFileInvalid`."""
    _write(path, content, mode, replace=True)


def _read(path: Path, forbidden: int, wanted: str) -> bytes:
    try:
        # Not blocking: a pipe in the file's place must not hold a node up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileInvalid(f"{path} is no file")
        _check_owner(path, found)
        _check_mode(path, found, forbidden, wanted)
        content = b""
        while len(content) <= FILE_BYTES_MAX and (piece := os.read(descriptor, FILE_BYTES_MAX + 1)):
            content += piece
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if len(content) > FILE_BYTES_MAX:
        raise KeyFileInvalid(f"{path} has more than {FILE_BYTES_MAX} bytes: it is no key file")
    return content


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise KeyFileInvalid(f"{path} belongs to user {found.st_uid}: it must be this process's user's, or root's")


def _check_mode(path: Path, found: os.stat_result, forbidden: int, wanted: str) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        raise KeyFileInvalid(f"{path} is open to other users (mode {mode:04o}): chmod {wanted} it, and make new keys")


def _unreadable(path: Path, error: OSError) -> KeyFileInvalid:
    hint = "; see copycat keygen" if error.errno in _NOT_THERE else ""
    return KeyFileInvalid(f"{path} can't be read: {error.strerror}{hint}")


def _write(path: Path, content: bytes, mode: int, replace: bool) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            if replace:
                os.replace(beside, path)
            else:
                os.link(beside, path)  # unlike a rename, this never takes another's place
        finally:
            beside.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise KeyFileInvalid(f"{path} is there already, and was left as it is") from error
    except OSError as error:
        raise KeyFileInvalid(f"{path} can't be written: {error.strerror}") from error
