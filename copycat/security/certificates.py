"""Curve25519 keys in files of pyzmq's own format, and the directory of those that are trusted.

A certificate is text with a line ``public-key = "..."`` and, in a secret one, ``secret-key = "..."``, in Z85. What
``zmq.auth.create_certificates`` writes is read here, and the reverse.

In the directory every file ``NAME.key`` lets one key in. Its owner is NAME up to the first dot: ``db1.key`` and
``db1.2026.key`` are two keys of ``db1``, which is how a node changes keys while it runs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from copycat.errors import KeyFileInvalid
from copycat.ports import PUBLIC_KEY_BYTES, KeyPair
from copycat.security.files import check_directory, read_public, read_secret, write_new, write_over

SUFFIX = ".key"
KEYS_MAX = 4096
"""Certificates in a directory; more are not read."""
OWNER_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILE_PATTERN = re.compile(r"([A-Za-z0-9_-]{1,64})((\.[A-Za-z0-9_-]{1,64}){0,4})\.key")
_FIELD = re.compile(rb"""^\s*(public|secret)-key\s*=\s*["']?([^\s"'][^\r\n]*?)["']?\s*$""", re.MULTILINE)
_BANNER = "# A CURVE {what} certificate of a CopyCat node, as pyzmq reads and writes them.\n"
_KEEP = "# Whoever has this file can take part as the node: give it to nobody, and let nobody read it.\n"


def new_key_pair() -> KeyPair:
    """A fresh key pair. Raises :class:`~copycat.errors.KeyFileInvalid` where libzmq was built without CURVE."""
    try:
        public, secret = zmq.curve_keypair()
    except zmq.ZMQError as error:
        raise KeyFileInvalid("this libzmq has no CURVE: install pyzmq from its wheel") from error
    return KeyPair(z85.decode(public), z85.decode(secret))


def fingerprint(public_key: bytes) -> str:
    """A public key as text: as it stands in its certificate."""
    return z85.encode(public_key).decode()


def read_key_pair(path: Path) -> KeyPair:
    """The pair in a secret certificate. Raises :class:`~copycat.errors.KeyFileInvalid`."""
    fields = _fields(read_secret(path))
    if not {"public", "secret"} <= fields.keys():
        raise KeyFileInvalid(f"{path} holds no pair of keys: a secret certificate has a public-key and a secret-key")
    pair = KeyPair(_decoded(path, fields["public"]), _decoded(path, fields["secret"]))
    if z85.decode(zmq.curve_public(z85.encode(pair.secret))) != pair.public:
        raise KeyFileInvalid(f"{path} holds two keys that are no pair")
    return pair


def read_public_key(path: Path) -> bytes:
    """The key in a public certificate. Raises :class:`~copycat.errors.KeyFileInvalid`, also for a secret one."""
    fields = _fields(read_public(path))
    if "secret" in fields:
        raise KeyFileInvalid(f"{path} holds a secret key, which must not leave its node; its public half is wanted")
    if "public" not in fields:
        raise KeyFileInvalid(f"{path} holds no public-key")
    return _decoded(path, fields["public"])


def write_key_pair(path: Path, pair: KeyPair, replace: bool) -> None:
    """Write a secret certificate, 0600. Raises :class:`~copycat.errors.KeyFileInvalid`; also if there is one."""
    content = _banner("secret") + _KEEP + _body(pair.public, pair.secret)
    (write_over if replace else write_new)(path, content.encode(), 0o600)


def write_public_key(path: Path, public_key: bytes, replace: bool) -> None:
    """Write a public certificate, 0644. Raises :class:`~copycat.errors.KeyFileInvalid`; also if there is one."""
    content = _banner("public") + _body(public_key, None)
    (write_over if replace else write_new)(path, content.encode(), 0o644)


@dataclass(frozen=True, slots=True)
class Trusted:
    """Owners by public key, and what is wrong with the files that were passed over."""

    owners: dict[bytes, str]
    complaints: tuple[str, ...]


def read_trusted(directory: Path) -> Trusted:
    """All keys in a directory. A certificate that can't be used is passed over: its key is not trusted.

    Raises :class:`~copycat.errors.KeyFileInvalid` if the directory itself can't be used.
    """
    check_directory(directory)
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except OSError as error:
        raise KeyFileInvalid(f"{directory} can't be read: {error.strerror}") from error
    owners: dict[bytes, str] = {}
    complaints = []
    for path in paths:
        try:
            owner = owner_by_name(path)
            key = read_public_key(path)
        except KeyFileInvalid as error:
            complaints.append(str(error))
            continue
        if owners.get(key, owner) != owner:
            complaints.append(f"{path} holds the key of {owners[key]}: a key has one owner")
        elif len(owners) >= KEYS_MAX:
            complaints.append(f"{path} is one too many: {KEYS_MAX} keys are read")
            break
        else:
            owners[key] = owner
    return Trusted(owners, tuple(complaints))


def owner_by_name(path: Path) -> str:
    """Whose key the file holds. Raises :class:`~copycat.errors.KeyFileInvalid` for a name that says nothing of the sort."""
    match = _FILE_PATTERN.fullmatch(path.name)
    if match is None:
        raise KeyFileInvalid(f"{path} has no name like NAME.key or NAME.REMARK.key, of letters, digits, _ and -")
    return match[1]


def _fields(content: bytes) -> dict[str, bytes]:
    lines = b"\n".join(line for line in content.splitlines() if not line.lstrip().startswith(b"#"))
    return {name.decode(): value for name, value in _FIELD.findall(lines)}


def _decoded(path: Path, text: bytes) -> bytes:
    try:
        key = z85.decode(text)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise KeyFileInvalid(f"{path} holds a key that is not in Z85") from error
    if len(key) != PUBLIC_KEY_BYTES or z85.encode(key) != text:
        raise KeyFileInvalid(f"{path} holds a key that is not {PUBLIC_KEY_BYTES} bytes in Z85")
    return key


def _banner(what: str) -> str:
    return _BANNER.format(what=what)


def _body(public_key: bytes, secret_key: bytes | None) -> str:
    lines = ["metadata", "curve", f'    public-key = "{z85.encode(public_key).decode()}"']
    if secret_key is not None:
        lines.append(f'    secret-key = "{z85.encode(secret_key).decode()}"')
    return "\n" + "\n".join(lines) + "\n"
