"""A set that many processes share, whose elements go away by themselves: the whole of it, and a program to try it with."""

import sys
import time

import copycat
from copycat.structures import Replicated, operation, query


class ExpiringSet(Replicated):
    """Elements, each with the time at which it expires. What time it is, the log decides: the latest that anybody wrote."""

    def __init__(self, cat: copycat.CopyCat, id: copycat.DataStructureId | str) -> None:  # noqa: A002
        super().__init__(cat, id)
        self._now = 0.0
        self._until: dict[str, float] = {}

    @operation
    def add(self, element: str, ttl_s: float, written_at: float) -> bool:
        """Let ``element`` be there for ``ttl_s`` seconds from now; returns whether it was not there before."""
        self._now = max(self._now, written_at)
        self._until = {one: until for one, until in self._until.items() if until > self._now}
        fresh = element not in self._until
        self._until[element] = self._now + ttl_s
        return fresh

    @query
    def elements(self, at: float) -> list[str]:
        """What is there at ``at``, on this copy."""
        return sorted(element for element, until in self._until.items() if until > max(at, self._now))

    def snapshot(self) -> object:
        return [self._now, self._until]

    def restore(self, state: list) -> None:  # type: ignore[type-arg]
        self._now, self._until = state


def main(gossip_port: str, peer: str = "", group: str = "") -> None:
    config = copycat.Config(
        copycat_port=0, gossip_port=int(gossip_port), data_dir=f"set-{gossip_port}", peers_to_contact=peer
    )
    with copycat.CopyCat(config) as cat, ExpiringSet(cat, group or cat.new_data_structure_id()) as shared:
        print("sharing", shared.id, flush=True)
        for line in sys.stdin:  # "apple 30" adds it for 30 seconds, an empty line shows what is there
            element, _, ttl_s = line.strip().partition(" ")
            if element:
                print("added" if shared.add(element, float(ttl_s), time.time()) else "kept", flush=True)
            else:
                shared.barrier()
                print(*shared.elements(time.time()) or ["(empty)"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
