"""What is the memory transport's own: hubs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from copycat.ports import Address, Lane, Transport
from copycat.testing.contracts.transport import TransportContract
from copycat.transports.memory import MemoryHub, MemoryTransport

ADDRESS = Address("here", 7458, 7459)


class TestInAHubOfItsOwn(TransportContract):
    """The contract, away from the hub of the process."""

    hub = MemoryHub()

    def make(self) -> Transport:
        return MemoryTransport(self.hub)


@pytest.fixture
def two_hubs() -> Iterator[tuple[MemoryTransport, MemoryTransport]]:
    one, other = MemoryTransport(MemoryHub()), MemoryTransport(MemoryHub())
    yield one, other
    one.close()
    other.close()


def test_hubs_know_nothing_of_one_another(two_hubs: tuple[MemoryTransport, MemoryTransport]) -> None:
    one, other = two_hubs
    assert one.open("", ADDRESS, 1000) == ADDRESS
    elsewhere = Address("there", 1, 2)
    assert other.open("", elsewhere, 1000) == elsewhere
    one.connect("other", elsewhere)
    assert not one.send(Lane.RAFT, "other", [b"x"])
    assert not one.send_datagram("there", 2, b"x")


def test_what_arrives_does_not_change_with_the_senders_buffer(
    two_hubs: tuple[MemoryTransport, MemoryTransport],
) -> None:
    one, _ = two_hubs
    one.open("", ADDRESS, 1000)
    one.connect("me", ADDRESS)
    buffer = bytearray(b"before")
    parts = [b"x", buffer]
    assert one.send(Lane.RAFT, "me", parts)  # type: ignore[arg-type]
    buffer[:] = b"after!"
    parts.clear()
    (inbound,) = one.poll(0)
    assert inbound.parts == [b"x", b"before"]
