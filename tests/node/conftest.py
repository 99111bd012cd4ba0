"""Clusters on each pair of plugs, ended whatever happens, with nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat.config import DEFAULT_STORAGE
from copycat.testing.nodes import NodeCluster, library_threads


def plugs_of_this_run() -> list[tuple[str, str]]:
    transport, storage = os.environ.get("COPYCAT_TEST_TRANSPORT"), os.environ.get("COPYCAT_TEST_STORAGE")
    if transport is None and storage is None:
        return [("memory", "memory"), ("zeromq", DEFAULT_STORAGE), ("memory", DEFAULT_STORAGE)]
    return [(transport or "zeromq", storage or DEFAULT_STORAGE)]


def run_cluster(directory: Path, transport: str, storage: str) -> Iterator[NodeCluster]:
    assert not library_threads()
    with NodeCluster(directory, transport, storage) as cluster:
        yield cluster
    assert not library_threads(), "a node left threads behind"


@pytest.fixture(
    params=[pytest.param(plugs, marks=pytest.mark.plugs, id="+".join(plugs)) for plugs in plugs_of_this_run()]
)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeCluster]:
    yield from run_cluster(tmp_path, *request.param)


@pytest.fixture
def one_cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """For what has nothing to do with the plugs: the first pair of this run only."""
    yield from run_cluster(tmp_path, *plugs_of_this_run()[0])


@pytest.fixture
def memory_cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """For what brings a storage of its own."""
    yield from run_cluster(tmp_path, "memory", "memory")
