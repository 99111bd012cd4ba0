"""What a simulated world needs to know of a structure: how to make one, what its clients do, and what it should do.

A :class:`Specimen` of one's own structure is all that :func:`copycat.testing.simulation.run` wants in
``Scenario.specimens``; docs/simulation.md shows one. Those of the ready-made structures are in :data:`SPECIMENS`. Their models
are written to be obviously right, and share no line with what they judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from copycat.structures import Counter, Dict, Lock, Log, Operation, Queue, Replicated, Set
from copycat.testing.linearizability import Model

Wish = tuple[Operation[Any, Any], list[Any]]
"""An operation, and its arguments."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A structure to be tested. ``name`` is for reports.

    ``make`` is the structure's class. ``wish(rng, client)`` draws what a client does next, ``client`` being its id. ``reads``
    are taken behind a barrier, and stand in the history, and so in the model, under their names. ``model`` says what each
    operation and read returns; a refusal is returned as :data:`REFUSED`.
    """

    name: str
    make: Callable[..., Replicated]
    wish: Callable[[random.Random, bytes], Wish]
    model: Model
    reads: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


REFUSED = "refused"
"""The result of an operation that raised :class:`~copycat.errors.Refused`."""


# --- Counter --------------------------------------------------------------------------------------------------------


def _counter_wish(rng: random.Random, client: bytes) -> Wish:
    if rng.random() < 0.3:
        return Counter.compare_and_set, [rng.randrange(5), rng.randrange(5)]
    return Counter.add, [rng.choice((1, 2, -1, -3))]


def _counter_step(value: int, name: str, arguments: tuple[Any, ...]) -> tuple[int, Any]:
    if name == "add":
        return value + arguments[0], value + arguments[0]
    if name == "compare_and_set":
        expected, wanted = arguments
        return (wanted, True) if value == expected else (value, False)
    return value, value


# --- Dict, key by key -----------------------------------------------------------------------------------------------

_MISSING = "no such key"


def _dict_wish(rng: random.Random, client: bytes) -> Wish:
    key, value = rng.choice("abc"), rng.randrange(4)
    kind = rng.random()
    if kind < 0.4:
        return Dict.put, [key, value]
    if kind < 0.6:
        return Dict.compare_and_put, [key, rng.randrange(4), value]
    return (Dict.put_if_absent, [key, value]) if kind < 0.8 else (Dict.take, [key])


def _dict_step(value: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    if name == "put":
        return arguments[1], None
    if name == "take":
        return _MISSING, () if value == _MISSING else (value,)
    if name == "put_if_absent":
        return (arguments[1],) * 2 if value == _MISSING else (value, value)
    if name == "compare_and_put":
        return (arguments[2], True) if value == arguments[1] else (value, False)
    return value, value


def _reads_key(key: str) -> Callable[[Any], Any]:
    return lambda structure: structure.get(key, _MISSING)


def _dict_key(name: str, arguments: tuple[Any, ...]) -> Hashable:
    return arguments[0] if arguments else name.removeprefix("get ")


# --- Set ------------------------------------------------------------------------------------------------------------


def _set_wish(rng: random.Random, client: bytes) -> Wish:
    elements = [rng.choice("abcd") for _ in range(rng.randint(1, 2))]
    return (rng.choice((Set.insert, Set.delete)), [elements]) if rng.random() < 0.8 else (Set.take, [])


def _set_step(elements: tuple[str, ...], name: str, arguments: tuple[Any, ...]) -> tuple[tuple[str, ...], Any]:
    if name == "insert":
        new = [each for each in dict.fromkeys(arguments[0]) if each not in elements]
        return (*elements, *new), len(new)
    if name == "delete":
        left = tuple([each for each in elements if each not in arguments[0]])
        return left, len(elements) - len(left)
    if name == "take":
        return elements[1:], elements[:1]
    return elements, elements


# --- Queue ----------------------------------------------------------------------------------------------------------


def _queue_wish(rng: random.Random, client: bytes) -> Wish:
    if rng.random() < 0.55:
        return Queue.append, [[rng.getrandbits(32) for _ in range(rng.randint(1, 2))], rng.choice((0, 6))]
    return Queue.take, []


def _queue_step(items: tuple[int, ...], name: str, arguments: tuple[Any, ...]) -> tuple[tuple[int, ...], Any]:
    if name == "append":
        more, size_max = arguments
        return (items, False) if size_max and len(items) + len(more) > size_max else ((*items, *more), True)
    if name == "take":
        return items[1:], items[:1]
    return items, items


# --- Log ------------------------------------------------------------------------------------------------------------


def _log_wish(rng: random.Random, client: bytes) -> Wish:
    if rng.random() < 0.8:
        return Log.append, [rng.getrandbits(32)]
    return Log.truncate, [rng.randrange(40)]


def _log_step(state: tuple[int, tuple[int, ...]], name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    first, items = state
    if name == "append":
        return (first, (*items, arguments[0])), first + len(items)
    if name == "truncate":
        count = min(max(0, arguments[0] - first), len(items))
        return (first + count, items[count:]), count
    return state, items


# --- Lock: its operations, without the clocks that go with them -----------------------------------------------------


def _lock_wish(rng: random.Random, client: bytes) -> Wish:
    if rng.random() < 0.5:
        return Lock.seize, [client, 10.0, None]
    token = rng.randint(1, 30)
    kind = rng.random()
    if kind < 0.4:
        return Lock.give_up, [client, token]
    return (Lock.renew, [client, token]) if kind < 0.7 else (Lock.expire, [token, rng.randrange(2)])


def _lock_step(state: tuple[Any, int, int], name: str, arguments: tuple[Any, ...]) -> tuple[tuple[Any, int, int], Any]:
    owner, token, renewal = state
    if name == "seize":
        return (state, 0) if owner is not None else ((arguments[0], token + 1, 0), token + 1)
    if name == "read":
        return state, (owner, token)
    if name == "expire":
        fits = owner is not None and arguments == (token, renewal)
    else:
        fits = owner is not None and arguments == (owner, token)
    if not fits:
        return state, False
    return ((owner, token, renewal + 1), True) if name == "renew" else ((None, token, 0), True)


SPECIMENS: Mapping[str, Specimen] = {
    each.name: each
    for each in (
        Specimen("Counter", Counter, _counter_wish, Model(0, _counter_step), {"value": lambda counter: counter.value}),
        Specimen(
            "Dict",
            Dict,
            _dict_wish,
            Model(_MISSING, _dict_step, _dict_key),
            {f"get {key}": _reads_key(key) for key in "abc"},
        ),
        Specimen("Set", Set, _set_wish, Model((), _set_step), {"all": lambda elements: list(elements)}),
        Specimen("Queue", Queue, _queue_wish, Model((), _queue_step), {"all": lambda queue: queue.copy()}),
        Specimen("Log", Log, _log_wish, Model((0, ()), _log_step), {"all": lambda log: log.since(0)}),
        Specimen(
            "Lock", Lock, _lock_wish, Model((None, 0, 0), _lock_step), {"read": lambda lock: [lock.owner, lock.token]}
        ),
    )
}
"""The ready-made structures. An Election is a Lock with something to say."""
