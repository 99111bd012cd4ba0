"""A CopyCat node: everything put together, started, and ended again."""

from __future__ import annotations

import atexit
import functools
import logging
import random
import threading
import weakref
from concurrent.futures import Future
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from ulid import ULID

from copycat.admin import AdminServer
from copycat.administration import SEEING, Administration
from copycat.channels.commit import SnapshotProvider
from copycat.channels.waiting import deadline_after, on_own_thread, remaining
from copycat.cluster import measure_weight
from copycat.config import Config
from copycat.departures import Stage, check_may_start
from copycat.engine import Engine
from copycat.errors import Closed, CopyCatError, InvalidConfig, SeedUnreachable, Timeout, UsageError
from copycat.founding import Wish
from copycat.health import check
from copycat.ids import DataStructureId, new_id
from copycat.measuring import measure
from copycat.metrics import GROUPS_MAX, SCRAPE_TIMEOUT_S, Sample
from copycat.nodestore import NodeStore
from copycat.recovery import Order, Recovery
from copycat.registry import make_storage, make_transport
from copycat.runtime import Runtime
from copycat.security.exposure import check_exposure
from copycat.status import GroupStatus, Health, Member, Problem
from copycat.subscription import Allocation, Subscription, wait_for

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0
DEFAULT_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class CopyCat:
    """One node, in this process. Every method may be called from any thread; a context manager that shuts down.

    Starting opens the data directory and joins the cluster: it returns once a peer of ``peers_to_contact`` has let this
    node in (or at once, if it founds a new cluster, or has belonged to one before and knows its members).

    Raises :class:`~copycat.errors.InvalidConfig`, :class:`~copycat.errors.KeyFileInvalid`,
    :class:`~copycat.errors.StorageExposed`, :class:`~copycat.errors.UnknownTransport`,
    :class:`~copycat.errors.UnknownStorage`, :class:`~copycat.errors.AddressInUse`, :class:`~copycat.errors.StorageLocked`,
    :class:`~copycat.errors.StorageVersion`, :class:`~copycat.errors.StorageForeign`,
    :class:`~copycat.errors.LeftForGood`, :class:`~copycat.errors.NodeFailure`, and
    :class:`~copycat.errors.SeedUnreachable` after ``join_timeout_s``.
    """

    def __init__(self, config: Config | None = None) -> None:
        config = config if config is not None else Config()
        if not isinstance(config, Config):
            raise InvalidConfig(f"CopyCat takes a copycat.Config, not {type(config).__name__}")
        self.config = config
        self._rng = random.Random(config.seed)
        self._lock = threading.Lock()
        self._shut_down = False
        transport = make_transport(config.transport)
        check_exposure(config, getattr(transport, "in_process", False))
        credentials = None
        if config.has_keys:
            from copycat.security.credentials import load_credentials  # needs an extra

            credentials = load_credentials(config)
        storage = make_storage(config.storage)
        store = NodeStore.open(storage, Path(config.data_dir), config.cluster_label, lambda: str(ULID()))
        try:
            check_may_start(store)
            bind_address = config.bind_address or config.hostname
            if credentials is None:
                address = transport.open(bind_address, config.address, config.frame_bytes_max)
            else:
                address = transport.open(bind_address, config.address, config.frame_bytes_max, credentials)
        except BaseException:
            storage.close()
            raise
        try:
            rng = random.Random(self._rng.getrandbits(64))
            weigh = functools.partial(measure_weight, config.data_dir)
            self._engine = Engine(config, address, transport, storage, store, rng, weigh, credentials)
        except BaseException:
            transport.close()
            storage.close()
            raise
        self._runtime = Runtime(self._engine, transport, storage)
        self._runtime.start()
        self._administration = Administration(self._engine, self._begin_to_leave)
        self._admin = self._open_admin()
        self._leaver: threading.Thread | None = None
        _running.add(self)
        try:
            self._join()
        except BaseException:
            self._stop(0.0)
            raise

    def _open_admin(self) -> AdminServer | None:
        """The admin socket, if there is to be one. Where none can be made, the node goes on without, and says so."""
        data_dir = Path(self.config.data_dir)
        if not self.config.admin_socket or not data_dir.is_dir():  # a storage may keep nothing on disk
            return None
        server = AdminServer(data_dir, self._administration.handle)
        self._administration.rejected = lambda: server.rejected
        try:
            server.start()
        except (OSError, UsageError) as error:
            log.warning("there is no admin socket: %s", error)
            return None
        return server

    def _join(self) -> None:
        joined: Future[None] = Future()
        try:
            self._ask(joined, lambda: self._engine.cluster.when_joined(joined))
            wait_for(joined, self.config.join_timeout_s, "joining")
        except TimeoutError:
            seeds = ", ".join(self.config.peers_to_contact)
            raise SeedUnreachable(
                f"none of peers_to_contact ({seeds}) answered within {self.config.join_timeout_s} s: check that one of them "
                "runs, that these are gossip ports, and that its cluster_label is the same"
            ) from None
        except Closed:
            if self._engine.failed is not None:
                raise self._engine.failed from None
            raise

    # --- identity and view ---

    @property
    def node_id(self) -> str:
        """This node's durable id; it lives in the data directory."""
        return self._engine.node_id

    @property
    def address(self) -> str:
        """``host:port`` of this node's gossip: what other nodes put into ``peers_to_contact``."""
        return f"{self._engine.address.hostname}:{self._engine.address.gossip_port}"

    def members(self) -> list[Member]:
        """Every known node, this one included. Raises :class:`~copycat.errors.Closed` after the end."""
        answer: Future[list[Member]] = Future()
        self._ask(answer, lambda: answer.set_result(self._engine.cluster.members()))
        return wait_for(answer, ANSWER_TIMEOUT_S, "asking for the members")

    def groups(self) -> dict[DataStructureId, GroupStatus]:
        """The status of every raft hosted here, by data structure. Raises :class:`~copycat.errors.Closed` after the end."""
        answer: Future[dict[DataStructureId, GroupStatus]] = Future()

        def collect() -> None:
            steward = self._engine.stewardship
            answer.set_result(
                {
                    DataStructureId(group_id): steward.status_of(group)
                    for group_id, group in self._engine.hosting.groups.items()
                }
            )

        self._ask(answer, collect)
        return wait_for(answer, ANSWER_TIMEOUT_S, "asking for the groups")

    def health(self, timeout: float = SCRAPE_TIMEOUT_S) -> Health:
        """Whether this node is well, and why not. Never raises: one that is silent for ``timeout`` seconds is not well."""
        answer: Future[Health] = Future()
        try:
            self._ask(answer, lambda: answer.set_result(check(self._engine)))
            return wait_for(answer, timeout, "asking for the health")
        except TimeoutError:
            problem = Problem("silent", f"the node does not answer within {timeout:g} s")
        except CopyCatError as error:
            problem = Problem("stopped", str(error))
        return Health(False, (str(problem),), (problem,))

    def measure(self, groups_max: int = GROUPS_MAX, timeout: float = SCRAPE_TIMEOUT_S) -> list[Sample]:
        """The metrics of this node as they are now: see :mod:`copycat.metrics`, and docs/metrics.md for what they mean.

        Of single groups only the ``groups_max`` with the longest logs are told. Raises :class:`~copycat.errors.Timeout` after
        ``timeout`` seconds, and :class:`~copycat.errors.Closed` after the end.
        """
        answer: Future[list[Sample]] = Future()
        self._ask(answer, lambda: answer.set_result(measure(self._engine, groups_max)))
        return wait_for(answer, timeout, "measuring the node")

    def look(self, what: str, timeout: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
        """What the admin socket tells without changing anything, as plain values in the form of docs/commands.md.

        ``what`` is ``status``, ``members``, ``health`` (``lag_max``), ``groups`` (a page: ``after``, ``limit``), ``group``
        (``id``) or ``events`` (``after`` a number). Raises :class:`~copycat.errors.UsageError`,
        :class:`~copycat.errors.Timeout` after ``timeout`` seconds, and :class:`~copycat.errors.Closed` after the end.
        """
        if what not in SEEING:
            raise UsageError(f"what can be looked at is {', '.join(sorted(SEEING))}, not {what!r:.80}")
        return wait_for(self._administration.handle(what, arguments), timeout, f"looking at the {what}")

    # --- data structures ---

    def new_data_structure_id(self) -> DataStructureId:
        """A fresh id. Nothing is created until somebody subscribes to it or allocates it."""
        with self._lock:
            return new_id(self._rng)

    def allocate_new_data_structure(
        self, replicas: int | None = None, data_center_replicas: int = 0, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Allocation:
        """Begin to create a data structure with ``replicas`` voters (default: of the configuration).

        ``data_center_replicas`` is how many data centres they are spread over; 0: as many as there are. Returns at once;
        ``wait()`` of what it returns tells how it went. ``timeout`` (seconds) bounds the attempt itself.

        Raises :class:`~copycat.errors.UsageError`, :class:`~copycat.errors.Closed`.
        """
        wanted = self.config.replicas if replicas is None else replicas
        if not 1 <= wanted <= 99 or not 0 <= data_center_replicas <= wanted:
            raise UsageError(
                f"replicas must be 1 to 99 and data_center_replicas 0 to replicas, not {wanted} and {data_center_replicas}"
            )
        fresh = self.new_data_structure_id()
        ready: Future[None] = Future()
        wish = Wish(wanted, data_center_replicas)
        self._ask(ready, lambda: self._engine.errands.allocate(bytes(fresh), wish, timeout, ready))
        return Allocation(fresh, ready)

    def locate_data_structure(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[str, ...]:
        """Ids of the nodes that host a data structure, its leader's first; none if it does not exist. Creates nothing.

        This node's own view answers at once, if it knows any; else the others are asked. That it does not exist is the word of a
        majority of all known nodes: where too few answer within ``timeout`` seconds, :class:`~copycat.errors.LookupFailed` is
        raised. Raises :class:`~copycat.errors.InvalidId`, :class:`~copycat.errors.UsageError`,
        :class:`~copycat.errors.Closed`.
        """
        group_id = bytes(DataStructureId.parse(id))
        if timeout is None or not timeout > 0:
            raise UsageError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        answer: Future[tuple[str, ...]] = Future()
        self._ask(answer, lambda: self._engine.locating.locate(group_id, timeout, answer))
        return wait_for(answer, timeout + 1.0, "locating a data structure")

    def subscribe_to_data_structure(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002 (the design's name for it)
        snapshot_provider: SnapshotProvider,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Subscription:
        """Become a consumer of a data structure; one that nobody has seen is created, once in the whole cluster.

        ``id`` is a :class:`DataStructureId`, its text or its 16 bytes. ``snapshot_provider`` is called on the consumer's own
        thread, inside its next ``receive``, and returns the state up to there, as bytes or an iterable of bytes.

        Raises :class:`~copycat.errors.InvalidId`, :class:`~copycat.errors.UsageError`,
        :class:`~copycat.errors.Closed`, and within ``timeout`` seconds :class:`~copycat.errors.NoQuorum` (whether it
        exists, or creating it, needs a majority of the known nodes), :class:`~copycat.errors.LookupFailed`,
        :class:`~copycat.errors.GroupUnavailable`.
        """
        group_id = bytes(DataStructureId.parse(id))
        if not callable(snapshot_provider):
            raise UsageError(f"the snapshot provider must be callable, not {type(snapshot_provider).__name__}")
        if timeout is None or not timeout > 0:
            raise UsageError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        opened: Future[Subscription] = Future()
        self._ask(opened, lambda: self._engine.consumers.subscribe(group_id, snapshot_provider, timeout, opened))
        try:
            return wait_for(opened, timeout + 1.0, "subscribing")
        finally:
            opened.cancel()

    # --- operating ---

    def transfer_leader(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002
        node_id: str,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Let the group's leader be on ``node_id``; returns when this node has seen it there.

        This node must host the group, and ``node_id`` one of its voters: :class:`~copycat.errors.UsageError` otherwise. Raises
        :class:`~copycat.errors.Timeout` after ``timeout`` seconds: the voter is away, or too far behind.
        """
        group_id = bytes(DataStructureId.parse(id))
        moved: Future[None] = Future()
        self._ask(moved, lambda: self._engine.errands.transfer_leader(group_id, node_id, timeout, moved))
        wait_for(moved, timeout + 1.0, "transferring the leadership")

    def forget(self, node_id: str, force: bool = False) -> None:
        """Give up a member that is dead and never comes back: it is no longer counted, and its voters are replaced at once.

        If it does come back, it is refused. All members are told. Unless ``force`` is set, a majority of the members must be
        alive as seen from here. Raises :class:`~copycat.errors.UsageError` if it isn't, or the member is not dead.
        """
        forgotten: Future[None] = Future()
        self._ask(forgotten, lambda: self._engine.departures.forget(node_id, force, forgotten))
        wait_for(forgotten, ANSWER_TIMEOUT_S, "forgetting a member")

    def recover(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002
        operator: str,
        reason: str,
        force: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Recovery:
        """Let a group that lost its quorum for good go on from this node's replica alone; docs/operations.md has the risks.

        What this replica holds counts as committed, what only the lost ones held is gone; the group then grows back by itself.
        ``operator`` and ``reason`` go into the record of it that stays in the data directory, and is returned.

        Raises :class:`~copycat.errors.UsageError` unless all voters on dead nodes were given up with :meth:`forget`, no leader
        is known, no majority of the voters lives, and no living replica holds more; ``force`` overrides all but the first.
        Raises :class:`~copycat.errors.Timeout` if a living replica did not answer.
        """
        group_id = bytes(DataStructureId.parse(id))
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        order = Order(operator, reason, now, force)
        recovered: Future[Recovery] = Future()
        self._ask(recovered, lambda: self._engine.recoveries.recover(group_id, order, timeout, recovered))
        return wait_for(recovered, timeout + ANSWER_TIMEOUT_S, "recovering the group")

    # --- the end ---

    def leave(self, timeout: float = 60.0) -> None:
        """Leave the cluster for good, and stop: subscriptions end, replicas move to others, nobody waits for it to return.

        This directory never starts again (:class:`~copycat.errors.LeftForGood`). Raises :class:`~copycat.errors.Timeout` after
        ``timeout`` seconds, with the reason: the node then runs on, its subscriptions closed; call it again to go on.
        Safe from any thread; a node that was shut down raises :class:`~copycat.errors.Closed`.
        """
        self._leave_cluster(timeout)
        self.shutdown()

    @property
    def left(self) -> bool:
        """Whether this node has left its cluster for good, on its own word or an admin's."""
        return self._engine.departures.stage is Stage.GONE

    def _begin_to_leave(self, timeout: float) -> Future[None]:
        """The same in a thread of its own; the future is resolved when only the end is left to do."""
        left: Future[None] = Future()

        def run() -> None:
            try:
                self._leave_cluster(timeout)
            except CopyCatError as error:
                left.set_exception(error)
                return
            left.set_result(None)
            self.shutdown()

        with self._lock:
            if self._leaver is not None and self._leaver.is_alive():
                raise UsageError("this node is being told to leave already")
            self._leaver = threading.Thread(target=run, name="copycat-leave", daemon=True)
            self._leaver.start()
        return left

    def _leave_cluster(self, timeout: float) -> None:
        deadline = deadline_after(timeout)
        self._drain_consumers(min(timeout, self.config.leave_timeout_s))
        left: Future[None] = Future()
        self._ask(left, lambda: self._engine.departures.leave(left))
        try:
            wait_for(left, remaining(deadline), "leaving")
        except TimeoutError:
            stopped: Future[str] = Future()
            self._ask(stopped, lambda: stopped.set_result(self._engine.departures.stop_leaving()))
            how_far = wait_for(stopped, ANSWER_TIMEOUT_S, "stopping to leave")
            raise Timeout(f"this node has not left within {timeout} s: {how_far}") from None

    def shutdown(self) -> None:
        """Stop: let what is in flight commit, hand leaderships over, say goodbye to the cluster, release everything.

        Idempotent and bounded: at most about three times ``leave_timeout_s``. The node keeps its identity and its replicas
        on disk, and is expected back; it is replaced only after ``repair_delay_s``.
        """
        with self._lock:
            first = not self._shut_down
            self._shut_down = True
        if first and not self._runtime.ended.is_set():
            self._drain(self.config.leave_timeout_s)
        self._stop(self.config.leave_timeout_s)

    def _drain(self, timeout: float) -> None:
        self._drain_consumers(timeout)
        left: Future[None] = Future()
        try:
            self._ask(left, lambda: self._engine.stewardship.leave(left))
            wait_for(left, timeout, "leaving the cluster")
        except (CopyCatError, TimeoutError) as error:
            log.info("left without saying goodbye to everybody: %s", error)

    def _drain_consumers(self, timeout: float) -> None:
        deadline = deadline_after(timeout + 0.5)
        drained: Future[list[Future[None]]] = Future()
        try:
            self._ask(drained, lambda: drained.set_result(self._engine.consumers.drain_all()))
            for closed in wait_for(drained, remaining(deadline), "closing the subscriptions"):
                wait_for(closed, remaining(deadline), "closing a subscription")
        except (CopyCatError, TimeoutError) as error:
            log.info("not everything in flight was settled: %s", error)

    def _stop(self, timeout: float) -> None:
        self._runtime.stop(max(timeout, STOP_TIMEOUT_S))
        if self._admin is not None:
            self._admin.close()
        leaver = self._leaver
        if leaver is not None and leaver is not threading.current_thread() and not on_own_thread():
            leaver.join(STOP_TIMEOUT_S)
        _running.discard(self)

    def _ask(self, answer: Future[Any], action: Any) -> None:
        def guarded() -> None:
            try:
                action()
            except CopyCatError as error:
                if not answer.done():
                    answer.set_exception(error)

        if not self._engine.post(guarded):
            failed = self._engine.failed
            raise Closed(
                "the node has been shut down" if failed is None else f"the node has stopped: {failed}"
            ) from failed

    def __enter__(self) -> CopyCat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


_running: weakref.WeakSet[CopyCat] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """The interpreter ends with nodes running: stop their threads before the modules they use go away."""
    for cat in list(_running):
        cat._runtime.stop(1.0)
        if cat._admin is not None:
            cat._admin.close()
