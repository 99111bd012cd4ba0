"""A transport that counts what is sent through it, by lane; and what arrived is told to it. Per frame, not per message."""

from __future__ import annotations

from collections.abc import Sequence

from copycat.ports import Address, Credentials, Inbound, Lane, Transport

LANES = len(Lane)


class MeteredTransport:
    """See :class:`copycat.ports.Transport`. Belongs to the engine's thread, but for :meth:`wake`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.frames_sent = [0] * LANES
        self.bytes_sent = [0] * LANES
        self.frames_dropped = [0] * LANES
        self.frames_received = [0] * LANES
        self.bytes_received = [0] * LANES

    def arrived(self, frame: Inbound) -> None:
        """Count what somebody else polled."""
        self.frames_received[frame.lane] += 1
        self.bytes_received[frame.lane] += sum(map(len, frame.parts))

    def _left(self, lane: Lane, size: int, taken: bool) -> bool:
        self.frames_sent[lane] += 1
        self.bytes_sent[lane] += size
        if not taken:
            self.frames_dropped[lane] += 1
        return taken

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        return self._left(lane, sum(map(len, parts)), self._transport.send(lane, node_id, parts))

    def send_datagram(self, host: str, port: int, data: bytes) -> bool:
        return self._left(Lane.HEARTBEAT, len(data), self._transport.send_datagram(host, port, data))

    def publish(self, parts: Sequence[bytes]) -> None:
        self._left(Lane.GOSSIP, sum(map(len, parts)), True)
        self._transport.publish(parts)

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        return self._transport.open(bind_address, address, frame_bytes_max, credentials)

    def connect(self, node_id: str, address: Address) -> None:
        self._transport.connect(node_id, address)

    def disconnect(self, node_id: str) -> None:
        self._transport.disconnect(node_id)

    def subscribe(self, node_id: str, address: Address) -> None:
        self._transport.subscribe(node_id, address)

    def unsubscribe(self, node_id: str) -> None:
        self._transport.unsubscribe(node_id)

    def poll(self, timeout_s: float) -> list[Inbound]:
        return self._transport.poll(timeout_s)

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._transport.close()
