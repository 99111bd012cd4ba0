"""Lifeguard's suspicion timeout, against its formula and against what it must be good for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.gossip.suspicion import Suspicion, remaining_suspicion, suspicion_timeout_min


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "expected_s"),
    [
        (0, 0.0, 30.0),
        (1, 2.0, 30.0 - 28.0 * math.log(2) / math.log(4) - 2.0),
        (2, 3.0, 30.0 - 28.0 * math.log(3) / math.log(4) - 3.0),
        (3, 0.0, 2.0),
        (3, 4.0, -2.0),
        (4, 0.0, 2.0),
    ],
)
def test_the_timeout_falls_with_the_logarithm_of_the_confirmations(
    confirmations: int, elapsed_s: float, expected_s: float
) -> None:
    assert remaining_suspicion(confirmations, 3, elapsed_s, 2.0, 30.0) == pytest.approx(expected_s)


@given(
    confirmations=st.integers(0, 20),
    needed=st.integers(0, 10),
    minimum_s=st.floats(0.1, 100.0),
    factor=st.floats(1.0, 10.0),
)
def test_the_timeout_stays_within_its_bounds_and_never_grows(
    confirmations: int, needed: int, minimum_s: float, factor: float
) -> None:
    maximum_s = minimum_s * factor
    timeout_s = remaining_suspicion(confirmations, needed, 0.0, minimum_s, maximum_s)
    assert minimum_s <= timeout_s <= maximum_s
    assert remaining_suspicion(confirmations + 1, needed, 0.0, minimum_s, maximum_s) <= timeout_s


def test_the_shortest_timeout_grows_with_the_logarithm_of_the_cluster() -> None:
    assert suspicion_timeout_min(4.0, 2, 1.0) == 4.0
    assert suspicion_timeout_min(4.0, 10, 1.0) == 4.0
    assert suspicion_timeout_min(4.0, 1000, 0.2) == pytest.approx(2.4)


def test_an_accuser_counts_once_and_only_as_many_as_are_needed() -> None:
    suspicion = Suspicion(100.0, "a", 2, 4.0, 24.0)
    assert suspicion.deadline() == 124.0
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert 104.0 < suspicion.deadline() < 124.0
    assert suspicion.confirm("c")
    assert suspicion.deadline() == 104.0
    assert not suspicion.confirm("d")


def test_with_nobody_to_confirm_the_shortest_timeout_applies_at_once() -> None:
    assert Suspicion(0.0, "a", 0, 4.0, 24.0).deadline() == 4.0
