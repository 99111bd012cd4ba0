"""Sealed gossip: only the cluster reads it, only once, and nothing that is changed on the way opens."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.errors import CodecError
from copycat.security import replay, sealing
from copycat.security.keyring import KeyRing
from copycat.security.replay import MARKS_MAX, WINDOW, Replays, Window
from copycat.security.sealing import OVERHEAD_BYTES, Sealer

A, B = "0" * 25 + "A", "0" * 25 + "B"


class Ring:
    """A ring that changes."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def __call__(self) -> KeyRing:
        return self.ring


@pytest.fixture
def ring() -> Ring:
    return Ring(KeyRing.new())


def sealer(ring: Callable[[], KeyRing], node_id: str = A, start: int = 1, label: str = "label") -> Sealer:
    return Sealer(label, node_id, start, ring, Replays())


def test_what_is_sealed_opens_once(ring: Ring) -> None:
    a, b = sealer(ring), sealer(ring, B)
    for payload in (b"", b"x", bytes(1300)):
        sealed = a.seal(0, payload)
        assert len(sealed) == len(payload) + OVERHEAD_BYTES == len(payload) + a.overhead
        assert b.open(0, sealed) == payload
        with pytest.raises(CodecError, match="came before"):
            b.open(0, sealed)


def test_neither_payload_nor_node_nor_label_is_in_the_clear(ring: Ring) -> None:
    sealed = sealer(ring).seal(0, b"a payload that is long enough")
    for secret in (b"a payload", A.encode(), b"label", ring().keys[0]):
        assert secret not in sealed


def test_any_changed_bit_is_noticed(ring: Ring) -> None:
    a, b = sealer(ring), sealer(ring, B)
    sealed = a.seal(0, b"payload")
    for at in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(CodecError):
            b.open(0, bytes(changed))
    for length in range(len(sealed)):
        with pytest.raises(CodecError):
            b.open(0, sealed[:length])
    with pytest.raises(CodecError):
        b.open(0, sealed + b"\0")
    assert b.open(0, sealed) == b"payload", "a forgery used the genuine one up"


def test_label_and_channel_are_authenticated(ring: Ring) -> None:
    a = sealer(ring)
    with pytest.raises(CodecError):
        sealer(ring, B, label="other").open(0, a.seal(0, b"x"))
    with pytest.raises(CodecError):
        sealer(ring, B).open(1, a.seal(0, b"x"))


def test_another_key_does_not_open(ring: Ring) -> None:
    with pytest.raises(CodecError, match="not in the ring"):
        sealer(Ring(KeyRing.new()), B).open(0, sealer(ring).seal(0, b"x"))


def test_a_key_change_step_by_step_never_shuts_anybody_out() -> None:
    old = KeyRing.new()
    both = old.with_new()
    new = both.sealing_with(both.ids()[1])
    at_a, at_b = Ring(old), Ring(old)
    a, b = sealer(at_a), sealer(at_b, B)

    def both_ways() -> None:
        assert b.open(0, a.seal(0, b"to b")) == b"to b"
        assert a.open(0, b.seal(0, b"to a")) == b"to a"

    both_ways()
    for step in (both, new, KeyRing(new.keys[:1])):
        kept = a.seal(0, b"by the keys before")
        for ring in (at_a, at_b):
            ring.ring = step
            both_ways()
    with pytest.raises(CodecError, match="not in the ring"):
        b.open(0, sealer(Ring(old)).seal(0, b"by the old key"))
    assert kept


def test_no_nonce_is_used_twice_with_one_key(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[tuple[bytes, bytes]] = set()
    genuine = sealing.ChaCha20Poly1305

    class Watched:
        def __init__(self, key: bytes) -> None:
            self.key = key
            self.cipher = genuine(key)

        def encrypt(self, nonce: bytes, data: bytes, context: bytes) -> bytes:
            assert (self.key, nonce) not in used
            used.add((self.key, nonce))
            return self.cipher.encrypt(nonce, data, context)

    monkeypatch.setattr(sealing, "ChaCha20Poly1305", Watched)
    for _ in range(3):  # the same node and the same start, as after a disk that lost its last write
        one = sealer(ring)
        for _ in range(50):
            one.seal(0, b"x")
            one.seal(1, b"x")
    assert len(used) == 300


def test_a_day_of_captured_datagrams_opens_none(ring: Ring) -> None:
    b = sealer(ring, B)
    captured = []
    for start in (1, 2, 3):
        a = sealer(ring, start=start)
        captured += [a.seal(0, b"%d" % number) for number in range(3 * WINDOW)]
        for sealed in captured[-3 * WINDOW :]:
            b.open(0, sealed)
    random.Random(7).shuffle(captured)
    for sealed in captured:
        with pytest.raises(CodecError, match="came before"):
            b.open(0, sealed)


def test_what_is_forged_pushes_no_cipher_out(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sealer(ring), sealer(ring, B)
    b.open(0, a.seal(0, b"x"))
    kept = dict(b._ciphers)
    genuine = a.seal(0, b"y")
    for _ in range(50):
        with pytest.raises(CodecError):
            b.open(0, genuine[:5] + os.urandom(16) + genuine[21:])
    assert b._ciphers == kept


def test_ciphers_are_bounded(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CIPHERS_MAX", 4)
    b = sealer(ring, B)
    for start in range(1, 20):
        b.open(0, sealer(ring, start=start).seal(0, b"x"))
        assert len(b._ciphers) <= 4


# --- the window against a twin that remembers everything --------------------------------------------------------------


class Twin:
    """Obviously right: knows every number that came, and takes none that is too far behind."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def take(self, number: int) -> bool:
        highest = max(self.seen, default=0)
        if number <= 0 or number in self.seen or highest - number >= WINDOW:
            return False
        self.seen.add(number)
        return True


@given(
    st.lists(
        st.one_of(st.integers(-3, 40), st.integers(WINDOW - 20, WINDOW + 20), st.integers(0, 1 << 64)), max_size=80
    )
)
def test_the_window_takes_what_its_twin_takes(numbers: list[int]) -> None:
    window, twin = Window(), Twin()
    assert [window.take(number) for number in numbers] == [twin.take(number) for number in numbers]


def test_a_later_start_replaces_an_earlier_one_for_good() -> None:
    replays = Replays()
    assert replays.take(A, 5, b"m", 0, 100)
    assert replays.changed
    assert replays.take(A, 6, b"n", 0, 1)
    assert not replays.take(A, 5, b"m", 0, 101)
    assert not replays.take(A, 5, b"o", 0, 1)
    assert replays.take(B, 1, b"m", 0, 1), "another sender's start is its own affair"
    assert replays.starts() == {A: 6, B: 1}


def test_what_was_kept_refuses_earlier_starts_after_a_restart() -> None:
    replays = Replays({A: 6})
    assert not replays.changed
    assert not replays.take(A, 5, b"m", 0, 1)
    assert replays.take(A, 6, b"n", 0, 1)


def test_two_processes_that_claim_one_start_are_both_heard_each_once() -> None:
    replays = Replays()
    for mark in (b"m", b"n"):
        assert replays.take(A, 1, mark, 0, 1)
        assert replays.take(A, 1, mark, 1, 1), "channels are counted apart"
    for mark in (b"m", b"n"):
        assert not replays.take(A, 1, mark, 0, 1)
    for number in range(100):
        replays.take(A, 1, b"%d" % number, 0, 1)
    assert len(replays._senders[A].windows) <= 2 * MARKS_MAX


def test_of_too_many_senders_the_one_longest_silent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "SENDERS_MAX", 3)
    replays = Replays()
    for sender in ("a", "b", "c"):
        assert replays.take(sender, 1, b"", 0, 1)
    assert replays.take("a", 1, b"", 0, 2)
    assert replays.take("d", 1, b"", 0, 1)
    assert set(replays.starts()) == {"a", "c", "d"}
