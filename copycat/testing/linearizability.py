"""Is a history linearizable? The search of Wing and Gong, with Lowe's memory of what was tried.

Wing & Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017). A history is a list
of calls, each with the time it was invoked and, if it ever was, answered. It is linearizable if every call can be given one
moment between the two such that, in the order of these moments, each returns what a sequential object would return: the
:class:`Model`. A call that was never answered may have happened at any time after it was invoked, or not at all.

This knows nothing of logs, positions or groups: it judges what clients saw, and only that. A history of many independent
parts (the keys of a dict) is searched part by part: linearizability is local (Herlihy & Wing 1990), and that is much faster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

STATES_MAX = 5_000
"""The problem is NP-complete (Gibbons & Korach 1997): a search that has seen so many states is given up."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call on an object, and what it returned. Times on one clock; ``answered`` is infinite if it never was."""

    name: str
    arguments: tuple[Any, ...]
    invoked: float
    answered: float = math.inf
    result: Any = None


def _one(_name: str, _arguments: tuple[Any, ...]) -> Hashable:
    return None


@dataclass(frozen=True, slots=True)
class Model:
    """A sequential object, as a function.

    ``step(state, name, arguments)`` returns the next state and the result. States are immutable and hashable: an int, a
    string, a tuple, a frozenset. ``key(name, arguments)`` names the independent part of the object that a call concerns.
    ``reads`` are the names of calls that never change anything: knowing them makes the search short.
    """

    initial: Hashable
    step: Callable[[Any, str, tuple[Any, ...]], tuple[Any, Any]]
    key: Callable[[str, tuple[Any, ...]], Hashable] = _one
    reads: frozenset[str] = frozenset()


def explains(model: Model, history: Iterable[Call], states_max: int = STATES_MAX) -> bool | None:
    """Whether one order of all answered calls, and some unanswered ones, explains every result; None if it was given up."""
    parts: dict[Hashable, list[Call]] = defaultdict(list)
    for call in history:
        parts[model.key(call.name, call.arguments)].append(call)
    given_up = False
    for calls in parts.values():
        verdict = _explains_part(model, calls, states_max)
        if verdict is False:
            return False
        given_up = given_up or verdict is None
    return None if given_up else True


def _explains_part(model: Model, history: list[Call], states_max: int) -> bool | None:
    calls = sorted(history, key=lambda each: each.invoked)
    wanted = sum(1 << number for number, each in enumerate(calls) if each.answered < math.inf)
    tried: set[tuple[int, Any]] = set()
    # Each state: what has taken effect, as bits, and the object after it.
    stack: list[tuple[int, Any]] = [(0, model.initial)]
    while stack:
        done, state = found = stack.pop()
        if done & wanted == wanted:
            return True
        if found in tried:
            continue
        if len(tried) >= states_max:
            return None
        tried.add(found)
        stack += _next_states(model, calls, done, state)
    return False


def _next_states(model: Model, calls: list[Call], done: int, state: Any) -> list[tuple[int, Any]]:
    """What can take effect next: whatever was invoked before the first answer among what is left."""
    first_answer = math.inf
    candidates: list[tuple[int, Call]] = []
    for number in range((~done & (done + 1)).bit_length() - 1, len(calls)):
        each = calls[number]
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
        after, result = model.step(state, each.name, each.arguments)
        if each.answered == math.inf:
            if after != state:
                states.append((done | 1 << number, after))
        elif result == each.result:
            if each.name in model.reads:
                # A read that fits here fits as well as anywhere later: nothing else needs to be tried.
                return [(done | 1 << number, state)]
            states.append((done | 1 << number, after))
    return states


# --- one register ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """A write of ``value``, or a read that returned it (None: the register was never written)."""

    is_write: bool
    value: str | None
    invoked: float
    answered: float = math.inf


def _step_register(value: str | None, name: str, arguments: tuple[Any, ...]) -> tuple[str | None, str | None]:
    return (arguments[0], None) if name == "write" else (value, value)


def is_linearizable(history: list[Operation], initial: str | None = None) -> bool | None:
    """:func:`explains` for a register: every read returns what the latest write wrote."""
    calls = [
        Call("write", (each.value,), each.invoked, each.answered)
        if each.is_write
        else Call("read", (), each.invoked, each.answered, each.value)
        for each in history
        if each.is_write or each.answered < math.inf
    ]
    return explains(Model(initial, _step_register, reads=frozenset(["read"])), calls)
