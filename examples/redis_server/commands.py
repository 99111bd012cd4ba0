"""The table of commands: what each is called, how many arguments it takes, whether it changes anything, and what does it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from copycat.examples.redis_server.database import Database
from copycat.examples.redis_server.replies import NOT_A_FLOAT, NOT_AN_INTEGER, CommandError, format_number

Body = Callable[..., Any]
B = TypeVar("B", bound=Body)

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_FLOAT = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Command:
    """``least`` and ``most`` arguments, the name not among them; ``writes``: it goes through the log."""

    name: str
    body: Body
    least: int
    most: int | None
    writes: bool


COMMANDS: dict[str, Command] = {}


def command(name: str, least: int, most: int | None = None, writes: bool = False) -> Callable[[B], B]:
    """Register a function of the database and the arguments. ``most`` is ``least`` unless given; -1: any number."""

    def register(body: B) -> B:
        limit = least if most is None else None if most < 0 else most
        COMMANDS[name] = Command(name, body, least, limit, writes)
        return body

    return register


def wrong_count(name: str) -> CommandError:
    return CommandError(f"ERR wrong number of arguments for '{name.lower()}' command")


def run(database: Database, name: str, arguments: list[bytes]) -> Any:
    """The answer, which may be a :class:`CommandError`: then nothing was changed."""
    try:
        return COMMANDS[name].body(database, *arguments)
    except CommandError as error:
        return error


# --- arguments ---


def integer(text: bytes, problem: str = NOT_AN_INTEGER) -> int:
    """As strict as Redis: no sign of plus, no zeros in front, 64 bits. Raises :class:`CommandError`."""
    if _INTEGER.fullmatch(text):
        number = int(text)
        if INT_MIN <= number <= INT_MAX:
            return number
    raise CommandError(problem)


def number(text: bytes, problem: str = NOT_A_FLOAT) -> Decimal:
    """Raises :class:`CommandError`. What is beyond a double's range is taken for no number."""
    if _FLOAT.fullmatch(text):
        try:
            value = Decimal(text.decode())
        except InvalidOperation:
            raise CommandError(problem) from None
        if value == 0 or -308 <= value.adjusted() <= 308:
            return value
    raise CommandError(problem)


def sum_of(first: Decimal, second: Decimal) -> bytes:
    total = first + second
    if total and total.adjusted() > 308:
        raise CommandError("ERR increment would produce NaN or Infinity")
    return format_number(total)


def words(arguments: tuple[bytes, ...]) -> list[str]:
    """Options, which may be written in any case."""
    return [each.decode("latin-1").upper() for each in arguments]


# --- patterns ---


@functools.lru_cache(maxsize=256)
def pattern(glob: bytes) -> re.Pattern[bytes]:
    """Redis's own patterns: ``*``, ``?``, ``[a-z]``, ``[^a]``, and a backslash before what is meant literally."""
    found = bytearray()
    at = 0
    while at < len(glob):
        one = glob[at : at + 1]
        at += 1
        if one == b"*":
            found += b".*" if not found.endswith(b".*") else b""
        elif one == b"?":
            found += b"."
        elif one == b"[":
            text, at = _one_of(glob, at)
            found += text
        else:
            if one == b"\\" and at < len(glob):
                one = glob[at : at + 1]
                at += 1
            found += re.escape(one)
    return re.compile(bytes(found), re.DOTALL)


def _one_of(glob: bytes, at: int) -> tuple[bytes, int]:
    """The expression for a class of characters, and where the pattern goes on. One that never closes ends with it."""
    inverted = glob[at : at + 1] == b"^"
    at += inverted
    chosen: set[int] = set()
    while at < len(glob) and glob[at : at + 1] != b"]":
        if glob[at : at + 1] == b"\\" and at + 1 < len(glob):
            at += 1
            chosen.add(glob[at])
            at += 1
        elif glob[at + 1 : at + 2] == b"-" and at + 2 < len(glob):
            low, high = sorted((glob[at], glob[at + 2]))
            chosen.update(range(low, high + 1))
            at += 3
        else:
            chosen.add(glob[at])
            at += 1
    if inverted:
        chosen = set(range(256)) - chosen
    inside = b"".join([b"\\x%02x" % each for each in sorted(chosen)])
    return (b"[" + inside + b"]" if inside else b"(?!)"), at + 1
