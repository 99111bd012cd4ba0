"""The database alone: time comes from the log, snapshots hold all of it, and every copy comes to the same state."""

from __future__ import annotations

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat.examples.redis_server import keyspace  # noqa: F401  # fills the table of commands
from copycat.examples.redis_server.commands import COMMANDS, pattern, run
from copycat.examples.redis_server.database import SLOTS, Database

KEY = st.sampled_from([b"a", b"b", b"c", b"d"])
VALUE = st.sampled_from([b"1", b"2", b"x", b"y"])
MS = st.integers(1, 40).map(lambda number: b"%d" % number)
WRITES = st.one_of(
    st.tuples(st.just("SET"), KEY, VALUE),
    st.tuples(st.just("SET"), KEY, VALUE, st.just(b"PX"), MS),
    st.tuples(st.sampled_from(["LPUSH", "RPUSH", "SADD", "PEXPIRE"]), KEY, MS),
    st.tuples(st.sampled_from(["SPOP", "LPOP", "DEL", "PERSIST", "INCR"]), KEY),
    st.tuples(st.just("HSET"), KEY, VALUE, VALUE),
    st.tuples(st.sampled_from(["RENAME", "SUNIONSTORE"]), KEY, KEY),
)
LOG = st.lists(st.tuples(st.integers(0, 30), WRITES), max_size=60)


def state(database: Database) -> object:
    return database.pack()


@given(LOG, st.integers(0, 60))
def test_a_copy_made_of_a_snapshot_goes_on_as_the_others_do(log: list, at: int) -> None:  # type: ignore[type-arg]
    whole, behind = Database(), Database()
    now = 1000
    answers: list[list[object]] = [[], []]
    copies = [whole]
    for number, (later, command) in enumerate(log):
        if number == at:
            behind.unpack(msgpack.unpackb(msgpack.packb(whole.pack())))
            copies.append(behind)
        now += later - 10  # a clock may go back: what time it is never does
        for each, said in zip(copies, answers, strict=False):
            each.advance(now)
            said.append(str(run(each, command[0], list(command[1:]))))
    if len(copies) == 2:
        assert answers[1] == answers[0][-len(answers[1]) :] or not answers[1]
        assert state(whole) == state(behind)


@settings(max_examples=50)
@given(LOG)
def test_every_key_is_in_its_slot_and_nothing_else_is(log: list) -> None:  # type: ignore[type-arg]
    database = Database()
    now = 0
    for later, command in log:
        now += later
        database.advance(now)
        run(database, command[0], list(command[1:]))
        assert sorted(key for number in range(SLOTS) for key in database._slots[number]) == sorted(database.entries)
        assert all(each.value or each.kind == "string" for each in database.entries.values()), "an empty one stays"
        assert database.count() == len(database.entries)


def test_a_key_expires_when_the_log_says_so_and_reads_do_not_show_it_before() -> None:
    database = Database()
    database.advance(1000)
    run(database, "SET", [b"a", b"1", b"PX", b"100"])
    database.at = 1099
    assert run(database, "GET", [b"a"]) == b"1"
    assert run(database, "PTTL", [b"a"]) == 1
    database.at = 1100
    assert run(database, "GET", [b"a"]) is None
    assert run(database, "DBSIZE", []) == 0
    assert run(database, "KEYS", [b"*"]) == []
    assert b"a" in database.entries, "only the log removes it"
    assert database.due(1100)
    database.advance(1100)
    assert b"a" not in database.entries
    assert not database.due(10_000)


def test_expiries_that_were_replaced_are_not_kept_for_ever() -> None:
    database = Database()
    database.advance(1)
    run(database, "SET", [b"a", b"1"])
    for number in range(10_000):
        run(database, "PEXPIRE", [b"a", b"%d" % (100_000 + number)])
    assert len(database._expiring) < 200


def test_a_scan_finds_all_that_is_there_all_the_time() -> None:
    database = Database()
    database.advance(1)
    for number in range(3000):
        run(database, "SET", [b"key%d" % number, b"v"])
        run(database, "HSET", [b"hash", b"field%d" % number, b"v"])
    cursor, found = b"0", set()
    steps = 0
    while True:
        cursor, keys = run(database, "SCAN", [cursor, b"COUNT", b"100", b"MATCH", b"key*"])
        found |= set(keys)
        steps += 1
        run(database, "DEL", [b"key%d" % (steps * 2)])
        run(database, "SET", [b"new%d" % steps, b"v"])
        if cursor == b"0":
            break
    assert found >= {b"key%d" % number for number in range(1, 3000, 2)}
    assert steps > 5
    cursor, fields = b"0", list[bytes]()
    while True:
        cursor, some = run(database, "HSCAN", [b"hash", cursor, b"COUNT", b"50"])
        fields += some[::2]
        if cursor == b"0":
            break
    assert sorted(fields) == sorted(b"field%d" % number for number in range(3000))


def test_patterns() -> None:
    def matches(glob: bytes, text: bytes) -> bool:
        return pattern(glob).fullmatch(text) is not None

    assert matches(b"h?llo", b"hallo")
    assert not matches(b"h?llo", b"hllo")
    assert matches(b"h*o", b"ho\nx o")
    assert matches(b"h[ae]llo", b"hello")
    assert matches(b"h[^e]llo", b"hallo")
    assert not matches(b"h[^e]llo", b"hello")
    assert matches(b"h[a-c]llo", b"hbllo")
    assert matches(rb"a\*b", b"a*b")
    assert not matches(rb"a\*b", b"axb")
    assert matches(rb"[\]]", b"]")
    assert not matches(b"[]", b"x")
    assert matches(b"a[b", b"ab")
    assert matches(b"a.b", b"a.b")
    assert not matches(b"a.b", b"axb")


def test_what_reads_changes_nothing() -> None:
    database = Database()
    database.advance(1)
    for command in (("SET", b"a", b"1"), ("HSET", b"h", b"f", b"v"), ("RPUSH", b"l", b"1"), ("SADD", b"s", b"1")):
        run(database, command[0], list(command[1:]))
    before = state(database)
    for known in COMMANDS.values():
        if not known.writes:
            for key in (b"a", b"h", b"l", b"s", b"none"):
                run(database, known.name, [key, b"0", b"0"][: known.least] if known.least else [])
    assert state(database) == before
