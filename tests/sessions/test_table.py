"""The session table against a twin that remembers everything and forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat import codec, sessions
from copycat.errors import CodecError
from copycat.messages import Entry
from copycat.sequencer import Replica, Sequencer
from copycat.sessions import Outcome, SessionTable

NAMES = [bytes([letter]) * sessions.SESSION_BYTES for letter in b"abc"]
BOOTS = [b"boot-1", b"boot-2"]
NODES = ["n1", "n2"]


@dataclass
class TwinSession:
    node: str
    boot: bytes
    opened: int
    seen: list[int] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)


class Twin:
    """Says what an entry means, item by item, in the plainest way."""

    def __init__(self) -> None:
        self.open: dict[bytes, TwinSession] = {}
        self.delivered: list[tuple[bytes, int, int]] = []

    def open_session(self, name: bytes, node: str, boot: bytes, index: int) -> None:
        if name not in self.open:
            for other in list(self.open):
                if self.open[other].node == node and self.open[other].boot != boot:
                    del self.open[other]
            self.open[name] = TwinSession(node, boot, index)

    def end(self, name: bytes) -> None:
        self.open.pop(name, None)

    def batch(self, name: bytes, opened: int, first: int, count: int) -> list[int]:
        fresh: list[int] = []
        session = self.open.get(name)
        if session is None or session.opened != opened:
            return fresh
        for number in range(first, first + count):
            if number not in session.seen and (number == 1 or number - 1 in session.seen):
                session.seen.append(number)
                fresh.append(number)
                self.delivered.append((name, opened, number))
                session.positions[number] = len(self.delivered)
        return fresh


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from(NAMES), st.sampled_from(NODES), st.sampled_from(BOOTS)),
        st.tuples(st.sampled_from(["close", "expire"]), st.sampled_from(NAMES)),
        st.tuples(st.just("batch"), st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 12), st.integers(1, 5)),
        st.tuples(st.just("reload")),
    ),
    max_size=60,
)


@given(STEPS)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_the_table_decides_as_its_twin_does(steps: list[tuple[object, ...]]) -> None:
    table, twin = SessionTable(), Twin()
    opened: dict[bytes, list[int]] = {name: [0] for name in NAMES}  # every place where a session was ever opened
    position = 0
    for index, step in enumerate(steps, 1):
        if step[0] == "reload":
            table = SessionTable.unpack(codec.unpack(codec.pack(table.pack())))
            continue
        if step[0] == "open":
            _, name, node, boot = step
            applied = table.apply(sessions.pack_open(name, node, boot), index, position)  # type: ignore[arg-type]
            twin.open_session(name, node, boot, index)  # type: ignore[arg-type]
            assert applied.outcome is Outcome.OPENED
            assert applied.opened == twin.open[name].opened  # type: ignore[index]
            opened[name].append(index)  # type: ignore[index]
        elif step[0] == "batch":
            _, name, which, first, count = step
            at = opened[name][-1 - which % len(opened[name])]  # type: ignore[index,operator]
            data = sessions.pack_batch(name, at, first, [b"x"] * count)  # type: ignore[arg-type,operator]
            applied = table.apply(data, index, position)
            fresh = twin.batch(name, at, first, count)  # type: ignore[arg-type]
            assert list(range(applied.first, applied.first + applied.count)) == fresh or not (fresh or applied.count)
            assert applied.skip == (fresh[0] - first if fresh else applied.skip)  # type: ignore[operator]
            position += applied.count
        else:
            packer = sessions.pack_close if step[0] == "close" else sessions.pack_expire
            was_open = step[1] in table.sessions
            applied = table.apply(packer(step[1]), index, position)  # type: ignore[arg-type]
            twin.end(step[1])  # type: ignore[arg-type]
            assert (applied.outcome is Outcome.ENDED) == was_open
        assert position == len(twin.delivered)
        assert {name: (held.opened, held.due) for name, held in table.sessions.items()} == {
            name: (held.opened, len(held.seen) + 1) for name, held in twin.open.items()
        }
        for name, held in table.sessions.items():
            remembered = {number: held.position_of(number) for number in twin.open[name].seen}
            for number, at in remembered.items():
                assert at in (None, twin.open[name].positions[number])
            if held.receipts:
                assert remembered[held.due - 1] is not None
    assert len(twin.delivered) == len(set(twin.delivered)), "twice"


@given(STEPS)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_a_packed_sequencer_goes_on_as_the_original(steps: list[tuple[object, ...]]) -> None:
    original = Sequencer({1: Replica("n1", placed=True)})
    for index, step in enumerate(steps, 1):
        if step[0] == "open":
            data = sessions.pack_open(*step[1:])  # type: ignore[arg-type]
        elif step[0] == "batch":
            data = sessions.pack_batch(step[1], 1, step[3], [b""] * step[4])  # type: ignore[arg-type,operator]
        elif step[0] == "reload":
            data = b""
        else:
            data = sessions.pack_close(step[1])  # type: ignore[arg-type]
        twin, fork = Sequencer.unpack(original.pack()), original.fork()
        entry = Entry(1, index, data=data)
        applied = original.apply(entry)
        assert twin.apply(entry) == applied == fork.apply(entry)
        assert twin.pack() == original.pack() == fork.pack()


def test_a_repeated_opening_after_the_end_does_not_let_repeated_batches_in() -> None:
    table = SessionTable()
    opening, name = sessions.pack_open(NAMES[0], "n1", b"boot"), NAMES[0]
    assert table.apply(opening, 1, 0).opened == 1
    batch = sessions.pack_batch(name, 1, 1, [b"a", b"b"])
    assert table.apply(batch, 2, 0).count == 2
    assert table.apply(sessions.pack_close(name), 3, 2).ended == (name,)
    assert table.apply(opening, 4, 2).opened == 4
    assert table.apply(batch, 5, 2).outcome is Outcome.UNKNOWN


def test_the_full_table_refuses_and_takes_again_when_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    table = SessionTable()
    for index, name in enumerate(NAMES[:2], 1):
        assert table.apply(sessions.pack_open(name, "n1", b"boot"), index, 0).outcome is Outcome.OPENED
    assert table.apply(sessions.pack_open(NAMES[2], "n1", b"boot"), 3, 0).outcome is Outcome.REFUSED
    table.apply(sessions.pack_expire(NAMES[0]), 4, 0)
    assert table.apply(sessions.pack_open(NAMES[2], "n1", b"boot"), 5, 0).outcome is Outcome.OPENED


def test_a_node_that_started_again_ends_what_its_earlier_start_left() -> None:
    table = SessionTable()
    table.apply(sessions.pack_open(NAMES[0], "n1", b"first"), 1, 0)
    table.apply(sessions.pack_open(NAMES[1], "n2", b"first"), 2, 0)
    applied = table.apply(sessions.pack_open(NAMES[2], "n1", b"second"), 3, 0)
    assert applied.ended == (NAMES[0],)
    assert set(table.sessions) == set(NAMES[1:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x09whatever",
        b"\x01",
        sessions.pack_batch(NAMES[0], 1, 1, [b"x"])[:37],
        sessions.pack_batch(NAMES[0], 1, 1, []),
        sessions.rename_batch(sessions.pack_batch(NAMES[0], 1, 1, [b"x"]), NAMES[0], 1, 1)[:33]
        + b"\xff\xff\xff\xff\x90",
        b"\x02" + codec.pack([NAMES[0], "n1"]),
        b"\x02" + codec.pack([NAMES[0][:3], "n1", b"boot"]),
        b"\x02" + codec.pack([NAMES[0], "n" * 1000, b"boot"]),
        b"\x02" + codec.pack([NAMES[0], b"n1", b"boot"]),
        b"\x02\xc1",
        b"\x03" + codec.pack([]),
        b"\x03" + codec.pack(["text"]),
        b"\x04" + codec.pack(7),
    ],
)
def test_what_no_proposer_makes_is_kept_out_of_the_log(data: bytes) -> None:
    with pytest.raises(CodecError):
        sessions.check_proposed(data)


def test_what_a_proposer_makes_is_let_in() -> None:
    for data in (
        sessions.pack_open(NAMES[0], "n1", b"boot"),
        sessions.pack_batch(NAMES[0], 7, 1, [b"", b"x"]),
        sessions.pack_close(NAMES[0]),
        sessions.pack_expire(NAMES[0]),
    ):
        sessions.check_proposed(data)


@given(st.binary(max_size=80))
@settings(deadline=None, derandomize=True)
def test_bytes_from_outside_are_checked_without_any_other_error(data: bytes) -> None:
    for kind in range(6):
        try:
            sessions.check_proposed(bytes([kind]) + data)
        except CodecError:
            continue


@given(st.recursive(st.none() | st.integers() | st.binary() | st.text(), st.lists, max_leaves=12))
@settings(deadline=None, derandomize=True)
def test_a_malformed_table_is_an_error_of_its_own_kind(value: object) -> None:
    try:
        SessionTable.unpack(value)
    except CodecError:
        return
