"""Every period and multiplier of membership in one place, with the source of each default.

Sources: [S] SWIM, Das, Gupta & Motivala 2002. [L] Lifeguard, Dadgar, Phillips & Currey 2017, section IV and table I.
[M] the published defaults of the implementation that Lifeguard's authors measured. [O] our own choice; docs/gossip.md
says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Profile:
    """Periods in seconds. The defaults are those for one data centre; see :data:`LAN`, :data:`WAN`, :data:`LOCAL`."""

    probe_interval_s: float = 1.0  # [S] the protocol period T'; value [M]
    probe_timeout_s: float = 0.5  # [S] wait for a direct ack; value [M]
    indirect_probes: int = 3  # [S] k; value [M]
    suspicion_multiplier: float = 4.0  # [L] alpha; value [M]
    suspicion_max_multiplier: float = 6.0  # [L] beta; 1 gives SWIM's fixed timeout
    suspicion_confirmations: int = 3  # [L] K
    awareness_max: int = 8  # [L] S, where local health saturates; 0 switches local health awareness off
    nacks: bool = True  # [L] helpers say that they are well though the target is silent
    nack_fraction: float = 0.8  # [L] of the probe timeout, after which a helper says so
    buddy_notice: bool = True  # [L] whoever is suspected is told in the next ping to it
    stall_threshold_s: float = 0.25  # [O] a tick this late means that this node itself stood still; inf: ignore
    retransmit_multiplier: int = 4  # [S] lambda; value [M]
    gossip_interval_s: float = 0.2  # [M] extra packets, only while there is news
    gossip_fanout: int = 3  # [M]
    gossip_to_dead_s: float = 30.0  # [M] how long the dead still get packets, so that they can refute
    push_pull_interval_s: float = 30.0  # [M] for up to 32 members, then grows with log2
    reconnect_interval_s: float = 30.0  # [O] how often one dead member is tried again
    join_retry_s: float = 1.0  # [O]
    leave_timeout_s: float = 5.0  # [M] a farewell never takes longer
    left_kept_s: float = 86_400.0  # [O] tombstones of members that left
    members_max: int = 16_384  # [O] records kept; further unknown members are refused

    def without_lifeguard(self) -> Profile:
        """Plain SWIM with suspicion: no local health, fixed suspicion timeout, no buddy notice, no stall guard."""
        return replace(
            self,
            suspicion_max_multiplier=1.0,
            suspicion_confirmations=0,
            awareness_max=0,
            nacks=False,
            buddy_notice=False,
            stall_threshold_s=math.inf,
        )


LAN = Profile()
"""One data centre, or several with good links."""

WAN = replace(
    LAN,
    probe_interval_s=5.0,
    probe_timeout_s=3.0,
    suspicion_multiplier=6.0,
    stall_threshold_s=1.0,
    gossip_interval_s=0.5,
    gossip_fanout=4,
    gossip_to_dead_s=60.0,
    push_pull_interval_s=60.0,
    reconnect_interval_s=60.0,
    join_retry_s=3.0,
    leave_timeout_s=15.0,
)
"""Between data centres over slow or lossy links ([M], but for stall threshold and retries)."""

LOCAL = replace(
    LAN,
    probe_interval_s=0.2,
    probe_timeout_s=0.1,
    suspicion_multiplier=3.0,
    suspicion_max_multiplier=3.0,
    stall_threshold_s=0.1,
    gossip_interval_s=0.05,
    gossip_to_dead_s=5.0,
    push_pull_interval_s=5.0,
    reconnect_interval_s=1.0,
    join_retry_s=0.2,
    leave_timeout_s=1.0,
)
"""Several nodes on one machine, for development and tests: a death is known in one to two seconds ([O])."""

PROFILES = {"lan": LAN, "wan": WAN, "local": LOCAL}
