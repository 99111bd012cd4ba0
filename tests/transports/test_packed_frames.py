"""A short frame travels as one part; whatever else arrives in that place is refused, and never raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from copycat.transports.zeromq_links import PACKED, PACKED_BYTES_MAX, PACKED_PARTS_MAX, pack_parts, unpack_parts

frames = st.lists(st.binary(max_size=200), min_size=1, max_size=20)


@given(frames)
def test_parts_come_back_with_their_boundaries(parts: list[bytes]) -> None:
    packed = pack_parts(1, parts)
    assert packed[0] == 1 | PACKED
    assert unpack_parts(packed) == parts


def test_the_longest_packed_frames_come_back() -> None:
    for parts in ([b"x" * PACKED_BYTES_MAX], [b""] * PACKED_PARTS_MAX):
        assert unpack_parts(pack_parts(0, parts)) == parts


@given(frames, st.integers(1, 50))
def test_a_truncated_or_longer_frame_is_refused(parts: list[bytes], cut: int) -> None:
    packed = pack_parts(0, parts)
    assert unpack_parts(packed[:-cut]) is None
    assert unpack_parts(packed + b"x" * cut) is None


@given(st.binary(max_size=300))
def test_random_bytes_are_parts_or_refused(data: bytes) -> None:
    parts = unpack_parts(data)
    assert parts is None or pack_parts(data[0] & ~PACKED, parts)[1:] == data[1:]
