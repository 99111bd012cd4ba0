"""What clients send, however it is cut up on the way, and whatever it is."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.examples.redis_server.requests import INLINE_BYTES_MAX, ProtocolError, RequestReader, TooLong
from tests.examples.redis_server.conftest import packed

LIMIT = 1000


def read(pieces: list[bytes], limit: int = LIMIT) -> list[object]:
    reader = RequestReader(limit)
    return [command if isinstance(command, list) else "too long" for piece in pieces for command in reader.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[low:high] for low, high in pairwise(at)]


COMMANDS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=6)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@given(COMMANDS, PLACES)
def test_commands_are_the_same_however_they_are_cut(commands: list[list[bytes]], places: list[int]) -> None:
    data = b"".join(packed(tuple(command)) for command in commands)
    assert read(cut(data, places)) == commands


@given(PLACES, st.integers(0, 3))
def test_what_is_too_long_is_read_over_and_what_follows_is_whole(places: list[int], before: int) -> None:
    long = packed((*[b"x"] * before, bytes(LIMIT + 1), b"\r\n*1\r\n$4\r\nEVIL\r\n", b"y"))
    data = packed((b"A", b"1")) + long + packed((b"B", b"2"))
    assert read(cut(data, places)) == [[b"A", b"1"], "too long", [b"B", b"2"]]


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_garbage_is_refused_or_read_and_nothing_else(pieces: list[bytes]) -> None:
    with suppress(ProtocolError):
        for command in read(pieces):
            assert command == "too long" or isinstance(command, list)


@given(
    st.lists(
        st.sampled_from([b"*", b"$", b"3", b"-1", b"1", b"\r\n", b"x", b" ", b'"', b"\n", b"99999999999"]), max_size=30
    )
)
def test_what_looks_like_the_protocol_is_refused_or_read_and_nothing_else(pieces: list[bytes]) -> None:
    with suppress(ProtocolError):
        read(pieces)


def test_lines_typed_by_hand_are_commands() -> None:
    assert read([b'SET a "b c"\r\n\r\nGET a\nPI', b"NG\r\n"]) == [[b"SET", b"a", b"b c"], [b"GET", b"a"], [b"PING"]]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*9999999\r\n", "invalid multibulk length"),
        (b"*1\r\n:1\r\n", r"expected '\$', got ':'"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b'SET a "b\r\n', "unbalanced quotes"),
        (b"*" + b"1" * 100, "too big"),
        (b"x" * (INLINE_BYTES_MAX + 1), "too big inline request"),
    ],
)
def test_what_is_no_request_is_named(data: bytes, problem: str) -> None:
    reader = RequestReader(LIMIT)
    first = next(reader.feed(packed((b"OK",))))
    assert not isinstance(first, TooLong)
    with pytest.raises(ProtocolError, match=problem):
        list(reader.feed(data))


def test_nothing_is_kept_of_what_is_too_long() -> None:
    reader = RequestReader(LIMIT)
    assert list(reader.feed(b"*2\r\n$3\r\nSET\r\n$500000000\r\n")) == []
    for _ in range(100):
        assert list(reader.feed(bytes(10_000))) == []
        assert len(reader._buffer) == 0
