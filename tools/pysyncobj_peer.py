"""The same load on PySyncObj: three processes, each handed every item, the leader proposing.

    python tools/pysyncobj_peer.py --payload 16 --in-flight 2000 --seconds 5        --in-flight 1: a lone client

Its own defaults, with its journal in a file. That journal is never synced, so this is to be compared with durability "os"; and
nothing checks here that its consumers agree. Prints one JSON object. Needs the package pysyncobj.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bare_pipeline import NODES, WARM_UP_S, cpu_of, free_ports
from pysyncobj import SyncObj, SyncObjConf, replicated


class Sequence(SyncObj):
    """Counts the items that this node was handed."""

    def __init__(self, own: str, others: list[str], journal: str) -> None:
        super().__init__(own, others, SyncObjConf(journalFile=journal))
        self.handed = 0

    @replicated
    def put(self, item: bytes) -> None:
        self.handed += 1


def propose(node: Sequence, asked: argparse.Namespace, pids: list[int]) -> dict[str, Any]:
    room = threading.Semaphore(asked.in_flight)
    committed, failed = 0, 0

    def settled(result: object, error: object) -> None:
        nonlocal committed, failed
        if error:
            failed += 1
        else:
            committed += 1
        room.release()

    item = b"x" * asked.payload
    times: list[float] = []
    started = time.perf_counter()
    measured_from, before, cpu_s = 0.0, 0, 0.0
    while (now := time.perf_counter()) < started + WARM_UP_S + asked.seconds:
        if not measured_from and now >= started + WARM_UP_S:
            measured_from, before, cpu_s = now, committed, cpu_of(pids)
            times.clear()
        if not room.acquire(timeout=10):
            raise SystemExit("pysyncobj_peer: nothing was committed in 10 s")
        node.put(item, callback=settled)
        if asked.in_flight == 1:
            if not room.acquire(timeout=10):
                raise SystemExit("pysyncobj_peer: nothing was committed in 10 s")
            times.append(time.perf_counter() - now)
            room.release()
    elapsed, commits = time.perf_counter() - measured_from, committed - before
    times.sort()
    return {
        "per_second": commits / elapsed,
        "cpu_us_per_commit": (cpu_of(pids) - cpu_s) / max(1, commits) * 1e6,
        "p50_ms": times[len(times) // 2] * 1000 if times else None,
        "p99_ms": times[len(times) * 99 // 100] * 1000 if times else None,
        "failed": failed,
    }


def serve(number: int, ports: list[int], directory: str, asked: argparse.Namespace, commander: Connection) -> None:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    others = [address for address in addresses if address != addresses[number]]
    node = Sequence(addresses[number], others, str(Path(directory) / f"journal-{number}"))
    pids = commander.recv()
    while node._getLeader() is None:
        time.sleep(0.02)
    leads = str(node._getLeader()) == addresses[number]
    commander.send(leads)
    if commander.recv() == "propose":
        commander.send(propose(node, asked, pids))
        commander.recv()
    os._exit(0)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    ports = free_ports()
    with tempfile.TemporaryDirectory(prefix="pysyncobj-peer-", ignore_cleanup_errors=True) as directory:
        pipes, nodes = [], []
        for number in range(NODES):
            here, there = multiprocessing.Pipe()
            node = multiprocessing.Process(target=serve, args=(number, ports, directory, asked, there), daemon=True)
            node.start()
            pipes.append(here)
            nodes.append(node)
        try:
            for pipe in pipes:
                pipe.send([node.pid for node in nodes])
            for pipe in pipes:
                if not pipe.poll(30):
                    raise SystemExit("pysyncobj_peer: no leader in 30 s")
            leader = pipes[[pipe.recv() for pipe in pipes].index(True)]
            leader.send("propose")
            if not leader.poll(asked.seconds + 60):
                raise SystemExit("pysyncobj_peer: no answer")
            found: dict[str, Any] = leader.recv()
        finally:
            for node in nodes:
                node.kill()
                node.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The same load on PySyncObj.")
    parser.add_argument("--payload", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
