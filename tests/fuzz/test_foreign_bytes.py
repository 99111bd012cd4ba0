"""Nothing that comes from outside stops a node, escapes as a foreign exception, or goes uncounted."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copycat.testing.fuzzing import INPUT_BYTES_MAX, TARGETS

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = {"disk": 60, "body": 150, "header": 100, "datagram": 150, "published": 100}


@functools.cache
def samples(name: str) -> list[bytes]:
    return TARGETS[name].samples()


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """A valid input in which something was changed, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(samples(name))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xC0, 0xDD, 0xDF, 0xFF, *range(256)]))
        elif kind == 1:
            del data[at : at + draw(st.integers(0, 40))]
        elif kind == 2:
            data[at:at] = draw(st.binary(max_size=12))
        else:
            data[at:at] = data[at : at + draw(st.integers(0, 60))]
    return bytes(data[:INPUT_BYTES_MAX])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_any_bytes_are_taken_or_refused(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 300), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(changed(name), changed(name), st.binary(max_size=200)))
    def take(data: bytes) -> None:
        target.take(data)

    take()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_valid_inputs_and_those_that_once_broke_something(name: str) -> None:
    for data in [*samples(name), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]:
        TARGETS[name].take(data)
