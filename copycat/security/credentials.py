"""A node's keys, from its files, and again from its files when these have changed.

What can't be read at the start stops the start. What can't be read later changes nothing: the node goes on with what it
has, says so once, and looks again; so a half-written file or a lost mount cuts nobody off.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from copycat.config import Config
from copycat.errors import InvalidConfig, KeyFileInvalid
from copycat.ports import KeyPair
from copycat.security.certificates import SUFFIX, Trusted, fingerprint, read_key_pair, read_trusted
from copycat.security.keyring import KeyRing

log = logging.getLogger(__name__)

Stamp = tuple[object, ...]
"""Differs when a file or a directory of certificates does."""


@dataclass(frozen=True, slots=True)
class _Held:
    """All that was read, replaced at one stroke, so that no thread ever sees half a change."""

    generation: int
    key_pair: KeyPair
    trusted: Trusted
    ring: KeyRing


class FileCredentials:
    """:class:`copycat.ports.Credentials` from files. :meth:`refresh` is for one thread, the rest for any.

    Raises :class:`~copycat.errors.KeyFileInvalid`.
    """

    def __init__(self, key_file: Path, trusted_keys_dir: Path, gossip_keys_file: Path) -> None:
        self._places = (key_file, trusted_keys_dir, gossip_keys_file)
        self._complaint: tuple[str, ...] = ()
        self._stamps = self._look()
        self._held = self._read(0)
        self._complain(self._held.trusted.complaints)
        self._warn_if_untrusted()

    @property
    def generation(self) -> int:
        return self._held.generation

    @property
    def key_pair(self) -> KeyPair:
        return self._held.key_pair

    def owner_of(self, public_key: bytes) -> str | None:
        return self._held.trusted.owners.get(public_key)

    def ring(self) -> KeyRing:
        """What gossip is sealed with; the same object until it changes."""
        return self._held.ring

    def refresh(self) -> bool:
        """Read again what has changed; True if anything did. Looks at the files' dates only, if nothing did."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        before = self._held
        try:
            held = self._read(before.generation + 1)
        except KeyFileInvalid as error:
            self._complain((f"going on with the keys read before: {error}",))
            return False
        self._complain(held.trusted.complaints)
        if (held.key_pair, held.trusted.owners, held.ring) == (before.key_pair, before.trusted.owners, before.ring):
            return False
        if held.ring == before.ring:
            held = _Held(held.generation, held.key_pair, held.trusted, before.ring)
        self._held = held
        log.warning(
            "keys have changed",
            extra={
                "public_key": fingerprint(held.key_pair.public),
                "trusted": len(held.trusted.owners),
                "revoked": len(before.trusted.owners.keys() - held.trusted.owners.keys()),
                "gossip_keys": ",".join(held.ring.ids()),
            },
        )
        self._warn_if_untrusted()
        return True

    def _read(self, generation: int) -> _Held:
        key_file, trusted_keys_dir, gossip_keys_file = self._places
        return _Held(
            generation, read_key_pair(key_file), read_trusted(trusted_keys_dir), KeyRing.read(gossip_keys_file)
        )

    def _look(self) -> tuple[Stamp, ...]:
        key_file, trusted_keys_dir, gossip_keys_file = self._places
        return (_stamp(key_file), _stamp(gossip_keys_file), _stamps_in(trusted_keys_dir))

    def _complain(self, complaints: tuple[str, ...]) -> None:
        if complaints != self._complaint:
            self._complaint = complaints
            for complaint in complaints:
                log.error("a key was not used: %s", complaint)

    def _warn_if_untrusted(self) -> None:
        if self.owner_of(self.key_pair.public) is None:
            log.warning(
                "this node's own key is not among the trusted ones; others need it there, and most likely lack it too",
                extra={"public_key": fingerprint(self.key_pair.public)},
            )


def load_credentials(config: Config) -> FileCredentials:
    """The keys that the configuration names.

    Raises :class:`~copycat.errors.KeyFileInvalid`, and :class:`~copycat.errors.InvalidConfig` if the package that seals is
    not installed.
    """
    assert config.has_keys, "there are none to load"
    try:
        from copycat.security import sealing  # noqa: F401  # only nodes with keys need what it imports
    except ImportError as error:
        raise InvalidConfig(
            f"key_file and its companions need the package cryptography ({error}): pip install 'copycat[security]'"
        ) from error
    return FileCredentials(Path(config.key_file), Path(config.trusted_keys_dir), Path(config.gossip_keys_file))


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno,)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _stamps_in(directory: Path) -> Stamp:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX))
    except OSError as error:
        return (error.errno,)
    return (_stamp(directory), *((name, _stamp(directory / name)) for name in names))
