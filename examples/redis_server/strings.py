"""Commands on strings, and on the numbers in them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from copycat.examples.redis_server.commands import (
    INT_MAX,
    INT_MIN,
    command,
    integer,
    number,
    sum_of,
    words,
    wrong_count,
)
from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.keys import moment
from copycat.examples.redis_server.replies import OK, SYNTAX, CommandError

STRING_BYTES_MAX = 16 << 20
"""What a string may grow to in place, by APPEND and SETRANGE."""
TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
_UNITS = {"EX": (1000, False), "PX": (1, False), "EXAT": (1000, True), "PXAT": (1, True)}


@command("GET", 1)
def get(db: Database, key: bytes) -> bytes | None:
    entry = db.find_kind(key, "string")
    return None if entry is None else bytes(entry.value)


@command("SET", 2, -1, writes=True)
def set_(db: Database, key: bytes, value: bytes, *options: bytes) -> Any:
    if not options:
        db.put(key, "string", value)
        return OK
    given, expires = _set_options(db, options, "set")
    if "NX" in given and "XX" in given:
        raise CommandError(SYNTAX)
    before = get(db, key) if "GET" in given else None
    entry = db.find(key)
    if ("NX" in given and entry is not None) or ("XX" in given and entry is None):
        return before
    kept = entry.expires if entry is not None and "KEEPTTL" in given else 0
    entry = db.put(key, "string", value)
    if expires or kept:
        db.expire(key, entry, expires or kept)
    return before if "GET" in given else OK


def _set_options(db: Database, options: tuple[bytes, ...], name: str) -> tuple[set[str], int]:
    """The options but those that say when, and when, or 0."""
    given: set[str] = set()
    timed: list[str] = []
    when = b""
    left = words(options)
    raw = list(options)
    while left:
        word = left.pop(0)
        raw.pop(0)
        if word in _UNITS and left and not timed and "KEEPTTL" not in given:
            timed.append(word)
            left.pop(0)
            when = raw.pop(0)
        elif word in ("NX", "XX", "GET") or (word == "KEEPTTL" and not timed):
            given.add(word)
        else:
            raise CommandError(SYNTAX)
    return given, _expiry(db, when, *_UNITS[timed[0]], name) if timed else 0


def _expiry(db: Database, text: bytes, unit: int, since: bool, name: str) -> int:
    if integer(text) <= 0:
        raise CommandError(f"ERR invalid expire time in '{name}' command")
    return moment(db, text, unit, since, name)


@command("SETEX", 3, writes=True)
def set_for_seconds(db: Database, key: bytes, seconds: bytes, value: bytes) -> str:
    expires = _expiry(db, seconds, 1000, False, "setex")
    db.expire(key, db.put(key, "string", value), expires)
    return OK


@command("PSETEX", 3, writes=True)
def set_for_milliseconds(db: Database, key: bytes, milliseconds: bytes, value: bytes) -> str:
    expires = _expiry(db, milliseconds, 1, False, "psetex")
    db.expire(key, db.put(key, "string", value), expires)
    return OK


@command("SETNX", 2, writes=True)
def set_if_absent(db: Database, key: bytes, value: bytes) -> int:
    if db.find(key) is not None:
        return 0
    db.put(key, "string", value)
    return 1


@command("GETSET", 2, writes=True)
def get_and_set(db: Database, key: bytes, value: bytes) -> bytes | None:
    before = get(db, key)
    db.put(key, "string", value)
    return before


@command("GETDEL", 1, writes=True)
def get_and_delete(db: Database, key: bytes) -> bytes | None:
    before = get(db, key)
    db.remove(key)
    return before


@command("GETEX", 1, -1, writes=True)
def get_and_expire(db: Database, key: bytes, *options: bytes) -> bytes | None:
    given, expires = ({"PERSIST"}, 0) if words(options) == ["PERSIST"] else _set_options(db, options, "getex")
    if given - {"PERSIST"}:
        raise CommandError(SYNTAX)
    value = get(db, key)
    if value is not None and options:
        entry = db.entries[key]
        if expires or entry.expires:
            db.expire(key, entry, expires)
    return value


@command("MGET", 1, -1)
def get_many(db: Database, *keys: bytes) -> list[bytes | None]:
    found = [db.find(key) for key in keys]
    return [entry.value if entry is not None and entry.kind == "string" else None for entry in found]


@command("MSET", 2, -1, writes=True)
def set_many(db: Database, *pairs: bytes) -> str:
    if len(pairs) % 2:
        raise wrong_count("MSET")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        db.put(key, "string", value)
    return OK


@command("MSETNX", 2, -1, writes=True)
def set_many_if_absent(db: Database, *pairs: bytes) -> int:
    if len(pairs) % 2:
        raise wrong_count("MSETNX")
    if any(db.find(key) is not None for key in pairs[::2]):
        return 0
    set_many(db, *pairs)
    return 1


@command("STRLEN", 1)
def length(db: Database, key: bytes) -> int:
    return len(db.value(key, "string"))


@command("APPEND", 2, writes=True)
def append(db: Database, key: bytes, more: bytes) -> int:
    before = db.value(key, "string")
    if len(before) + len(more) > STRING_BYTES_MAX:
        raise CommandError(TOO_LONG)
    db.make(key, "string").value = before + more
    return len(before) + len(more)


@command("GETRANGE", 3)
def get_range(db: Database, key: bytes, first: bytes, last: bytes) -> bytes:
    start, end = integer(first), integer(last)
    value: bytes = db.value(key, "string")
    if start < 0 and end < 0 and start > end:
        return b""
    start, end = max(start + len(value), 0) if start < 0 else start, max(end + len(value), 0) if end < 0 else end
    return value[start : end + 1] if start <= end else b""


@command("SETRANGE", 3, writes=True)
def set_range(db: Database, key: bytes, offset: bytes, value: bytes) -> int:
    at = integer(offset)
    if at < 0:
        raise CommandError("ERR offset is out of range")
    before: bytes = db.value(key, "string")
    if not value:
        return len(before)
    if at + len(value) > STRING_BYTES_MAX:
        raise CommandError(TOO_LONG)
    after = before[:at].ljust(at, b"\0") + value + before[at + len(value) :]
    db.make(key, "string").value = after
    return len(after)


def add(before: bytes, step: int, problem: str = "ERR value is not an integer or out of range") -> int:
    total = integer(before, problem) + step
    if not INT_MIN <= total <= INT_MAX:
        raise CommandError("ERR increment or decrement would overflow")
    return total


def _increase(db: Database, key: bytes, step: int) -> int:
    before = db.find_kind(key, "string")
    total = add(b"0" if before is None else before.value, step)
    db.make(key, "string").value = b"%d" % total
    return total


@command("INCR", 1, writes=True)
def increase(db: Database, key: bytes) -> int:
    return _increase(db, key, 1)


@command("DECR", 1, writes=True)
def decrease(db: Database, key: bytes) -> int:
    return _increase(db, key, -1)


@command("INCRBY", 2, writes=True)
def increase_by(db: Database, key: bytes, step: bytes) -> int:
    return _increase(db, key, integer(step))


@command("DECRBY", 2, writes=True)
def decrease_by(db: Database, key: bytes, step: bytes) -> int:
    by = integer(step)
    if by == INT_MIN:
        raise CommandError("ERR decrement would overflow")
    return _increase(db, key, -by)


@command("INCRBYFLOAT", 2, writes=True)
def increase_by_float(db: Database, key: bytes, step: bytes) -> bytes:
    before = db.find_kind(key, "string")
    total = sum_of(Decimal(0) if before is None else number(before.value), number(step))
    db.make(key, "string").value = total
    return total
