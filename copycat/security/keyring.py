"""The keys that gossip is sealed with: one that seals, and some more that are still, or already, understood.

The file has one key a line, 64 hexadecimal digits, the one that seals first; ``#`` begins a remark. All nodes of a cluster
have the same keys, but during a change of keys not the same first one, which is what makes the change possible while they
run: add the new key everywhere, then put it first everywhere, then take the old one away (docs/security.md).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from copycat.errors import KeyFileInvalid
from copycat.security.files import read_secret, write_new, write_over

KEY_BYTES = 32
KEYS_MAX = 8
KEY_ID_BYTES = 4
_BANNER = "# The keys of a CopyCat cluster's gossip; the first one seals. Whoever has one can speak as any node.\n"


def key_id(key: bytes) -> bytes:
    """What a sealed datagram names its key by. Tells nothing of the key."""
    return blake2b(key, digest_size=KEY_ID_BYTES, person=b"copycat-keyid").digest()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys, the one that seals first. Their text shows nowhere."""

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.keys) <= KEYS_MAX:
            raise KeyFileInvalid(f"a ring has 1 to {KEYS_MAX} keys, not {len(self.keys)}")
        if len({key_id(key) for key in self.keys}) != len(self.keys):
            raise KeyFileInvalid("a ring has each key once")

    @classmethod
    def new(cls) -> KeyRing:
        return cls((secrets.token_bytes(KEY_BYTES),))

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """Raises :class:`~copycat.errors.KeyFileInvalid`."""
        keys = []
        for number, line in enumerate(read_secret(path).splitlines(), 1):
            text = line.partition(b"#")[0].strip()
            if text:
                keys.append(_parsed(text, f"line {number} of {path}"))
        try:
            return cls(tuple(keys))
        except KeyFileInvalid as error:
            raise KeyFileInvalid(f"{path}: {error}") from None

    def write(self, path: Path, replace: bool) -> None:
        """0600. Raises :class:`~copycat.errors.KeyFileInvalid`; also if there is one, unless ``replace``."""
        content = _BANNER + "".join(f"{key.hex()}\n" for key in self.keys)
        (write_over if replace else write_new)(path, content.encode(), 0o600)

    def ids(self) -> list[str]:
        """What the keys are called, in order."""
        return [key_id(key).hex() for key in self.keys]

    def with_new(self) -> KeyRing:
        """One more key, which is understood, and doesn't seal yet."""
        return self.with_key(secrets.token_bytes(KEY_BYTES))

    def with_key(self, key: bytes) -> KeyRing:
        """That key more, in the same way."""
        return KeyRing((*self.keys, key))

    def sealing_with(self, name: str) -> KeyRing:
        """The key of that id first."""
        chosen = self.named(name)
        return KeyRing((chosen, *(key for key in self.keys if key != chosen)))

    def without(self, name: str) -> KeyRing:
        """One key less. The one that seals can't go."""
        gone = self.named(name)
        if gone == self.keys[0]:
            raise KeyFileInvalid(f"key {name} seals: let another one seal first, on every node")
        return KeyRing(tuple(key for key in self.keys if key != gone))

    def named(self, name: str) -> bytes:
        """The key of that id. Raises :class:`~copycat.errors.KeyFileInvalid`."""
        for key in self.keys:
            if key_id(key).hex() == name:
                return key
        raise KeyFileInvalid(f"no key {name!r} is in the ring; there are {', '.join(self.ids())}")


def _parsed(text: bytes, where: str) -> bytes:
    # What is wrong with it is not quoted: it may be most of a key.
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise KeyFileInvalid(f"{where} is no key: {2 * KEY_BYTES} hexadecimal digits are wanted") from None
    if len(key) != KEY_BYTES:
        raise KeyFileInvalid(f"{where} has {len(key)} bytes, and a key has {KEY_BYTES}")
    return key
