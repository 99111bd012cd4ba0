"""Commands on sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

from copycat.examples.redis_server.commands import command, integer
from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.keys import scan_members
from copycat.examples.redis_server.replies import Members

Set = dict[bytes, None]


@command("SADD", 2, -1, writes=True)
def add(db: Database, key: bytes, *members: bytes) -> int:
    values = db.make(key, "set").value
    before = len(values)
    values.update(dict.fromkeys(members))
    return len(values) - before


@command("SREM", 2, -1, writes=True)
def remove(db: Database, key: bytes, *members: bytes) -> int:
    entry = db.find_kind(key, "set")
    if entry is None:
        return 0
    removed = sum([entry.value.pop(member, False) is None for member in members])
    if removed:
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return removed


@command("SMEMBERS", 1)
def members_of(db: Database, key: bytes) -> Members:
    return Members(list(db.value(key, "set")))


@command("SCARD", 1)
def count(db: Database, key: bytes) -> int:
    return len(db.value(key, "set"))


@command("SISMEMBER", 2)
def has(db: Database, key: bytes, member: bytes) -> int:
    return int(member in db.value(key, "set"))


@command("SMISMEMBER", 2, -1)
def has_many(db: Database, key: bytes, *members: bytes) -> list[int]:
    values = db.value(key, "set")
    return [int(member in values) for member in members]


@command("SMOVE", 3, writes=True)
def move(db: Database, source: bytes, target: bytes, member: bytes) -> int:
    if db.find(source) is None:
        return 0
    values = db.value(source, "set")
    db.find_kind(target, "set")
    if member not in values:
        return 0
    if source != target:
        remove(db, source, member)
        add(db, target, member)
    return 1


@command("SPOP", 1, 2, writes=True)
def pop(db: Database, key: bytes, *wanted: bytes) -> Any:
    limit = integer(wanted[0], "ERR value is out of range, must be positive") if wanted else 1
    if limit < 0:
        integer(b"", "ERR value is out of range, must be positive")
    entry = db.find_kind(key, "set")
    if entry is None:
        return Members([]) if wanted else None
    values: Set = entry.value
    taken = []
    if limit >= len(values):
        taken = list(values)
        values.clear()
    while values and len(taken) < limit:
        db.touch(entry)
        member = next(islice(values, db.choose(len(values)), None))
        del values[member]
        taken.append(member)
    if taken:
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return Members(taken) if wanted else taken[0]


@command("SRANDMEMBER", 1, 2)
def some(db: Database, key: bytes, *wanted: bytes) -> Any:
    limit = integer(wanted[0]) if wanted else 1
    values = list(db.value(key, "set"))
    if not wanted:
        return random.choice(values) if values else None
    if limit < 0:
        return random.choices(values, k=min(-limit, 1 << 20)) if values else []
    return random.sample(values, min(limit, len(values)))


def _intersection(first: Set, second: Set) -> Set:
    return {member: None for member in first if member in second}


def _union(first: Set, second: Set) -> Set:
    return {**first, **second}


def _difference(first: Set, second: Set) -> Set:
    return {member: None for member in first if member not in second}


def _combining(name: str, combine: Callable[[Set, Set], Set]) -> None:
    def combined(db: Database, keys: tuple[bytes, ...]) -> Set:
        values: list[Set] = [db.value(key, "set") for key in keys]
        found = dict(values[0])
        for each in values[1:]:
            found = combine(found, each)
        return found

    @command(name, 1, -1)
    def tell(db: Database, *keys: bytes) -> Members:
        return Members(list(combined(db, keys)))

    @command(f"{name}STORE", 2, -1, writes=True)
    def store(db: Database, target: bytes, *keys: bytes) -> int:
        found = combined(db, keys)
        db.remove(target)
        if found:
            db.put(target, "set", found)
        return len(found)


_combining("SINTER", _intersection)
_combining("SUNION", _union)
_combining("SDIFF", _difference)


@command("SSCAN", 2, -1)
def scan(db: Database, key: bytes, cursor: bytes, *options: bytes) -> list[Any]:
    return list(scan_members(db.value(key, "set"), cursor, options))
