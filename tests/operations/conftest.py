"""Clusters of whole nodes in this process, with nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat.testing.nodes import NodeCluster, library_threads


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    """On this run's transport; on a disk, since what is tested here is what stays on it."""
    assert not library_threads()
    with NodeCluster(tmp_path, os.environ.get("COPYCAT_TEST_TRANSPORT", "memory"), "leveldb") as made:
        yield made
    assert not library_threads(), "a node left threads behind"
