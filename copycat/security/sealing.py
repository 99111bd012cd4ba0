"""Gossip, sealed: every datagram and publication encrypted and authenticated by a key that the whole cluster has.

    byte 0        version, 2
    bytes 1-4     which key of the ring
    bytes 5-20    salt: drawn once by each process that seals
    bytes 21-28   number: counts what the process has sealed, from 1
    the rest      ChaCha20-Poly1305 (RFC 8439) of: sender's node id, its start (8 bytes), payload; and 16 bytes of tag

The key that encrypts is made from the ring's key and the salt (BLAKE2b, keyed), and the nonce is the number. So no nonce
is ever used twice with one key, without any clock, and without trusting a disk or 96 random bits. What is in the clear is
authenticated too, and so are the cluster's label and the channel, which don't travel at all: a datagram of another cluster
with the same keys does not open, nor does one that is passed off as a publication.

Who speaks is what the datagram says: any holder of the key could say it. Connections have keys of their own.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from copycat.errors import CodecError
from copycat.security.keyring import KeyRing, key_id
from copycat.security.replay import Replays

VERSION = 2
NODE_ID_BYTES = 26
CIPHERS_MAX = 1024
"""Ciphers kept by key and salt: a bound on memory; one that is missing is made again."""
_HEAD = struct.Struct(">B4s16sQ")
_INNER = struct.Struct(f">{NODE_ID_BYTES}sQ")
TAG_BYTES = 16
OVERHEAD_BYTES = _HEAD.size + _INNER.size + TAG_BYTES
_NONCE_PAD = bytes(4)


class Sealer:
    """Seals what this node says, and opens what others say, once each. For one thread.

    ``ring`` is asked each time, so that a change of keys takes effect at once. ``start`` is which start of this node this
    is, from 1; it must be on disk before anything sealed leaves, or it could come again.
    """

    overhead = OVERHEAD_BYTES

    def __init__(self, label: str, node_id: str, start: int, ring: Callable[[], KeyRing], replays: Replays) -> None:
        sender = node_id.encode()
        assert len(sender) == NODE_ID_BYTES, node_id
        self._label = label.encode()
        self._inner = _INNER.pack(sender, start)
        self._ring = ring
        self._replays = replays
        self._salt = os.urandom(16)
        self._number = 0
        self._ciphers: OrderedDict[tuple[bytes, bytes], ChaCha20Poly1305] = OrderedDict()
        self._keys_of: KeyRing | None = None
        self._keys: dict[bytes, bytes] = {}

    def seal(self, channel: int, payload: bytes) -> bytes:
        """``payload`` as only the cluster's nodes can read it."""
        self._note_ring()
        name = next(iter(self._keys))
        self._number += 1
        head = _HEAD.pack(VERSION, name, self._salt, self._number)
        cipher = self._cipher(name, self._salt)
        self._keep(name, self._salt, cipher)
        return head + cipher.encrypt(_nonce(self._number), self._inner + payload, self._context(channel, head))

    def open(self, channel: int, data: bytes) -> bytes:
        """The payload, the first time it comes. Raises :class:`~copycat.errors.CodecError`."""
        self._note_ring()
        if len(data) < OVERHEAD_BYTES or data[0] != VERSION:
            raise CodecError("not sealed")
        _, name, salt, number = _HEAD.unpack_from(data)
        if name not in self._keys:
            raise CodecError("sealed with a key that is not in the ring")
        head = data[: _HEAD.size]
        cipher = self._cipher(name, salt)
        try:
            opened = cipher.decrypt(_nonce(number), data[_HEAD.size :], self._context(channel, head))
        except InvalidTag:
            raise CodecError("not sealed by a node of this cluster") from None
        self._keep(name, salt, cipher)  # only now: salts that somebody makes up must not push out those in use
        sender, start = _INNER.unpack_from(opened)
        if not self._replays.take(sender.decode("ascii", "replace"), start, salt, channel, number):
            raise CodecError("came before")
        return opened[_INNER.size :]

    def _note_ring(self) -> None:
        ring = self._ring()
        if ring is not self._keys_of:
            self._keys_of = ring
            self._keys = {key_id(key): key for key in ring.keys}
            self._ciphers.clear()

    def _cipher(self, name: bytes, salt: bytes) -> ChaCha20Poly1305:
        cipher = self._ciphers.get((name, salt))
        if cipher is None:
            key = blake2b(salt, key=self._keys[name], digest_size=32, person=b"copycat-gossip").digest()
            cipher = ChaCha20Poly1305(key)
        return cipher

    def _keep(self, name: bytes, salt: bytes, cipher: ChaCha20Poly1305) -> None:
        self._ciphers[name, salt] = cipher
        self._ciphers.move_to_end((name, salt))
        if len(self._ciphers) > CIPHERS_MAX:
            self._ciphers.popitem(last=False)

    def _context(self, channel: int, head: bytes) -> bytes:
        return bytes((channel, len(self._label))) + self._label + head


def _nonce(number: int) -> bytes:
    return _NONCE_PAD + number.to_bytes(8, "big")
