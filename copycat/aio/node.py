"""A CopyCat node, for programs on an event loop."""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import TypeVar

from ulid import ULID

import copycat
from copycat.aio.bridge import Bridge
from copycat.aio.subscription import Allocation, Subscription
from copycat.channels.commit import SnapshotProvider
from copycat.config import Config
from copycat.errors import UsageError
from copycat.ids import DataStructureId
from copycat.node import DEFAULT_TIMEOUT_S
from copycat.status import GroupStatus, Health, Member

T = TypeVar("T")


class CopyCat:
    """One node, in this process. An asynchronous context manager: entering starts the node, leaving shuts it down.

    Starting raises what :class:`copycat.CopyCat` raises.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config
        self._cat: copycat.CopyCat | None = None
        self._opened: Bridge | None = None

    async def open(self) -> CopyCat:
        """Start the node and join the cluster; what ``async with`` does. Returns this object."""
        if self._cat is not None:
            raise UsageError("this node has been started before: make another")
        bridge = Bridge()
        self._cat = await bridge.in_thread(
            lambda: copycat.CopyCat(self._config), "copycat-aio-start", copycat.CopyCat.shutdown
        )
        self._opened = bridge
        return self

    @property
    def threaded(self) -> copycat.CopyCat:
        """The node itself, whose methods block: for what takes one, such as :mod:`copycat.structures`."""
        if self._cat is None:
            raise UsageError("this node is not started: use it with 'async with', or await its open() first")
        return self._cat

    @property
    def _bridge(self) -> Bridge:
        if self._opened is None:
            raise UsageError("this node is not started: use it with 'async with', or await its open() first")
        return self._opened

    # --- identity and view ---

    @property
    def config(self) -> Config:
        """What the node was told."""
        return self.threaded.config

    @property
    def node_id(self) -> str:
        """This node's durable id; it lives in the data directory."""
        return self.threaded.node_id

    @property
    def address(self) -> str:
        """``host:port`` of this node's gossip: what other nodes put into ``peers_to_contact``."""
        return self.threaded.address

    async def members(self) -> list[Member]:
        """Every known node, this one included. Raises :class:`~copycat.errors.Closed` after the end."""
        return await self._bridge.in_thread(self.threaded.members, "copycat-aio-members")

    async def groups(self) -> dict[DataStructureId, GroupStatus]:
        """The status of every raft hosted here, by data structure. Raises :class:`~copycat.errors.Closed` after the end."""
        return await self._bridge.in_thread(self.threaded.groups, "copycat-aio-groups")

    async def health(self) -> Health:
        """Whether this node is well, and why not. Never raises."""
        return await self._bridge.in_thread(self.threaded.health, "copycat-aio-health")

    # --- data structures ---

    def new_data_structure_id(self) -> DataStructureId:
        """A fresh id. Nothing is created until somebody subscribes to it or allocates it."""
        return self.threaded.new_data_structure_id()

    def allocate_new_data_structure(
        self, replicas: int | None = None, data_center_replicas: int = 0, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Allocation:
        """Begin to create a data structure; see :meth:`copycat.CopyCat.allocate_new_data_structure`. Returns at once.

        Raises :class:`~copycat.errors.UsageError`, :class:`~copycat.errors.Closed`.
        """
        begun = self.threaded.allocate_new_data_structure(replicas, data_center_replicas, timeout)
        return Allocation(self._bridge, begun)

    async def locate_data_structure(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[str, ...]:
        """Ids of the nodes that host a data structure; see :meth:`copycat.CopyCat.locate_data_structure`.

        Raises what the other raises.
        """
        cat = self.threaded
        return await self._bridge.in_thread(lambda: cat.locate_data_structure(id, timeout), "copycat-aio-locate")

    async def subscribe_to_data_structure(
        self,
        id: DataStructureId | ULID | str | bytes,  # noqa: A002 (the design's name for it)
        snapshot_provider: SnapshotProvider,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Subscription:
        """Become a consumer of a data structure; see :meth:`copycat.CopyCat.subscribe_to_data_structure`.

        ``snapshot_provider`` is a plain function. It is called on the event loop's thread, inside a ``receive``, between two
        items, and returns the state up to there, as bytes or an iterable of bytes. Raises what the other raises. Cancelled,
        it leaves no subscription behind.
        """
        if inspect.iscoroutinefunction(snapshot_provider):
            raise UsageError("the snapshot provider must be a plain function: the state may not change while it runs")
        cat = self.threaded
        opened = await self._bridge.in_thread(
            lambda: cat.subscribe_to_data_structure(id, snapshot_provider, timeout),
            "copycat-aio-subscribe",
            copycat.Subscription.close,
        )
        return Subscription(self._bridge, opened)

    # --- the end ---

    async def shutdown(self) -> None:
        """Stop: let what is in flight commit, hand leaderships over, say goodbye to the cluster, release everything.

        Idempotent and bounded, as :meth:`copycat.CopyCat.shutdown`. Cancelled, it goes on.
        """
        if self._cat is not None:
            await self._bridge.in_thread(self._cat.shutdown, "copycat-aio-shutdown")

    async def __aenter__(self) -> CopyCat:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()
