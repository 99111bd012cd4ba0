"""A real Redis, one node of the server in this process, and a client that shows what either answers, byte for byte."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from copycat.examples.redis_server.keyspace import Keyspace
from copycat.examples.redis_server.server import Server
from copycat.testing.nodes import NodeCluster

PATIENCE_S = 30.0


class Error(str):
    """What a server refused, in its words."""

    __slots__ = ()


class Client:
    """Speaks RESP over a socket, with nothing hidden: sets and maps come as tagged tuples, errors as values."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def send(self, *commands: tuple[Any, ...]) -> None:
        self.socket.sendall(b"".join([packed(command) for command in commands]))

    def ask(self, *command: Any) -> Any:
        self.send(command)
        return self.answer()

    def ask_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        self.send(*commands)
        return [self.answer() for _ in commands]

    def answer(self) -> Any:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the connection ended with {line!r}"
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return Error(rest.decode("latin-1"))
        if kind == b":":
            return int(rest)
        if kind == b",":
            return float(rest)
        if kind == b"_" or rest == b"-1":
            return None if kind != b"*" else "no array"
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2]
        count = int(rest) * (2 if kind == b"%" else 1)
        items = [self.answer() for _ in range(count)]
        return items if kind == b"*" else (kind.decode(), items)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def packed(command: tuple[Any, ...]) -> bytes:
    words = [each if isinstance(each, bytes) else str(each).encode() for each in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in words])


class Running:
    """A server of this process, with an event loop in a thread of its own."""

    def __init__(self, cluster: NodeCluster, **options: Any) -> None:
        (self.node,) = cluster.start(1, replicas=1)
        self.keyspace = Keyspace(self.node, self.node.new_data_structure_id()).open(PATIENCE_S)
        self._loop = asyncio.new_event_loop()
        self.server = Server(self.node, self.keyspace, **options)
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis-server-loop")
        self._thread.start()
        self.do(self.server.start(port=0))
        self.port = self.server.port

    def do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_S)

    def call(self, what: Any) -> Any:
        """The result of calling it in the loop."""
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(what()))
        return done.result(PATIENCE_S)

    def stop(self) -> None:
        self.do(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        self.keyspace.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with NodeCluster(tmp_path_factory.mktemp("redis-server"), "memory", "memory") as cluster:
        running = Running(cluster)
        yield running
        running.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def real_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a Redis server."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not here (Debian: redis-server): nothing to compare with")
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--databases", "1", "--dir", str(folder))
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                Client(port).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "Redis does not answer"
                time.sleep(0.01)
        yield port
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
def both(running: Running, real_port: int) -> Iterator[tuple[Client, Client]]:
    """A client of this server and one of Redis, both empty."""
    pair = Client(running.port), Client(real_port)
    for client in pair:
        assert client.ask("FLUSHALL") == "OK"
    yield pair
    for client in pair:
        client.close()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    made = Client(running.port)
    assert made.ask("FLUSHALL") == "OK"
    yield made
    made.close()
