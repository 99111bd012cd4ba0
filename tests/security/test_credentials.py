"""A node's credentials: read whole or not at all, read again on change, and never lost to a bad file."""

from __future__ import annotations

import logging

import pytest

from copycat.config import Config
from copycat.errors import InvalidConfig, KeyFileInvalid
from copycat.security import identities
from copycat.security.certificates import new_key_pair, write_key_pair, write_public_key
from copycat.security.credentials import FileCredentials, load_credentials
from copycat.security.exposure import check_exposure, is_loopback
from copycat.security.identities import Identities
from copycat.security.keyring import KeyRing

from .kit import KeyFiles


def credentials_of(keys: KeyFiles, name: str = "a") -> FileCredentials:
    return load_credentials(Config(**keys.fields(name)))


def test_nothing_is_read_again_while_nothing_has_changed(keys: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.make("a")
    held = credentials_of(keys)
    ring = held.ring()
    monkeypatch.setattr(FileCredentials, "_read", lambda self, generation: pytest.fail("read again"))
    assert not held.refresh()
    assert held.generation == 0
    assert held.ring() is ring


def test_each_change_is_found(keys: KeyFiles) -> None:
    keys.make("a")
    held = credentials_of(keys)
    other = new_key_pair()
    assert held.owner_of(other.public) is None

    write_public_key(keys.trusted / "b.key", other.public, replace=False)
    assert held.refresh()
    assert held.owner_of(other.public) == "b"

    ring = held.ring()
    (keys.trusted / "b.key").unlink()
    assert held.refresh()
    assert held.owner_of(other.public) is None
    assert held.ring() is ring, "the same ring must stay the same object"

    write_key_pair(keys.secret("a"), other, replace=True)
    assert held.refresh()
    assert held.key_pair == other

    ring = KeyRing.read(keys.ring).with_new()
    ring.write(keys.ring, replace=True)
    assert held.refresh()
    assert held.ring() == ring
    assert held.generation == 4


def test_a_touched_file_is_no_change(keys: KeyFiles) -> None:
    keys.make("a")
    held = credentials_of(keys)
    content = keys.ring.read_bytes()
    keys.ring.write_bytes(content)
    assert not held.refresh()
    assert held.generation == 0


def test_a_file_that_turns_bad_changes_nothing_and_is_complained_of_once(
    keys: KeyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    keys.make("a")
    held = credentials_of(keys)
    pair, ring = held.key_pair, held.ring()
    content = keys.ring.read_text()
    keys.ring.write_text("half a line")
    with caplog.at_level(logging.ERROR, logger="copycat"):
        for _ in range(3):
            assert not held.refresh()
    (record,) = caplog.records
    assert "going on with the keys read before" in record.getMessage()
    assert (held.key_pair, held.ring()) == (pair, ring)
    keys.ring.write_text(content)
    keys.trusted.chmod(0o777)
    assert not held.refresh()
    assert held.owner_of(pair.public) == "a"
    keys.trusted.chmod(0o755)
    write_public_key(keys.trusted / "b.key", new_key_pair().public, replace=False)
    assert held.refresh()


def test_a_bad_file_at_the_start_stops_the_start(keys: KeyFiles) -> None:
    keys.make("a")
    keys.secret("a").chmod(0o644)
    with pytest.raises(KeyFileInvalid, match="chmod 0600"):
        credentials_of(keys)
    keys.secret("a").chmod(0o600)
    keys.ring.unlink()
    with pytest.raises(KeyFileInvalid, match="gossip"):
        credentials_of(keys)


def test_a_node_is_told_that_its_own_key_is_not_trusted(keys: KeyFiles, caplog: pytest.LogCaptureFixture) -> None:
    keys.make("a", trust=False)
    with caplog.at_level(logging.WARNING, logger="copycat"):
        credentials_of(keys)
    assert "own key is not among the trusted" in caplog.text


def test_no_secret_reaches_the_log_or_a_repr(keys: KeyFiles, caplog: pytest.LogCaptureFixture) -> None:
    fields = keys.make("a", trust=False)
    with caplog.at_level(logging.DEBUG, logger="copycat"):
        held = credentials_of(keys)
        write_key_pair(keys.secret("a"), new_key_pair(), replace=True)
        KeyRing.read(keys.ring).with_new().write(keys.ring, replace=True)
        assert held.refresh()
    texts = [repr(held), repr(held.__dict__), repr(Config(**fields)), caplog.text]
    texts += [str(vars(record)) for record in caplog.records]
    secrets = [line for line in keys.ring.read_text().splitlines() if not line.startswith("#")]
    secrets += [
        line.partition("=")[2].strip(' "') for line in keys.secret("a").read_text().splitlines() if "secret-key" in line
    ]
    assert len(secrets) == 3
    for text in texts:
        for secret in secrets:
            assert secret not in text


# --- the configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", ["key_file", "trusted_keys_dir", "gossip_keys_file"])
def test_keys_are_all_given_or_none(keys: KeyFiles, left_out: str) -> None:
    fields = keys.make("a")
    del fields[left_out]
    with pytest.raises(InvalidConfig, match=left_out):
        Config(**fields)


def test_insecure_contradicts_keys(keys: KeyFiles) -> None:
    with pytest.raises(InvalidConfig, match="insecure"):
        Config(**keys.make("a"), insecure=True)
    with pytest.raises(InvalidConfig, match="insecure must be bool"):
        Config(insecure="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_keys(host: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="copycat"):
        check_exposure(Config(hostname="db1.example", bind_address=host), in_process=False)
    assert "no keys" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.0.2.1", "::", "no-such-host.invalid", "10.0.0.1"])
def test_beyond_loopback_a_node_needs_keys_or_the_word_insecure(
    host: str, keys: KeyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidConfig, match="insecure=True"):
        check_exposure(Config(bind_address=host), in_process=False)
    with pytest.raises(InvalidConfig, match="loopback only"):
        check_exposure(Config(hostname=host), in_process=False)
    with caplog.at_level(logging.INFO, logger="copycat"):
        check_exposure(Config(bind_address=host), in_process=True)
        check_exposure(Config(bind_address=host, **keys.make("a")), in_process=False)
        assert not caplog.records
        check_exposure(Config(bind_address=host, insecure=True), in_process=False)
    (record,) = caplog.records
    assert record.levelname == "WARNING"


def test_an_empty_address_is_every_interface() -> None:
    assert not is_loopback("")


# --- who may speak as whom ------------------------------------------------------------------------------------------

X, Y = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRY"


def test_the_first_owner_of_an_id_is_the_only_one() -> None:
    known = Identities()
    assert known.may_speak("a", X)
    assert not known.may_speak("b", X)
    assert known.may_speak("a", X)
    assert known.may_speak("a", Y), "a machine that was wiped has another id"
    assert not known.may_speak("b", Y)


def test_an_owner_whose_name_is_a_node_id_has_that_one_alone() -> None:
    known = Identities()
    assert not known.may_speak(X, Y)
    assert known.may_speak(X, X)
    assert known.may_speak("b", Y)


def test_who_claims_too_many_ids_loses_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "IDS_PER_OWNER_MAX", 3)
    monkeypatch.setattr(identities, "OWNERS_MAX", 2)
    known = Identities()
    assert known.may_speak("a", X)
    for number in range(10):
        assert known.may_speak("eve", f"id {number}")
    assert not known.may_speak("eve", X)
    assert not known.may_speak("a", "id 9")
    assert known.may_speak("a", "id 0")
    assert not known.may_speak("late", Y)
    assert len(known._owner_of) <= 5
