"""What a node does to let in, and to say, only what its keys allow: between the engine and the bytes.

Without keys everything is as open as the network: frames and datagrams are judged by version and label alone.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from copycat import codec
from copycat.errors import CodecError
from copycat.security.identities import Identities
from copycat.security.replay import Replays

if TYPE_CHECKING:
    from copycat.security.credentials import FileCredentials

REFRESH_EVERY_S = 1.0


class Channel(enum.IntEnum):
    """What is sealed for one can't be passed off as the other."""

    DATAGRAM = 0
    PUBLICATION = 1


class _Envelope(Protocol):
    def seal(self, channel: int, payload: bytes) -> bytes: ...

    def open(self, channel: int, data: bytes) -> bytes: ...


class _OpenEnvelope:
    """For a node without keys."""

    def __init__(self, label: str) -> None:
        self._label = label

    def seal(self, channel: int, payload: bytes) -> bytes:
        return codec.seal_datagram(self._label, payload)

    def open(self, channel: int, data: bytes) -> bytes:
        return codec.open_datagram(data, self._label)


class Guard:
    """Belongs to the engine's thread. ``start`` is which start of the node this is; ``starts`` what was kept of others'."""

    def __init__(
        self,
        label: str,
        node_id: str,
        start: int,
        credentials: FileCredentials | None = None,
        starts: dict[str, int] | None = None,
    ) -> None:
        self._credentials = credentials
        self._identities = Identities()
        self._refresh_at = 0.0
        self._envelope: _Envelope = _OpenEnvelope(label)
        self.replays: Replays | None = None
        if credentials is not None:
            from copycat.security.sealing import Sealer  # only nodes with keys need what it imports

            self.replays = Replays(starts)
            self._envelope = Sealer(label, node_id, start, credentials.ring, self.replays)
        self.overhead_bytes = len(self._envelope.seal(Channel.DATAGRAM, b""))

    @property
    def sealed(self) -> bool:
        """Whether there are keys."""
        return self._credentials is not None

    @property
    def public_key(self) -> bytes:
        """By which the others know this node's connections; empty without keys."""
        return b"" if self._credentials is None else self._credentials.key_pair.public

    def seal(self, channel: Channel, payload: bytes) -> bytes:
        return self._envelope.seal(channel, payload)

    def open(self, channel: Channel, data: bytes) -> bytes:
        """The payload. Raises :class:`~copycat.errors.CodecError` for what is not meant for this cluster, or was repeated."""
        return self._envelope.open(channel, data)

    def check_speaker(self, owner: str | None, node_id: str) -> None:
        """Raises :class:`~copycat.errors.CodecError` if ``owner``, whose key a connection has, may not speak as that node."""
        if owner is not None and not self._identities.may_speak(owner, node_id):
            raise CodecError(f"the key of {owner} speaks as a node that is another's")

    def may_connect(self, node_id: str, public_key: bytes) -> bool:
        """Whether a node may be reached by that key: nobody else's that is known to be another owner's.

        A key that is not trusted (yet) is the transport's to refuse.
        """
        if self._credentials is None:
            return True
        owner = self._credentials.owner_of(public_key)
        return owner is None or self._identities.may_speak(owner, node_id)

    def look_again(self) -> None:
        """The key files have just been changed: don't wait to look at them."""
        self._refresh_at = 0.0

    def tick(self, now: float) -> bool:
        """Look at the key files now and then; True when something has changed."""
        if self._credentials is None or now < self._refresh_at:
            return False
        self._refresh_at = now + REFRESH_EVERY_S
        return self._credentials.refresh()
