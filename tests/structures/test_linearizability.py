"""What clients see of a Dict, key by key, can be put in one order that fits their clocks, while leaders change."""

from __future__ import annotations

import random
import threading
import time

from copycat.errors import Closed, ClusterError
from copycat.structures import Dict
from copycat.testing.linearizability import Operation, is_linearizable

KEYS = ("x", "y")
TURNS = 25
TIMEOUT_S = 20.0


def client(shared: Dict, seed: int, history: dict[str, list[Operation]]) -> None:
    """Write and read at random. A read is linearizable after a barrier; a write is when it returns."""
    rng = random.Random(seed)
    for turn in range(TURNS):
        key = rng.choice(KEYS)
        is_write = rng.random() < 0.5
        value = f"{seed}-{turn}" if is_write else None
        invoked = time.monotonic()
        try:
            if is_write:
                shared[key] = value
            else:
                shared.barrier(TIMEOUT_S)
                value = shared.get(key)
        except Closed:
            history[key].append(Operation(is_write, value, invoked))
            return
        except ClusterError:
            history[key].append(Operation(is_write, value, invoked))
            continue
        history[key].append(Operation(is_write, value, invoked, time.monotonic()))


def test_a_dict_is_linearizable_while_its_leader_goes_away(make_cluster):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    cluster = make_cluster(3)
    id_ = cluster.allocate()
    copies = [Dict(cat, id_, timeout=TIMEOUT_S).open() for cat in cluster.cats]
    history: dict[str, list[Operation]] = {key: [] for key in KEYS}
    threads = [
        threading.Thread(target=client, args=(copies[number % 3], seed + number, history)) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    leader = next(cat for cat in cluster.cats if cat.groups()[id_].role == "leader")
    while sum(map(len, history.values())) < 30:
        time.sleep(0)
    leader.shutdown()
    for thread in threads:
        thread.join(3 * TIMEOUT_S)
    for copy in copies:
        copy.close()
    answered = sum(each.answered < float("inf") for each in history["x"] + history["y"])
    assert answered > 60, history
    for key in KEYS:
        assert is_linearizable(history[key]) is True, (key, history[key])


def test_the_check_finds_a_read_of_something_older():
    history = [Operation(True, "old", 0, 1), Operation(True, "new", 2, 3), Operation(False, "old", 4, 5)]
    assert is_linearizable(history) is False
