"""What a node measures, as Prometheus reads it: everything that is listed, right, bounded, and never at the node's cost."""

from __future__ import annotations

import json
import re
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from copycat import metrics
from copycat.errors import AddressInUse, Closed, Timeout, UsageError
from copycat.metrics import METRICS, Collector, Histogram, Kind
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent.parent
PROPOSALS = 500

Values = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def cluster(tmp_path: Path) -> Any:
    with NodeCluster(tmp_path, "memory", "memory") as made:
        yield made


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> Values:
    """By name and values of labels, as a scraper parses it."""
    status, text = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(value for label, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(values: Values, name: str) -> float:
    return sum(value for (found, _), value in values.items() if found == name)


def names_of(values: Values) -> set[str]:
    """Listed names, histograms folded together."""
    found = {name for name, _ in values}
    return {name for name in METRICS if name in found or f"{name}_bucket" in found}


def test_a_scrape_has_every_metric_and_they_add_up(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    group = cluster.group(nodes[0])
    copies = [ListCopy(node, group) for node in nodes]
    for copy in copies:
        copy.sub.propose.send_many([b"x"] * PROPOSALS)
    for copy in copies:
        copy.wait(3 * PROPOSALS)
        copy.sub.flush(PATIENCE_S)
    endpoints = [metrics.serve(node, 0) for node in nodes]
    try:
        found = [scrape(endpoint.port) for endpoint in endpoints]
        for values in found:
            assert names_of(values) >= METRICS.keys() - {"copycat_group_lag_entries"}  # that, only where it is led
            for name, value in {
                "copycat_up": 1.0,
                "copycat_healthy": 1.0,
                "copycat_proposals_total": PROPOSALS,
                "copycat_proposals_committed_total": PROPOSALS,
                "copycat_proposals_failed_total": 0.0,
                "copycat_batch_proposals_sum": PROPOSALS,
                "copycat_items_applied_total": 3 * PROPOSALS,
                "copycat_groups": 1.0,
                "copycat_consumers": 1.0,
            }.items():
                assert total(values, name) == value, name
            batches = total(values, "copycat_batch_proposals_count")
            assert 1 <= batches <= total(values, "copycat_batches_sent_total")
            assert total(values, "copycat_commit_latency_seconds_count") == batches
            assert total(values, "copycat_sync_seconds_count") >= 1
            assert values["copycat_members", ("alive",)] == 3.0
            assert values["copycat_queue_bytes", ("proposals",)] == 0.0
            assert total(values, "copycat_log_bytes") > 0
            for name in ("frames_sent_total", "sent_bytes_total", "frames_received_total", "received_bytes_total"):
                assert values[f"copycat_{name}", ("raft",)] > 0, name
            assert values["copycat_group_commit_position", (str(group),)] == 3 * PROPOSALS
        leading = [values for values in found if "copycat_group_lag_entries" in names_of(values)]
        assert len(leading) == 1
        assert sum(total(values, "copycat_elections_won_total") for values in found) >= 1
        again = scrape(endpoints[0].port)
        for key, value in found[0].items():
            if re.search(r"_(total|bucket|count|sum)$", key[0]):
                assert again[key] >= value, key
    finally:
        for endpoint in endpoints:
            endpoint.close()
            endpoint.close()
    with pytest.raises(urllib.error.URLError):
        get(endpoints[0].port, "/metrics")


def test_no_more_groups_than_allowed_have_a_label(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    for _ in range(6):
        cluster.group(node, replicas=1)
    for groups_max in (0, 2, 10):
        with metrics.serve(node, 0, groups_max=groups_max) as endpoint:
            values = scrape(endpoint.port)
        labelled = {labels for (name, labels) in values if name == "copycat_group_log_bytes"}
        assert len(labelled) == min(groups_max, 6)
        assert values["copycat_groups", ("leader",)] == 6.0


def test_a_node_whose_engine_does_not_answer_is_not_up_and_goes_on_afterwards(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    release = threading.Event()
    with metrics.serve(node, 0, timeout=0.05) as endpoint:
        node._engine.post(lambda: release.wait(PATIENCE_S) and None)
        assert scrape(endpoint.port) == {("copycat_up", ()): 0.0}
        status, text = get(endpoint.port, "/health")
        assert (status, text) == (503, "the node does not answer within 0.05 s\n")
        with pytest.raises(Timeout):
            node.measure(timeout=0.01)
        release.set()
        wait_until(lambda: scrape(endpoint.port)["copycat_up", ()] == 1.0, "it answers again")


def test_a_node_that_has_ended_is_not_up_and_says_so(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    with metrics.serve(node, 0) as endpoint:
        assert get(endpoint.port, "/health") == (200, "well\n")
        assert get(endpoint.port, "/elsewhere")[0] == 404
        cluster.stop(node)
        assert scrape(endpoint.port) == {("copycat_up", ()): 0.0}
        assert get(endpoint.port, "/health") == (503, "the node has been shut down\n")
    with pytest.raises(Closed):
        node.measure()


def test_it_listens_on_loopback_unless_told_otherwise_and_a_taken_port_is_an_error(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    with metrics.serve(node, 0) as endpoint:
        assert endpoint.host == "127.0.0.1"
        with pytest.raises(AddressInUse, match="choose another port"):
            metrics.serve(node, endpoint.port)
    with pytest.raises(AddressInUse):
        metrics.serve(node, 1 << 20)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"pip install 'copycat\[metrics\]'"):
        metrics.serve(None, 0)  # type: ignore[arg-type]


def test_a_collector_is_registered_without_asking_the_node() -> None:
    class Untouchable:
        def measure(self, groups_max: int = 0, timeout: float = 0.0) -> Any:
            raise AssertionError("asked")

        def health(self, timeout: float = 0.0) -> Any:
            raise AssertionError("asked")

    CollectorRegistry(auto_describe=True).register(Collector(Untouchable()))


def test_a_histogram_counts_values_by_the_bound_that_they_are_not_above() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5):
        histogram.add(value)
    spread = histogram.spread()
    assert (spread.bounds, spread.counts, spread.total) == ((1.0, 2.0, 4.0), (2, 1, 1, 1), 12.0)


def test_every_label_is_bounded() -> None:
    bounded = {"lane", "role", "state", "queue", "group", "node_id", "data_center", "rack"}
    for metric in METRICS.values():
        assert set(metric.labels) <= bounded, metric.name
        assert ("group" in metric.labels) == metric.name.startswith("copycat_group_"), metric.name
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total"), metric.name


def test_the_page_lists_every_metric_as_it_is() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(copycat_\w+)` \| (\w+) \| (.+?) \| (.*?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert rows == [
        (name, metric.kind.value, metric.unit, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for name, metric in METRICS.items()
    ]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "copycat.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(expressions) >= 12
    asked = {name for expression in expressions for name in re.findall(r"copycat_\w+", expression)}
    suffixed = {
        f"{name}{suffix}"
        for name, metric in METRICS.items()
        if metric.kind is Kind.HISTOGRAM
        for suffix in ("_bucket", "_count", "_sum")
    }
    plain = {name for name, metric in METRICS.items() if metric.kind is not Kind.HISTOGRAM}
    assert asked <= suffixed | plain
    for expression in expressions:
        for name in re.findall(r"copycat_\w+_(?:total|bucket|count|sum)\b", expression):
            assert f"rate({name}" in expression or f"increase({name}" in expression, expression
    placed = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(at["x"] + x, at["y"] + y) for at in placed for x in range(at["w"]) for y in range(at["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert all(x < 24 for x, _ in cells)


def test_measuring_costs_one_visit_of_the_engine(cluster: NodeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = cluster.start(1)
    asked: list[object] = []
    ask = CopyCat._ask
    monkeypatch.setattr(CopyCat, "_ask", lambda self, *given: (asked.append(given), ask(self, *given))[1])
    with metrics.serve(node, 0) as endpoint:
        scrape(endpoint.port)
    assert len(asked) == 1
