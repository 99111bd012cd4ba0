"""The replicated structure behind the server: one database, on which all replicas do the same commands in the same order."""

from __future__ import annotations

from typing import Any

import copycat
from copycat.examples.redis_server import hashes, keys, lists, sets, strings  # noqa: F401  # they fill the table
from copycat.examples.redis_server.commands import run
from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.replies import encode
from copycat.structures import Replicated, operation, query

Line = list[Any]
"""One command: its name as in the table, then its arguments."""


class Keyspace(Replicated):
    """Keys and what they hold. ``now`` is always in milliseconds since 1970, by the clock of the server that says it."""

    def __init__(self, cat: copycat.CopyCat | copycat.aio.CopyCat, id: copycat.DataStructureId | str) -> None:  # noqa: A002
        super().__init__(cat, id)
        self._database = Database()

    @operation
    def write(self, now: int, runs: list) -> list:  # type: ignore[type-arg]
        """Do runs of commands, each ``[protocol, lines, watched]``; an answer for each run.

        That is the RESP of all its commands, one behind the other; for a transaction, whose ``watched`` is a list, a list with
        one answer for each of its commands, or None if a key that it watched had changed. Nothing comes between the commands of a
        run.
        """
        database = self._database
        database.advance(now)
        answers: list[Any] = []
        for protocol, lines, watched in runs:
            if watched is None:
                answers.append(b"".join([encode(run(database, line[0], line[1:]), protocol) for line in lines]))
            elif any(database.version(key) != version for key, version in watched):
                answers.append(None)
            else:
                answers.append([encode(run(database, line[0], line[1:]), protocol) for line in lines])
        return answers

    @query
    def read(self, now: int, protocol: int, lines: list[Line]) -> list[bytes]:
        """Do commands that change nothing, on this copy."""
        database = self._database
        database.at = max(database.now, now)
        return [encode(run(database, line[0], line[1:]), protocol) for line in lines]

    @query
    def versions(self, now: int, names: list[bytes]) -> list[list[Any]]:
        """Of each key what :meth:`write` is to find unchanged."""
        database = self._database
        database.at = max(database.now, now)
        return [[name, database.version(name)] for name in names]

    @query
    def has_expired(self, now: int) -> bool:
        """Whether something waits for the next write to be removed."""
        return self._database.due(now)

    @query
    def count(self, now: int) -> int:
        """Of keys."""
        self._database.at = max(self._database.now, now)
        return self._database.count()

    def snapshot(self) -> object:
        return self._database.pack()

    def restore(self, state: list) -> None:  # type: ignore[type-arg]
        self._database.unpack(state)
