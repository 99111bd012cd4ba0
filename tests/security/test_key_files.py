"""Key files: made right, refused where others could read or change them, and the same format as pyzmq's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from copycat.errors import KeyFileInvalid
from copycat.security import certificates, files
from copycat.security.certificates import (
    fingerprint,
    new_key_pair,
    owner_by_name,
    read_key_pair,
    read_public_key,
    read_trusted,
    write_key_pair,
    write_public_key,
)
from copycat.security.keyring import KEYS_MAX, KeyRing, key_id


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def lax_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


# --- files ----------------------------------------------------------------------------------------------------------


def test_what_is_written_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    files.write_new(tmp_path / "new", b"1", 0o600)
    files.write_over(tmp_path / "new", b"2", 0o600)
    files.write_over(tmp_path / "public", b"3", 0o644)
    assert mode_of(tmp_path / "new") == 0o600
    assert mode_of(tmp_path / "public") == 0o644
    assert files.read_secret(tmp_path / "new") == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "public"], "something was left beside"


def test_nothing_is_written_over_unless_that_is_asked_for(tmp_path: Path) -> None:
    files.write_new(tmp_path / "key", b"first", 0o600)
    with pytest.raises(KeyFileInvalid, match="is there already"):
        files.write_new(tmp_path / "key", b"second", 0o600)
    assert files.read_secret(tmp_path / "key") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    with pytest.raises(KeyFileInvalid, match="can't be written"):
        files.write_new(tmp_path / "nowhere" / "key", b"", 0o600)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o601, 0o666])
def test_a_secret_that_others_have_any_permission_on_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    files.write_new(path, b"secret", 0o600)
    path.chmod(mode)
    with pytest.raises(KeyFileInvalid, match="chmod 0600"):
        files.read_secret(path)
    path.chmod(0o400)
    assert files.read_secret(path) == b"secret"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_what_others_could_change_is_not_trusted(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    files.write_new(path, b"public", 0o644)
    assert files.read_public(path) == b"public"
    path.chmod(mode)
    with pytest.raises(KeyFileInvalid, match="open to other users"):
        files.read_public(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    files.write_new(path, b"secret", 0o600)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileInvalid, match="belongs to user 12345"):
        files.read_secret(path)
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(KeyFileInvalid, match="belongs to user 12345"):
        read_trusted(tmp_path)
    os.chown(tmp_path, 0, -1)


def test_what_is_no_file_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileInvalid, match="is no file"):
        files.read_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileInvalid, match="is no file"):
        files.read_secret(tmp_path / "pipe")
    with pytest.raises(KeyFileInvalid, match="copycat keygen"):
        files.read_secret(tmp_path / "missing")
    files.write_new(tmp_path / "long", bytes(files.FILE_BYTES_MAX + 1), 0o600)
    with pytest.raises(KeyFileInvalid, match="no key file"):
        files.read_secret(tmp_path / "long")


# --- certificates ---------------------------------------------------------------------------------------------------


def test_certificates_are_pyzmqs_in_both_directions(tmp_path: Path) -> None:
    pair = new_key_pair()
    write_key_pair(tmp_path / "a.key_secret", pair, replace=False)
    write_public_key(tmp_path / "a.key", pair.public, replace=False)
    public, secret = zmq.auth.load_certificate(tmp_path / "a.key_secret")
    assert (z85.decode(public), z85.decode(secret)) == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(tmp_path / "a.key") == (public, None)
    assert fingerprint(pair.public) == public.decode()
    assert mode_of(tmp_path / "a.key_secret") == 0o600

    previous = os.umask(0o077)
    zmq.auth.create_certificates(tmp_path, "b", metadata={"a": "b"})
    os.umask(previous)
    theirs = read_key_pair(tmp_path / "b.key_secret")
    assert read_public_key(tmp_path / "b.key") == theirs.public
    assert read_trusted(tmp_path).owners == {pair.public: "a", theirs.public: "b"}
    assert {z85.encode(key): True for key in (pair.public, theirs.public)} == zmq.auth.load_certificates(tmp_path)


def test_a_secret_shows_in_no_text() -> None:
    pair = new_key_pair()
    ring = KeyRing.new()
    for text in (repr(pair), str(pair), repr(ring), str(ring), f"{pair}{ring}"):
        assert pair.secret.hex() not in text
        assert repr(pair.secret) not in text
        assert z85.encode(pair.secret).decode() not in text
        assert ring.keys[0].hex() not in text
        assert repr(ring.keys[0]) not in text


def test_a_pair_that_is_none_is_refused(tmp_path: Path) -> None:
    first, second = new_key_pair(), new_key_pair()
    mixed = certificates.KeyPair(first.public, second.secret)
    write_key_pair(tmp_path / "mixed", mixed, replace=False)
    with pytest.raises(KeyFileInvalid, match="no pair"):
        read_key_pair(tmp_path / "mixed")
    files.write_new(tmp_path / "half", b'curve\n  public-key = "' + z85.encode(first.public) + b'"\n', 0o600)
    with pytest.raises(KeyFileInvalid, match="holds no pair"):
        read_key_pair(tmp_path / "half")


@pytest.mark.parametrize("text", ["", "x", "A" * 39, "A" * 41, "~" * 40, "%" * 40, "é" * 20, "A B" * 13 + "A"])
def test_a_key_that_is_none_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    files.write_new(path, f'curve\n    public-key = "{text}"\n'.encode(), 0o644)
    with pytest.raises(KeyFileInvalid) as caught:
        read_public_key(path)
    assert len(text) < 5 or text not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_refused(content: bytes) -> None:
    fields = certificates._fields(content)
    for text in fields.values():
        try:
            assert len(certificates._decoded(Path("x"), text)) == 32
        except KeyFileInvalid:
            pass


def test_a_secret_certificate_in_the_trusted_directory_is_passed_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    pair = new_key_pair()
    write_key_pair(tmp_path / "a.key", pair, replace=False)
    found = read_trusted(tmp_path)
    assert found.owners == {}
    (complaint,) = found.complaints
    assert "secret key" in complaint
    assert z85.encode(pair.secret).decode() not in complaint


def test_one_owner_has_many_keys_and_one_key_one_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    pairs = [new_key_pair() for _ in range(3)]
    for name, pair in zip(("a.key", "a.2026.key", "b.key"), pairs, strict=True):
        write_public_key(tmp_path / name, pair.public, replace=False)
    write_public_key(tmp_path / "c.key", pairs[0].public, replace=False)
    write_public_key(tmp_path / "d e.key", pairs[0].public, replace=False)
    write_public_key(tmp_path / "notes.txt", pairs[0].public, replace=False)
    found = read_trusted(tmp_path)
    assert found.owners == {pairs[0].public: "a", pairs[1].public: "a", pairs[2].public: "b"}
    assert len(found.complaints) == 2


@pytest.mark.parametrize("name", [".key", "a b.key", "a..key", "a/b.txt", "ä.key", "a" * 65 + ".key"])
def test_a_name_that_says_no_owner_is_refused(name: str) -> None:
    with pytest.raises(KeyFileInvalid, match="no name like"):
        owner_by_name(Path(name))


def test_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(KeyFileInvalid, match="open to other users"):
        read_trusted(tmp_path)
    with pytest.raises(KeyFileInvalid, match="can't be read"):
        read_trusted(tmp_path / "missing")
    files.write_new(tmp_path / "file", b"", 0o600)
    with pytest.raises(KeyFileInvalid, match="is no directory"):
        read_trusted(tmp_path / "file")


# --- the ring -------------------------------------------------------------------------------------------------------


def test_a_ring_is_read_as_it_was_written(tmp_path: Path) -> None:
    ring = KeyRing.new().with_new().with_new()
    ring.write(tmp_path / "ring", replace=False)
    assert mode_of(tmp_path / "ring") == 0o600
    assert KeyRing.read(tmp_path / "ring") == ring
    assert ring.ids() == [key_id(key).hex() for key in ring.keys]


def test_keys_come_are_put_first_and_go() -> None:
    ring = KeyRing.new()
    (old,) = ring.ids()
    both = ring.with_new()
    assert both.ids()[0] == old
    new = both.ids()[1]
    with pytest.raises(KeyFileInvalid, match="seals"):
        both.without(old)
    promoted = both.sealing_with(new)
    assert promoted.ids() == [new, old]
    assert promoted.without(old).ids() == [new]
    with pytest.raises(KeyFileInvalid, match="no key 'xy'"):
        both.without("xy")
    full = ring
    for _ in range(KEYS_MAX - 1):
        full = full.with_new()
    with pytest.raises(KeyFileInvalid, match="1 to 8"):
        full.with_new()


@pytest.mark.parametrize("line", ["zz", "ab" * 31, "ab" * 33, "ab" * 16 + " " + "ab" * 8, "\xff\xfe"])
def test_a_line_that_is_no_key_is_refused_and_not_quoted(tmp_path: Path, line: str) -> None:
    good = "cd" * 32
    files.write_new(tmp_path / "ring", f"# remark\n{good} # the first\n\n{line}\n".encode("latin-1"), 0o600)
    with pytest.raises(KeyFileInvalid, match="line 4") as caught:
        KeyRing.read(tmp_path / "ring")
    assert line not in str(caught.value).replace("32", "")
    assert good not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", (b"cd" * 32 + b"\n") * 2])
def test_a_ring_has_keys_and_each_once(tmp_path: Path, content: bytes) -> None:
    files.write_new(tmp_path / "ring", content, 0o600)
    with pytest.raises(KeyFileInvalid, match="ring"):
        KeyRing.read(tmp_path / "ring")
