"""What keys cost: plain and encrypted clusters of three by turns, in one run. Prints one JSON object a line, then the ratios.

    .venv/bin/python tools/bench_security.py [--rounds N] [--seconds S] [--payload BYTES]

A round measures both once, the order alternating, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from copycat.cli.bench_scenarios import Row, Scenario, Setup, lone_client, saturation
from copycat.security.certificates import new_key_pair, write_key_pair, write_public_key
from copycat.security.keyring import KeyRing


class KeyedSetup(Setup):
    """One key for all three nodes of the benchmark, which have one set of overrides: who is who costs nothing extra."""

    __slots__ = ()

    def overrides(self) -> dict[str, Any]:
        return {**super().overrides(), **_fields}


_fields: dict[str, str] = {}


def make_keys(directory: Path) -> dict[str, str]:
    """Key files in ``directory``, as fields of the configuration."""
    trusted = directory / "trusted"
    trusted.mkdir(mode=0o755)
    pair = new_key_pair()
    write_key_pair(directory / "n.key_secret", pair, replace=False)
    write_public_key(trusted / "n.key", pair.public, replace=False)
    KeyRing.new().write(directory / "gossip.keys", replace=False)
    return {
        "key_file": str(directory / "n.key_secret"),
        "trusted_keys_dir": str(trusted),
        "gossip_keys_file": str(directory / "gossip.keys"),
    }


def measure(name: str, scenario: Scenario, setup: Setup) -> Row:
    with tempfile.TemporaryDirectory(prefix="copycat-bench-", ignore_cleanup_errors=True) as directory:
        row = scenario(setup, Path(directory))
    print(json.dumps({"plain or keyed": name, **row.as_dict()}), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--payload", type=int, default=128)
    asked = parser.parse_args()
    plain = replace(Setup(), payload=asked.payload, seconds=asked.seconds)
    with tempfile.TemporaryDirectory(prefix="copycat-keys-") as keys:
        _fields.update(make_keys(Path(keys)))
        keyed = KeyedSetup(payload=asked.payload, seconds=asked.seconds)
        rates: dict[str, list[float]] = {"plain": [], "keyed": []}
        medians: dict[str, list[float]] = {"plain": [], "keyed": []}
        for number in range(asked.rounds):
            sides = [("plain", plain), ("keyed", keyed)]
            for name, setup in sides if number % 2 == 0 else reversed(sides):
                rates[name].append(measure(name, saturation, setup).per_second or 0.0)
                medians[name].append(measure(name, lone_client, setup).p50_ms or 0.0)
    pipelined = statistics.median(rates["keyed"]) / statistics.median(rates["plain"])
    lone = statistics.median(medians["keyed"]) / statistics.median(medians["plain"])
    print(f"pipelined commits, keyed / plain: {pipelined:.2f}")
    print(f"lone client p50, keyed / plain: {lone:.2f}")


if __name__ == "__main__":
    main()
