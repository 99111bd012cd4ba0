"""What clients of real processes called, and what they were answered: JSON lines, for this checker and for others.

One object a line, with these members:

    process     the name of the process; a number of calls of one process may be under way at once
    call        names the call within its process: its other line has the same
    type        "invoke", then "ok", "fail" (it did not happen, and never will) or "unknown" (nobody knows)
    operation   {"f": "write" or "read", "register": name, "value": what was written, or what an answered read returned}
    time        nanoseconds on the monotonic clock of the machine, which all its processes share

A call whose process was killed has its invoke line alone: its outcome is unknown.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from copycat.testing.linearizability import Operation, is_linearizable

EPOCH_S = 0.5
"""A register is used for so long: histories of one stay short enough to be searched."""
REGISTERS = 2
"""At a time."""


class History:
    """Written by one process, from any of its threads."""

    def __init__(self, path: str, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._process = process
        self._rng = random.Random(process)
        self._lock = threading.Lock()

    def register(self) -> str:
        """The name of a register that is in use now, by all processes."""
        with self._lock:
            return f"{int(time.monotonic() / EPOCH_S)}.{self._rng.randrange(REGISTERS)}"

    def begin(self, call: int, kind: str, register: str, value: str | None) -> None:
        """Written before anything is sent."""
        self._write(call, "invoke", {"f": kind, "register": register, "value": value})

    def end(self, call: int, outcome: str, kind: str = "write", register: str = "", value: str | None = None) -> None:
        """Written after the answer came."""
        self._write(call, outcome, {"f": kind, "register": register, "value": value} if kind == "read" else {"f": kind})

    def _write(self, call: int, kind: str, operation: dict[str, Any]) -> None:
        line = {
            "process": self._process,
            "call": call,
            "type": kind,
            "operation": operation,
            "time": time.monotonic_ns(),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines: the last one may be cut by a kill."""
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def operations(lines: Iterable[dict[str, Any]]) -> dict[str, list[Operation]]:
    """By register. What failed is left out, and so are reads that nobody saw the answer of."""
    found: dict[str, list[Operation]] = defaultdict(list)
    invoked: dict[tuple[str, int], dict[str, Any]] = {}
    ended: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        (invoked if line["type"] == "invoke" else ended)[line["process"], line["call"]] = line
    for call, line in invoked.items():
        operation, end = line["operation"], ended.get(call)
        is_write = operation["f"] == "write"
        answered = end["time"] / 1e9 if end is not None and end["type"] == "ok" else math.inf
        if (end is not None and end["type"] == "fail") or (not is_write and answered == math.inf):
            continue
        value = operation["value"] if is_write or end is None else end["operation"]["value"]
        found[operation["register"]].append(Operation(is_write, value, line["time"] / 1e9, answered))
    return found


def check(lines: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """How many registers were looked at, and how many of them were too tangled to be judged.

    Raises AssertionError with the history of the first that is not linearizable.
    """
    given_up = 0
    registers = operations(lines)
    for name, history in registers.items():
        verdict = is_linearizable(history)
        assert verdict is not False, f"register {name} is not linearizable: {history}"
        given_up += verdict is None
    return len(registers), given_up
