"""A node as a process of its own that obeys a test: ``python -m copycat.testing.member_worker``.

Beyond what :mod:`copycat.cli.worker` does it tells what it knows of members and groups, keeps lists of several groups, and can
measure for how long a group took nothing. The other end is :class:`copycat.testing.member_cluster.MemberCluster`.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import copycat
from copycat.cli.logs import logging_to_stderr
from copycat.cli.worker import Worker, serve
from copycat.errors import ClusterError, Timeout
from copycat.testing.nodes import ListCopy


class Pulse:
    """Proposes one item after the other, each when the last is committed, and measures the longest wait."""

    def __init__(self, copy: ListCopy) -> None:
        self.committed = 0
        self.longest_s = 0.0
        self._copy = copy
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            self._copy.sub.propose.submit(b"pulse").result()
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.committed += 1


class MemberWorker(Worker):
    """Carries out requests; each public method is one."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[str, ListCopy] = {}
        self._pulse: Pulse | None = None

    def shift_clock(self, seconds: float) -> dict[str, Any]:
        """From now on the time of day is wrong by so much in this process."""
        right = time.time
        time.time = lambda: right() + seconds
        return {}

    def members(self) -> dict[str, Any]:
        return {
            "members": {
                one.node_id: {
                    "state": one.state,
                    "address": one.address,
                    "data_center": one.data_center,
                    "rack": one.rack,
                }
                for one in self.cat.members()
            }
        }

    def groups(self) -> dict[str, Any]:
        return {
            "groups": {
                str(group): {
                    "role": status.role,
                    "leader": status.leader,
                    "voters": sorted(peer.node_id for peer in status.voters),
                    "under_replicated": status.under_replicated,
                }
                for group, status in self.cat.groups().items()
            }
        }

    def locate(self, group: str, timeout: float) -> dict[str, Any]:
        """Which nodes host the group; the answer waits until this node counts among the members."""
        return {"hosts": list(self.cat.locate_data_structure(group, timeout))}

    def attach(self, group: str, timeout: float) -> dict[str, Any]:
        """Keep a list of what the group commits."""
        self._copies[group] = ListCopy(self.cat, copycat.DataStructureId.parse(group), timeout=timeout)
        return {}

    def send(self, group: str, items: list[str], timeout: float) -> dict[str, Any]:
        """Propose, and answer once that is committed."""
        copy = self._copies[group]
        copy.sub.propose.send_many([item.encode() for item in items])
        copy.sub.flush(timeout)
        return {}

    def list_of(self, group: str, timeout: float) -> dict[str, Any]:
        """The whole list, with everything that was committed before the call."""
        copy = self._copies[group]
        deadline = time.monotonic() + timeout
        while True:
            try:
                copy.sub.barrier(max(deadline - time.monotonic(), 0.001))
                break
            except Timeout:
                raise
            except ClusterError:
                if time.monotonic() > deadline:
                    raise
        return {"items": [item.decode() for item in copy.wait(copy.sub.commits.position, timeout)]}

    def begin_pulse(self, group: str) -> dict[str, Any]:
        self._pulse = Pulse(self._copies[group])
        return {}

    def pulses(self) -> dict[str, Any]:
        assert self._pulse is not None
        return {"committed": self._pulse.committed}

    def end_pulse(self) -> dict[str, Any]:
        pulse = self._pulse
        assert pulse is not None
        pulse.end()
        return {"committed": pulse.committed, "longest_s": pulse.longest_s}

    def leave(self, timeout: float) -> dict[str, Any]:
        """Leave the cluster for good."""
        self.cat.leave(timeout)
        return {}


def main() -> None:
    with logging_to_stderr("warning"):
        serve(MemberWorker())


if __name__ == "__main__":
    main()
