"""Compares examples/redis_server with Redis itself: writes that are durable on several replicas when they are answered.

Both are three processes on loopback. Redis: a primary and two replicas, each with its append-only file synced at every write, and
`WAIT 2` behind every pipeline. The example: three nodes, whose answers mean a majority's disks; nothing has to be waited for. The
clients are the same: so many connections, each sending pipelines of SET with values of 16 bytes to random keys, one after the
other, and checking each answer. Rounds alternate; the table has medians, and processor time of all server processes per write.

Redis decides nothing by majority: a primary that dies takes with it what only it had acknowledged, and a human or a sentinel says
who is next. So this is the price of consensus in Python, beside a server in C without it.

    .venv/bin/python tools/bench_redis.py [--seconds 5] [--rounds 3] [--connections 16] [--pipelines 1,16,256] [--json] [--short]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

PATIENCE_S = 60.0
VALUE = b"sixteen bytes..."
KEYS = 10_000


@dataclass(frozen=True)
class Measured:
    """One subject with one length of pipelines."""

    subject: str
    pipeline: int
    writes_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    """From sending a pipeline until all of it is answered."""


@dataclass(frozen=True)
class Subject:
    """``wait``: what a client sends behind a pipeline, and ``waited`` the answer that means that it is safe."""

    name: str
    port: int
    processes: list[psutil.Process]
    wait: bytes = b""
    waited: bytes = b""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--pipelines", default="1,16,256")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="some seconds, which only show that it works")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.seconds, arguments.rounds, arguments.connections, arguments.pipelines = 0.3, 1, 4, "16"
    if shutil.which("redis-server") is None:
        print("redis-server is not here (Debian: redis-server)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="copycat-redis-") as name, contextlib.ExitStack() as stack:
        subjects = [
            stack.enter_context(example(Path(name) / "example")),
            stack.enter_context(redis(Path(name) / "redis")),
        ]
        found: list[Measured] = []
        for pipeline in map(int, arguments.pipelines.split(",")):
            rounds = [
                [measure(subject, pipeline, arguments.connections, arguments.seconds) for subject in subjects]
                for _ in range(arguments.rounds)
            ]
            found += [median(each) for each in zip(*rounds, strict=True)]
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return 0
    print(f"{'':<24}{'writes/s':>12}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        for each in (ours, theirs):
            name = f"{each.subject}, {each.pipeline} a pipeline"
            print(f"{name:<24}{each.writes_per_s:>12,.0f}{each.cpu_us:>9.1f}{each.p50_ms:>9.2f}{each.p99_ms:>9.2f}")
        print(f"{'ratio':<24}{ours.writes_per_s / theirs.writes_per_s:>12.2f}{ours.cpu_us / theirs.cpu_us:>9.2f}")
    return 0


def median(rounds: tuple[Measured, ...]) -> Measured:
    def of(name: str) -> float:
        return statistics.median([getattr(each, name) for each in rounds])

    first = rounds[0]
    return Measured(first.subject, first.pipeline, of("writes_per_s"), of("cpu_us"), of("p50_ms"), of("p99_ms"))


# --- the subjects ---


@contextlib.contextmanager
def example(folder: Path) -> Iterator[Subject]:
    """Three nodes of the example; clients speak to the first, which need not lead."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        gossip, keyspace, port = "", "", 0
        for number in range(3):
            words = ["--port", "0", "--data-dir", str(folder / f"n{number}")]
            words += ["--peer", gossip, "--keyspace", keyspace] if number else []
            log = stack.enter_context((folder / f"n{number}.log").open("w"))
            command = [sys.executable, "-m", "copycat.examples.redis_server", *words]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
            stack.callback(process.terminate)
            processes.append(process)
            assert process.stdout is not None
            said = dict(word.split("=", 1) for word in process.stdout.readline().split()[1:])
            if not number:
                gossip, keyspace, port = said["gossip"], said["keyspace"], int(said["port"])
        until(lambda: b"connected_slaves:2" in ask(port, b"INFO replication\r\n"), "the keyspace is on all three")
        yield Subject("example", port, [psutil.Process(each.pid) for each in processes])


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Subject]:
    """A primary and two replicas."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        processes = []
        port = 0
        for number in range(3):
            own = free_port()
            home = folder / f"r{number}"
            home.mkdir()
            options = ["--port", own, "--bind", "127.0.0.1", "--dir", home, "--appendonly", "yes"]
            options += ["--appendfsync", "always", "--save", ""]
            options += ["--replicaof", "127.0.0.1", port] if number else []
            log = stack.enter_context((folder / f"r{number}.log").open("w"))
            process = stack.enter_context(subprocess.Popen(["redis-server", *map(str, options)], stdout=log))
            stack.callback(process.terminate)
            processes.append(psutil.Process(process.pid))
            port = port or own
            until(lambda own=own: ask(own, b"PING\r\n") == b"+PONG\r\n", "it answers")  # type: ignore[misc]
        until(lambda: ask(port, b"INFO replication\r\n").count(b"state=online") == 2, "two replicas are there")
        yield Subject("Redis", port, processes, packed(b"WAIT", b"2", b"0"), b":2\r\n")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ask(port: int, line: bytes) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5.0) as sock:
        sock.sendall(line)
        return sock.recv(64 * 1024)
    return b""


def until(holds: object, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.05)


# --- the clients ---


def packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def measure(subject: Subject, pipeline: int, connections: int, seconds: float) -> Measured:
    """So many connections, each in a thread, for so long."""
    took: list[float] = []
    failures: list[str] = []
    ends = time.monotonic() + seconds
    expected = b"+OK\r\n" * pipeline + subject.waited

    def drive(number: int) -> None:
        rng = random.Random(number)
        with socket.create_connection(("127.0.0.1", subject.port), PATIENCE_S) as sock:
            while time.monotonic() < ends and not failures:
                keys = [b"key:%d" % rng.randrange(KEYS) for _ in range(pipeline)]
                began = time.monotonic()
                sock.sendall(b"".join([packed(b"SET", key, VALUE) for key in keys]) + subject.wait)
                answer = b""
                while len(answer) < len(expected):
                    more = sock.recv(64 * 1024)
                    if not more:
                        failures.append("the connection ended")
                        return
                    answer += more
                if answer != expected:
                    failures.append(f"{subject.name} answered {answer[:200]!r}")
                    return
                took.append(time.monotonic() - began)

    before = cpu_of(subject)
    began = time.monotonic()
    threads = [threading.Thread(target=drive, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.monotonic() - began
    if failures or not took:
        raise SystemExit(failures[0] if failures else f"{subject.name} answered nothing")
    writes = len(took) * pipeline
    ordered = sorted(took)
    return Measured(
        subject.name,
        pipeline,
        writes / passed,
        (cpu_of(subject) - before) / writes * 1e6,
        ordered[len(ordered) // 2] * 1e3,
        ordered[len(ordered) * 99 // 100] * 1e3,
    )


def cpu_of(subject: Subject) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in subject.processes)


if __name__ == "__main__":
    sys.exit(main())
