"""Compares copycat.aio with the threaded interface, in one process, turn about: items through a group of one.

Both do the same: one producer sends, one consumer receives, item by item or in batches of what is there. Prints the medians
of the rounds: items per second, and microseconds of processor time per item, all threads of the process together. On a busy
machine only the latter means much: an event loop is one thread there, and two threads get more of the processors.

    .venv/bin/python tools/measure_asyncio.py [items] [rounds]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import copycat
import copycat.aio

ITEM = b"sixteen bytes..."
BATCH = 4096


@dataclass(frozen=True)
class Measured:
    """One way of passing items, in one round."""

    way: str
    items_per_s: float
    cpu_us: float


class Stopwatch:
    """Measures from its making to :meth:`stop`."""

    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, way: str, count: int) -> Measured:
        took, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        return Measured(way, count / took, cpu / count * 1e6)


def configuration(directory: str) -> copycat.Config:
    return copycat.Config(
        copycat_port=0, gossip_port=0, data_dir=directory, transport="memory", storage="memory", gossip_profile="local"
    )


def state() -> bytes:
    return b""


def threaded(count: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as directory, copycat.CopyCat(configuration(directory)) as cat:
        allocation = cat.allocate_new_data_structure(replicas=1)
        allocation.wait(10)
        with cat.subscribe_to_data_structure(allocation.id, state) as subscription:

            def send() -> None:
                for _ in range(count):
                    subscription.propose.send(ITEM)

            watch = Stopwatch()
            sender = threading.Thread(target=send)
            sender.start()
            for _ in range(count):
                subscription.commits.receive()
            sender.join()
            single = watch.stop("item by item", count)

            watch = Stopwatch()
            sender = threading.Thread(target=lambda: subscription.propose.send_many([ITEM] * count))
            sender.start()
            received = 0
            while received < count:
                received += len(subscription.commits.receive_many(BATCH))
            sender.join()
            many = watch.stop("in batches", count)
    return [single, many]


async def on_a_loop(count: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as directory:
        async with copycat.aio.CopyCat(configuration(directory)) as cat:
            allocation = cat.allocate_new_data_structure(replicas=1)
            await allocation.wait(10)
            async with await cat.subscribe_to_data_structure(allocation.id, state) as subscription:

                async def send() -> None:
                    for _ in range(count):
                        await subscription.propose.send(ITEM)

                async def receive() -> None:
                    received = 0
                    async for _ in subscription.commits:
                        received += 1
                        if received == count:
                            return

                async def receive_many() -> None:
                    received = 0
                    while received < count:
                        received += len(await subscription.commits.receive_many(BATCH))

                watch = Stopwatch()
                await asyncio.gather(send(), receive())
                single = watch.stop("item by item", count)
                watch = Stopwatch()
                await asyncio.gather(subscription.propose.send_many([ITEM] * count), receive_many())
                many = watch.stop("in batches", count)
    return [single, many]


def rate(rounds: Iterable[Measured]) -> float:
    return statistics.median(measured.items_per_s for measured in rounds)


def cost(rounds: Iterable[Measured]) -> float:
    return statistics.median(measured.cpu_us for measured in rounds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    threads, loops = [], []
    for _ in range(rounds):
        threads.append(threaded(count))
        loops.append(asyncio.run(on_a_loop(count)))
    for one, other in zip(zip(*threads, strict=True), zip(*loops, strict=True), strict=True):
        print(f"{one[0].way}:")
        for name, value in (("items/s", rate), ("us of CPU/item", cost)):
            on_threads, on_asyncio = value(one), value(other)
            print(
                f"  {name}: {on_threads:,.2f} on threads, {on_asyncio:,.2f} on asyncio: {on_asyncio / on_threads:.0%}"
            )


if __name__ == "__main__":
    main()
