"""Commands on hashes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from copycat.examples.redis_server.commands import command, integer, number, sum_of, wrong_count
from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.keys import scan_members
from copycat.examples.redis_server.replies import OK, Pairs
from copycat.examples.redis_server.strings import add


@command("HSET", 3, -1, writes=True)
def put(db: Database, key: bytes, *pairs: bytes) -> int:
    if len(pairs) % 2:
        raise wrong_count("HSET")
    fields = db.make(key, "hash").value
    before = len(fields)
    fields.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(fields) - before


@command("HMSET", 3, -1, writes=True)
def put_many(db: Database, key: bytes, *pairs: bytes) -> str:
    if len(pairs) % 2:
        raise wrong_count("HMSET")
    put(db, key, *pairs)
    return OK


@command("HSETNX", 3, writes=True)
def put_if_absent(db: Database, key: bytes, field: bytes, value: bytes) -> int:
    if field in db.value(key, "hash"):
        return 0
    return put(db, key, field, value)


@command("HGET", 2)
def get(db: Database, key: bytes, field: bytes) -> bytes | None:
    return db.value(key, "hash").get(field)  # type: ignore[no-any-return]


@command("HMGET", 2, -1)
def get_many(db: Database, key: bytes, *fields: bytes) -> list[bytes | None]:
    return list(map(db.value(key, "hash").get, fields))


@command("HGETALL", 1)
def get_all(db: Database, key: bytes) -> Pairs:
    return Pairs([each for pair in db.value(key, "hash").items() for each in pair])


@command("HKEYS", 1)
def fields_of(db: Database, key: bytes) -> list[bytes]:
    return list(db.value(key, "hash"))


@command("HVALS", 1)
def values_of(db: Database, key: bytes) -> list[bytes]:
    return list(db.value(key, "hash").values())


@command("HLEN", 1)
def count(db: Database, key: bytes) -> int:
    return len(db.value(key, "hash"))


@command("HEXISTS", 2)
def has(db: Database, key: bytes, field: bytes) -> int:
    return int(field in db.value(key, "hash"))


@command("HSTRLEN", 2)
def length(db: Database, key: bytes, field: bytes) -> int:
    return len(db.value(key, "hash").get(field, b""))


@command("HDEL", 2, -1, writes=True)
def delete(db: Database, key: bytes, *fields: bytes) -> int:
    entry = db.find_kind(key, "hash")
    if entry is None:
        return 0
    removed = sum([entry.value.pop(field, None) is not None for field in fields])
    if removed:
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return removed


@command("HINCRBY", 3, writes=True)
def increase_by(db: Database, key: bytes, field: bytes, step: bytes) -> int:
    by = integer(step)
    total = add(db.value(key, "hash").get(field, b"0"), by, "ERR hash value is not an integer")
    put(db, key, field, b"%d" % total)
    return total


@command("HINCRBYFLOAT", 3, writes=True)
def increase_by_float(db: Database, key: bytes, field: bytes, step: bytes) -> bytes:
    by = number(step)
    before = db.value(key, "hash").get(field)
    total = sum_of(Decimal(0) if before is None else number(before, "ERR hash value is not a float"), by)
    put(db, key, field, total)
    return total


@command("HSCAN", 2, -1)
def scan(db: Database, key: bytes, cursor: bytes, *options: bytes) -> list[Any]:
    fields = db.value(key, "hash")
    following, found = scan_members(fields, cursor, options)
    return [following, [each for field in found for each in (field, fields[field])]]
