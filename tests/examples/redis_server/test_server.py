"""The server as its clients meet it: redis-py, redis-cli and redis-benchmark unchanged; limits; and a leader that is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from copycat.examples.redis_server import session
from copycat.testing.nodes import NodeCluster, wait_until
from tests.examples.redis_server.conftest import PATIENCE_S, Client, Error, Running, packed


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here (Debian: redis-tools)")
    return found


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_unchanged(running: Running, protocol: int) -> None:
    with redis.Redis(port=running.port, protocol=protocol, decode_responses=True, client_name="me") as client:
        client.flushall()
        assert client.set("a", "1", ex=100, nx=True) is True
        assert client.set("a", "2", nx=True) is None
        assert 0 < client.ttl("a") <= 100
        assert client.incr("a") == 2
        client.hset("h", mapping={"x": "1", "y": "2"})
        assert client.hgetall("h") == {"x": "1", "y": "2"}
        client.rpush("l", *"abc")
        assert client.lrange("l", 0, -1) == list("abc")
        client.sadd("s", *"abc")
        assert client.smembers("s") == set("abc")
        assert sorted(client.scan_iter(count=1)) == ["a", "h", "l", "s"]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.get("h")
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("a")
            pipe.get("a")
            assert pipe.execute() == [3, "3"]
        with client.pipeline(transaction=False) as pipe:
            for number in range(1000):
                pipe.set(f"k{number}", number)
            assert all(pipe.execute())
        assert client.dbsize() == 1004
        assert client.info()["redis_mode"] == "standalone"
        assert client.client_getname() == "me"
        with pytest.raises(redis.ResponseError, match="unknown command 'SUBSCRIBE'"):
            client.execute_command("SUBSCRIBE", "x")


def test_a_watched_key_that_changes_ends_the_transaction(running: Running) -> None:
    with redis.Redis(port=running.port) as client, redis.Redis(port=running.port) as other:
        client.set("watched", 1)
        with client.pipeline() as pipe:
            pipe.watch("watched")
            other.set("watched", 2)
            pipe.multi()
            pipe.set("watched", 3)
            with pytest.raises(redis.WatchError):
                pipe.execute()
        assert client.get("watched") == b"2"
        results = []

        def count(times: int) -> None:
            for _ in range(times):
                results.append(client.transaction(lambda pipe: _add_one(pipe), "counter"))

        threads = [threading.Thread(target=count, args=(20,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get("counter") == b"60"


def _add_one(pipe: Any) -> None:
    before = int(pipe.get("counter") or 0)
    pipe.multi()
    pipe.set("counter", before + 1)


def test_redis_cli_works_unchanged(running: Running) -> None:
    cli = [program("redis-cli"), "-p", str(running.port)]

    def ask(*words: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [*cli, *words], input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        return done.stdout.strip()

    assert ask("FLUSHALL") == "OK"
    assert ask("-3", "HSET", "h", "f", "v") == "1"
    assert ask("-3", "--json", "HGETALL", "h") == '{"f":"v"}'
    assert ask(stdin="SET a 1\nINCR a\nGET a\nNONSENSE\n").split("\n")[:3] == ["OK", "2", "2"]
    assert "unknown command" in ask("NONSENSE")
    assert set(ask("--scan").split()) == {"a", "h"}
    assert "redis_version" in ask("INFO")


@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark_works_unchanged(running: Running, pipeline: int) -> None:
    tests = "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,lrange_100,mset"
    command = [
        program("redis-benchmark"),
        "-p",
        str(running.port),
        "-t",
        tests,
        "-n",
        "300",
        "-P",
        str(pipeline),
        "--csv",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=True)
    assert "Error" not in done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) >= 14, done.stdout


def test_a_command_that_is_too_long_is_refused_and_those_around_it_are_done(running: Running, client: Client) -> None:
    long = bytes(running.server.command_bytes_max + 1)
    answers = client.ask_all([("SET", "a", "1"), ("SET", "b", long), ("GET", "a")])
    assert answers == ["OK", Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)"), b"1"]
    assert client.ask("SET", "c", long[: len(long) // 2]) == "OK"


def test_what_is_no_request_ends_the_connection_after_what_came_before(client: Client) -> None:
    client.socket.sendall(packed(("SET", "a", "1")) + b"*1\r\n:5\r\n" + packed(("SET", "a", "2")))
    assert client.answer() == "OK"
    assert client.answer() == Error("ERR Protocol error: expected '$', got ':'")
    assert client.socket.recv(10) == b""


def test_quit_answers_and_ends(client: Client) -> None:
    assert client.ask_all([("SET", "a", "1"), ("QUIT",)]) == ["OK", "OK"]
    assert client.socket.recv(10) == b""


def test_there_is_room_for_so_many_clients_and_no_more(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Client(running.port)
    assert one.ask("PING") == "PONG"
    monkeypatch.setattr(
        "copycat.examples.redis_server.server.CLIENTS_MAX", running.call(lambda: len(running.server._sessions))
    )
    refused = Client(running.port)
    assert refused.answer() == Error("ERR max number of clients reached")
    refused.close()
    one.close()


def test_a_transaction_that_is_too_long_is_refused_whole(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TRANSACTION_LINES_MAX", 3)
    assert client.ask("MULTI") == "OK"
    answers = client.ask_all([("SET", "a", str(number)) for number in range(4)])
    assert answers == ["QUEUED"] * 3 + [Error("ERR the transaction is too long")]
    assert client.ask("EXEC") == Error("EXECABORT Transaction discarded because of previous errors.")
    assert client.ask("EXISTS", "a") == 0


def test_a_client_that_sends_faster_than_it_is_answered_is_held_back(client: Client) -> None:
    count = 3 * session.QUEUE_MAX
    thread = threading.Thread(target=lambda: client.send(*[("RPUSH", "l", number) for number in range(count)]))
    thread.start()
    assert [client.answer() for _ in range(count)] == list(range(1, count + 1))
    thread.join()


def test_keys_expire_though_nobody_writes(running: Running, client: Client) -> None:
    client.ask("SET", "a", "1", "PX", "50")
    wait_until(lambda: client.ask("DBSIZE") == 0, "it is hidden")
    wait_until(lambda: not running.keyspace._database.entries, "it is removed")


def test_linearizable_reads(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, "memory", "memory") as cluster:
        running = Running(cluster, linearizable=True)
        client = Client(running.port)
        answers = client.ask_all([("SET", "a", "1"), ("GET", "a"), ("STRLEN", "a"), ("INCR", "a"), ("GET", "a")])
        assert answers == ["OK", b"1", 1, 2, b"2"]
        client.close()
        running.stop()


# --- three processes ---


class Process:
    """One server as a process of its own."""

    def __init__(self, folder: Path, peers: list[str], keyspace: str = "") -> None:
        words = ["--port", "0", "--data-dir", str(folder)]
        words += [word for peer in peers for word in ("--peer", peer)]
        words += ["--keyspace", keyspace] if keyspace else []
        command = [sys.executable, "-m", "copycat.examples.redis_server", *words]
        self._log = (folder.parent / f"{folder.name}.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving"), line
        said = dict(word.split("=", 1) for word in line.split()[1:])
        self.port, self.gossip, self.keyspace = int(said["port"]), said["gossip"], said["keyspace"]
        self.client = redis.Redis(port=self.port, socket_timeout=PATIENCE_S)

    def leads(self) -> bool:
        return bool(self.client.info("replication")["copycat_leads"])

    def replicas(self) -> int:
        found: int = self.client.info("replication")["connected_slaves"]
        return found

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self.client.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Process]]:
    started: list[Process] = []
    try:
        for number in range(3):
            peers = [each.gossip for each in started]
            started.append(Process(tmp_path / f"n{number}", peers, started[0].keyspace if started else ""))
        wait_until(lambda: started[0].replicas() == 2, "the keyspace is on all three", 2 * PATIENCE_S)
        yield started
    finally:
        for each in started:
            each.end()


@pytest.mark.slow
def test_a_leader_is_killed_while_clients_write(three: list[Process]) -> None:
    """No write that was acknowledged is lost, and none is done twice."""
    wait_until(lambda: sum(each.leads() for each in three) == 1, "one leads")
    leader = next(each for each in three if each.leads())
    others = [each for each in three if each is not leader]
    acknowledged: list[list[int]] = [[], []]
    unknown = [0, 0]
    go_on = threading.Event()
    enough = threading.Event()

    def write(number: int) -> None:
        with redis.Redis(port=others[number].port, socket_timeout=PATIENCE_S, retry=None) as client:
            step = 0
            while not enough.is_set():
                step += 1
                try:
                    client.rpush(f"list{number}", step)
                    client.incr(f"count{number}")
                    acknowledged[number].append(step)
                except redis.ResponseError as error:
                    if not str(error).startswith("UNKNOWN"):
                        raise
                    unknown[number] += 1
                if len(acknowledged[number]) >= 20:
                    go_on.set()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    assert go_on.wait(2 * PATIENCE_S)
    leader.end(signal.SIGKILL)
    at_the_kill = [len(each) for each in acknowledged]
    try:
        wait_until(
            lambda: all(len(a) >= b + 20 for a, b in zip(acknowledged, at_the_kill, strict=True)),
            "they go on",
            4 * PATIENCE_S,
        )
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    for number in range(2):
        for each in others:
            each.client.set("barrier", time.monotonic_ns())
            items = [int(item) for item in each.client.lrange(f"list{number}", 0, -1)]
            assert items == sorted(set(items)), "an item came twice, or out of order"
            assert set(acknowledged[number]) <= set(items), "what was acknowledged is lost"
            count = int(each.client.get(f"count{number}") or 0)
            assert len(acknowledged[number]) <= count <= len(acknowledged[number]) + unknown[number]
    assert others[0].client.dbsize() == others[1].client.dbsize()
