"""CURVE on the ZeroMQ transport: the whole contract holds under it, nobody else gets in, and keys change while it runs."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import zmq
from zmq.utils import z85

from copycat.errors import AddressInUse
from copycat.ports import Address, Credentials, Inbound, Lane, Transport
from copycat.security.certificates import new_key_pair
from copycat.testing.contracts.transport import TransportContract
from copycat.transports import zeromq_gate, zeromq_links, zeromq_pace, zeromq_sockets, zeromq_subscriptions
from copycat.transports.zeromq import ZeroMQTransport

from .kit import MemoryCredentials, Table

DEADLINE_S = 20.0
LOCAL = Address("127.0.0.1", 0, 0)
FRAME_BYTES_MAX = 1 << 20


class _Keyed(ZeroMQTransport):
    """Has its keys from the start, as the contract knows of none."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._given = credentials

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        return super().open(bind_address, address, frame_bytes_max, self._given)


_everybody = MemoryCredentials(Table(), owner="everybody")


class TestTheContractHoldsWithKeys(TransportContract):
    def make(self) -> Transport:
        return _Keyed(_everybody)


class Party:
    """A transport with a key, and what it has received."""

    def __init__(self, credentials: MemoryCredentials | None, address: Address = LOCAL) -> None:
        self.credentials = credentials
        self.transport = ZeroMQTransport()
        self.address = self.transport.open("127.0.0.1", address, FRAME_BYTES_MAX, credentials)
        self.seen: list[Inbound] = []

    def poll(self, timeout_s: float = 0.01) -> None:
        self.seen += self.transport.poll(timeout_s)

    def rooms(self) -> list[zeromq_gate._Room]:
        return list(self.transport._gate._rooms.values())

    def has(self, payload: bytes) -> bool:
        return any(inbound.parts == [payload] for inbound in self.seen)

    def reaches(self, other: Party, payload: bytes, lane: Lane = Lane.RAFT, node_id: str = "b") -> None:
        """Send until it has arrived."""
        until(lambda: other.has(payload), self, other, act=lambda: self.transport.send(lane, node_id, [payload]))

    def publishes_to(self, other: Party, payload: bytes) -> None:
        until(lambda: other.has(payload), self, other, act=lambda: self.transport.publish([payload]))


def until(holds: Callable[[], bool], *parties: Party, act: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        act()
        for party in parties:
            party.poll()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is tried again soon."""
    monkeypatch.setattr(zeromq_links, "REBUILD_AFTER_S", 0.5)
    monkeypatch.setattr(zeromq_subscriptions, "HEAL_AFTER_S", 0.5)
    monkeypatch.setattr(zeromq_subscriptions, "TEND_EVERY_S", 0.1)


@pytest.fixture
def party() -> Iterator[Callable[..., Party]]:
    made: list[Party] = []

    def make(*arguments: object, **named: object) -> Party:
        made.append(Party(*arguments, **named))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.transport.close()


Make = Callable[..., Party]


def test_a_frame_bears_whose_key_it_came_by(party: Make) -> None:
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    a.transport.connect("b", b.address)
    for lane in (Lane.RAFT, Lane.BULK):
        payload = lane.name.encode()
        a.reaches(b, payload, lane)
        assert {inbound.owner for inbound in b.seen if inbound.parts == [payload]} == {"anna"}


@pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
@pytest.mark.parametrize("stranger", ["without a key", "with a key that nobody trusts"])
def test_a_stranger_gets_nothing_in(party: Make, stranger: str, lane: Lane) -> None:
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    if stranger == "without a key":
        foreign = party(None)
    else:
        own = Table(dict(table.owners))  # trusts everybody, and is trusted by none
        foreign = party(MemoryCredentials(own, owner="eve"))
    foreign.transport.connect("b", b.address)
    gate = b.transport._gate
    hung = gate.refused

    def knocks() -> None:
        foreign.transport.send(lane, "b", [b"from a stranger"])

    if stranger == "without a key":
        for _ in range(50):
            knocks()
            foreign.poll()
            b.poll()
    else:
        until(lambda: gate.refused > hung, foreign, b, act=knocks)
    a.transport.connect("b", b.address)
    a.reaches(b, b"from a friend", lane)
    assert not b.has(b"from a stranger")
    assert b.transport.dropped == 0, "a stranger's frame was read"


def test_a_stranger_hears_nothing_that_is_published(party: Make) -> None:
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    plain = party(None)
    foreign = party(MemoryCredentials(Table(dict(table.owners)), owner="eve"))
    for one in (b, plain, foreign):
        one.transport.subscribe("a", a.address)
    until(lambda: a.transport._gate.refused > 0, a, b, plain, foreign)
    a.publishes_to(b, b"news")
    for _ in range(20):
        plain.poll()
        foreign.poll()
    assert not plain.seen
    assert not foreign.seen


def test_nothing_is_said_to_who_sits_on_a_peers_port_with_another_key(party: Make) -> None:
    table = Table()
    a = party(MemoryCredentials(table, owner="anna"))
    b = party(MemoryCredentials(table, owner="bert"))
    impostor = party(MemoryCredentials(table, owner="carl"))  # trusted, and not the one who is meant
    a.transport.connect("b", replace(impostor.address, public_key=b.address.public_key))
    for _ in range(50):
        assert not a.transport.send(Lane.RAFT, "b", [b"for b alone"])
        a.poll()
        impostor.poll()
    assert not impostor.seen


def test_a_peer_that_names_no_trusted_key_is_unreachable_until_the_key_is_trusted(party: Make) -> None:
    table = Table()
    a = party(MemoryCredentials(table, owner="anna"))
    late = MemoryCredentials(table)
    b = party(late)
    a.transport.connect("nameless", replace(b.address, public_key=b""))
    a.transport.connect("b", b.address)
    a.transport.subscribe("b", b.address)
    for _ in range(20):
        assert not a.transport.send(Lane.RAFT, "b", [b"early"])
        assert not a.transport.send(Lane.RAFT, "nameless", [b"early"])
        a.poll()
    late.trust("bert")
    a.reaches(b, b"trusted by now")
    b.publishes_to(a, b"heard by now")
    assert not b.has(b"early")


def test_a_revoked_key_loses_the_connections_that_it_has(party: Make) -> None:
    table = Table()
    a, b, c = (party(MemoryCredentials(table, owner=name)) for name in ("anna", "bert", "carl"))
    for other in (b, c):
        a.transport.connect("b" if other is b else "c", other.address)
    b.transport.connect("a", a.address)
    c.transport.connect("a", a.address)
    b.transport.subscribe("a", a.address)
    c.transport.subscribe("a", a.address)
    a.reaches(b, b"before")
    a.reaches(c, b"before", node_id="c")
    b.reaches(a, b"from b", node_id="a")
    a.publishes_to(b, b"published before")
    a.publishes_to(c, b"published before")

    assert b.credentials is not None
    b.credentials.table = Table(dict(table.owners))  # the one that is thrown out goes on as before
    del table.owners[b.address.public_key]
    table.generation += 1
    a.poll()

    for _ in range(20):
        assert not a.transport.send(Lane.RAFT, "b", [b"after"])
        b.poll()
    c.reaches(a, b"still a friend", node_id="a")
    a.publishes_to(c, b"published after")
    a.seen.clear()
    refused = a.transport._gate.refused
    until(lambda: a.transport._gate.refused > refused, a, b, act=lambda: b.transport.send(Lane.RAFT, "a", [b"again"]))
    assert not a.has(b"again")
    assert not b.has(b"after")
    assert not b.has(b"published after")


def test_a_new_key_is_used_and_the_old_one_can_be_taken_away(party: Make) -> None:
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    b.transport.connect("a", a.address)
    b.transport.subscribe("a", a.address)
    a.transport.connect("b", b.address)
    b.reaches(a, b"by the old key", node_id="a")
    a.publishes_to(b, b"by the old key")
    assert a.credentials is not None
    old = a.credentials.key_pair
    new = new_key_pair()
    table.owners[new.public] = "anna"
    table.generation += 1
    a.credentials.use(new)

    a.poll()
    a.reaches(b, b"from the new key")  # what goes out needs nobody to be told
    assert {inbound.owner for inbound in b.seen if inbound.parts == [b"from the new key"]} == {"anna"}

    renewed = replace(a.address, public_key=new.public)
    b.transport.connect("a", renewed)
    b.transport.subscribe("a", renewed)
    b.reaches(a, b"to the new key", node_id="a")
    a.publishes_to(b, b"by the new key")
    del table.owners[old.public]
    table.generation += 1
    b.reaches(a, b"the old key is gone", node_id="a")
    a.reaches(b, b"and nobody misses it")
    late = party(MemoryCredentials(table, owner="late"))
    late.transport.connect("a", renewed)
    late.reaches(a, b"newcomers find the new key", node_id="a")


def test_two_ids_at_one_address_demand_the_key_that_was_told_last(party: Make) -> None:
    """A node that was wiped comes back with another id, and maybe another key, while the old id is still known."""
    table = Table()
    subscriber = party(MemoryCredentials(table, owner="anna"))
    publisher = party(MemoryCredentials(table, owner="bert"))
    stale = MemoryCredentials(table, owner="bert").key_pair.public
    subscriber.transport.subscribe("before it was wiped", replace(publisher.address, public_key=stale))
    subscriber.transport.subscribe("since then", publisher.address)
    publisher.publishes_to(subscriber, b"news")
    subscriber.transport.subscribe("told of late", replace(publisher.address, public_key=publisher.address.public_key))
    publisher.publishes_to(subscriber, b"more news")


def test_a_taken_port_is_refused_with_keys_too_and_leaves_nothing(party: Make) -> None:
    holder = party(None)
    before = _descriptors(), _threads()
    for field in ("copycat_port", "gossip_port"):
        wanted = replace(LOCAL, **{field: getattr(holder.address, field)})
        with pytest.raises(AddressInUse, match=field):
            ZeroMQTransport().open("127.0.0.1", wanted, FRAME_BYTES_MAX, _everybody)
    _settles(before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux tells")
def test_close_leaves_no_descriptor_and_no_thread_behind() -> None:
    before = _descriptors(), _threads()
    table = Table()
    for _ in range(3):
        a, b = Party(MemoryCredentials(table, owner="anna")), Party(MemoryCredentials(table, owner="bert"))
        a.transport.connect("b", b.address)
        a.transport.subscribe("b", b.address)
        a.reaches(b, b"x")
        a.transport.close()
        b.transport.close()
    _settles(before)


# --- crowds ---------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_ended_and_the_others_stay(
    party: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq_gate, "CONNECTIONS_MAX", 20)
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    a.transport.connect("b", b.address)
    a.reaches(b, b"before the crowd")
    crowd = []
    try:
        for _ in range(100):
            crowd.append(socket.create_connection(("127.0.0.1", b.address.copycat_port), timeout=DEADLINE_S))
        until(lambda: b.transport._gate.hung_up >= 70, a, b)
        ended = [one for one in crowd if _is_ended(one)]
        assert len(ended) >= 70, "hung up on, and not ended"
        a.reaches(b, b"beside the crowd")
    finally:
        for one in crowd:
            one.close()
    c = party(MemoryCredentials(table, owner="carl"))
    c.transport.connect("b", b.address)
    c.reaches(b, b"after the crowd")


def test_a_member_that_floods_is_cut_off_for_a_while_and_the_others_go_on(
    party: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq_pace, "FRAMES_PER_S_MAX", 300)
    monkeypatch.setattr(zeromq_pace, "SHUT_OUT_S", 1.0)
    table = Table()
    a, b, c = (party(MemoryCredentials(table, owner=name)) for name in ("anna", "bert", "carl"))
    for other in (a, c):
        other.transport.connect("b", b.address)
        other.reaches(b, b"before the flood")
    gate = b.transport._gate

    def flood() -> None:
        for _ in range(1_000):
            a.transport.send(Lane.RAFT, "b", [b"flood"])

    until(lambda: gate.floods > 0, a, b, act=flood)
    refused, dropped = gate.refused, b.transport.dropped
    assert dropped > 0, "what was too much is not looked at"
    c.reaches(b, b"beside the flood")
    until(lambda: gate.refused > refused, a, b, act=flood)
    c.reaches(b, b"while the other is shut out")
    monkeypatch.setattr(zeromq_pace, "FRAMES_PER_S_MAX", 1 << 30)
    a.reaches(b, b"after a while")
    assert {inbound.owner for inbound in b.seen if inbound.parts == [b"flood"]} == {"anna"}


def test_only_a_connection_of_the_listener_is_ever_hung_up_on() -> None:
    """Descriptors are used again: by the time the gate acts, a number may stand for something else."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_connection(listener.getsockname()) as caller,
        socket.create_connection(other.getsockname()) as elsewhere,
    ):
        port = listener.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        accepted, _ = listener.accept()
        another, _ = other.accept()
        reader, writer = os.pipe()
        with accepted, another, os.fdopen(reader, "rb"), os.fdopen(writer, "wb"):
            before = _descriptors()
            for descriptor in (listener.fileno(), another.fileno(), datagrams.fileno(), reader, 1 << 20):
                zeromq_gate._hang_up(descriptor, port)
            assert _descriptors() == before
            socket.create_connection(listener.getsockname()).close()
            listener.accept()[0].close()  # it still listens
            another.sendall(b"x")
            assert elsewhere.recv(1) == b"x"
            zeromq_gate._hang_up(accepted.fileno(), port)
            assert caller.recv(1) == b""


def test_connections_that_an_unbind_ended_are_counted_no_more(party: Make) -> None:
    a = party(MemoryCredentials(Table(), owner="anna"))

    def counted() -> int:
        return sum(sum(room._count.values()) for room in a.rooms())

    with socket.create_connection(("127.0.0.1", a.address.copycat_port), timeout=DEADLINE_S) as one:
        until(lambda: counted() == 1, a)
        assert a.credentials is not None
        a.credentials.use(new_key_pair())
        a.poll()
        while one.recv(4096):  # until it is ended
            pass
        until(lambda: counted() == 0, a)


def test_half_a_handshake_is_not_waited_for_for_ever(party: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq_sockets, "HANDSHAKE_TIMEOUT_MS", 300)
    b = party(MemoryCredentials(Table(), owner="bert"))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)
    for beginning in (b"", greeting[:11], greeting, greeting + b"\x04\xc8\x05HELLO"):
        with socket.create_connection(("127.0.0.1", b.address.copycat_port), timeout=DEADLINE_S) as half:
            half.sendall(beginning)
            while half.recv(4096):  # until libzmq hangs up
                pass


def test_a_hello_that_claims_to_be_huge_costs_only_its_connection(party: Make) -> None:
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)
    with socket.create_connection(("127.0.0.1", b.address.copycat_port), timeout=DEADLINE_S) as liar:
        liar.sendall(greeting + b"\x06" + (1 << 62).to_bytes(8, "big") + b"\x05HELLO")
        while liar.recv(4096):
            pass
    a.transport.connect("b", b.address)
    a.reaches(b, b"unmoved")


def test_what_was_captured_on_a_connection_is_of_no_use_on_another(party: Make) -> None:
    """A relay notes all that a friend sends, and plays it again."""
    table = Table()
    a, b = party(MemoryCredentials(table, owner="anna")), party(MemoryCredentials(table, owner="bert"))
    with socket.create_server(("127.0.0.1", 0)) as relay:
        relay.settimeout(DEADLINE_S)
        a.transport.connect("b", replace(b.address, copycat_port=relay.getsockname()[1]))
        inner, _ = relay.accept()
        outer = socket.create_connection(("127.0.0.1", b.address.copycat_port), timeout=DEADLINE_S)
        captured, answered = bytearray(), bytearray()
        with inner, outer:
            inner.setblocking(False)
            outer.setblocking(False)

            def pump() -> None:
                for source, target, kept in ((inner, outer, captured), (outer, inner, answered)):
                    try:
                        data = source.recv(65_536)
                    except BlockingIOError:
                        continue
                    kept += data
                    target.sendall(data)

            payload = b"what nobody else may read"

            def act() -> None:
                a.transport.send(Lane.RAFT, "b", [payload])
                pump()

            until(lambda: b.has(payload), a, b, act=act)
        assert payload not in captured
        assert payload not in answered
    b.seen.clear()
    with socket.create_connection(("127.0.0.1", b.address.copycat_port), timeout=DEADLINE_S) as again:
        again.sendall(captured)
        while again.recv(65_536):
            pass
    a.transport.connect("b", b.address)
    a.reaches(b, b"the end")
    assert not b.has(payload)


def test_a_member_cannot_take_anothers_name_by_its_routing_id(party: Make) -> None:
    """Whose frame it is follows from the key that was proved, never from what the other side calls itself."""
    table = Table()
    b = party(MemoryCredentials(table, owner="bert"))
    anna, eve = MemoryCredentials(table, owner="anna"), MemoryCredentials(table, owner="eve")
    with zmq.Context() as context:
        for credentials, called in ((anna, b"eve"), (eve, b"anna")):
            with context.socket(zmq.DEALER) as dealer:
                dealer.set(zmq.LINGER, 0)
                dealer.set(zmq.ROUTING_ID, called)
                dealer.set(zmq.CURVE_PUBLICKEY, z85.encode(credentials.key_pair.public))
                dealer.set(zmq.CURVE_SECRETKEY, z85.encode(credentials.key_pair.secret))
                dealer.set(zmq.CURVE_SERVERKEY, z85.encode(b.address.public_key))
                dealer.connect(f"tcp://127.0.0.1:{b.address.copycat_port}")
                name = table.owners[credentials.key_pair.public]
                dealer.send_multipart([b"\0", name.encode()])
                until(lambda name=name: b.has(name.encode()), b)  # type: ignore[misc]
    for inbound in b.seen:
        assert inbound.owner == inbound.parts[0].decode()


def _is_ended(one: socket.socket) -> bool:
    one.settimeout(0.2)
    try:
        while data := one.recv(4096):
            assert data
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _settles(before: tuple[int, int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (_descriptors(), _threads()) > before:
        assert time.monotonic() < deadline, (before, _descriptors(), _threads())
        time.sleep(0.01)
