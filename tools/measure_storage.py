"""Compares storages, and choices within one, under what a node asks of them: logs that grow, synced, and are cut behind.

Each turn writes one batch of entries (half random, half text) for some groups and cuts each log to a bounded length; a second
thread does nothing but look how long it is kept from running, as the engine would be. Prints one line a subject:

    tools/measure_storage.py leveldb rocksdb rocksdb:COMPRESSION=none rocksdb:WRITE_BUFFER_BYTES=8388608 --rounds 3

After a colon stand constants of the storage's module to change. Subjects take turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from copycat.ports import WriteBatch
from copycat.registry import STORAGES, make_storage, registered

ENTRY_BYTES = 4096
KEPT_ENTRIES = 2_000


def measure(subject: str, groups: int, batch_entries: int, total_mib: int, directory: str) -> dict[str, float]:
    name, _, changes = subject.partition(":")
    module = importlib.import_module(registered(STORAGES)[name].module)
    for change in filter(None, changes.split(",")):
        constant, _, value = change.partition("=")
        assert hasattr(module, constant), f"{module.__name__} has no {constant}"
        setattr(module, constant, value if value.isalpha() or value == "lz4" else ast.literal_eval(value))
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        storage = make_storage(name)
        storage.open(Path(folder) / "data")
        figures = _turns(storage, groups, batch_entries, total_mib)
        storage.close()
        began = time.perf_counter()
        storage.open(Path(folder) / "data")
        figures["open_ms"] = (time.perf_counter() - began) * 1000
        kept = sum(1 for _ in storage.scan(b"", b"\xff"))
        assert kept == figures.pop("entries"), "entries were lost or came back"
        storage.close()
    return figures


def _turns(storage: Any, groups: int, batch_entries: int, total_mib: int) -> dict[str, float]:
    rng = random.Random(1)
    noise = rng.randbytes(1 << 20)
    last = [0] * groups
    first = [1] * groups
    took: list[float] = []
    kept_away: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        before = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.0002)  # a moment of rest, as a poll is
            now = time.perf_counter()
            kept_away.append(now - before)
            before = now

    watcher = threading.Thread(target=watch)
    written_before = _disk_bytes()
    cpu_before = _cpu()
    began = time.perf_counter()
    watcher.start()
    turn = 0
    while turn * batch_entries * ENTRY_BYTES < total_mib << 20:
        batch = WriteBatch()
        for number in range(batch_entries):
            group = (turn + number) % groups
            last[group] += 1
            place = rng.randrange(len(noise) - ENTRY_BYTES)
            value = noise[place : place + ENTRY_BYTES // 2] + b"key=value " * (ENTRY_BYTES // 20)
            batch.put(b"%04d/%016d" % (group, last[group]), value)
            if last[group] - first[group] >= KEPT_ENTRIES // groups:
                batch.delete(b"%04d/%016d" % (group, first[group]))
                first[group] += 1
        started = time.perf_counter()
        storage.write(batch, sync=True)
        took.append(time.perf_counter() - started)
        turn += 1
    elapsed = time.perf_counter() - began
    stop.set()
    watcher.join()
    took.sort()
    kept_away.sort()
    return {
        "mib_s": total_mib / elapsed,
        "write_p50_ms": took[len(took) // 2] * 1000,
        "write_p99_ms": took[len(took) * 99 // 100] * 1000,
        "kept_away_p99_ms": kept_away[len(kept_away) * 99 // 100] * 1000,
        "kept_away_max_ms": kept_away[-1] * 1000,
        "cpu_s_per_gib": (_cpu() - cpu_before) * 1024 / total_mib,
        "written_to_disk": (_disk_bytes() - written_before) / (total_mib << 20),
        "entries": sum(last) - sum(first) + groups,
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _disk_bytes() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--batch-entries", type=int, default=64)
    parser.add_argument("--total-mib", type=int, default=256)
    parser.add_argument("--directory", default=".", help="on the disk to measure")
    parser.add_argument("--once", action="store_true", help="measure the one subject in this process, and print JSON")
    given = parser.parse_args()
    if given.once:
        print(
            json.dumps(measure(given.subjects[0], given.groups, given.batch_entries, given.total_mib, given.directory))
        )
        return
    rounds: dict[str, list[dict[str, float]]] = {subject: [] for subject in given.subjects}
    options = [
        f"--{name.replace('_', '-')}={vars(given)[name]}"
        for name in ("groups", "batch_entries", "total_mib", "directory")
    ]
    for _ in range(given.rounds):
        for subject, results in rounds.items():
            command = [sys.executable, __file__, "--once", *options, subject]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(ran.stdout))
    columns = list(next(iter(rounds.values()))[0])
    print("subject".ljust(44), *(column.rjust(17) for column in columns))
    for subject, results in rounds.items():
        medians = [statistics.median(result[column] for result in results) for column in columns]
        print(subject.ljust(44), *(f"{median:17.2f}" for median in medians))


if __name__ == "__main__":
    main()
