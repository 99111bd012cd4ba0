"""The commands that make and change key files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq.auth
from click.testing import CliRunner, Result

from copycat.cli.commands import root, run
from copycat.security.certificates import read_key_pair, read_trusted
from copycat.security.keyring import KeyRing


def copycat(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        root, [str(argument) for argument in arguments], catch_exceptions=False, standalone_mode=False
    )


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        run([str(argument) for argument in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_key_pair_is_made_once_and_its_secret_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copycat("keygen", "db1", "--directory", tmp_path / "keys")
    secret = tmp_path / "keys" / "db1.key_secret"
    pair = read_key_pair(secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    _, text = zmq.auth.load_certificate(secret)
    assert text is not None
    assert text.decode() not in made.output
    assert "is there already" in fails(capsys, "keygen", "db1", "--directory", tmp_path / "keys")
    assert read_key_pair(secret) == pair
    secret.unlink()
    assert "is there already" in fails(capsys, "keygen", "db1", "--directory", tmp_path / "keys")
    assert not secret.exists(), "half a pair was made"
    assert "letters" in fails(capsys, "keygen", "../db1")


def test_trust_comes_and_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("db1", "db2"):
        copycat("keygen", name, "--directory", tmp_path)
    copycat("keygen", "db1", "--remark", "2026", "--directory", tmp_path)
    trusted = tmp_path / "trusted"
    added = copycat("trust", "add", trusted, tmp_path / "db1.key", tmp_path / "db1.2026.key", tmp_path / "db2.key")
    assert [line.split()[:2] for line in added.output.splitlines()] == [["trusted", n] for n in ("db1", "db1", "db2")]
    assert sorted(read_trusted(trusted).owners.values()) == ["db1", "db1", "db2"]
    copycat("trust", "add", trusted, tmp_path / "db1.key")  # once more is no mistake
    listed = copycat("trust", "list", trusted)
    assert [line.split()[0] for line in listed.output.splitlines()] == ["db1", "db1", "db2"]
    copycat("trust", "remove", trusted, "db1.key")
    assert sorted(read_trusted(trusted).owners.values()) == ["db1", "db2"]
    assert "no certificate" in fails(capsys, "trust", "remove", trusted, "db2.key", "db1.key")
    assert sorted(read_trusted(trusted).owners.values()) == ["db1", "db2"]


def test_a_secret_or_another_key_of_the_same_name_is_not_put_among_the_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a", "b"):
        copycat("keygen", "db1", "--directory", tmp_path / place)
    (tmp_path / "a" / "db1.key_secret").rename(tmp_path / "a" / "secret.key")
    trusted = tmp_path / "trusted"
    assert "secret key" in fails(capsys, "trust", "add", trusted, tmp_path / "a/db1.key", tmp_path / "a/secret.key")
    assert not trusted.exists()
    copycat("trust", "add", trusted, tmp_path / "a/db1.key")
    assert "is there already" in fails(capsys, "trust", "add", trusted, tmp_path / "b/db1.key")


def test_what_a_node_would_pass_over_is_shown(tmp_path: Path) -> None:
    copycat("keygen", "db1", "--directory", tmp_path)
    copycat("trust", "add", tmp_path / "trusted", tmp_path / "db1.key")
    (tmp_path / "trusted" / "broken.key").write_text("nothing")
    listed = copycat("trust", "list", tmp_path / "trusted")
    assert listed.return_value == 1
    assert "broken.key" in listed.output


def test_the_gossip_key_is_changed_in_three_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gossip.keys"
    old = copycat("gossip-keys", "new", file).output.split()[0]
    assert "is there already" in fails(capsys, "gossip-keys", "new", file)
    added = copycat("gossip-keys", "add", file).output.split()
    assert added[0::2] == [old, added[2]]
    new = added[2]
    assert "seals" in fails(capsys, "gossip-keys", "remove", file, old)
    assert copycat("gossip-keys", "use", file, new).output.split() == [new, "seals", old, "understood"]
    assert copycat("gossip-keys", "remove", file, old).output.split() == [new, "seals"]
    assert copycat("gossip-keys", "list", file).output.split() == [new, "seals"]
    assert KeyRing.read(file).ids() == [new]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().splitlines()[-1] not in copycat("gossip-keys", "list", file).output
