"""How a group sets up its Raft core: what the user's configuration says of it, and what the library decides itself."""

from __future__ import annotations

import random

from copycat.config import Config
from copycat.raft.config import RaftConfig
from copycat.raft.storage import LogStorage

UNCOMMITTED_BYTES_MAX = 64 << 20
INFLIGHT_MESSAGES_MAX = 256
INFLIGHT_BYTES_MAX = 32 << 20
APPLYING_BYTES_MAX = 4 << 20


def raft_config(config: Config, raft_id: int, storage: LogStorage, applied: int, rng: random.Random) -> RaftConfig:
    """Of the replica ``raft_id``, whose state machine has come to the entry ``applied``."""
    message_bytes_max = min(config.append_bytes_max, config.frame_bytes_max // 4)  # or a frame would be refused
    return RaftConfig(
        id=raft_id,
        election_tick=config.election_ticks,
        heartbeat_tick=config.heartbeat_ticks,
        storage=storage,
        applied=applied,
        async_storage_writes=True,
        size_per_msg_max=message_bytes_max,
        committed_size_per_ready_max=APPLYING_BYTES_MAX,
        uncommitted_size_max=UNCOMMITTED_BYTES_MAX,
        inflight_msgs_max=INFLIGHT_MESSAGES_MAX,
        inflight_bytes_max=max(INFLIGHT_BYTES_MAX, message_bytes_max),
        check_quorum=True,
        pre_vote=True,
        step_down_on_removal=True,
        install_older_snapshots=True,
        rng=rng,
    )
