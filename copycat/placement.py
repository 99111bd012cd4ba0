"""Which nodes host a group's voters: data centre > rack > node, by weighted rendezvous hashing.

Every node computes the same answer from the same list of candidates; nothing is stored, nobody coordinates. Each
(group, node) pair gets a hash ``h`` in (0, 1) and the score ``-w / ln(h)``, where ``w`` is the node's weight; the
highest scores win (rendezvous or "highest random weight": Thaler & Ravishankar 1998; the logarithmic weights:
Schindelhauer & Schomaker 2005). ``-ln(h) / w`` is exponentially distributed with rate ``w``, so the best node of a rack
is the winner of a race whose rate is the rack's total weight, and the best rack of a data centre likewise: the
hierarchy needs no weights of its own.

Spread comes before the score. Replicas are dealt one after the other, each to a data centre that has fewest, there or in
another such one to a rack that has fewest, and among the nodes left to the one with the highest score. So data centres
are filled evenly; and where not all can have the same, those get one more that have another rack for it. A node that joins
without being chosen therefore changes nothing, and one that is chosen displaces one node.

Never does: look at a clock, at load, or at where replicas are now. Moving them is the business of
:mod:`copycat.repair`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from copycat.errors import NotEnoughNodes

WEIGHT_MAX = 64.0
WEIGHT_MIN = 1.0 / 16.0
_GIB = 1 << 30
DISK_SPARE_BYTES = 2 * _GIB
MEMORY_SPARE_BYTES = _GIB // 4
SPARE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could host a replica. With ``weight`` (relative capacity) 0, or ``excluded``, it is never chosen."""

    node_id: str
    data_center: str = ""
    rack: str = ""
    weight: float = 1.0
    excluded: bool = False


def place(
    group_id: bytes, candidates: Iterable[Candidate], replicas: int, data_center_replicas: int = 0
) -> tuple[str, ...]:
    """The ids of ``replicas`` distinct nodes for ``group_id``, best first.

    ``data_center_replicas`` is the number of data centres to use: more only where they have too few nodes; 0 means as
    many as there are, up to one per replica. Racks are distinct as far as they exist.

    Raises :class:`~copycat.errors.NotEnoughNodes` if fewer nodes, or fewer data centres, are usable. Pure; any thread.
    """
    usable = _usable(candidates)
    chosen = _deal(group_id, usable, replicas, data_center_replicas)
    if len(chosen) < replicas:
        raise NotEnoughNodes(
            f"{replicas} replicas need as many nodes, but only {len(chosen)} can be used: start more nodes,"
            " or ask for fewer replicas"
        )
    used = len({candidate.data_center for candidate in chosen})
    if used < min(data_center_replicas, replicas):
        raise NotEnoughNodes(
            f"{data_center_replicas} data centres were asked for, but only {used} have nodes that can be used: start"
            " nodes there, or ask for fewer"
        )
    return tuple([candidate.node_id for candidate in chosen])


def place_available(
    group_id: bytes, candidates: Iterable[Candidate], replicas: int, data_center_replicas: int = 0
) -> tuple[str, ...]:
    """Like :func:`place`, but as many nodes as there are where that is fewer: possibly none."""
    chosen = _deal(group_id, _usable(candidates), replicas, data_center_replicas)
    return tuple([candidate.node_id for candidate in chosen])


def score(group_id: bytes, node_id: str, weight: float) -> float:
    """The rendezvous score of a node for a group; the higher, the better. 52 bits of the hash are used."""
    digest = blake2b(node_id.encode(), digest_size=8, key=group_id).digest()
    uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / (1 << 52)
    return -weight / math.log(uniform)


def weight_from_capacity(
    disk_free_bytes: int,
    disk_total_bytes: int,
    memory_available_bytes: int,
    memory_total_bytes: int,
    excluded: bool = False,
) -> float:
    """A node's weight from what its machine has: between ``WEIGHT_MIN`` and ``WEIGHT_MAX``, or 0 where it is nearly full.

    1.0 is a machine with 64 GiB of disk and 4 GiB of memory; the scarcer of the two decides. Totals count, not what is
    free, so that a weight does not follow the load; but where less than a quarter is free, the weight sinks with it, and
    with less than 5 % (or than 2 GiB of disk and 256 MiB of memory, where that is less) the node is not chosen at all.
    One that was ``excluded`` comes back with twice as much. Feed the result through :func:`settle_weight`, or small changes
    would move groups.
    """
    times = 2 if excluded else 1
    if _is_short(disk_free_bytes, disk_total_bytes, times * DISK_SPARE_BYTES, times * SPARE_SHARE) or _is_short(
        memory_available_bytes, memory_total_bytes, times * MEMORY_SPARE_BYTES, times * SPARE_SHARE
    ):
        return 0.0
    size = min(disk_total_bytes / (64 * _GIB), memory_total_bytes / (4 * _GIB))
    disk_room = disk_free_bytes / disk_total_bytes if disk_total_bytes > 0 else 0.0
    memory_room = memory_available_bytes / memory_total_bytes if memory_total_bytes > 0 else 0.0
    room = min(1.0, 4 * disk_room, 4 * memory_room)
    return min(WEIGHT_MAX, max(WEIGHT_MIN, size * room))


def _is_short(free_bytes: int, total_bytes: int, spare_bytes: int, spare_share: float) -> bool:
    return total_bytes > 0 and free_bytes < min(spare_bytes, spare_share * total_bytes)


def settle_weight(current: float, measured: float) -> float:
    """``measured`` where it is more than half off ``current``, else ``current``: hysteresis against needless moves."""
    if current <= 0 or measured <= 0 or measured > current * 1.5 or measured < current / 1.5:
        return measured
    return current


def _usable(candidates: Iterable[Candidate]) -> list[Candidate]:
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        if not candidate.excluded and candidate.weight > 0:
            seen[candidate.node_id] = candidate
    return list(seen.values())


@dataclass(slots=True)
class _Rack:
    """The nodes of one rack that are left, the best last, and how many of it were taken."""

    data_center: str
    left: list[tuple[float, str, Candidate]]
    taken: int = 0

    @property
    def best(self) -> tuple[float, str]:
        """Smaller is better."""
        negative, node_id, _ = self.left[-1]
        return negative, node_id


def _deal(group_id: bytes, usable: list[Candidate], replicas: int, data_center_replicas: int) -> list[Candidate]:
    if replicas <= 0 or not usable:
        return []
    racks: dict[tuple[str, str], _Rack] = {}
    for candidate in usable:
        ranked = (-score(group_id, candidate.node_id, candidate.weight), candidate.node_id, candidate)
        place = (candidate.data_center, candidate.rack)
        racks.setdefault(place, _Rack(candidate.data_center, [])).left.append(ranked)
    for rack in racks.values():
        rack.left.sort(key=lambda ranked: ranked[:2], reverse=True)
    centers: dict[str, list[_Rack]] = {}
    for rack in sorted(racks.values(), key=lambda rack: rack.best):
        centers.setdefault(rack.data_center, []).append(rack)
    in_order = list(centers.values())  # the data centre with the best node first
    wanted = min(data_center_replicas, replicas) if data_center_replicas > 0 else len(in_order)
    dealt = _spread([rack for center in in_order[:wanted] for rack in center], replicas)
    for spill in in_order[wanted:]:
        dealt.extend(_spread(spill, replicas - len(dealt)))
    return dealt


def _spread(racks: list[_Rack], count: int) -> list[Candidate]:
    """Up to ``count`` nodes of these racks: data centres evenly, then racks evenly, then by score."""
    used: dict[str, int] = dict.fromkeys([rack.data_center for rack in racks], 0)
    dealt: list[Candidate] = []
    open_racks = [rack for rack in racks if rack.left]
    while open_racks and len(dealt) < count:
        rack = min(open_racks, key=lambda rack: (used[rack.data_center], rack.taken, rack.best))
        dealt.append(rack.left.pop()[2])
        used[rack.data_center] += 1
        rack.taken += 1
        if not rack.left:
            open_racks.remove(rack)
    return dealt
