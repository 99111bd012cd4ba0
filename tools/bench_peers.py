"""CopyCat beside its floor and beside PySyncObj, in the same run, since figures of different hours can't be compared.

    python tools/bench_peers.py --payload 16 --rounds 3

Each round runs, one after the other: the bare pipeline (tools/bare_pipeline.py), CopyCat (``copycat bench``), and PySyncObj
(tools/pysyncobj_peer.py, where the package pysyncobj is installed); first pipelined, then with a lone client. Prints the
median of each figure over the rounds, and the median of each round's ratio to the bare pipeline.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SUBJECTS = ("bare", "copycat", "pysyncobj")
METRICS = ("per_second", "cpu_us_per_commit", "p50_ms", "p99_ms")
PYSYNCOBJ_IN_FLIGHT_MAX = 2000
"""With more it answers that its queue is full, or is elected anew all the time."""


def run(subject: str, asked: argparse.Namespace, in_flight: int) -> dict[str, Any]:
    load = ["--payload", str(asked.payload), "--seconds", str(asked.seconds)]
    if subject == "bare":
        durability = ["--durability", asked.durability]
        command = [str(HERE / "bare_pipeline.py"), *load, "--in-flight", str(in_flight), *durability]
    elif subject == "copycat":
        scenario = ["lone"] if in_flight == 1 else ["saturation", "--in-flight", str(in_flight)]
        command = ["-m", "copycat.cli", "bench", *scenario, *load, "--durability", asked.durability, "--json"]
    else:
        bounded = min(in_flight, PYSYNCOBJ_IN_FLIGHT_MAX)
        command = [str(HERE / "pysyncobj_peer.py"), *load, "--in-flight", str(bounded)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=asked.seconds + 150, check=False
    )
    if done.returncode:
        raise SystemExit(f"bench_peers: {subject} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(title: str, rounds: list[dict[str, dict[str, Any]]], subjects: list[str]) -> None:
    print(f"\n{title}, median of {len(rounds)} rounds (and ratio to bare)")
    print(f"{'':<12}{'commits/s':>22}{'CPU us/commit':>22}{'p50 ms':>18}{'p99 ms':>18}")
    for subject in subjects:
        cells = []
        for metric, width, digits in zip(METRICS, (22, 22, 18, 18), (0, 2, 2, 2), strict=True):
            values = [each[subject][metric] for each in rounds]
            if None in values:
                cells.append(" " * width)
                continue
            ratio = statistics.median(each[subject][metric] / each["bare"][metric] for each in rounds)
            cells.append(f"{statistics.median(values):,.{digits}f} ({ratio:.3g})".rjust(width))
        print(f"{subject:<12}{''.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="CopyCat beside its floor and beside PySyncObj.")
    parser.add_argument("--payload", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--durability", choices=["fsync", "os"], default="fsync")
    parser.add_argument("--load", choices=["pipelined", "lone", "both"], default="both")
    parser.add_argument("--without", action="append", choices=["pysyncobj"], default=[], help="leave it out")
    asked = parser.parse_args()
    subjects = [subject for subject in SUBJECTS if subject not in asked.without]
    if "pysyncobj" in subjects and importlib.util.find_spec("pysyncobj") is None:
        print("pysyncobj is not installed: left out")
        subjects.remove("pysyncobj")
    for load in ("pipelined", "lone") if asked.load == "both" else (asked.load,):
        in_flight = 1 if load == "lone" else asked.in_flight
        rounds = [{subject: run(subject, asked, in_flight) for subject in subjects} for _ in range(asked.rounds)]
        title = "lone client" if load == "lone" else f"{in_flight:,} proposals in flight"
        report(f"{asked.payload} B, {asked.durability}, {title}", rounds, subjects)


if __name__ == "__main__":
    main()
