"""Cuts what a client sends into commands: arrays of bulk strings, or lines typed by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

INLINE_BYTES_MAX = 64 * 1024
ARGUMENTS_MAX = 1024 * 1024
_CRLF = b"\r\n"
_COUNTS = {b"*%d" % number: number for number in range(1, 33)}
_LENGTHS = {b"$%d" % number: number for number in range(1024)}
"""Heads of what is common: looked up in less time than they are read."""


class ProtocolError(Exception):
    """What came is no request: the client is told why, and its connection ends."""


class TooLong(Exception):
    """A command is longer than this server takes. It was read over; those behind it are whole."""


class RequestReader:
    """Holds no more than one unfinished request of ``bytes_max``, and what came with its last piece. One thread."""

    __slots__ = ("_at", "_buffer", "_bytes_max", "_skip")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._at = 0
        self._skip: _Skipped | None = None

    def feed(self, data: bytes) -> Iterator[list[bytes] | TooLong]:
        """All commands that are whole by now; a command that is too long as what is wrong with it.

        Raises :class:`ProtocolError`, after the commands before it.
        """
        self._buffer += data
        self._at = 0
        try:
            if self._skip is None:
                yield from self._plain()
            while self._at < len(self._buffer):
                start = self._at
                command = self._next()
                if command is None:
                    if self._skip is None:
                        self._at = start
                    break
                if command:
                    yield command
        finally:
            del self._buffer[: self._at]

    def _plain(self) -> Iterator[list[bytes]]:
        """Commands of a few short arguments, cut in one go, up to the first that is not of that kind."""
        parts = bytes(self._buffer).split(_CRLF)
        last = len(parts) - 1
        at = 0
        while at < last:
            count = _COUNTS.get(parts[at])
            end = at + 1 + 2 * (count or last)
            if end > last:
                return
            heads, command = parts[at + 1 : end : 2], parts[at + 2 : end : 2]
            if list(map(_LENGTHS.get, heads)) != list(map(len, command)):
                return
            size = sum(map(len, command))
            if size > self._bytes_max:
                return
            self._at += len(parts[at]) + 2 + sum(map(len, heads)) + size + 4 * len(command)
            at = end
            yield command

    def _next(self) -> list[bytes] | TooLong | None:
        """The next command, empty for a blank line; None if it is not whole. Moves on only over what is whole."""
        if self._skip is not None:
            return self._go_on_skipping()
        if self._buffer[self._at] != 0x2A:  # *
            return self._inline()
        count = self._number(b"*", "invalid multibulk length", ARGUMENTS_MAX)
        if count is None:
            return None
        command: list[bytes] = []
        size = 0
        buffer = self._buffer
        for number in range(max(count, 0)):
            if self._at >= len(buffer):
                return None
            if buffer[self._at] != 0x24:  # $
                raise ProtocolError(f"expected '$', got '{chr(buffer[self._at])}'")
            length = self._number(b"$", "invalid bulk length", 512 << 20)
            if length is None:
                return None
            if length < 0:
                raise ProtocolError("invalid bulk length")
            size += length
            if size > self._bytes_max:
                self._skip = _Skipped(length + 2, count - number - 1)
                return self._go_on_skipping()
            end = self._at + length
            if end + 2 > len(buffer):
                return None
            command.append(bytes(buffer[self._at : end]))
            self._at = end + 2
        return command

    def _number(self, sign: bytes, problem: str, most: int) -> int | None:
        end = self._buffer.find(_CRLF, self._at, self._at + 64)
        if end < 0:
            if len(self._buffer) - self._at > 64:
                raise ProtocolError(f"too big {'mbulk count' if sign == b'*' else 'bulk count'} string")
            return None
        text = self._buffer[self._at + 1 : end]
        self._at = end + 2
        if not text.lstrip(b"-").isdigit() or not -1 <= (number := int(text)) <= most:
            raise ProtocolError(problem)
        return number

    def _inline(self) -> list[bytes] | None:
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > INLINE_BYTES_MAX:
                raise ProtocolError("too big inline request")
            return None
        line = bytes(self._buffer[self._at : end])
        self._at = end + 1
        try:
            return [each.encode("latin-1") for each in shlex.split(line.decode("latin-1"))]
        except ValueError:
            raise ProtocolError("unbalanced quotes in request") from None

    def _go_on_skipping(self) -> TooLong | None:
        """Read over the rest of a command that is too long, without keeping it."""
        skip = self._skip
        assert skip is not None
        while True:
            step = min(skip.left, len(self._buffer) - self._at)
            skip.left -= step
            self._at += step
            if skip.left:
                return None
            if not skip.bulks:
                self._skip = None
                return TooLong()
            head = self._number_of_skipped()
            if head is None:
                return None
            skip.left, skip.bulks = head + 2, skip.bulks - 1

    def _number_of_skipped(self) -> int | None:
        start = self._at
        length = self._number(b"$", "invalid bulk length", 512 << 20) if start < len(self._buffer) else None
        if length is None:
            self._at = start
        return length


class _Skipped:
    __slots__ = ("bulks", "left")

    def __init__(self, left: int, bulks: int) -> None:
        self.left = left
        self.bulks = bulks
