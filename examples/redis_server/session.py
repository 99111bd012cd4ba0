"""One client's connection: its commands in their order, transactions, and what it has chosen.

Commands are answered in the order in which they came. Writes that stand next to each other travel together; a read waits for the
writes before it on its connection, so everybody reads their own writes. One event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from copycat.errors import CopyCatError, OutcomeUnknown
from copycat.examples.redis_server import connection_commands
from copycat.examples.redis_server.batcher import Run, now_ms
from copycat.examples.redis_server.commands import COMMANDS, wrong_count
from copycat.examples.redis_server.replies import NO_ARRAY, OK, CommandError, array_head, encode
from copycat.examples.redis_server.requests import ProtocolError, RequestReader, TooLong
from copycat.examples.redis_server.strings import TOO_LONG

if TYPE_CHECKING:
    from copycat.examples.redis_server.server import Server

QUEUE_MAX = 4096
"""Commands that a connection may have waiting; beyond, no more is read from it."""
OUTPUT_BYTES_MAX = 64 << 20
"""A client that does not fetch its answers is let go."""
RUN_LINES_MAX = 1024
TRANSACTION_LINES_MAX = 16_384
RUN_BYTES_MAX = 256 * 1024


class Session(asyncio.Protocol):
    """``number`` is the client's id, as CLIENT ID tells it."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number
        self.name = b""
        self.protocol = 2
        self.peer = ""
        self._reader = RequestReader(server.command_bytes_max)
        self._queue: deque[list[bytes] | CommandError] = deque()
        self._answers: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._busy = False
        self._ending = False
        self._transaction: list[list[Any]] | None = None
        self._size = 0
        """Bytes of the transaction."""
        self._broken = False
        """An error while the transaction was being put together."""
        self._watched: list[list[Any]] = []

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = transport.get_extra_info("peername")[:2]
        self.peer = f"{host}:{port}"
        if not self.server.admit(self):
            self._say(CommandError("ERR max number of clients reached"))
            self._flush()
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.server.forget(self)
        self._queue.clear()
        self._ending = True

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        try:
            for command in self._reader.feed(data):
                self._queue.append(CommandError(TOO_LONG) if isinstance(command, TooLong) else command)
        except ProtocolError as error:
            self._queue.append(CommandError(f"ERR Protocol error: {error}"))
            self._ending = True
        if not self._busy:
            self._go_on()
        if len(self._queue) > QUEUE_MAX and self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def end(self) -> None:
        """Answer no more than what is being answered, and close."""
        self._queue.clear()
        self._ending = True

    def describe(self) -> str:
        """A line of CLIENT LIST."""
        depth = -1 if self._transaction is None else len(self._transaction)
        return f"id={self.number} addr={self.peer} name={self.name.decode()} db=0 multi={depth} resp={self.protocol}"

    def _flush(self) -> None:
        """Send what was answered since the last time, in one piece."""
        transport = self._transport
        if self._answers and transport is not None and not transport.is_closing():
            transport.write(b"".join(self._answers))
            if transport.get_write_buffer_size() > OUTPUT_BYTES_MAX:
                transport.abort()
        self._answers.clear()

    def _say(self, answer: Any) -> None:
        self._answers.append(encode(answer, self.protocol))

    # --- one command after the other ---

    def _go_on(self) -> None:
        """Do what can be done now, up to what has to be waited for."""
        self._busy = True
        queue = self._queue
        while queue:
            command = queue.popleft()
            if isinstance(command, CommandError):
                self._broken = True
                self._say(command)
                continue
            self.server.commands_done += 1
            if self._begin(command):
                self._flush()
                return
        self._flush()
        self._busy = False
        transport = self._transport
        if transport is not None:
            if self._ending:
                transport.close()
            elif not transport.is_reading() and not transport.is_closing():
                transport.resume_reading()

    def _begin(self, command: list[bytes]) -> bool:
        """Whether the answer is still to come."""
        name = command[0].decode("latin-1").upper()
        known = COMMANDS.get(name)
        problem = self._problem(name, command)
        if problem is not None:
            self._broken = self._broken or self._transaction is not None
            self._say(problem)
            return False
        if self._transaction is not None and name not in connection_commands.IMMEDIATE:
            return self._enqueue([name, *command[1:]])
        if known is None:
            return self._do_own(name, command[1:])
        lines = self._with_those_that_follow([name, *command[1:]], known.writes)
        if known.writes:
            self._submit(lines)
        elif self.server.linearizable:
            self._read_when_certain(lines)
        else:
            self._read(lines)
            return False
        return True

    def _with_those_that_follow(self, line: list[Any], writes: bool) -> list[list[Any]]:
        """A command on keys, and those that stand behind it and do the same, reading or writing."""
        lines, size = [line], _size(line)
        queue = self._queue
        while queue and len(lines) < RUN_LINES_MAX and size < RUN_BYTES_MAX:
            command = queue[0]
            if isinstance(command, CommandError):
                break
            name = command[0].decode("latin-1").upper()
            known = COMMANDS.get(name)
            if known is None or known.writes is not writes or self._problem(name, command) is not None:
                break
            queue.popleft()
            self.server.commands_done += 1
            line = [name, *command[1:]]
            lines.append(line)
            size += _size(line)
        return lines

    @staticmethod
    def _problem(name: str, command: list[bytes]) -> CommandError | None:
        known = COMMANDS.get(name) or connection_commands.OWN.get(name)
        if known is None:
            shown = "".join([f"'{each[:128].decode('latin-1')}' " for each in command[1:21]])
            return CommandError(
                f"ERR unknown command '{command[0][:128].decode('latin-1')}', with args beginning with: {shown}"
            )
        count = len(command) - 1
        if count < known.least or (known.most is not None and count > known.most):
            return wrong_count(name)
        return None

    def _do_own(self, name: str, arguments: list[bytes]) -> bool:
        """A command that is about the connection or the server, not about keys."""
        if name == "EXEC":
            return self._execute()
        try:
            answer = connection_commands.OWN[name].body(self, *arguments)
        except CommandError as error:
            answer = error
        except CopyCatError as error:
            answer = _told(error)
        self._say(answer)
        return False

    def _read(self, lines: list[list[Any]]) -> None:
        try:
            self._answers += self.server.keyspace.read(now_ms(), self.protocol, lines)
        except CopyCatError as error:
            self._answers.append(encode(_told(error), self.protocol) * len(lines))

    def _submit(self, lines: list[list[Any]]) -> None:
        def done(answer: Any, error: CopyCatError | None) -> None:
            self._answers.append(answer if error is None else encode(_told(error), self.protocol) * len(lines))
            self._go_on()

        self.server.batcher.add(Run(self.protocol, lines, sum(map(_size, lines)), None, done))

    def _read_when_certain(self, lines: list[list[Any]]) -> None:
        """Read what is committed anywhere by now; reads that wait together ask once."""

        def done(error: CopyCatError | None) -> None:
            if error is None:
                self._read(lines)
            else:
                self._answers.append(encode(_told(error), self.protocol) * len(lines))
            self._go_on()

        self.server.barriers.add(done)

    # --- transactions ---

    def begin_transaction(self) -> str:
        if self._transaction is not None:
            raise CommandError("ERR MULTI calls can not be nested")
        self._transaction, self._size, self._broken = [], 0, False
        return OK

    def discard(self) -> str:
        if self._transaction is None:
            raise CommandError("ERR DISCARD without MULTI")
        self._end_transaction()
        return OK

    def watch(self, keys: tuple[bytes, ...]) -> str:
        if self._transaction is not None:
            raise CommandError("ERR WATCH inside MULTI is not allowed")
        self._watched += self.server.keyspace.versions(now_ms(), list(keys))
        if len(self._watched) > TRANSACTION_LINES_MAX:
            self._watched = []
            raise CommandError("ERR too many keys are watched")
        return OK

    def unwatch(self) -> str:
        self._watched = []
        return OK

    def reset(self) -> None:
        self._end_transaction()
        self.protocol, self.name = 2, b""

    def _end_transaction(self) -> None:
        self._transaction, self._broken, self._watched = None, False, []

    def _enqueue(self, line: list[Any]) -> bool:
        assert self._transaction is not None
        self._size += _size(line)
        if self._size > self.server.command_bytes_max or len(self._transaction) >= TRANSACTION_LINES_MAX:
            self._broken = True
            self._say(CommandError("ERR the transaction is too long"))
        else:
            self._transaction.append(line)
            self._say("QUEUED")
        return False

    def _execute(self) -> bool:
        lines, broken, watched = self._transaction, self._broken, self._watched
        self._end_transaction()
        if lines is None:
            self._say(CommandError("ERR EXEC without MULTI"))
        elif broken:
            self._say(CommandError("EXECABORT Transaction discarded because of previous errors."))
        else:
            return self._carry_out(lines, watched)
        return False

    def _carry_out(self, lines: list[list[Any]], watched: list[list[Any]]) -> bool:
        """What is about keys goes through the log in one piece; what is about the connection is done when that is back."""
        on_keys = [line for line in lines if line[0] in COMMANDS]

        def done(answers: Any, error: CopyCatError | None) -> None:
            if error is not None:
                self._say(_told(error))
            elif answers is None:
                self._say(NO_ARRAY)
            else:
                self._answers.append(array_head(len(lines)))
                found = iter(answers)
                for line in lines:
                    if line[0] in COMMANDS:
                        self._answers.append(next(found))
                    else:
                        self._do_own(line[0], line[1:])
            self._go_on()

        self.server.batcher.add(Run(self.protocol, on_keys, sum(map(_size, on_keys)), watched, done))
        return True


def _size(line: list[Any]) -> int:
    return sum(map(len, line)) + 5 * len(line)


def _told(error: CopyCatError) -> CommandError:
    if isinstance(error, OutcomeUnknown):
        return CommandError(f"UNKNOWN whether the command was done: {error}")
    return CommandError(f"UNAVAILABLE {error}")
