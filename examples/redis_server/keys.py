"""Commands on keys, whatever they hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from zlib import crc32

from copycat.examples.redis_server.commands import INT_MAX, command, integer, pattern, words
from copycat.examples.redis_server.database import SLOTS, Database
from copycat.examples.redis_server.replies import OK, SYNTAX, CommandError

SCAN_COUNT = 10
SMALL = 512
"""A collection of so many is scanned in one go, as Redis does with those that it keeps in one piece."""
SCAN_STEPS_MAX = 64
"""A larger one in so many steps at most, since each looks at all of it."""


@command("DEL", 1, -1, writes=True)
def delete(db: Database, *keys: bytes) -> int:
    return sum([db.remove(key) for key in keys])


command("UNLINK", 1, -1, writes=True)(delete)


@command("EXISTS", 1, -1)
def exists(db: Database, *keys: bytes) -> int:
    return sum([db.find(key) is not None for key in keys])


command("TOUCH", 1, -1)(exists)


@command("TYPE", 1)
def type_of(db: Database, key: bytes) -> str:
    entry = db.find(key)
    return "none" if entry is None else entry.kind


@command("RENAME", 2, writes=True)
def rename(db: Database, key: bytes, to: bytes) -> str:
    entry = db.find(key)
    if entry is None:
        raise CommandError("ERR no such key")
    if key != to:
        kind, value, expires = entry.kind, entry.value, entry.expires
        db.remove(key)
        db.expire(to, db.put(to, kind, value), expires)
    return OK


@command("RENAMENX", 2, writes=True)
def rename_if_free(db: Database, key: bytes, to: bytes) -> int:
    if db.find(key) is not None and db.find(to) is not None:
        return 0
    rename(db, key, to)
    return 1


@command("DBSIZE", 0)
def size(db: Database) -> int:
    return db.count()


@command("FLUSHDB", 0, 1, writes=True)
def flush(db: Database, *how: bytes) -> str:
    if how and words(how)[0] not in ("ASYNC", "SYNC"):
        raise CommandError(SYNTAX)
    db.clear()
    return OK


command("FLUSHALL", 0, 1, writes=True)(flush)


@command("RANDOMKEY", 0)
def random_key(db: Database) -> bytes | None:
    keys = list(db.live())
    return random.choice(keys) if keys else None


# --- expiry ---


def _expiry(name: str, unit: int, since: bool) -> None:
    @command(name, 2, -1, writes=True)
    def set_expiry(db: Database, key: bytes, text: bytes, *options: bytes) -> int:
        when = moment(db, text, unit, since, name.lower())
        given = words(options)
        for each, option in zip(given, options, strict=True):
            if each not in ("NX", "XX", "GT", "LT"):
                raise CommandError(f"ERR Unsupported option {option.decode('latin-1')}")
        if "NX" in given and len(set(given)) > 1:
            raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if "GT" in given and "LT" in given:
            raise CommandError("ERR GT and LT options at the same time are not compatible")
        entry = db.find(key)
        if entry is None:
            return 0
        before = entry.expires
        if (
            ("NX" in given and before)
            or ("XX" in given and not before)
            or ("GT" in given and (not before or when <= before))
            or ("LT" in given and before and when >= before)
        ):
            return 0
        db.expire(key, entry, max(when, 1))
        return 1


def moment(db: Database, text: bytes, unit: int, since: bool, name: str) -> int:
    """Milliseconds since 1970; ``since``: the text counts from then already. Raises :class:`CommandError`."""
    value = integer(text)
    when = value * unit + (0 if since else db.at)
    if not -INT_MAX <= value * unit <= INT_MAX or when > INT_MAX:
        raise CommandError(f"ERR invalid expire time in '{name}' command")
    return when


_expiry("EXPIRE", 1000, since=False)
_expiry("PEXPIRE", 1, since=False)
_expiry("EXPIREAT", 1000, since=True)
_expiry("PEXPIREAT", 1, since=True)


@command("PERSIST", 1, writes=True)
def persist(db: Database, key: bytes) -> int:
    entry = db.find(key)
    if entry is None or not entry.expires:
        return 0
    db.expire(key, entry, 0)
    return 1


def _when(name: str, tell: Callable[[Database, int], int]) -> None:
    @command(name, 1)
    def look(db: Database, key: bytes) -> int:
        entry = db.find(key)
        if entry is None:
            return -2
        return tell(db, entry.expires) if entry.expires else -1


_when("TTL", lambda db, expires: (expires - db.at + 500) // 1000)
_when("PTTL", lambda db, expires: expires - db.at)
_when("EXPIRETIME", lambda db, expires: (expires + 500) // 1000)
_when("PEXPIRETIME", lambda db, expires: expires)


# --- looking for keys ---


@command("KEYS", 1)
def keys(db: Database, glob: bytes) -> list[bytes]:
    matches = pattern(glob).fullmatch
    return [key for key in db.live() if matches(key)]


@command("SCAN", 1, -1)
def scan(db: Database, cursor: bytes, *options: bytes) -> list[Any]:
    at = _cursor(cursor)
    glob, count, kind = scan_options(options, may_have_type=True)
    matches = pattern(glob).fullmatch
    found: list[bytes] = []
    seen = 0
    while at < SLOTS and seen < count:
        keys = db.slot(at)
        seen += len(keys)
        found += [key for key in keys if matches(key) and kind in ("", db.entries[key].kind)]
        at += 1
    return [b"%d" % (0 if at >= SLOTS else at), found]


def _cursor(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise CommandError("ERR invalid cursor")
    return int(text)


def scan_options(options: tuple[bytes, ...], may_have_type: bool = False) -> tuple[bytes, int, str]:
    """Pattern, count, kind. Raises :class:`CommandError`."""
    glob, count, kind = b"*", SCAN_COUNT, ""
    left = list(options)
    while left:
        name = left.pop(0).upper()
        if not left:
            raise CommandError(SYNTAX)
        value = left.pop(0)
        if name == b"MATCH":
            glob = value
        elif name == b"COUNT":
            count = integer(value)
            if count < 1:
                raise CommandError(SYNTAX)
        elif name == b"TYPE" and may_have_type:
            kind = value.decode("latin-1").lower()
        else:
            raise CommandError(SYNTAX)
    return glob, count, kind


def scan_members(members: dict[bytes, Any], cursor: bytes, options: tuple[bytes, ...]) -> tuple[bytes, list[bytes]]:
    """The next cursor, and some members: each that is there all the time comes in some step."""
    at = _cursor(cursor)
    glob, count, _ = scan_options(options)
    matches = pattern(glob).fullmatch
    if len(members) <= max(SMALL, count):
        return b"0", [each for each in members if matches(each)]
    step = max(SLOTS * count // len(members), SLOTS // SCAN_STEPS_MAX)
    found = [each for each in members if at <= crc32(each) % SLOTS < at + step and matches(each)]
    return b"%d" % (0 if at + step >= SLOTS else at + step), found
