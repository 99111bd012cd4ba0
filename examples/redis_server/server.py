"""The server: a node of CopyCat with the keyspace on it, and a port where clients of Redis connect."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import copycat
from copycat.errors import CopyCatError
from copycat.examples.redis_server.batcher import Batcher, Run, now_ms
from copycat.examples.redis_server.connection_commands import VERSION
from copycat.examples.redis_server.keyspace import Keyspace
from copycat.examples.redis_server.session import Session

CLIENTS_MAX = 10_000
EXPIRE_EVERY_S = 0.5


class Barriers:
    """Linearizable reads that wait together ask the leader once. One event loop."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._waiting: list[Callable[[CopyCatError | None], None]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, done: Callable[[CopyCatError | None], None]) -> None:
        """``done`` is called when this copy has all that was committed anywhere before now, or with what hindered it."""
        self._waiting.append(done)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        while self._waiting:
            asking, self._waiting = self._waiting, []
            failure: CopyCatError | None = None
            try:
                await self._keyspace.abarrier()
            except CopyCatError as error:
                failure = error
            for done in asking:
                done(failure)
        self._task = None


class Server:
    """Lives in one event loop, between :meth:`start` and :meth:`stop`. ``port`` is where it listens."""

    def __init__(self, cat: copycat.CopyCat, keyspace: Keyspace, linearizable: bool = False) -> None:
        self.keyspace = keyspace
        self.linearizable = linearizable
        self.batcher = Batcher(keyspace)
        self.barriers = Barriers(keyspace)
        self.commands_done = 0
        self.command_bytes_max = cat.config.proposal_bytes_max * 3 // 4
        """The rest is for what packing adds."""
        self.port = 0
        self._cat = cat
        self._sessions: dict[int, Session] = {}
        self._count = 0
        self._accepted = 0
        self._started_at = time.monotonic()
        self._listener: asyncio.Server | None = None
        self._expiring: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 6379) -> None:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._session, host, port)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._expiring = loop.create_task(self._expire())

    async def stop(self) -> None:
        """End all connections, and listen no more."""
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for session in list(self._sessions.values()):
            session.close()
        if self._listener is not None:
            await self._listener.wait_closed()

    def _session(self) -> Session:
        self._count += 1
        return Session(self, self._count)

    def admit(self, session: Session) -> bool:
        """Whether there is room for one more."""
        if len(self._sessions) >= CLIENTS_MAX:
            return False
        self._accepted += 1
        self._sessions[session.number] = session
        return True

    def forget(self, session: Session) -> None:
        self._sessions.pop(session.number, None)

    async def _expire(self) -> None:
        """Keys go when the next write comes; if none does, see to it that they do."""
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            try:
                if self.keyspace.has_expired(now_ms()):
                    gone = asyncio.Event()
                    self.batcher.add(Run(2, [], 0, None, lambda _, __, gone=gone: gone.set()))  # type: ignore[misc]
                    await gone.wait()
            except CopyCatError:
                return  # the keyspace is closed, or has stopped

    # --- what sessions ask ---

    def voters(self) -> int:
        return len(self._cat.groups()[self.keyspace.id].voters) if self.keyspace.id in self._cat.groups() else 1

    def clients(self) -> str:
        return "".join([session.describe() + "\n" for session in self._sessions.values()])

    def settings(self) -> dict[str, str]:
        """What CONFIG GET tells: what clients look for."""
        durable = self._cat.config.synced
        return {
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always" if durable else "everysec",
            "maxmemory": "0",
            "maxclients": str(CLIENTS_MAX),
            "databases": "1",
            "proto-max-bulk-len": str(self.command_bytes_max),
        }

    def info(self) -> dict[str, dict[str, Any]]:
        groups = self._cat.groups()
        group = groups.get(self.keyspace.id)
        leads = group is not None and group.leader == self._cat.node_id
        return {
            "Server": {
                "redis_version": VERSION,
                "redis_mode": "standalone",
                "process_id": os.getpid(),
                "tcp_port": self.port,
                "uptime_in_seconds": int(time.monotonic() - self._started_at),
                "copycat_node": self._cat.node_id,
                "copycat_keyspace": str(self.keyspace.id),
            },
            "Clients": {"connected_clients": len(self._sessions), "maxclients": CLIENTS_MAX},
            "Stats": {
                "total_connections_received": self._accepted,
                "total_commands_processed": self.commands_done,
                "write_batches": self.batcher.batches,
                "writes": self.batcher.lines,
            },
            "Replication": {
                "role": "master",
                "connected_slaves": 0 if group is None else len(group.voters) - 1,
                "copycat_leader": (group.leader or "") if group is not None else "",
                "copycat_leads": int(leads),
                "copycat_position": self.keyspace.position,
                "reads": "linearizable" if self.linearizable else "local",
            },
            "Keyspace": {"db0": f"keys={self.keyspace.count(now_ms())}"},
        }
