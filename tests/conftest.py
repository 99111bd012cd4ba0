"""What many tests share: which plugs the cluster tests run on, and configurations that can't clash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from copycat.config import DEFAULT_STORAGE, Config

# How long an example takes says something about the machine and its load, and nothing about the library.
settings.register_profile("copycat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("copycat")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--interaction-dir",
        default=None,
        metavar="DIR",
        help="folder with Raft interaction scripts (scripts/, quorum/, confchange/); "
        "default: ../shared/etcd-raft-interaction beside the repository",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose nodes run on the plugs of this run: the ones worth repeating on another pair."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if not {"transport_name", "storage_name"}.isdisjoint(fixtures):
            item.add_marker("plugs")
        if "disk_storage_name" in fixtures and disk_storage() != DEFAULT_STORAGE:
            item.add_marker("plugs")  # on the default one, the whole suite runs them


@pytest.fixture(scope="session")
def transport_name() -> str:
    """The transport that cluster tests run on; tox sets it."""
    return os.environ.get("COPYCAT_TEST_TRANSPORT", "zeromq")


@pytest.fixture(scope="session")
def storage_name() -> str:
    """The storage that cluster tests run on; tox sets it."""
    return os.environ.get("COPYCAT_TEST_STORAGE", DEFAULT_STORAGE)


def disk_storage() -> str:
    named = os.environ.get("COPYCAT_TEST_STORAGE", "memory")
    return DEFAULT_STORAGE if named == "memory" else named


@pytest.fixture(scope="session")
def disk_storage_name() -> str:
    """The storage of tests whose processes are killed: that of this run, if it has a disk."""
    return disk_storage()


@pytest.fixture
def make_config(tmp_path: Path, transport_name: str, storage_name: str) -> Callable[..., Config]:
    """Makes configurations of nodes of one cluster: free ports, a directory each, the plugs of this run."""
    made = 0

    def make(**fields: Any) -> Config:
        nonlocal made
        made += 1
        defaults: dict[str, Any] = {
            "copycat_port": 0,
            "gossip_port": 0,
            "data_dir": str(tmp_path / f"node-{made}"),
            "transport": transport_name,
            "storage": storage_name,
            "gossip_profile": "local",
        }
        return Config(**{**defaults, **fields})

    return make
