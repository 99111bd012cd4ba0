"""``copycat keygen``, ``copycat trust`` and ``copycat gossip-keys``: make key files, and change them while nodes run.

Each command changes files and nothing else; nodes see the change by themselves. Secret keys go from the system's
randomness into a file, and are never printed, nor taken from the command line.
"""

from __future__ import annotations

from pathlib import Path

import click

from copycat.errors import KeyFileInvalid
from copycat.security.certificates import (
    OWNER_PATTERN,
    SUFFIX,
    fingerprint,
    new_key_pair,
    owner_by_name,
    read_public_key,
    read_trusted,
    write_key_pair,
    write_public_key,
)
from copycat.security.keyring import KeyRing

SECRET_SUFFIX = ".key_secret"  # noqa: S105  # of a file

_directory = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Make a node's key pair.")
@click.argument("name")
@click.option("--remark", default="", help="Tells this key from others of NAME: makes NAME.REMARK.key.")
@click.option("--directory", type=_directory, default=Path(), help="Where to; made if absent.  [default: .]")
def keygen(name: str, remark: str, directory: Path) -> None:
    """Make a key pair for the node NAME: NAME.key_secret for itself, NAME.key for the others to trust.

    Never writes over a file. NAME must stay the same over all keys of the node, and be no other node's.
    """
    for part in filter(None, (name, remark)):
        if OWNER_PATTERN.fullmatch(part) is None:
            raise click.BadParameter(f"{part!r} is not 1 to 64 letters, digits, _ and -")
    _make(directory, 0o700)
    stem = f"{name}.{remark}" if remark else name
    secret, public = directory / f"{stem}{SECRET_SUFFIX}", directory / f"{stem}{SUFFIX}"
    if public.exists():
        raise KeyFileInvalid(f"{public} is there already, and was left as it is")
    pair = new_key_pair()
    write_key_pair(secret, pair, replace=False)
    write_public_key(public, pair.public, replace=False)
    click.echo(f"secret {secret}")
    click.echo(f"public {public} {fingerprint(pair.public)}")


@click.group(short_help="Say whose keys are trusted.")
def trust() -> None:
    """Say whose keys are trusted: the certificates in the directory that trusted_keys_dir names."""


@trust.command("add")
@click.argument("directory", type=_directory)
@click.argument("certificates", nargs=-1, required=True, type=_file)
def trust_add(directory: Path, certificates: tuple[Path, ...]) -> None:
    """Put public CERTIFICATES into DIRECTORY. All are checked before the first is put there."""
    keys = [(path, owner_by_name(path), read_public_key(path)) for path in certificates]
    _make(directory, 0o755)
    for path, owner, key in keys:
        target = directory / path.name
        if not (target.exists() and read_public_key(target) == key):
            write_public_key(target, key, replace=False)
        click.echo(f"trusted {owner} {fingerprint(key)}")


@trust.command("remove")
@click.argument("directory", type=_directory)
@click.argument("names", nargs=-1, required=True)
def trust_remove(directory: Path, names: tuple[str, ...]) -> None:
    """Take certificates out of DIRECTORY, by their file NAMES: running nodes end the connections of these keys."""
    paths = [directory / Path(name).name for name in names]
    for path in paths:
        if path.suffix != SUFFIX or not path.is_file():
            raise KeyFileInvalid(f"{path} is no certificate that is there")
    for path in paths:
        path.unlink()
        click.echo(f"removed {path.name}")


@trust.command("list")
@click.argument("directory", type=_directory)
def trust_list(directory: Path) -> int:
    """Print owner and key of all that DIRECTORY lets in, as a node reads it; exits with 1 if a file can't be used."""
    trusted = read_trusted(directory)
    for key, owner in sorted(trusted.owners.items(), key=lambda item: item[::-1]):
        click.echo(f"{owner} {fingerprint(key)}")
    for complaint in trusted.complaints:
        click.echo(f"copycat trust: not used: {complaint}", err=True)
    return 1 if trusted.complaints else 0


@click.group("gossip-keys", short_help="Make and change the keys of the cluster's gossip.")
def gossip_keys() -> None:
    """Make and change the file that gossip_keys_file names, which all nodes have alike.

    To change the key while the cluster runs: add one, and bring the file to all nodes; use it, and bring the file to all
    nodes; remove the old one, and bring the file to all nodes. Keys are named by the id that list prints.
    """


@gossip_keys.command("new")
@click.argument("file", type=_file)
def ring_new(file: Path) -> None:
    """Make FILE, with one key. Never writes over a file."""
    ring = KeyRing.new()
    ring.write(file, replace=False)
    _show(ring)


@gossip_keys.command("add")
@click.argument("file", type=_file)
def ring_add(file: Path) -> None:
    """Add a new key to FILE. It is understood, and not used yet."""
    _replace(file, KeyRing.read(file).with_new())


@gossip_keys.command("use")
@click.argument("file", type=_file)
@click.argument("key")
def ring_use(file: Path, key: str) -> None:
    """Seal with KEY from now on. All nodes must have it already."""
    _replace(file, KeyRing.read(file).sealing_with(key))


@gossip_keys.command("remove")
@click.argument("file", type=_file)
@click.argument("key")
def ring_remove(file: Path, key: str) -> None:
    """Take KEY out of FILE. No node may seal with it any more."""
    _replace(file, KeyRing.read(file).without(key))


@gossip_keys.command("list")
@click.argument("file", type=_file)
def ring_list(file: Path) -> None:
    """Print the ids of the keys in FILE, the one that seals first."""
    _show(KeyRing.read(file))


def _replace(file: Path, ring: KeyRing) -> None:
    ring.write(file, replace=True)
    _show(ring)


def _show(ring: KeyRing) -> None:
    for number, name in enumerate(ring.ids()):
        click.echo(f"{name} {'understood' if number else 'seals'}")


def _make(directory: Path, mode: int) -> None:
    if directory.exists():
        return
    try:
        directory.mkdir(parents=True, mode=mode)
        directory.chmod(mode)
    except OSError as error:
        raise KeyFileInvalid(f"{directory} can't be made: {error.strerror}") from error
