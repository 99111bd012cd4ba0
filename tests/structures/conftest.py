"""Clusters of one and of three nodes in this process, shared by the tests of a module; a data structure each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import copycat

TIMEOUT_S = 20.0


class MemoryCluster:
    """Nodes without sockets and disks."""

    def __init__(self, directory: Any, size: int, **fields: Any) -> None:
        self._directory = directory
        self._fields = fields
        self.cats: list[copycat.CopyCat] = []
        for _ in range(size):
            self.add()

    def add(self) -> copycat.CopyCat:
        peers = [self.cats[0].address] if self.cats else []
        config = copycat.Config(
            copycat_port=0,
            gossip_port=0,
            data_dir=str(self._directory / f"node-{len(self.cats)}"),
            transport="memory",
            storage="memory",
            gossip_profile="local",
            peers_to_contact=peers,
            **self._fields,
        )
        self.cats.append(copycat.CopyCat(config))
        return self.cats[-1]

    def allocate(self) -> copycat.DataStructureId:
        allocation = self.cats[0].allocate_new_data_structure(replicas=len(self.cats))
        allocation.wait(TIMEOUT_S)
        return allocation.id

    def shutdown(self) -> None:
        for cat in reversed(self.cats):
            cat.shutdown()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path_factory.mktemp("one"), 1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path_factory.mktemp("three"), 3)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def make_cluster(tmp_path: Any) -> Iterator[Callable[..., MemoryCluster]]:
    made: list[MemoryCluster] = []

    def make(size: int, **fields: Any) -> MemoryCluster:
        made.append(MemoryCluster(tmp_path / str(len(made)), size, **fields))
        return made[-1]

    yield make
    for cluster in made:
        cluster.shutdown()
