"""The directory: any interleaving of loss, repetition and reordering converges once digests are exchanged."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

import copycat.directory as directory_module
import copycat.hostset as hostset_module
from copycat.directory import Directory
from copycat.hostset import (
    CHANGES_KEPT_MAX,
    CHANGES_PER_MESSAGE_MAX,
    INTERACTIVE,
    LEARNER,
    VOTER,
    Delta,
    Digest,
    Host,
    Page,
    Want,
)
from copycat.lookup import CouldNotAsk, Found, Lookup, NotFound


def group(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hear(receiver: Directory, answer) -> Want | None:
    if answer is None:
        return None
    return receiver.receive_delta(answer) if isinstance(answer, Delta) else receiver.receive_page(answer)


def pull(receiver: Directory, server: Directory, want: Want, turns: int = 10_000) -> int:
    messages = 0
    while want is not None and messages < turns:
        answer = server.serve(want)
        messages += 1
        if answer is None:
            break
        want = hear(receiver, answer)
    return messages


def repair(receiver: Directory, server: Directory) -> int:
    return sum(pull(receiver, server, want) for want in receiver.compare(server.node_id, server.digests()))


def view(directory: Directory) -> dict[str, frozenset[bytes]]:
    return {digest.node_id: frozenset(directory.groups_of(digest.node_id)) for digest in directory.digests()}


def check_reverse_index(directory: Directory) -> None:
    expected: dict[bytes, set[str]] = {}
    for node_id, ids in view(directory).items():
        for group_id in ids:
            expected.setdefault(group_id, set()).add(node_id)
    assert len(directory) == len(expected)
    for group_id, nodes in expected.items():
        assert {host.node_id for host in directory.hosts_of(group_id)} == nodes


class History:
    """Every state that every author went through: a copy must be one of them, at all times."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, int, int], bytes] = {}

    def write(self, author: Directory) -> None:
        (own,) = [digest for digest in author.digests() if digest.node_id == author.node_id]
        self.states[own.node_id, own.epoch, own.version] = own.digest

    def check(self, reader: Directory) -> None:
        for copy in reader.digests():
            if copy.version or copy.node_id == reader.node_id:
                assert self.states[copy.node_id, copy.epoch, copy.version] == copy.digest


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 4), st.integers(0, 120))
def test_any_interleaving_converges_to_what_a_dumb_twin_holds(seed, count, steps):
    rng = random.Random(seed)
    names = [f"n{number}" for number in range(count)]
    nodes = {name: Directory(name, 1) for name in names}
    epochs = dict.fromkeys(names, 1)
    twin: dict[str, dict[bytes, int]] = {name: {} for name in names}
    flight: list[tuple[str, object]] = []
    history = History()
    for node in nodes.values():
        history.write(node)
    for _ in range(steps):
        name = rng.choice(names)
        node = nodes[name]
        dice = rng.random()
        if dice < 0.4:
            for _ in range(rng.choice([1, 1, 20])):
                group_id = group(rng.randrange(30))
                flags = rng.choice([0, VOTER, LEARNER, VOTER | INTERACTIVE])
                if flags:
                    node.host(group_id, flags)
                    twin[name][group_id] = flags
                else:
                    node.unhost(group_id)
                    twin[name].pop(group_id, None)
                history.write(node)
        elif dice < 0.6:
            for delta in node.take_deltas(rng.randint(1, 3)):
                for other in names:
                    flight.extend([(other, delta)] * rng.choice([0, 1, 1, 2]))
        elif dice < 0.85 and flight:
            to, message = flight.pop(rng.randrange(len(flight)))
            want = hear(nodes[to], message)
            check_reverse_index(nodes[to])
            history.check(nodes[to])
            if want is not None and rng.random() < 0.5:
                answer = nodes[rng.choice(names)].serve(want)
                if answer is not None:
                    flight.append((to, answer))
        elif dice < 0.93:
            other = nodes[rng.choice(names)]
            for want in node.compare(other.node_id, other.digests()):
                answer = other.serve(want)
                if answer is not None:
                    flight.append((name, answer))
        elif dice < 0.97:
            epochs[name] += 1
            nodes[name] = Directory(name, epochs[name])
            history.write(nodes[name])
            twin[name] = {}
    for _ in range(3):
        for receiver in nodes.values():
            for server in nodes.values():
                repair(receiver, server)
    for node in nodes.values():
        check_reverse_index(node)
        for name in names:
            assert set(node.groups_of(name)) == set(twin[name])
            for group_id, flags in twin[name].items():
                wanted = Host(name, bool(flags & VOTER), bool(flags & INTERACTIVE), 0)
                assert wanted in node.hosts_of(group_id)


def test_small_pages_and_short_logs_converge_while_the_set_changes(monkeypatch):
    monkeypatch.setattr(hostset_module, "CHANGES_PER_MESSAGE_MAX", 4)
    monkeypatch.setattr(directory_module, "OWN_CHANGES_KEPT_MAX", 12)
    for seed in range(300):
        rng = random.Random(seed)
        author, relay, reader = Directory("a", 1), Directory("b", 1), Directory("c", 1)
        history = History()
        for node in (author, relay, reader):
            history.write(node)
        for number in range(40):
            author.host(group(number), VOTER)
            history.write(author)
        old = []
        for reading in (relay, reader):
            server = author if reading is relay else rng.choice([author, relay])
            wants = reading.compare(server.node_id, server.digests())
            want = next((one for one in wants if one.node_id == "a"), None)
            for _ in range(60):
                if want is None:
                    break
                for _ in range(rng.choice([0, 0, 1, 3])):
                    number = rng.randrange(60)
                    if rng.random() < 0.5:
                        author.host(group(number), rng.choice([VOTER, LEARNER]))
                    else:
                        author.unhost(group(number))
                    history.write(author)
                answer = server.serve(want)
                old.append(answer)
                old.extend(author.take_deltas(1))
                want = hear(reading, answer)
                history.check(reading)
                while rng.random() < 0.4:
                    hear(reading, rng.choice(old))
                    history.check(reading)
        for _ in range(3):
            repair(relay, author)
            repair(reader, relay)
        assert view(reader)["a"] == view(author)["a"], f"seed {seed}"
        assert reader.compare("a", author.digests()) == []


def test_a_lost_delta_is_repaired_with_the_missing_changes_alone():
    author, reader = Directory("a", 1), Directory("b", 1)
    for number in range(5000):
        author.host(group(number), VOTER)
    for delta in author.take_deltas(100):
        assert reader.receive_delta(delta) is None
    author.host(group(6000), VOTER)
    author.take_deltas(1)  # lost
    author.host(group(6001), VOTER)
    (late,) = author.take_deltas(1)
    want = reader.receive_delta(late)
    answer = author.serve(want)
    assert isinstance(answer, Delta)
    assert len(answer.changes) == 2
    assert reader.receive_delta(answer) is None
    assert view(reader)["a"] == view(author)["a"]


def test_a_node_far_behind_gets_the_full_set_in_bounded_pages_from_a_relay():
    author, relay, reader = Directory("a", 1), Directory("b", 1), Directory("c", 1)
    for number in range(2500):
        author.host(group(number), VOTER)
    for delta in author.take_deltas(100):
        assert len(delta.changes) <= CHANGES_PER_MESSAGE_MAX
        relay.receive_delta(delta)
    assert author.pending() == 0
    assert CHANGES_KEPT_MAX < 2500
    assert repair(reader, relay) == 3 + 1  # three pages of "a", one of "b"
    assert view(reader)["a"] == view(author)["a"]
    assert repair(reader, relay) == 0


def test_a_restarted_author_replaces_its_old_set():
    author, reader = Directory("a", 1), Directory("b", 1)
    author.host(group(1), VOTER)
    repair(reader, author)
    author = Directory("a", 2)
    author.host(group(2), VOTER)
    (delta,) = author.take_deltas(1)
    reader.receive_delta(delta)
    assert set(reader.groups_of("a")) == {group(2)}
    assert reader.hosts_of(group(1)) == ()


def a_reborn(author: Directory, epoch: int) -> Directory:
    """The author after a restart: it hosts the same, leads nothing, and has no consumer."""
    again = Directory(author.node_id, epoch)
    for group_id in author.groups_of(author.node_id):
        voter = next(host.voter for host in author.hosts_of(group_id) if host.node_id == author.node_id)
        again.host(group_id, VOTER if voter else LEARNER)
    again.born()
    return again


def test_a_restarted_author_that_hosts_what_it_hosted_costs_a_digest():
    author, reader, stranger = Directory("a", 1), Directory("b", 1), Directory("c", 1)
    for number in range(3000):
        author.host(group(number), (VOTER, LEARNER, VOTER | INTERACTIVE)[number % 3])
        author.set_leader(group(number), number % 2)
    repair(reader, author)
    author = a_reborn(author, 2)
    assert author.pending() == 0
    author.set_leader(group(7), 9)
    assert reader.compare("a", [author.birth]) == []
    (delta,) = author.take_deltas(10)
    assert len(delta.changes) == 1
    assert reader.receive_delta(delta) is None
    assert view(reader)["a"] == view(author)["a"]
    assert reader.hosts_of(group(7)) == author.hosts_of(group(7))
    assert reader.hosts_of(group(5)) == author.hosts_of(group(5)), "whoever led in the last life leads no more"
    assert reader.compare("a", author.digests()) == []
    assert reader.summary() != author.summary(), "the reader has a set of its own"
    repair(author, reader)
    assert reader.summary() == author.summary()
    check_reverse_index(reader)
    assert repair(stranger, reader) == 3 + 1


def test_a_restarted_author_that_hosts_something_else_is_read_anew():
    author, reader = Directory("a", 1), Directory("b", 1)
    for number in range(5):
        author.host(group(number), VOTER)
    repair(reader, author)
    author.unhost(group(0))
    author = a_reborn(author, 2)
    assert [want.epoch for want in reader.compare("a", [author.birth])] == [1]
    repair(reader, author)
    assert view(reader)["a"] == view(author)["a"]
    assert reader.hosts_of(group(0)) == ()


def test_malformed_changes_are_not_taken():
    reader = Directory("b", 1)
    reader.receive_delta(Delta("a", 1, 1, ((b"short", VOTER),)))
    reader.receive_delta(Delta("a", 1, 1, ((group(1), VOTER),) * (CHANGES_PER_MESSAGE_MAX + 1)))
    reader.receive_page(Page("a", 1, 1, b"", b"", ((b"short", VOTER),)))
    assert len(reader) == 0


def test_the_number_of_sets_is_bounded(monkeypatch):
    monkeypatch.setattr(directory_module, "SETS_MAX", 3)
    reader = Directory("b", 1)
    for name in "acd":
        reader.receive_delta(Delta(name, 1, 1, ((group(1), VOTER),)))
    assert [host.node_id for host in reader.hosts_of(group(1))] == ["a", "c"]
    reader.receive_delta(Delta("a", 1, 2, ((group(2), VOTER),)))
    assert reader.hosts_of(group(2))


def test_an_author_that_lost_its_count_of_starts_outlives_what_others_remember():
    author, reader = Directory("a", 7), Directory("b", 1)
    author.host(group(1), VOTER)
    repair(reader, author)
    author = Directory("a", 1)
    author.host(group(2), VOTER)
    author.compare("b", reader.digests())
    assert author.epoch == 8
    repair(reader, author)
    assert set(reader.groups_of("a")) == {group(2)}


def test_other_content_at_the_same_version_is_replaced_by_the_author():
    author, reader = Directory("a", 1), Directory("b", 1)
    author.host(group(1), VOTER)
    reader.receive_delta(Delta("a", 1, 1, ((group(9), VOTER),)))
    repair(reader, author)
    assert set(reader.groups_of("a")) == {group(1)}
    check_reverse_index(reader)


def test_a_node_that_left_is_forgotten_and_not_taken_back_from_a_relay():
    author, relay, reader = Directory("a", 1), Directory("b", 1), Directory("c", 1)
    author.host(group(1), VOTER)
    repair(relay, author)
    repair(reader, relay)
    reader.drop_node("a")
    repair(reader, relay)
    assert reader.hosts_of(group(1)) == ()
    assert len(reader) == 0


def test_who_claims_the_highest_term_comes_first():
    nodes = [Directory(name, 1) for name in "abc"]
    for term, node in enumerate(nodes):
        node.host(group(1), VOTER)
        node.set_leader(group(1), term)
    repair(nodes[0], nodes[1])
    repair(nodes[0], nodes[2])
    assert [host.node_id for host in nodes[0].hosts_of(group(1))] == ["c", "b", "a"]
    nodes[2].set_leader(group(1), 0)
    repair(nodes[0], nodes[2])
    assert [host.node_id for host in nodes[0].hosts_of(group(1))] == ["b", "a", "c"]
    nodes[1].host(group(1), VOTER | INTERACTIVE)
    repair(nodes[0], nodes[1])
    assert nodes[0].hosts_of(group(1))[0] == Host("b", True, True, 1)


def test_digests_in_turns_cover_every_set():
    reader = Directory("r", 1)
    for number in range(20):
        other = Directory(f"n{number}", 1)
        other.host(group(number), VOTER)
        repair(reader, other)
    seen = set()
    for _ in range(11):
        part = reader.digests(5)
        assert len(part) == 5
        assert [digest.node_id for digest in part[:3]] == ["r", "n19", "n18"], "our own, and what changed last"
        seen |= {digest.node_id for digest in part}
    assert len(seen) == 21
    assert isinstance(part[0], Digest)


# --- lookup ---------------------------------------------------------------------------------------------------------


def a_lookup(count: int, fan_out: int = 3) -> Lookup:
    return Lookup("n0", [f"n{number}" for number in range(count)], random.Random(1), 0.0, 5.0, fan_out)


def test_a_lookup_asks_few_at_a_time_and_stops_at_the_first_host():
    lookup = a_lookup(10)
    asked = lookup.tick(0.0)
    assert len(asked) == 3
    more = lookup.answered(asked[0], (), 0.1)
    assert len(more) == 1
    assert lookup.answered(more[0], ("n7", "n8"), 0.2) == []
    assert lookup.outcome == Found(("n7", "n8"))
    assert lookup.next_deadline() == float("inf")


def test_not_found_needs_a_majority_of_all_known_nodes():
    lookup = a_lookup(5)
    asked = lookup.tick(0.0)
    lookup.answered(asked[0], (), 0.1)
    lookup.answered(asked[0], (), 0.1)  # repeated
    lookup.answered("stranger", (), 0.1)
    assert lookup.outcome is None
    lookup.answered(asked[1], (), 0.1)
    assert lookup.outcome == NotFound(3, 5)


def test_silence_is_never_not_found():
    lookup = a_lookup(5)
    now, asked = 0.0, []
    while lookup.outcome is None:
        for node in lookup.tick(now):
            asked.append(node)
            if node == "n1":
                lookup.answered(node, (), now)
        now = max(now, lookup.next_deadline()) if lookup.outcome is None else now
    assert lookup.outcome == CouldNotAsk(2, 5, ("n2", "n3", "n4"))
    assert now == 5.0
    assert set(asked) == {"n1", "n2", "n3", "n4"}
    assert asked.count("n1") == 1
    assert asked.count("n2") > 1
