"""What is ZeroMQ's own: foreign bytes and services, dead connections, ports, names, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from copycat.errors import AddressInUse
from copycat.ports import FRAME_PARTS_MAX, Address, Inbound, Lane, Transport
from copycat.testing.contracts.transport import TransportContract
from copycat.transports import zeromq_links, zeromq_sockets
from copycat.transports.zeromq import ZeroMQTransport

DEADLINE_S = 20.0
LOCAL = Address("127.0.0.1", 0, 0)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class TestOverNames(TransportContract):
    """The contract, with peers known by name."""

    host = "localhost"

    def make(self) -> Transport:
        return ZeroMQTransport()


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
class TestOverIPv6(TransportContract):
    """The contract, over IPv6."""

    host = "::1"

    def make(self) -> Transport:
        return ZeroMQTransport()


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[ZeroMQTransport, Address]]]:
    made: list[ZeroMQTransport] = []

    def open_one(address: Address = LOCAL, frame_bytes_max: int = 1 << 20) -> tuple[ZeroMQTransport, Address]:
        transport = ZeroMQTransport()
        made.append(transport)
        return transport, transport.open("127.0.0.1", address, frame_bytes_max)

    yield open_one
    for transport in made:
        transport.close()


Opened = Callable[..., tuple[ZeroMQTransport, Address]]


def poll_until(transport: ZeroMQTransport, enough: Callable[[list[Inbound]], bool]) -> list[Inbound]:
    seen: list[Inbound] = []
    deadline = time.monotonic() + DEADLINE_S
    while not enough(seen):
        assert time.monotonic() < deadline, seen
        seen += transport.poll(0.02)
    return seen


def deliver(sender: ZeroMQTransport, receiver: ZeroMQTransport, payload: bytes) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline, payload
        sender.send(Lane.RAFT, "b", [payload])
        if any(inbound.parts == [payload] for inbound in receiver.poll(0.02)):
            return


def test_messages_of_foreign_peers_are_counted_and_dropped(opened: Opened) -> None:
    a, address = opened()
    with zmq.Context() as context, context.socket(zmq.DEALER) as foreign:
        foreign.set(zmq.LINGER, 0)
        foreign.connect(f"tcp://127.0.0.1:{address.copycat_port}")
        bad = [[b"no tag at all"], [b"\x07", b"x"], [b""], [b"\x00"], [b"\x00"] + [b""] * (FRAME_PARTS_MAX + 1)]
        for message in bad:
            foreign.send_multipart(message)
        foreign.send_multipart([b"\x00", b"good"])
        seen = poll_until(a, lambda seen: bool(seen))
    assert [inbound.parts for inbound in seen] == [[b"good"]]
    assert a.dropped == len(bad)


def test_raw_bytes_on_every_port_leave_the_lanes_working(opened: Opened) -> None:
    a, _ = opened()
    b, at_b = opened()
    a.connect("b", at_b)
    for port in (at_b.copycat_port, at_b.gossip_port):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 1000, b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03"):
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as foreign:
                foreign.sendall(garbage)
    deliver(a, b, b"works")


HTTP_ANSWER = b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10
BROKEN_ZMTP = b"\xff" + bytes(8) + b"\x7f\x03" + b"x" * 53  # a greeting with a security mechanism that nobody knows


@pytest.mark.parametrize("greeting", [HTTP_ANSWER, BROKEN_ZMTP])
def test_a_foreign_service_on_a_peers_port_shuts_the_peer_out_only_while_it_is_there(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, greeting: bytes
) -> None:
    """libzmq gives an endpoint up for ever after some of what can come from one."""
    monkeypatch.setattr(zeromq_links, "REBUILD_AFTER_S", 0.5)
    a, _ = opened()
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(DEADLINE_S)
        port = service.getsockname()[1]
        a.connect("b", Address("127.0.0.1", port, port))
        connection, _ = service.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            connection.sendall(greeting)
            if greeting is BROKEN_ZMTP:  # then libzmq hangs up, for good
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(1000):
                        pass
    b, _ = opened(Address("127.0.0.1", port, 0))
    deliver(a, b, b"itself again")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_gossip_port_taken_on_one_protocol_only_is_refused(opened: Opened, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{taken} \(gossip_port\)"):
            opened(Address("127.0.0.1", 0, taken))
    _, address = opened(Address("127.0.0.1", 0, taken))
    assert address.gossip_port == taken


def test_a_free_gossip_port_is_looked_for_until_both_protocols_have_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, tries = zeromq_sockets._bind_gossip_once, []

    def fails_twice(publisher: zmq.Socket[bytes], host: str, port: int) -> zeromq_sockets.GossipPort:
        tries.append(port)
        if len(tries) < 3:
            raise AddressInUse("taken on TCP")
        return once(publisher, host, port)

    monkeypatch.setattr(zeromq_sockets, "_bind_gossip_once", fails_twice)
    _, address = opened()
    assert address.gossip_port > 0
    assert tries == [0, 0, 0]


@pytest.mark.parametrize("bind_address", ["192.0.2.1", "no-such-host.invalid"])
def test_a_bind_address_that_is_not_this_machines_is_refused(bind_address: str) -> None:
    with pytest.raises(AddressInUse, match=bind_address):
        ZeroMQTransport().open(bind_address, LOCAL, 1 << 20)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux tells")
def test_close_and_a_failed_open_leave_no_descriptor_and_no_thread_behind() -> None:
    descriptors, threads = _descriptors(), _threads()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        for _ in range(3):
            ZeroMQTransport()
            with pytest.raises(AddressInUse):
                ZeroMQTransport().open("127.0.0.1", Address("127.0.0.1", 0, holder.getsockname()[1]), 1 << 20)
            a, b = ZeroMQTransport(), ZeroMQTransport()
            at_b = b.open("127.0.0.1", LOCAL, 1 << 20)
            a.open("127.0.0.1", LOCAL, 1 << 20)
            a.connect("b", at_b)
            a.subscribe("b", at_b)
            deliver(a, b, b"x")
            a.send(Lane.BULK, "b", [b"x"])
            a.close()
            b.close()
    deadline = time.monotonic() + DEADLINE_S
    while _descriptors() > descriptors or _threads() > threads:
        assert time.monotonic() < deadline, (_descriptors() - descriptors, _threads() - threads)
        time.sleep(0.01)


ECHO = """
import sys
from copycat.ports import FRAME_PARTS_MAX, Address, Lane
from copycat.transports.zeromq import ZeroMQTransport
transport = ZeroMQTransport()
address = transport.open("127.0.0.1", Address("127.0.0.1", int(sys.argv[1]), 0), 1 << 20)
transport.connect("caller", Address("127.0.0.1", int(sys.argv[2]), 1))
print(address.copycat_port, flush=True)
while True:
    for inbound in transport.poll(1.0):
        transport.send(inbound.lane, "caller", [inbound.parts[0][:100]])
"""


class _Echo:
    """A process of its own that sends back what it gets."""

    def __init__(self, port: int, caller_port: int, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(port), str(caller_port)], stdout=subprocess.PIPE, cwd=folder
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _echoed(transport: ZeroMQTransport, payload: bytes) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline, payload
        transport.send(Lane.RAFT, "b", [payload])
        if any(inbound.parts == [payload] for inbound in transport.poll(0.02)):
            return


def test_a_killed_process_is_reached_again_when_it_is_back_on_its_port(opened: Opened, tmp_path: Path) -> None:
    a, at_a = opened()
    echo = _Echo(0, at_a.copycat_port, tmp_path)
    try:
        a.connect("b", Address("127.0.0.1", echo.port, 1))
        _echoed(a, b"first life")
        echo.kill()
        deadline = time.monotonic() + DEADLINE_S
        while a.send(Lane.RAFT, "b", [b"x"]):
            assert time.monotonic() < deadline
        echo = _Echo(echo.port, at_a.copycat_port, tmp_path)
        _echoed(a, b"second life")
    finally:
        echo.kill()


def test_a_paused_process_makes_sends_fail_and_is_reached_again_when_it_goes_on(opened: Opened, tmp_path: Path) -> None:
    a, at_a = opened()
    echo = _Echo(0, at_a.copycat_port, tmp_path)
    try:
        a.connect("b", Address("127.0.0.1", echo.port, 1))
        _echoed(a, b"before")
        os.kill(echo.process.pid, signal.SIGSTOP)
        try:
            sent = 0
            while a.send(Lane.RAFT, "b", [bytes(65_536)]):
                sent += 1
                assert sent < 10_000, "the queue has no bound"
        finally:
            os.kill(echo.process.pid, signal.SIGCONT)
        _echoed(a, b"after")
    finally:
        echo.kill()
