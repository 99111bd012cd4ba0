"""Dict, Set, Queue, Log and Counter do what Python's own dict, set, deque, list and int do, whoever of three copies is asked."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from copycat.errors import Timeout
from copycat.structures import Counter, Dict, Log, Queue, Set

EXAMPLES = settings(
    max_examples=6, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.binary(max_size=3)
keys = scalars | st.floats(-2, 2, width=16)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner))
copies = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    """Three copies, on as many nodes as there are, beside the model."""

    cluster = None
    kind = None

    def __init__(self):
        super().__init__()
        id_ = self.cluster.allocate()
        cats = self.cluster.cats
        self.copies = [type(self).kind(cats[number % len(cats)], id_).open() for number in range(3)]

    def on(self, number):
        self.copies[number].barrier()
        return self.copies[number]

    def teardown(self):
        for copy in self.copies:
            copy.close()


def raised_or_returned(call):
    try:
        return call()
    except (KeyError, IndexError) as error:
        return type(error)


class DictMachine(Machine):
    kind = Dict

    def __init__(self):
        super().__init__()
        self.model = {}

    @rule(copy=copies, key=keys, value=values)
    def put(self, copy, key, value):
        self.copies[copy][key] = value
        self.model[key] = value
        assert self.copies[copy][key] == value  # reads its own writes

    @rule(copy=copies, key=keys)
    def delete(self, copy, key):
        assert raised_or_returned(lambda: self.copies[copy].__delitem__(key)) == raised_or_returned(
            lambda: self.model.__delitem__(key)
        )

    @rule(copy=copies, key=keys, default=st.just(()) | st.tuples(values))
    def pop(self, copy, key, default):
        assert raised_or_returned(lambda: self.copies[copy].pop(key, *default)) == raised_or_returned(
            lambda: self.model.pop(key, *default)
        )

    @rule(copy=copies)
    def popitem(self, copy):
        assert raised_or_returned(self.copies[copy].popitem) == raised_or_returned(self.model.popitem)

    @rule(copy=copies, key=keys, value=values)
    def setdefault(self, copy, key, value):
        assert self.copies[copy].setdefault(key, value) == self.model.setdefault(key, value)

    @rule(copy=copies, items=st.dictionaries(keys, values, max_size=4))
    def update(self, copy, items):
        self.copies[copy].update(items)
        self.model.update(items)

    @rule(copy=copies, key=keys, value=values, other=values)
    def compare_and_put(self, copy, key, value, other):
        expected = key in self.model and self.model[key] == value
        assert self.copies[copy].compare_and_put(key, value, other) == expected
        if expected:
            self.model[key] = other

    @rule(copy=copies)
    def clear(self, copy):
        self.copies[copy].clear()
        self.model.clear()

    @rule(copy=copies, key=keys)
    def look(self, copy, key):
        shared = self.on(copy)
        assert shared.get(key, "none") == self.model.get(key, "none")
        assert (key in shared) == (key in self.model)
        assert len(shared) == len(self.model)

    @invariant()
    def every_copy_is_the_model_in_the_same_order(self):
        for number in range(3):
            shared = self.on(number)
            assert list(shared.copy().items()) == list(self.model.items())
            assert list(shared) == list(self.model)


class SetMachine(Machine):
    kind = Set

    def __init__(self):
        super().__init__()
        self.model = set()

    @rule(copy=copies, element=keys)
    def add(self, copy, element):
        assert self.copies[copy].add(element) == (element not in self.model)
        self.model.add(element)
        assert element in self.copies[copy]

    @rule(copy=copies, element=keys)
    def remove(self, copy, element):
        assert raised_or_returned(lambda: self.copies[copy].remove(element)) == raised_or_returned(
            lambda: self.model.remove(element)
        )

    @rule(copy=copies, elements=st.sets(keys, max_size=4))
    def union_in_place(self, copy, elements):
        shared = self.copies[copy]
        shared |= elements
        self.model |= elements

    @rule(copy=copies, elements=st.lists(keys, max_size=4))
    def update(self, copy, elements):
        assert self.copies[copy].update(elements) == len(set(elements) - self.model)
        self.model.update(elements)

    @rule(copy=copies)
    def pop(self, copy):
        if not self.model:
            with pytest.raises(KeyError):
                self.copies[copy].pop()
        else:
            self.model.remove(self.copies[copy].pop())

    @rule(copy=copies, elements=st.sets(keys, max_size=4))
    def compare(self, copy, elements):
        shared = self.on(copy)
        assert shared & elements == self.model & elements
        assert shared - elements == self.model - elements
        assert (shared <= elements) == (self.model <= elements)

    @invariant()
    def every_copy_is_the_model(self):
        orders = [list(self.on(number)) for number in range(3)]
        assert set(orders[0]) == self.model
        assert orders[0] == orders[1] == orders[2]


class QueueMachine(Machine):
    kind = Queue

    def __init__(self):
        super().__init__()
        self.model = deque()

    @rule(copy=copies, item=values)
    def put(self, copy, item):
        self.copies[copy].put(item)
        self.model.append(item)

    @rule(copy=copies, items=st.lists(values, max_size=4))
    def put_many(self, copy, items):
        self.copies[copy].put_many(items)
        self.model.extend(items)

    @rule(copy=copies)
    def get(self, copy):
        if self.model:
            assert self.copies[copy].get(timeout=0) == self.model.popleft()
        else:
            with pytest.raises(Timeout):
                self.copies[copy].get(timeout=0)

    @invariant()
    def every_copy_is_the_model(self):
        for number in range(3):
            assert self.on(number).copy() == list(self.model)


class LogMachine(Machine):
    kind = Log

    def __init__(self):
        super().__init__()
        self.model = []
        self.first = 0

    @rule(copy=copies, item=values)
    def append(self, copy, item):
        assert self.copies[copy].append(item) == len(self.model)
        self.model.append(item)

    @rule(copy=copies, items=st.lists(values, max_size=4))
    def extend(self, copy, items):
        assert self.copies[copy].extend(items) == len(self.model)
        self.model.extend(items)

    @rule(copy=copies, before=st.integers(-2, 30))
    def truncate(self, copy, before):
        first = min(max(self.first, before), len(self.model))
        assert self.copies[copy].truncate(before) == first - self.first
        self.first = first

    @rule(copy=copies, index=st.integers(-5, 30))
    def look(self, copy, index):
        log = self.on(copy)
        kept = self.model[self.first :]
        held = self.first <= index < len(self.model) or -len(kept) <= index < 0
        assert raised_or_returned(lambda: log[index]) == (self.model[index] if held else IndexError)
        assert log.since(max(0, index)) == self.model[max(self.first, index, 0) :]
        assert log.tail(3) == kept[-3:]

    @invariant()
    def every_copy_is_the_model(self):
        for number in range(3):
            log = self.on(number)
            assert (log.first, list(log)) == (self.first, self.model[self.first :])


class CounterMachine(Machine):
    kind = Counter

    def __init__(self):
        super().__init__()
        self.model = 0

    @rule(copy=copies, amount=st.integers(-(1 << 40), 1 << 40))
    def add(self, copy, amount):
        self.model += amount
        assert self.copies[copy].add(amount) == self.model

    @rule(copy=copies, expected=st.integers(-2, 2), value=st.integers(-2, 2))
    def compare_and_set(self, copy, expected, value):
        assert self.copies[copy].compare_and_set(expected, value) == (self.model == expected)
        if self.model == expected:
            self.model = value

    @invariant()
    def every_copy_is_the_model(self):
        assert [self.on(number).value for number in range(3)] == [self.model] * 3


@pytest.mark.parametrize("machine", [DictMachine, SetMachine, QueueMachine, LogMachine, CounterMachine])
@pytest.mark.parametrize("cluster", ["one", "three"])
def test_it_does_what_pythons_own_does(request, machine, cluster):
    bound = type(machine.__name__, (machine,), {"cluster": request.getfixturevalue(cluster)})
    run_state_machine_as_test(bound, settings=EXAMPLES)
