"""The floor: a proposal's way through three processes, with no consensus in it.

The same threads, sockets, messages and synced LevelDB writes that a commit needs at the least: propose -> engine -> storage
thread and two followers -> one of them has it too -> consumers on all three. No terms, no election, no repetition, no
repair, no sessions, no snapshots, one group, trusted input. What the library does beyond this is what safety costs.

    python tools/bare_pipeline.py --payload 16 --in-flight 20000 --seconds 5        --in-flight 1: a lone client

Prints one JSON object. Consumers check the sequence as those of ``copycat bench`` do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import plyvel
import psutil
import zmq

from copycat.cli.bench_items import Tally, make_items

NODES = 3
BATCHES_IN_FLIGHT_MAX = 4
BATCH_MAX = 4096
BURST = 1000
WARM_UP_S = 1.0
APPEND, STORED, COMMITTED = 1, 2, 3


class Alarm:
    """Wakes the engine's thread if it sleeps."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.sleeping = False

    def ring(self) -> None:
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass


class Disk(threading.Thread):
    """Writes all that waits as one batch."""

    def __init__(self, directory: str, sync: bool, alarm: Alarm) -> None:
        super().__init__(daemon=True)
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.done: deque[int] = deque()
        self._work = threading.Semaphore(0)
        self._database = plyvel.DB(directory, create_if_missing=True, write_buffer_size=32 << 20)
        self._sync = sync
        self._alarm = alarm

    def put(self, index: int, data: bytes) -> None:
        self.waiting.append((index, data))
        self._work.release()

    def run(self) -> None:
        while True:
            self._work.acquire()
            if not self.waiting:
                continue
            with self._database.write_batch(sync=self._sync) as batch:
                while self.waiting:
                    index, data = self.waiting.popleft()
                    batch.put(index.to_bytes(8, "big"), data)
            self.done.append(index)
            self._alarm.ring()


class Client:
    """The consumer of one node, and on the first one the proposer too."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._batches: deque[list[bytes]] = deque()
        self._arrived = threading.Semaphore(0)
        self._taken = threading.Condition()

    def push(self, items: list[bytes]) -> None:
        self._batches.append(items)
        self._arrived.release()

    def receive(self) -> None:
        self._arrived.acquire()
        self.tally.take(self._batches.popleft())

    def serve(self) -> None:
        while True:
            self.receive()
            with self._taken:
                self._taken.notify_all()

    def await_room(self, sent: int, in_flight: int) -> None:
        with self._taken:
            while sent - self.tally.count >= in_flight:
                self._taken.wait()


class Node:
    def __init__(self, number: int, ports: list[int], directory: str, sync: bool) -> None:
        self.leads = number == 0
        self.inbox: deque[bytes] = deque()
        self.alarm = Alarm()
        self.client = Client()
        self._disk = Disk(directory, sync, self.alarm)
        self._disk.start()
        context = zmq.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.bind(f"tcp://127.0.0.1:{ports[number]}")
        self._peers = []
        for port in ports[1:] if self.leads else ports[:1]:
            dealer = context.socket(zmq.DEALER)
            dealer.connect(f"tcp://127.0.0.1:{port}")
            self._peers.append(dealer)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self.alarm.fd, zmq.POLLIN)
        self._number = number
        self._log: dict[int, bytes] = {}
        self._next = 1
        self._committed = 0
        self._stored = [0] * NODES
        self._session = b"s" * 16

    def _may_append(self) -> bool:
        return bool(self.inbox) and self._next - self._committed <= BATCHES_IN_FLIGHT_MAX

    def run(self) -> None:
        alarm = self.alarm
        while True:
            alarm.sleeping = True
            wait_ms = 0 if self._disk.done or self._may_append() else 500
            ready = dict(self._poller.poll(wait_ms))
            alarm.sleeping = False
            if alarm.fd in ready:
                alarm.clear()
            if self._may_append():
                self._append()
            if self._router in ready:
                self._receive()
            if self._disk.done:
                self._note_stored()

    def _append(self) -> None:
        waiting = self.inbox
        items = [waiting.popleft() for _ in range(min(len(waiting), BATCH_MAX))]
        data = msgpack.packb((self._session, self._next, items))
        self._tell(APPEND, self._next, data)
        self._keep(self._next, data)
        self._next += 1

    def _keep(self, index: int, data: bytes) -> None:
        self._log[index] = data
        self._disk.put(index, data)

    def _tell(self, kind: int, index: int, data: bytes) -> None:
        message = msgpack.packb((kind, self._number, index, self._committed, data))
        for peer in self._peers:
            peer.send(message)

    def _receive(self) -> None:
        while True:
            try:
                _, message = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, sender, index, committed, data = msgpack.unpackb(message)
            if kind == STORED:
                self._stored[sender] = index
                self._lead()
                continue
            if kind == APPEND:
                self._keep(index, data)
            self._commit(committed)

    def _note_stored(self) -> None:
        while self._disk.done:
            self._stored[self._number] = self._disk.done.popleft()
        if self.leads:
            self._lead()
        else:
            self._tell(STORED, self._stored[self._number], b"")

    def _lead(self) -> None:
        majority = sorted(self._stored)[NODES // 2]
        if majority > self._committed:
            self._commit(majority)
            if not self.inbox:
                self._tell(COMMITTED, 0, b"")

    def _commit(self, index: int) -> None:
        while self._committed < index:
            self._committed += 1
            _, _, items = msgpack.unpackb(self._log.pop(self._committed))
            self.client.push(items)


def propose(node: Node, in_flight: int, payload: int, seconds: float, pids: list[int]) -> dict[str, Any]:
    """Keep ``in_flight`` proposals under way, and measure after a warm-up."""
    sent, times = 0, []
    clock = time.perf_counter
    burst = max(1, min(BURST, in_flight // 4))
    started = clock()
    measured_from, handed, cpu_s = 0.0, 0, 0.0
    while (now := clock()) < started + WARM_UP_S + seconds:
        if not measured_from and now >= started + WARM_UP_S:
            measured_from, handed, cpu_s = now, node.client.tally.count, cpu_of(pids)
            times.clear()
        items = make_items(0, sent + 1, burst, payload)
        if in_flight == 1:
            begun = clock()
            node.inbox.append(items[0])
            node.alarm.ring()
            sent += 1
            node.client.receive()
            times.append(clock() - begun)
        else:
            node.inbox.extend(items)
            node.alarm.ring()
            sent += burst
            node.client.await_room(sent, in_flight)
    elapsed, commits = clock() - measured_from, node.client.tally.count - handed
    times.sort()
    return {
        "per_second": commits / elapsed,
        "cpu_us_per_commit": (cpu_of(pids) - cpu_s) / commits * 1e6,
        "p50_ms": times[len(times) // 2] * 1000 if times else None,
        "p99_ms": times[len(times) * 99 // 100] * 1000 if times else None,
    }


def cpu_of(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def serve(number: int, ports: list[int], directory: str, asked: argparse.Namespace, commander: Connection) -> None:
    node = Node(number, ports, directory, asked.durability == "fsync")
    if not (node.leads and asked.in_flight == 1):
        threading.Thread(target=node.client.serve, daemon=True).start()
    threading.Thread(target=node.run, daemon=True).start()
    pids = commander.recv()
    if node.leads:
        time.sleep(0.5)  # connections
        commander.send(propose(node, asked.in_flight, asked.payload, asked.seconds, pids))
    commander.recv()
    os._exit(0)


def free_ports() -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(NODES)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    ports = free_ports()
    with tempfile.TemporaryDirectory(prefix="bare-pipeline-") as root:
        pipes, nodes = [], []
        for number in range(NODES):
            here, there = multiprocessing.Pipe()
            node = multiprocessing.Process(
                target=serve, args=(number, ports, str(Path(root) / str(number)), asked, there), daemon=True
            )
            node.start()
            pipes.append(here)
            nodes.append(node)
        pids = [node.pid for node in nodes]
        for pipe in pipes:
            pipe.send(pids)
        try:
            if not pipes[0].poll(asked.seconds + 30):
                raise SystemExit("bare_pipeline: no answer: an item was lost, or the machine is too slow")
            found: dict[str, Any] = pipes[0].recv()
            for pipe in pipes:
                pipe.send("end")
        finally:
            for node in nodes:
                node.join(2)
                node.kill()
                node.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The floor: a proposal's way with no consensus in it.")
    parser.add_argument("--payload", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--durability", choices=["fsync", "os"], default="fsync")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
