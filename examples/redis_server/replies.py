"""What commands answer, and how that is written in RESP, the protocol of Redis, in its versions 2 and 3.

Within the server an answer is plain: bytes, int, float, None, a list of answers, ``str`` for a status such as ``OK``, or one of
the classes here for what Python has no word for.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

OK = "OK"
CRLF = b"\r\n"


class CommandError(Exception):
    """A command said no; the message is what its client is told, its code first, in the words of Redis."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A map, as keys and values in turn."""

    flat: list[Any]


@dataclass(frozen=True, slots=True)
class Members:
    """A set, in an order that means nothing."""

    items: list[Any]


class NoArray:
    """An array that isn't there, where a null would be taken for a missing string."""


NO_ARRAY = NoArray()

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"


def encode(answer: Any, protocol: int) -> bytes:
    """An answer in RESP ``protocol``, 2 or 3."""
    kind = answer.__class__
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    if kind is int:
        return b":%d\r\n" % answer
    if kind is str:
        return b"+%b\r\n" % answer.encode()
    if answer is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if kind is CommandError:
        return b"-%b\r\n" % str(answer).encode("utf-8", "surrogateescape").replace(b"\r", b" ").replace(b"\n", b" ")
    if kind is list:
        return b"*%d\r\n" % len(answer) + b"".join([encode(each, protocol) for each in answer])
    if kind is Pairs:
        head = b"%%%d\r\n" % (len(answer.flat) // 2) if protocol == 3 else b"*%d\r\n" % len(answer.flat)
        return head + b"".join([encode(each, protocol) for each in answer.flat])
    if kind is Members:
        head = b"~%d\r\n" if protocol == 3 else b"*%d\r\n"
        return head % len(answer.items) + b"".join([encode(each, protocol) for each in answer.items])
    if kind is float:
        text = format_number(Decimal(repr(answer)))
        return b",%b\r\n" % text if protocol == 3 else encode(text, protocol)
    assert answer is NO_ARRAY, answer
    return b"_\r\n" if protocol == 3 else b"*-1\r\n"


def array_head(count: int) -> bytes:
    return b"*%d\r\n" % count


def format_number(number: Decimal) -> bytes:
    """As Redis writes it: seventeen decimals at most, without zeros at the end."""
    text = f"{number:.17f}".rstrip("0").rstrip(".")
    return b"0" if text in ("", "-0") else text.encode()
