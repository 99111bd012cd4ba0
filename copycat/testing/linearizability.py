"""Is a history of one register linearizable? The search of Wing and Gong, with Lowe's memory of what was tried.

Wing & Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017). A history is a list
of operations, each with the time it was invoked and, if it ever was, answered. It is linearizable if every operation
can be given one moment between the two such that, in the order of these moments, each read returns what the latest
write wrote. An operation that was never answered may have happened at any time after it was invoked, or not at all.

This knows nothing of logs, positions or groups: it judges what clients saw, and only that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """A write of ``value``, or a read that returned it (None: the register was never written)."""

    is_write: bool
    value: str | None
    invoked: float
    answered: float = math.inf


STATES_MAX = 5_000
"""The problem is NP-complete (Gibbons & Korach 1997): a search that has seen so many states is given up."""


def is_linearizable(history: list[Operation], initial: str | None = None) -> bool | None:
    """Whether one order of all answered operations, and some unanswered writes, explains every read.

    None if the search was given up.
    """
    operations = sorted(
        (each for each in history if each.is_write or each.answered < math.inf), key=lambda each: each.invoked
    )
    wanted = sum(1 << number for number, each in enumerate(operations) if each.answered < math.inf)
    tried: set[tuple[int, str | None]] = set()
    # Each state: what has taken effect, as bits, and the register's value after it.
    stack: list[tuple[int, str | None]] = [(0, initial)]
    while stack:
        done, value = stack.pop()
        if done & wanted == wanted:
            return True
        if (done, value) in tried:
            continue
        if len(tried) >= STATES_MAX:
            return None
        tried.add((done, value))
        stack += _next_states(operations, done, value)
    return False


def _next_states(operations: list[Operation], done: int, value: str | None) -> list[tuple[int, str | None]]:
    """What can take effect next: whatever was invoked before the first answer among what is left."""
    first_answer = math.inf
    candidates: list[tuple[int, Operation]] = []
    for number, each in enumerate(operations):
        if each.invoked > first_answer:
            break
        if not done >> number & 1:
            candidates.append((number, each))
            first_answer = min(first_answer, each.answered)
    states = []
    # The search goes on with the last of them: let that be the one that was answered first.
    candidates.sort(key=lambda candidate: -candidate[1].answered)
    for number, each in candidates:
        if each.invoked > first_answer:
            continue
        if each.is_write:
            states.append((done | 1 << number, each.value))
        elif each.value == value:
            # A read that fits here fits as well as anywhere later: nothing else needs to be tried.
            return [(done | 1 << number, value)]
    return states
