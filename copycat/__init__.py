"""CopyCat replicates arbitrary data structures across processes, machines and data centres: ordered, exactly once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from copycat import errors
from copycat.config import Config, Durability
from copycat.errors import Closed, CopyCatError, Full, Timeout
from copycat.ids import DataStructureId

if TYPE_CHECKING:
    from copycat.channels.commit import CommitChannel
    from copycat.channels.error import ErrorChannel
    from copycat.channels.propose import ProposeChannel
    from copycat.node import CopyCat
    from copycat.recovery import Recovery
    from copycat.status import GroupStatus, Health, Member, Peer, Problem
    from copycat.subscription import Allocation, Subscription

__all__ = [
    "Allocation",
    "Closed",
    "CommitChannel",
    "Config",
    "CopyCat",
    "CopyCatError",
    "DataStructureId",
    "Durability",
    "ErrorChannel",
    "Full",
    "GroupStatus",
    "Health",
    "Member",
    "Peer",
    "Problem",
    "ProposeChannel",
    "Recovery",
    "Subscription",
    "Timeout",
    "errors",
]

_LOADED_WHEN_USED = {
    "Allocation": "copycat.subscription",
    "CommitChannel": "copycat.channels.commit",
    "CopyCat": "copycat.node",
    "ErrorChannel": "copycat.channels.error",
    "GroupStatus": "copycat.status",
    "Health": "copycat.status",
    "Member": "copycat.status",
    "Peer": "copycat.status",
    "Problem": "copycat.status",
    "ProposeChannel": "copycat.channels.propose",
    "Recovery": "copycat.recovery",
    "Subscription": "copycat.subscription",
}
# A program that makes a configuration, or prints its help, need not load Raft and gossip for that.


def __getattr__(name: str) -> object:
    home = _LOADED_WHEN_USED.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
