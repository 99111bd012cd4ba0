"""Results that travel inside snapshots, so that a copy which skips over an operation still has its result.

A copy that lags may be given a snapshot instead of the operations before it, its own among them; the callers wait for their
results all the same. So the results of each client are part of the replicated state until the client has said that it has
them (Lee et al., "Implementing linearizability at large scale and low latency", 2015, section 3; Raft thesis, section 6.3). Each
operation says so of those before it, so the table is small.

Bounds: ``RESULTS_MAX`` results a client, which is also how many it may be waiting for; ``CLIENTS_MAX`` clients. Beyond, the
client whose last operation is the oldest is forgotten, on every copy alike. If that one did wait for something and is then
given a snapshot, it is told that the result is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RESULTS_MAX = 1024
CLIENTS_MAX = 4096


@dataclass(slots=True)
class Client:
    """``applied`` is the number of its last operation; ``results`` has those that are not None and not acknowledged."""

    applied: int = 0
    last: int = 0
    results: dict[int, bytes] = field(default_factory=dict)


class ResultTable:
    """A part of the replicated state: changed by operations alone, in their order."""

    __slots__ = ("_count", "clients", "forgotten")

    def __init__(self) -> None:
        self.clients: dict[bytes, Client] = {}
        self.forgotten = 0
        """How many clients were forgotten although they had not left."""
        self._count = 0

    def record(self, client: bytes, number: int, acknowledged: int, result: bytes | None) -> None:
        """Operation ``number`` of the client was applied."""
        self._count += 1
        known = self.clients.get(client)
        if known is None:
            if len(self.clients) >= CLIENTS_MAX:
                del self.clients[min(self.clients, key=lambda name: self.clients[name].last)]
                self.forgotten += 1
            known = self.clients[client] = Client()
        known.applied = number
        known.last = self._count
        results = known.results
        if results:
            for each in [each for each in results if each <= acknowledged]:
                del results[each]
        if result is not None:
            if len(results) >= RESULTS_MAX:
                del results[next(iter(results))]
            results[number] = result

    def leave(self, client: bytes) -> None:
        """The client waits for nothing any more."""
        self.clients.pop(client, None)

    def pack(self) -> Any:
        """What :meth:`unpack` takes."""
        clients = [[name, each.applied, each.last, each.results] for name, each in self.clients.items()]
        return [self._count, self.forgotten, clients]

    @classmethod
    def unpack(cls, packed: Any) -> ResultTable:
        """The table that was packed."""
        table = cls()
        table._count, table.forgotten, clients = packed
        table.clients = {name: Client(applied, last, results) for name, applied, last, results in clients}
        return table
