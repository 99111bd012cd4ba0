"""Rates and latencies, from what a node counted at two moments."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from copycat.errors import Timeout
from copycat.metrics import SECONDS, Histogram, Sample
from copycat.web.history import LATENCIES, POINTS_MAX, RATES, History, quantile


class Node:
    """Has counted what it is told, or does not answer."""

    def __init__(self) -> None:
        self.totals = dict.fromkeys(RATES, 0.0)
        self.spreads = {name: Histogram(SECONDS) for name in LATENCIES}
        self.silent = False

    def measure(self) -> list[Sample]:
        if self.silent:
            raise Timeout("measuring the node took longer than 5 s")
        found = [Sample(RATES[name], value) for name, value in self.totals.items()]
        return found + [Sample(LATENCIES[name], spread.spread()) for name, spread in self.spreads.items()]


def test_rates_are_what_was_counted_by_the_time_it_took() -> None:
    node = Node()
    history = History(node.measure)
    history.look(10.0)
    node.totals["commits"] = 300
    node.spreads["sync"].add(0.004)
    history.look(13.0)
    (point,) = history.since(0)
    assert point.rates["commits"] == 100.0
    assert point.rates["failures"] == 0.0
    assert set(point.latencies) == {"sync"}
    assert 0.0025 <= point.latencies["sync"][0] <= point.latencies["sync"][1] <= 0.005
    assert history.since(point.number) == []


def test_a_time_without_an_answer_is_a_gap_and_not_a_rate() -> None:
    node = Node()
    history = History(node.measure)
    history.look(0.0)
    node.silent = True
    history.look(2.0)
    node.silent = False
    node.totals["commits"] = 1_000_000
    history.look(4.0)
    history.look(6.0)
    first, second = history.since(0)
    assert (first.rates, first.latencies) == ({}, {})
    assert second.rates["commits"] == 0.0


def test_history_forgets_the_oldest() -> None:
    history = History(Node().measure)
    for second in range(POINTS_MAX + 50):
        history.look(float(second))
    numbers = [point.number for point in history.since(0)]
    assert len(numbers) == POINTS_MAX
    assert all(after == before + 1 for before, after in pairwise(numbers))


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.add(value)
    spread = histogram.spread()
    found = quantile(share, spread.bounds, spread.counts)
    wanted = share * len(values)
    true = next(value for number, value in enumerate(sorted(values), 1) if number >= wanted)
    upper = next(bound for bound in SECONDS if true <= bound)
    lower = max((bound for bound in SECONDS if bound < upper), default=0.0)
    assert lower <= found <= upper + 1e-12


def test_what_is_above_the_last_bound_counts_as_that() -> None:
    assert quantile(0.5, (1.0, 2.0), (0, 0, 3)) == 2.0
