"""The goals of docs/gossip.md in small; ``tools/simulate_gossip.py`` measures them at full size."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from copycat.gossip import LAN

SEED = 1


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "simulate_gossip.py"
    spec = importlib.util.spec_from_file_location("simulate_gossip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_gossip"] = module
    spec.loader.exec_module(module)
    return module


def test_a_crash_is_first_probed_when_swim_says(simulation: ModuleType) -> None:
    got = simulation.measure_detection(20, 100, SEED)
    assert got.standard_error < 0.1
    assert abs(got.first_probe_periods - math.e / (math.e - 1)) < 3 * got.standard_error
    assert got.slowest_probe_periods < 2 * 20 - 1
    assert got.first_suspicion_s < got.first_death_s < got.known_by_99_percent_s < 12.0


def test_without_faults_nobody_is_accused(simulation: ModuleType) -> None:
    for profile in (LAN, LAN.without_lifeguard()):
        assert simulation.measure_false_positives(profile, 30, 120.0, SEED).events == 0


def test_lifeguard_leaves_a_fiftieth_of_the_false_positives(simulation: ModuleType) -> None:
    def events(profile: object) -> int:
        fault = simulation.Fault(simulation.FaultKind.CUT_OFF, 0.25, 16.0, 0.1, 40.0)
        result = simulation.measure_false_positives(profile, 32, 40.0, SEED, disturb=fault)
        return int(result.events)

    without, with_lifeguard = events(LAN.without_lifeguard()), events(LAN)
    assert without > 500
    assert with_lifeguard * 50 <= without


def test_traffic_does_not_depend_on_the_number_of_members(simulation: ModuleType) -> None:
    few, many = simulation.measure_traffic(10, 30.0, SEED), simulation.measure_traffic(150, 30.0, SEED)
    assert many.packets == pytest.approx(few.packets, rel=0.10)
    assert many.bytes == pytest.approx(few.bytes, rel=0.10)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_metadata_is_everywhere_within_two_seconds(simulation: ModuleType, loss: float) -> None:
    for got in (simulation.measure_overlay(300, 3, loss, SEED), simulation.measure_meta(100, 3, loss, SEED)):
        assert got.unreached == 0
        assert got.worst_s < 2.0
