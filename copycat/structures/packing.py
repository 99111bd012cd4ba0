"""What structures write into the log and into snapshots: msgpack, versioned, never pickled.

What msgpack carries is None, bool, int (64 bits), float, str, bytes, and lists and dicts of such; nothing else is taken, not
even what could be mistaken for one of them: a tuple would come back as a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from copycat.errors import InvalidValue, Refused, UnknownOperation

FORMAT = 1
_KEYS = frozenset([type(None), bool, int, float, str, bytes])
_FIELDS = [bytes, int, int, str, int, list]


@dataclass(frozen=True, slots=True)
class Packed:
    """One operation, as the log has it.

    ``client`` and ``number`` name it, for whoever waits for its result; of what the client did before, it has the results
    up to ``acknowledged``.
    """

    client: bytes
    number: int
    acknowledged: int
    name: str
    version: int
    arguments: list[Any]


def pack(value: Any) -> bytes:
    """Raises :class:`~copycat.errors.InvalidValue` for what msgpack doesn't carry."""
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(
            f"{error}: structures hold None, bool, int of 64 bits, float, str, bytes, and lists and dicts of these"
        ) from error
    return packed


def unpack(data: bytes) -> Any:
    """What :func:`pack` was given, made anew. Raises ValueError."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, TypeError) as error:
        raise ValueError(f"not what a structure writes: {error}") from error


def fresh(value: Any) -> Any:
    """A copy that shares nothing with ``value`` that could be changed."""
    return value if value.__class__ in _KEYS else unpack(pack(value))


def check_key(key: Any) -> None:
    """Raise :class:`~copycat.errors.InvalidValue` for what can't be a key: only scalars can, and a NaN equals nothing."""
    if key.__class__ not in _KEYS or key != key:
        raise InvalidValue(f"a key is None, bool, int, float (no NaN), str or bytes, not {key!r}")


def refuse_unless(holds: bool, rule: str) -> None:
    """For operations' bodies: what anybody may have sent must not stop every copy. Raises :class:`~copycat.errors.Refused`."""
    if not holds:
        raise Refused(rule)


def is_key(value: Any) -> bool:
    """Whether it can be one, once it has been packed."""
    return value.__class__ in _KEYS


def pack_operation(operation: Packed) -> bytes:
    """Raises :class:`~copycat.errors.InvalidValue`."""
    return pack(
        [
            FORMAT,
            operation.client,
            operation.number,
            operation.acknowledged,
            operation.name,
            operation.version,
            operation.arguments,
        ]
    )


def unpack_operation(data: bytes) -> Packed:
    """Raises :class:`~copycat.errors.UnknownOperation` for anything that this version has not written."""
    try:
        form, *rest = unpack(data)
        if form != FORMAT:
            raise ValueError(f"format {form!r}")
        if [type(field) for field in rest] != _FIELDS:
            raise ValueError("fields of other types")
        return Packed(*rest)
    except (ValueError, TypeError) as error:
        raise UnknownOperation(
            f"the log of this data structure holds what is no operation of format {FORMAT} ({error}): it was written by a "
            "newer version, or by something else than a structure"
        ) from error


@dataclass(frozen=True, slots=True)
class State:
    """A structure's snapshot: what its results table holds, and what it is."""

    results: Any
    content: Any


def pack_state(state: State) -> bytes:
    """Raises :class:`~copycat.errors.InvalidValue`."""
    return pack([FORMAT, state.results, state.content])


def unpack_state(data: bytes) -> State:
    """Raises :class:`~copycat.errors.UnknownOperation` for a snapshot of another format."""
    try:
        form, results, content = unpack(data)
        if form != FORMAT:
            raise ValueError(f"format {form!r}")
    except (ValueError, TypeError) as error:
        raise UnknownOperation(f"a snapshot of this data structure is not of format {FORMAT}: {error}") from error
    return State(results, content)
