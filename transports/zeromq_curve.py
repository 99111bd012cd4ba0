"""CURVE on the sockets of the ZeroMQ transport (https://rfc.zeromq.org/spec/26/): who has which key, and when that changes.

Both sides of each connection prove a key. The one that connects knows beforehand which key it wants to find, from the
peer's address, and does not connect to one that is not trusted; the one that listens asks the gate. So neither a stranger
nor a member who sits on another's port gets a frame.

Without credentials nothing here does anything: the sockets are plain.
"""

from __future__ import annotations

import enum

import zmq
from zmq.utils import z85

from copycat.errors import InvalidConfig
from copycat.ports import PUBLIC_KEY_BYTES, Credentials, KeyPair
from copycat.transports.zeromq_gate import ZAP_DOMAIN

MESSAGE_OVERHEAD_BYTES = 64
"""More than what CURVE adds to a part (33 bytes)."""


class Change(enum.Flag):
    """What is different since it was last looked at."""

    NONE = 0
    TRUST = enum.auto()
    OWN_KEY = enum.auto()


class Curve:
    """For the transport's thread. Raises :class:`~copycat.errors.InvalidConfig` where libzmq has no CURVE."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._generation = 0
        self._owners: dict[str, str | None] = {}
        self._key_pair: KeyPair | None = None
        if credentials is not None:
            if not zmq.has("curve"):
                raise InvalidConfig("keys are configured, and this libzmq has no CURVE: install pyzmq from its wheel")
            self._generation = credentials.generation
            self._key_pair = credentials.key_pair

    @property
    def on(self) -> bool:
        return self._credentials is not None

    @property
    def public_key(self) -> bytes:
        """This node's; empty without keys."""
        return b"" if self._key_pair is None else self._key_pair.public

    @property
    def overhead_bytes(self) -> int:
        """By how much a part on the wire may be longer than a part."""
        return MESSAGE_OVERHEAD_BYTES if self.on else 0

    def listen(self, listener: zmq.Socket[bytes]) -> None:
        """Let ``listener`` demand keys from the next bind on."""
        if self._key_pair is not None:
            listener.set(zmq.CURVE_SERVER, 1)
            listener.set(zmq.CURVE_SECRETKEY, z85.encode(self._key_pair.secret))
            listener.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)

    def call(self, caller: zmq.Socket[bytes], public_key: bytes) -> bool:
        """Let ``caller`` prove its key, and demand ``public_key``, from the next connect on.

        False if that key is not to be trusted: then don't connect.
        """
        if self._key_pair is None:
            return True
        if not self.trusts(public_key):
            return False
        caller.set(zmq.CURVE_PUBLICKEY, z85.encode(self._key_pair.public))
        caller.set(zmq.CURVE_SECRETKEY, z85.encode(self._key_pair.secret))
        caller.set(zmq.CURVE_SERVERKEY, z85.encode(public_key))
        return True

    def trusts(self, public_key: bytes) -> bool:
        """Whether a peer with that key may be spoken to."""
        if self._credentials is None:
            return True
        return len(public_key) == PUBLIC_KEY_BYTES and self._credentials.owner_of(public_key) is not None

    def owner_of(self, user_id: str) -> str | None:
        """Who the gate has let in by that name; None if he is trusted no longer."""
        assert self._credentials is not None, "plain connections have no owner"
        try:
            return self._owners[user_id]
        except KeyError:
            owner = self._owners[user_id] = self._credentials.owner_of(z85.decode(user_id))
            return owner

    def look(self) -> Change:
        """What has changed since the last call. Costs a comparison while nothing has."""
        credentials = self._credentials
        if credentials is None or credentials.generation == self._generation:
            return Change.NONE
        self._generation = credentials.generation
        self._owners.clear()
        change = Change.TRUST
        if credentials.key_pair != self._key_pair:
            self._key_pair = credentials.key_pair
            change |= Change.OWN_KEY
        return change
