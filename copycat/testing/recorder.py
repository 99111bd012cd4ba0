"""A node as a process of its own that proposes all the time and writes down all it is handed: made to be killed.

    python -m copycat.testing.recorder '{"name": ..., "record": ..., "group": ..., "config": {...}, "ballast": 0, "wave": 50}'

What a killed process had written is still in its record, a text file with one line for each thing that happened, in order:

    7 a.1:3       item ``a.1:3`` was handed out; its position is 7
    @7 4fa6...    a snapshot was loaded that stands for position 7, with this digest of all items up to there
    +3 7          this process' third proposal was confirmed at position 7
    -3 Error      ... or failed

With ``"history": PATH`` it is also a client of registers: an item may end in the name of a register, which it then sets, and the
registers are read behind barriers. What is called and answered is written to that file as JSON lines; docs/simulation.md
describes them.

It says ``ready``, is told how many nodes to wait for, and says ``subscribed``. Then orders come on stdin, one a line, and
each is answered by one line on stdout. ``status`` is answered by role, term and position; ``stop`` makes it stop proposing,
wait until everything is settled and handed out, shut down, and exit.
:mod:`copycat.testing.records` reads what several of them wrote, and says whether it fits together.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from copycat.config import Config
from copycat.errors import Closed, CopyCatError, ProposalDropped
from copycat.ids import DataStructureId
from copycat.node import CopyCat
from copycat.testing.history import History
from copycat.testing.nodes import wait_until
from copycat.testing.records import EMPTY_DIGEST, next_digest

PATIENCE_S = 60.0
RECEIVE_MAX = 1000
WAVES_EVERY_S = 0.05
READS_EVERY_S = 0.05


class Recorder:
    """The process' life. ``ballast`` is how many bytes its snapshots have beyond what they say."""

    def __init__(
        self, name: str, record: str, group: str, config: dict[str, Any], ballast: int, wave: int, history: str = ""
    ) -> None:
        self._name = name
        self._ballast = ballast
        self._wave = wave
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._digest = EMPTY_DIGEST
        self._registers: dict[str, str] = {}
        self._applied = 0
        self._taken = threading.Condition()
        self._history = History(history, name) if history else None
        self._stopping = threading.Event()
        self._node = CopyCat(Config(**config))
        self._say(f"ready {self._node.node_id}")
        known = int(sys.stdin.readline())
        wait_until(
            lambda: sum(member.state == "alive" for member in self._node.members()) >= known,
            "all are known",
            PATIENCE_S,
        )
        self._sub = self._node.subscribe_to_data_structure(
            DataStructureId.parse(group), self._provide, timeout=PATIENCE_S
        )
        self._say("subscribed")
        self._consumer = threading.Thread(target=self._consume, daemon=True)
        self._proposer = threading.Thread(target=self._propose, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._consumer.start()
        self._proposer.start()
        if self._history is not None:
            self._reader.start()

    def obey(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self._stop()
                return
            status = self._sub.status()
            self._say(f"{status.role} {status.term} {self._sub.commits.position}")
        os._exit(1)  # whoever gave the orders is dead

    def _stop(self) -> None:
        self._stopping.set()
        self._proposer.join(PATIENCE_S)
        if self._history is not None:
            self._reader.join(PATIENCE_S)
        self._sub.flush(PATIENCE_S)
        self._say("quiet")
        sys.stdin.readline()  # until all are quiet
        self._sub.barrier(PATIENCE_S)
        self._say(f"position {self._sub.commits.position}")
        sys.stdin.readline()  # until all have caught up
        self._node.shutdown()
        self._consumer.join(PATIENCE_S)
        self._say("ended")

    def _consume(self) -> None:
        commits = self._sub.commits
        while True:
            try:
                items = commits.receive_many(RECEIVE_MAX)
            except Closed:
                return
            first = commits.position - len(items) + 1
            self._take(first, items)

    def _take(self, first: int, items: Sequence[bytes | None]) -> None:
        lines = []
        with self._taken:
            for position, item in enumerate(items, first):
                if item is None:
                    self._load(self._sub.snapshot_consumer())
                    continue
                self._digest = next_digest(self._digest, item)
                value, _, register = item.decode().partition(" ")
                if register:
                    self._registers[register] = value
                lines.append(f"{position} {item.decode()}\n")
            self._applied = self._sub.commits.position
            self._taken.notify_all()
        self._write("".join(lines))

    def _provide(self) -> Iterator[bytes]:
        yield self._digest
        registers = json.dumps(self._registers).encode()
        yield len(registers).to_bytes(4, "big")
        yield registers
        piece = hashlib.sha256(self._digest).digest() * 1024
        for _ in range(self._ballast // len(piece)):
            yield piece

    def _load(self, snapshot: bytes) -> None:
        size = len(self._digest)
        self._digest = snapshot[:size]
        end = size + 4 + int.from_bytes(snapshot[size : size + 4], "big")
        self._registers = json.loads(snapshot[size + 4 : end])
        piece = hashlib.sha256(self._digest).digest() * 1024
        assert snapshot[end:] == piece * (self._ballast // len(piece)), "the snapshot is not what was made"
        self._write(f"@{self._sub.commits.position} {self._digest.hex()}\n")

    def _propose(self) -> None:
        count = 0
        while not self._stopping.is_set():
            waiting: list[tuple[int, Future[int]]] = []
            try:
                for _ in range(self._wave):
                    count += 1
                    item = f"{self._name}:{count}"
                    if self._history is not None:
                        register = self._history.register()
                        self._history.begin(count, "write", register, item)
                        item += f" {register}"
                    waiting.append((count, self._sub.propose.submit(item.encode(), PATIENCE_S)))
            except Closed:
                return
            self._write("".join([self._outcome(number, future) for number, future in waiting]))
            if self._history is not None:
                self._stopping.wait(WAVES_EVERY_S)

    def _outcome(self, number: int, future: Future[int]) -> str:
        try:
            position = future.result(PATIENCE_S)
        except CopyCatError as error:
            if self._history is not None:
                self._history.end(number, "fail" if isinstance(error, ProposalDropped) else "unknown")
            return f"-{number} {type(error).__name__}\n"
        if self._history is not None:
            self._history.end(number, "ok")
        return f"+{number} {position}\n"

    def _read(self) -> None:
        """Read registers behind barriers, one after the other."""
        history = self._history
        assert history is not None
        number = 0
        while not self._stopping.wait(READS_EVERY_S):
            number -= 1
            register = history.register()
            history.begin(number, "read", register, None)
            try:
                position = self._sub.committed().result(PATIENCE_S)
            except Closed:
                return
            except (CopyCatError, FutureTimeout):
                history.end(number, "fail", "read", register, None)
                continue
            with self._taken:
                if self._taken.wait_for(lambda: self._applied >= position, PATIENCE_S):  # noqa: B023 (it is called at once)
                    history.end(number, "ok", "read", register, self._registers.get(register))
                else:
                    history.end(number, "fail", "read", register, None)

    def _write(self, lines: str) -> None:
        os.write(self._record, lines.encode())

    @staticmethod
    def _say(line: str) -> None:
        print(line, flush=True)


def main() -> None:
    threading.excepthook = _die
    Recorder(**json.loads(sys.argv[1])).obey()


def _die(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        sys.excepthook(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    os._exit(70)


if __name__ == "__main__":
    main()
