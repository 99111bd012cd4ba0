"""Clusters with keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat.testing.nodes import NodeCluster, library_threads

from .kit import KeyFiles


@pytest.fixture
def keys(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "keys")


@pytest.fixture
def zeromq_cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """Over real sockets; the disk is beside the point."""
    assert not library_threads()
    with NodeCluster(tmp_path, "zeromq", "memory") as cluster:
        yield cluster
    assert not library_threads(), "a node left threads behind"
