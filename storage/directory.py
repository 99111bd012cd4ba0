"""Whose data directory is it: creates it, marks it as ours, and lets one opener in at a time.

A directory belongs to CopyCat when it holds a file ``COPYCAT`` that says so and names the storage that wrote it. The same
file carries the lock: ``flock`` belongs to an open file, not to a process, so a second opener is refused whether it is
another process, another instance in this one, or came by another path to the same directory; and the kernel frees it
when the process dies, however it dies. Nothing is ever written into a directory that isn't ours.

What the database holds is nobody else's business: the directory is made for its owner alone (an empty one that is there
already is made so), and one that others have got permissions on meanwhile is refused.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import weakref
from pathlib import Path

from copycat.errors import StorageCorrupt, StorageExposed, StorageFailed, StorageForeign, StorageLocked

MARKER = "COPYCAT"
MARKER_BYTES_MAX = 256

_NOT_FOREIGN = frozenset({MARKER, "lost+found"})  # the root of a fresh file system is an empty directory, too


class Claim:
    """The lock on one data directory, held until :meth:`release`."""

    __slots__ = ("__weakref__", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _claims.add(self)

    def release(self) -> None:
        """Let the next opener in. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


def _forget_claims_in_child() -> None:
    # A forked child shares the parent's open files: it would keep the directory locked after the parent's death.
    for claim in list(_claims):
        claim.release()


os.register_at_fork(after_in_child=_forget_claims_in_child)


def claim(data_dir: Path, storage_name: str) -> Claim:
    """Create ``data_dir`` if it is absent (mode 0700), and hold it for ``storage_name`` alone.

    Raises :class:`~copycat.errors.StorageLocked`, :class:`~copycat.errors.StorageForeign`,
    :class:`~copycat.errors.StorageExposed` or :class:`~copycat.errors.StorageFailed`; then nothing is held, and nothing of
    another owner was touched.
    """
    try:
        _create(data_dir)
        _refuse_foreign(data_dir)
        _refuse_exposed(data_dir)
        descriptor = os.open(data_dir / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(f"can't use data directory {data_dir}: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _mark(data_dir, descriptor, storage_name)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StorageLocked(
            f"data directory {data_dir} is open in another process or another instance of this one; "
            "close that, or use another data_dir"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StorageFailed(f"can't lock or mark data directory {data_dir}: {error}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return Claim(descriptor)


def _create(data_dir: Path) -> None:
    if data_dir.exists():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir(mode=0o700, exist_ok=True)
    sync_directory(data_dir.parent)


def _refuse_foreign(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise StorageForeign(f"{data_dir} is not a directory; choose another data_dir")
    names = set(os.listdir(data_dir))
    if MARKER not in names and names - _NOT_FOREIGN:
        example = sorted(names - _NOT_FOREIGN)[0]
        raise StorageForeign(
            f"{data_dir} holds something that CopyCat did not write ({example!r}); choose an empty or new data_dir"
        )


def _refuse_exposed(data_dir: Path) -> None:
    exposed = stat.S_IMODE(data_dir.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if not exposed:
        return
    if MARKER not in os.listdir(data_dir):
        try:
            data_dir.chmod(0o700)
            return
        except PermissionError:
            pass
    raise StorageExposed(
        f"other users have permissions on data directory {data_dir}, which holds everything that is replicated: "
        "chmod 700 it, and see who could read it meanwhile"
    )


def _mark(data_dir: Path, descriptor: int, storage_name: str) -> None:
    expected = f"CopyCat data directory, layout 1, storage {storage_name}\n".encode()
    found = os.pread(descriptor, MARKER_BYTES_MAX, 0)
    if found == expected:
        return
    if not expected.startswith(found):  # a proper prefix is what a crash while marking leaves
        wrote = re.fullmatch(rb"CopyCat data directory, layout 1, storage (\w+)\n", found)
        if wrote is not None:
            raise StorageForeign(
                f"{data_dir} was written by another storage than {storage_name!r}: set "
                f'storage="{wrote[1].decode()}" to go on with it, or choose another data_dir'
            )
        raise StorageForeign(
            f"{data_dir} was written by something else than storage {storage_name!r}: {found[:100]!r}; "
            "choose another data_dir"
        )
    os.pwrite(descriptor, expected, 0)
    os.fsync(descriptor)
    sync_directory(data_dir)


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_headless(database: Path, data_suffixes: tuple[str, ...]) -> None:
    """LevelDB and its kin take a directory without CURRENT for a new one, and would delete the data that lies in it.

    Raises :class:`~copycat.errors.StorageCorrupt`, or OSError.
    """
    if (database / "CURRENT").exists():
        return
    data = sorted(entry.name for entry in database.iterdir() if entry.suffix in data_suffixes)
    if data:
        raise StorageCorrupt(f"{database} has lost its file CURRENT but holds data ({data[0]}); restore it from a copy")
