"""Whole clusters in virtual time: one seed is one run, and those that once found a bug find it no more."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from copycat.testing.linearizability import Call, Model, Operation, explains, is_linearizable
from copycat.testing.scenario import Fault, FaultKind, Scenario, draw
from copycat.testing.simulation import run, shrink
from copycat.testing.world import SimulationError

REGRESSIONS = {
    7310: "a removed voter was destroyed before those that stayed had it on disk that they need it no more",
    86253931131: "a leader that was removed while it wrote stopped its node with its own acknowledgement",
    1: "a snapshot was announced again while it was being installed",
    4: "a detached leader with a full log never adopted a snapshot that ended where its log ends",
    7: "what was being written for a destroyed replica staged more writes for it",
    9: "a learner refused a snapshot from before it joined; the provider ran before items were handed out",
    26: "a follower that missed the announcement of a snapshot waited for a minute",
    29: "a replica was made anew while the destruction of its predecessor was being written",
    30: "a lease on a snapshot outlived its replica; a removed voter did not hear of it",
    44: "a consumer's snapshot was deleted with the replica it came from",
    63: "a consumer ahead of its new replica was asked for a snapshot",
    88: "a removed learner did not hear of it",
    99: "log that was passed while a snapshot was made did not count towards the next",
    243: "a voter that came back without knowing that it is the only one left was refused for ever",
    223: "the order of messages depended on the hashes of strings",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    library = logging.getLogger("copycat")
    level = library.level
    library.setLevel(logging.CRITICAL)
    yield
    library.setLevel(level)


@pytest.mark.parametrize("seed", sorted(REGRESSIONS))
def test_a_seed_that_found_a_bug_finds_it_no_more(seed: int) -> None:
    """A seed stands for one run of one version: these are kept because their mixes of faults once were fruitful."""
    report = run(draw(seed))
    assert report.failure is None, f"{REGRESSIONS[seed]}: {report.failure}"


def test_a_seed_is_one_run_whatever_the_hashes_of_strings() -> None:
    seeds = [random.SystemRandom().randrange(1 << 40) for _ in range(2)]
    code = (
        "import logging, sys; logging.disable(logging.CRITICAL)\n"
        "from copycat.testing.scenario import draw\n"
        "from copycat.testing.simulation import run\n"
        f"for seed in {seeds}: print(run(draw(seed)).digest)"
    )
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1, f"seeds {seeds} differ between processes: {outputs}"


def test_different_seeds_are_different_runs() -> None:
    assert run(short(1)).digest != run(short(2)).digest


def test_a_node_that_lost_all_is_brought_up_in_frames_that_it_accepts() -> None:
    """What it lacks is longer than a frame: it once was sent as one, and refused, for ever."""
    scenario = draw(3)
    small = replace(
        scenario.config,
        replicas=3,
        gossip_profile="local",
        proposal_bytes_max=1024,
        batch_proposals_max=4,
        batch_bytes_max=200,
        snapshot_chunk_bytes=512,
        frame_bytes_max=4096,
        snapshot_log_bytes=1 << 20,
        snapshot_log_entries=100_000,
        log_bytes_max=1 << 30,
        in_flight_proposals_max=64,
        in_flight_bytes_max=20_000,
    )
    habits = replace(scenario.habits, step_s=0.1, send_chance=0.5, burst_max=4, padding_bytes=100)
    scenario = replace(
        scenario,
        config=small,
        habits=habits,
        nodes=3,
        groups=1,
        replicas=3,
        subscribers=1.0,
        specimens=(),
        chaos_s=14.0,
        faults=(Fault(12.0, FaultKind.WIPE, 0.5, 1),),
    )
    report = run(scenario)
    assert report.failure is None, report.failure
    assert report.committed > 100


def test_a_failing_scenario_is_cut_down_to_the_fault_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = replace(
        short(3),
        nodes=3,
        faults=tuple(Fault(0.2 * number, kind, 0.1, number) for number, kind in enumerate(
            (FaultKind.CLOSE, FaultKind.PAUSE, FaultKind.CRASH_ALL, FaultKind.CLOCK_JUMP)
        )),
    )  # fmt: skip

    def fail(*_: object) -> None:
        raise SimulationError("planted", "not every node may crash at once")

    monkeypatch.setattr("copycat.testing.faults.Chaos._crash_all", fail)
    cut = shrink(scenario)
    assert [fault.kind for fault in cut.faults] == [FaultKind.CRASH_ALL]
    assert cut.chaos_s < scenario.chaos_s


def short(seed: int) -> Scenario:
    return replace(draw(seed), chaos_s=2.0, groups=1, faults=())


class TestLinearizability:
    def test_a_read_may_return_the_write_it_overlaps_or_the_one_before(self) -> None:
        for seen in ("a", "b"):
            history = [write("a", 0, 1), write("b", 2, 5), read(seen, 3, 4)]
            assert is_linearizable(history)

    def test_a_read_after_a_write_returned_must_see_it(self) -> None:
        assert is_linearizable([write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)]) is False

    def test_two_reads_in_a_row_never_go_back(self) -> None:
        history = [write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)]
        assert is_linearizable(history) is False

    def test_a_write_without_an_answer_may_have_happened_or_not(self) -> None:
        open_write = Operation(True, "b", 2.0)
        assert is_linearizable([write("a", 0, 1), open_write, read("a", 3, 4)])
        assert is_linearizable([write("a", 0, 1), open_write, read("b", 3, 4)])
        assert is_linearizable([write("a", 0, 1), open_write, read("b", 3, 4), read("a", 5, 6)]) is False

    def test_a_value_that_nobody_wrote_is_never_read(self) -> None:
        assert is_linearizable([read("a", 0, 1)]) is False
        assert is_linearizable([read(None, 0, 1)])


def step_counter(value: int, name: str, arguments: tuple[int, ...]) -> tuple[int, int]:
    return (value + arguments[0],) * 2 if name == "add" else (value, value)


class TestModels:
    def test_results_tell_in_which_order_calls_took_effect(self) -> None:
        counter = Model(0, step_counter)
        calls = [Call("add", (1,), 0, 9, 3), Call("add", (2,), 1, 8, 2), Call("value", (), 10, 11, 3)]
        assert explains(counter, calls)
        assert explains(counter, [Call("add", (1,), 0, 2, 3), Call("add", (2,), 3, 8, 2)]) is False

    def test_a_call_that_was_applied_twice_is_found(self) -> None:
        counter = Model(0, step_counter)
        assert explains(counter, [Call("add", (1,), 0, 1, 1), Call("value", (), 2, 3, 2)]) is False

    def test_a_call_without_an_answer_may_have_taken_effect_late(self) -> None:
        counter = Model(0, step_counter)
        calls = [Call("add", (5,), 0), Call("value", (), 1, 2, 0), Call("add", (1,), 3, 4, 6)]
        assert explains(counter, calls)
        assert explains(counter, [*calls, Call("value", (), 5, 6, 1)]) is False

    def test_a_write_that_would_change_nothing_now_may_change_something_later(self) -> None:
        register = Model(0, lambda value, name, arguments: (arguments[0], None) if name == "put" else (value, value))
        first, other, again = Call("put", (2,), 0, 1), Call("put", (3,), 2, 9), Call("put", (2,), 2, 9)
        assert explains(register, [first, other, again, Call("get", (), 10, 11, 2)])
        assert explains(register, [first, other, again, Call("get", (), 10, 11, 3)])
        assert explains(register, [first, other, again, Call("get", (), 10, 11, 4)]) is False

    def test_independent_parts_are_searched_apart(self) -> None:
        registers = Model(0, lambda _, name, arguments: (arguments[1],) * 2, key=lambda name, arguments: arguments[0])
        many = [Call("set", (key, 1), 0, 9, 1) for key in range(200)]
        assert explains(registers, many, states_max=10)

    def test_a_search_that_grows_too_large_is_given_up(self) -> None:
        counter = Model(0, step_counter)
        calls = [Call("add", (1 << number,), 0) for number in range(20)] + [Call("value", (), 1, 2, -1)]
        assert explains(counter, calls, states_max=100) is None


def write(value: str, invoked: float, answered: float) -> Operation:
    return Operation(True, value, invoked, answered)


def read(value: str | None, invoked: float, answered: float) -> Operation:
    return Operation(False, value, invoked, answered)
