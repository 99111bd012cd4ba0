"""Commands on lists."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from copycat.examples.redis_server.commands import INT_MIN, command, integer, words
from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.replies import NO_ARRAY, OK, SYNTAX, CommandError

_POSITIVE = "ERR value is out of range, must be positive"


@command("RPUSH", 2, -1, writes=True)
def push_right(db: Database, key: bytes, *items: bytes) -> int:
    values = db.make(key, "list").value
    values.extend(items)
    return len(values)


@command("LPUSH", 2, -1, writes=True)
def push_left(db: Database, key: bytes, *items: bytes) -> int:
    values = db.make(key, "list").value
    values.extendleft(items)
    return len(values)


@command("RPUSHX", 2, -1, writes=True)
def push_right_if_there(db: Database, key: bytes, *items: bytes) -> int:
    return 0 if db.find_kind(key, "list") is None else push_right(db, key, *items)


@command("LPUSHX", 2, -1, writes=True)
def push_left_if_there(db: Database, key: bytes, *items: bytes) -> int:
    return 0 if db.find_kind(key, "list") is None else push_left(db, key, *items)


def _pop(db: Database, key: bytes, left: bool, count: tuple[bytes, ...]) -> Any:
    wanted = 1
    if count:
        wanted = integer(count[0], _POSITIVE)
        if wanted < 0:
            raise CommandError(_POSITIVE)
    entry = db.find_kind(key, "list")
    if entry is None:
        return NO_ARRAY if count else None
    values: deque[bytes] = entry.value
    taken = [values.popleft() if left else values.pop() for _ in range(min(wanted, len(values)))]
    if taken:
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return taken if count else taken[0]


@command("LPOP", 1, 2, writes=True)
def pop_left(db: Database, key: bytes, *count: bytes) -> Any:
    return _pop(db, key, True, count)


@command("RPOP", 1, 2, writes=True)
def pop_right(db: Database, key: bytes, *count: bytes) -> Any:
    return _pop(db, key, False, count)


@command("LLEN", 1)
def length(db: Database, key: bytes) -> int:
    return len(db.value(key, "list"))


def _bounds(first: int, last: int, count: int) -> tuple[int, int]:
    """Half open, within the list, from indices that may count from its end."""
    start = max(first + count, 0) if first < 0 else first
    end = last + count if last < 0 else last
    return min(start, count), min(max(end + 1, 0), count)


@command("LRANGE", 3)
def slice_(db: Database, key: bytes, first: bytes, last: bytes) -> list[bytes]:
    low, high = integer(first), integer(last)
    values = db.value(key, "list")
    start, end = _bounds(low, high, len(values))
    return list(islice(values, start, max(start, end)))


@command("LINDEX", 2)
def at(db: Database, key: bytes, index: bytes) -> bytes | None:
    values = db.value(key, "list")
    number = integer(index)
    return values[number] if -len(values) <= number < len(values) else None


@command("LSET", 3, writes=True)
def set_at(db: Database, key: bytes, index: bytes, item: bytes) -> str:
    entry = db.find_kind(key, "list")
    if entry is None:
        raise CommandError("ERR no such key")
    number = integer(index)
    if not -len(entry.value) <= number < len(entry.value):
        raise CommandError("ERR index out of range")
    entry.value[number] = item
    db.touch(entry)
    return OK


@command("LREM", 3, writes=True)
def remove(db: Database, key: bytes, count: bytes, item: bytes) -> int:
    limit = integer(count)
    entry = db.find_kind(key, "list")
    if entry is None:
        return 0
    values: deque[bytes] = entry.value
    left = abs(limit) or len(values)
    before = len(values)
    kept: deque[bytes] = deque()
    for each in reversed(values) if limit < 0 else values:
        if each == item and left:
            left -= 1
        elif limit < 0:
            kept.appendleft(each)
        else:
            kept.append(each)
    if len(kept) != before:
        entry.value = kept
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return before - len(kept)


@command("LTRIM", 3, writes=True)
def trim(db: Database, key: bytes, first: bytes, last: bytes) -> str:
    low, high = integer(first), integer(last)
    entry = db.find_kind(key, "list")
    if entry is not None:
        start, end = _bounds(low, high, len(entry.value))
        entry.value = deque(islice(entry.value, start, max(start, end)))
        db.touch(entry)
        db.remove_if_empty(key, entry)
    return OK


@command("LINSERT", 4, writes=True)
def insert(db: Database, key: bytes, where: bytes, pivot: bytes, item: bytes) -> int:
    side = words((where,))[0]
    if side not in ("BEFORE", "AFTER"):
        raise CommandError(SYNTAX)
    entry = db.find_kind(key, "list")
    if entry is None:
        return 0
    if pivot not in entry.value:
        return -1
    entry.value.insert(entry.value.index(pivot) + (side == "AFTER"), item)
    db.touch(entry)
    return len(entry.value)


@command("LMOVE", 4, writes=True)
def move(db: Database, source: bytes, target: bytes, origin: bytes, end: bytes) -> bytes | None:
    sides = words((origin, end))
    if not set(sides) <= {"LEFT", "RIGHT"}:
        raise CommandError(SYNTAX)
    if db.find_kind(source, "list") is None:
        return None
    db.find_kind(target, "list")
    item: bytes = _pop(db, source, sides[0] == "LEFT", ())
    (push_left if sides[1] == "LEFT" else push_right)(db, target, item)
    return item


@command("RPOPLPUSH", 2, writes=True)
def rotate(db: Database, source: bytes, target: bytes) -> bytes | None:
    return move(db, source, target, b"RIGHT", b"LEFT")


@command("LPOS", 2, -1)
def position(db: Database, key: bytes, item: bytes, *options: bytes) -> Any:
    rank, count, most = 1, None, 0
    given = list(options)
    while given:
        name = given.pop(0).upper()
        if not given or name not in (b"RANK", b"COUNT", b"MAXLEN"):
            raise CommandError(SYNTAX)
        value = integer(given.pop(0))
        if name == b"RANK":
            rank = value
            if rank == INT_MIN:
                raise CommandError("ERR value is out of range")
            if rank == 0:
                raise CommandError(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start "
                    "from the end of the list"
                )
        elif value < 0:
            raise CommandError(f"ERR {name.decode()} can't be negative")
        elif name == b"COUNT":
            count = value
        else:
            most = value
    values = list(db.value(key, "list"))
    order = range(len(values)) if rank > 0 else range(len(values) - 1, -1, -1)
    found = [index for index in islice(order, most or None) if values[index] == item][abs(rank) - 1 :]
    if count is None:
        return found[0] if found else None
    return found[:count] if count else found
