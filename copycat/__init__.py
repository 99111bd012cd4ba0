"""CopyCat replicates arbitrary data structures across processes, machines and data centres: ordered, exactly once."""

from copycat import errors
from copycat.channels.commit import CommitChannel
from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.config import Config, Durability
from copycat.errors import Closed, CopyCatError, Full, Timeout
from copycat.ids import DataStructureId
from copycat.node import CopyCat
from copycat.recovery import Recovery
from copycat.status import GroupStatus, Health, Member, Peer
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
    "ProposeChannel",
    "Recovery",
    "Subscription",
    "Timeout",
    "errors",
]
