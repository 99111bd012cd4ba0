"""Real processes while their network, their disk and themselves fail: a short form of tools/chaos."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from copycat.testing.chaos import Fault, faults_of, make_wires, run
from copycat.testing.wires import why_no_namespaces

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["namespaces", "relay"])
def test_what_clients_see_is_one_order_whatever_fails(kind: str, tmp_path: Path) -> None:
    why_not = why_no_namespaces() if kind == "namespaces" else None
    if why_not is not None:
        pytest.skip(why_not)
    seed = int(os.environ.get("COPYCAT_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"COPYCAT_TEST_SEED={seed}")
    wires = make_wires(kind, 3, seed, delay_ms=1.0, loss_percent=1.0)
    result = run(tmp_path, seed, wires, rounds=4, seconds_max=1.5)
    print(result)
    assert result.summary.confirmed > 0
    assert result.calls > 100
    assert result.registers > result.given_up


def test_a_plan_holds_every_kind_before_it_holds_one_twice() -> None:
    faults = faults_of(random.Random(1), 2 * len(Fault), full_disk=True)
    assert set(faults[: len(Fault)]) == set(Fault) == set(faults[len(Fault) :])
    assert Fault.FULL_DISK not in faults_of(random.Random(1), 20, full_disk=False)
