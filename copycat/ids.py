"""Ids of data structures and nodes: ULIDs, 26 characters of Crockford base 32 (https://github.com/ulid/spec)."""

from __future__ import annotations

import random
import time
from typing import Any

from ulid import ULID

from copycat.errors import InvalidId

_ALPHABET = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
_TEXT_LENGTH = 26
_BYTES_LENGTH = 16


class DataStructureId(ULID):
    """Names one data structure, for ever and everywhere.

    ``str(id)`` and :meth:`parse` round-trip, as do ``bytes(id)`` and :meth:`from_bytes`; ids compare, hash and sort by
    the time they were made. Immutable, so safe to share between threads.
    """

    @classmethod
    def parse(cls, value: Any) -> DataStructureId:
        """Make an id of its text, of its 16 bytes, or of another ULID.

        Raises :class:`~copycat.errors.InvalidId` for anything else: unlike lenient decoders, this takes no character outside
        Crockford's alphabet (I, L, O and U are not in it) and no value beyond 128 bits.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, ULID):
            return cls(bytes(value))
        if isinstance(value, (bytes, bytearray)):
            if len(value) != _BYTES_LENGTH:
                raise InvalidId(f"a data structure id has {_BYTES_LENGTH} bytes, not {len(value)}")
            return cls(bytes(value))
        if not isinstance(value, str):
            raise InvalidId(f"a data structure id is text, 16 bytes or a ULID, not {type(value).__name__}")
        text = value.upper()
        if len(text) != _TEXT_LENGTH:
            raise InvalidId(f"{value!r} is no data structure id: it has {len(text)} characters, not {_TEXT_LENGTH}")
        strangers = sorted(set(text) - _ALPHABET)
        if strangers:
            raise InvalidId(
                f"{value!r} is no data structure id: {''.join(strangers)!r} is not in Crockford's base 32 alphabet"
            )
        if text[0] > "7":
            raise InvalidId(
                f"{value!r} is no data structure id: the first character is above 7, so it exceeds 128 bits"
            )
        decoded: DataStructureId = cls.from_str(text)
        return decoded


def name_of(group_id: bytes) -> str:
    """What users call the data structure whose 16 bytes these are; for logs."""
    return str(DataStructureId(group_id))


def new_id(rng: random.Random, now_ms: int | None = None) -> DataStructureId:
    """A fresh id: 48 bits of milliseconds since 1970, then 80 random bits of ``rng``."""
    stamp = int(time.time() * 1000) if now_ms is None else now_ms
    return DataStructureId(stamp.to_bytes(6, "big") + rng.getrandbits(80).to_bytes(10, "big"))
