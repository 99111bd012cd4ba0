"""What a node measures of itself, and an endpoint from which Prometheus reads it (extra ``metrics``).

The library only counts, and only per batch, frame or write, never per item; what needs no counting (queues, logs, members) is
looked up when somebody asks. Asking is :meth:`copycat.CopyCat.measure`. Nothing here but :func:`serve` and
:class:`Collector` needs prometheus-client, and it is imported only by them.

    with copycat.CopyCat(config) as cat, copycat.metrics.serve(cat, 9464):
        ...

``/metrics`` is for Prometheus, ``/health`` for whoever decides whether to restart or to route around a node: 200 if it is well,
503 and the reasons, a line each, if it isn't. docs/metrics.md lists every metric.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from copycat.errors import CopyCatError, UsageError
from copycat.status import Health

if TYPE_CHECKING:
    from copycat.endpoint import Endpoint

__all__ = ["METRICS", "Collector", "Health", "Kind", "Metric", "Sample", "Spread", "serve"]

GROUPS_MAX = 10
"""Groups that get a label of their own, the ones with the longest logs: a node hosts thousands."""

SCRAPE_TIMEOUT_S = 5.0
"""How long a scrape waits for the engine. A node that does not answer in time is not up."""

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PROPOSALS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Kind(enum.Enum):
    """As Prometheus names them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()


def _metrics() -> tuple[Metric, ...]:
    counter, gauge, histogram = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
    lane, group = ("lane",), ("group",)
    return (
        Metric("copycat_up", gauge, "0 or 1", "Whether the node answered this scrape; if not, nothing else is there"),
        Metric("copycat_healthy", gauge, "0 or 1", "Whether the health check finds nothing wrong"),
        Metric("copycat_node_info", gauge, "always 1", "Which node this is", ("node_id", "data_center", "rack")),
        Metric("copycat_proposals_total", counter, "proposals", "Taken from consumers on this node into batches"),
        Metric("copycat_proposals_committed_total", counter, "proposals", "Of those, seen to commit"),
        Metric("copycat_proposals_failed_total", counter, "proposals", "Of those, reported to consumers as failed"),
        Metric("copycat_batches_sent_total", counter, "batches", "Handed to Raft, repetitions included"),
        Metric("copycat_batch_proposals", histogram, "proposals", "Proposals in a batch"),
        Metric("copycat_commit_latency_seconds", histogram, "seconds", "From making a batch until it was applied here"),
        Metric("copycat_items_applied_total", counter, "items", "Committed items applied, all replicas here together"),
        Metric("copycat_groups", gauge, "replicas", "Replicas on this node", ("role",)),
        Metric("copycat_groups_leaderless", gauge, "replicas", "Of those, without a known leader"),
        Metric("copycat_leader_changes_total", counter, "changes", "New leaders or terms, all groups here together"),
        Metric("copycat_elections_won_total", counter, "elections", "Of those, by which a replica here came to lead"),
        Metric("copycat_consumers", gauge, "consumers", "Subscriptions on this node"),
        Metric("copycat_queue_bytes", gauge, "bytes", "Proposals not committed; commits not received", ("queue",)),
        Metric(
            "copycat_consumer_lag_entries", gauge, "entries", "Log that the slowest consumer here has yet to receive"
        ),
        Metric("copycat_log_bytes", gauge, "bytes", "Raft logs on this node's disk"),
        Metric(
            "copycat_logs_full", gauge, "replicas", "Groups led from here that take no proposals: their log is full"
        ),
        Metric(
            "copycat_snapshot_age_seconds",
            gauge,
            "seconds",
            "Of the oldest newest snapshot of a group; from the start on",
        ),
        Metric("copycat_sync_seconds", histogram, "seconds", "A write to the storage, synced if so configured"),
        Metric("copycat_written_bytes_total", counter, "bytes", "Values handed to the storage"),
        Metric("copycat_write_age_seconds", gauge, "seconds", "How long the oldest write under way has been waiting"),
        Metric("copycat_frames_sent_total", counter, "frames", "Handed to the transport, those it dropped too", lane),
        Metric("copycat_sent_bytes_total", counter, "bytes", "The same", lane),
        Metric("copycat_frames_dropped_total", counter, "frames", "That the transport did not take", lane),
        Metric("copycat_frames_received_total", counter, "frames", "From the transport, whatever was in them", lane),
        Metric("copycat_received_bytes_total", counter, "bytes", "The same", lane),
        Metric("copycat_frames_rejected_total", counter, "frames", "Received, and foreign, damaged or not understood"),
        Metric("copycat_messages_rejected_total", counter, "messages", "In frames that were understood, the same"),
        Metric("copycat_messages_postponed_total", counter, "messages", "Dropped because too much waits for the disk"),
        Metric("copycat_members", gauge, "nodes", "Nodes as this one knows them, itself included", ("state",)),
        Metric("copycat_probes_total", counter, "probes", "Of failure detection"),
        Metric("copycat_probes_failed_total", counter, "probes", "Of those, without an answer"),
        Metric("copycat_suspicions_refuted_total", counter, "suspicions", "Against this node, which was alive"),
        Metric(
            "copycat_stalls_total",
            counter,
            "stalls",
            "Times that this process stood still for too long to judge others",
        ),
        Metric("copycat_awareness_score", gauge, "score", "Lifeguard's local health: 0 is well"),
        Metric("copycat_engine_turns_total", counter, "turns", "Of the engine's loop"),
        Metric(
            "copycat_group_commit_position", gauge, "position", "Of a group with one of the longest logs here", group
        ),
        Metric("copycat_group_log_bytes", gauge, "bytes", "The same group's log on this disk", group),
        Metric(
            "copycat_group_lag_entries",
            gauge,
            "entries",
            "Log that its slowest other replica lacks, where it is led",
            group,
        ),
    )


METRICS = {metric.name: metric for metric in _metrics()}


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram at one moment. ``counts`` has one number for each bound, and one for what is above the last."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts values by size. One thread."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(float(bound) for bound in bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def spread(self) -> Spread:
        """What was counted so far."""
        return Spread(self._bounds, tuple(self._counts), self._total)


@dataclass(slots=True)
class Tally:
    """What the parts of a node count as they go, from its start. Belongs to the engine's thread."""

    proposals: int = 0
    proposals_committed: int = 0
    proposals_failed: int = 0
    batches_sent: int = 0
    items_applied: int = 0
    leader_changes: int = 0
    elections_won: int = 0
    batch_proposals: Histogram = field(default_factory=lambda: Histogram(PROPOSALS))
    commit_latency: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    sync: Histogram = field(default_factory=lambda: Histogram(SECONDS))


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric; ``labels`` in the order of :attr:`Metric.labels`."""

    name: str
    value: float | Spread
    labels: tuple[str, ...] = ()


class Measured(Protocol):
    """What is asked of a node: see :class:`copycat.CopyCat`."""

    def measure(self, groups_max: int = ..., timeout: float = ...) -> list[Sample]: ...

    def health(self, timeout: float = ...) -> Health: ...


class Collector:
    """A node as a collector of prometheus-client: register it where you like. Reads are from any thread."""

    def __init__(self, node: Measured, groups_max: int = GROUPS_MAX, timeout: float = SCRAPE_TIMEOUT_S) -> None:
        """``groups_max``: groups with a label of their own; ``timeout``: seconds that one scrape waits for the node."""
        self._node = node
        self._groups_max = groups_max
        self._timeout = timeout

    def describe(self) -> Iterator[Any]:
        """What will be collected, without asking the node."""
        for metric in METRICS.values():
            yield _family(metric, [])

    def collect(self) -> Iterator[Any]:
        """Every metric, as the node is now."""
        found: dict[str, list[Sample]] = {}
        try:
            for sample in self._node.measure(self._groups_max, self._timeout):
                found.setdefault(sample.name, []).append(sample)
            found["copycat_up"] = [Sample("copycat_up", 1.0)]
        except (CopyCatError, TimeoutError):
            found = {"copycat_up": [Sample("copycat_up", 0.0)]}
        for name, samples in found.items():
            yield _family(METRICS[name], samples)


def _family(metric: Metric, samples: list[Sample]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, samples)
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for sample in samples:
        assert not isinstance(sample.value, Spread)
        assert len(sample.labels) == len(metric.labels), metric.name
        family.add_metric(sample.labels, sample.value)
    return family


def _histogram(metric: Metric, samples: list[Sample]) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for sample in samples:
        assert isinstance(sample.value, Spread)
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*sample.value.bounds, "+Inf"), sample.value.counts, strict=True):
            below += count
            buckets.append((str(bound), float(below)))
        family.add_metric(sample.labels, buckets, sample.value.total)
    return family


def serve(
    node: Measured,
    port: int = 9464,
    host: str = "127.0.0.1",
    groups_max: int = GROUPS_MAX,
    timeout: float = SCRAPE_TIMEOUT_S,
) -> Endpoint:
    """Answer ``GET /metrics`` and ``GET /health`` for ``node`` on ``host`` and ``port`` (0: a free one), until closed.

    Whoever can connect can read, without a password: hence loopback, unless told otherwise. Close it before the node is shut
    down, or after; one that has ended is reported as not up.

    Raises :class:`~copycat.errors.UsageError` if prometheus-client is not installed, and
    :class:`~copycat.errors.AddressInUse` if it can't listen there.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
    except ImportError as error:
        raise UsageError(f"metrics need prometheus-client ({error}): pip install 'copycat[metrics]'") from error
    from copycat.endpoint import Endpoint, Page, pages

    registry = CollectorRegistry()
    registry.register(Collector(node, groups_max, timeout))

    def health() -> Page:
        found = node.health(timeout)
        text = "well\n" if found.healthy else "".join(f"{reason}\n" for reason in found.reasons)
        return Page(text.encode(), status=200 if found.healthy else 503)

    return Endpoint(
        host,
        port,
        pages({"/metrics": lambda: Page(generate_latest(registry), CONTENT_TYPE_LATEST), "/health": health}),
        "copycat-metrics",
    )
