"""Clusters with keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat.config import DEFAULT_STORAGE
from copycat.testing.nodes import NodeCluster, library_threads

from .kit import KeyFiles


@pytest.fixture
def keys(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "keys")


@pytest.fixture
def disk_cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """Over real sockets and on a disk, where admin sockets are."""
    assert not library_threads()
    with NodeCluster(tmp_path, "zeromq", DEFAULT_STORAGE) as cluster:
        yield cluster
    assert not library_threads(), "a node left threads behind"


@pytest.fixture
def zeromq_cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """Over real sockets; the disk is beside the point."""
    assert not library_threads()
    with NodeCluster(tmp_path, "zeromq", "memory") as cluster:
        yield cluster
    assert not library_threads(), "a node left threads behind"
