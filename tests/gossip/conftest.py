"""Worlds of membership cores; the seed of each is printed, and so shown when a test fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from copycat.gossip import LAN, Profile
from copycat.testing.gossip_world import GossipWorld

MakeWorld = Callable[..., GossipWorld]


@pytest.fixture
def make_world() -> MakeWorld:
    def make(seed: int, profile: Profile = LAN, loss: float = 0.0) -> GossipWorld:
        print(f"seed {seed}")
        return GossipWorld(seed, profile, loss=loss)

    return make
