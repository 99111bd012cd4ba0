"""Who is in the cluster, and how its metadata spreads: cores without clock, sockets, threads or disk.

:class:`Swim` keeps the membership (SWIM with Lifeguard); :class:`Overlay` decides who subscribes to whom, and spreads
metadata over these links.
"""

from copycat.gossip.joining import JoinState
from copycat.gossip.overlay import Gap, Item, Overlay, OverlayOutputs, OverlayProfile, Position
from copycat.gossip.profile import LAN, LOCAL, PROFILES, WAN, Profile
from copycat.gossip.records import EventKind, MemberEvent, MemberRecord, MemberState
from copycat.gossip.swim import Counters, Outputs, Swim

__all__ = [
    "LAN",
    "LOCAL",
    "PROFILES",
    "WAN",
    "Counters",
    "EventKind",
    "Gap",
    "Item",
    "JoinState",
    "MemberEvent",
    "MemberRecord",
    "MemberState",
    "Outputs",
    "Overlay",
    "OverlayOutputs",
    "OverlayProfile",
    "Position",
    "Profile",
    "Swim",
]
