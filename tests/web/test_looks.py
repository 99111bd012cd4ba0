"""What the page is told of many groups: found, sorted, cut, and fetched rarely however many ask."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from copycat.errors import Timeout, UsageError
from copycat.happenings import EVENTS_MAX, Happenings
from copycat.testing.nodes import PATIENCE_S
from copycat.web import looks
from copycat.web.looks import Kept, all_groups, page_of_groups, page_of_members

MANY = 10_000


def group(number: int, **fields: Any) -> dict[str, Any]:
    made = {
        "id": f"{number:026d}",
        "role": "leader" if number % 4 == 0 else "follower",
        "leader": "NODE-A",
        "voters": [{"raft_id": "1", "node_id": "NODE-A"}, {"raft_id": "2", "node_id": f"NODE-{number % 7}"}],
        "learners": [],
        "lag": [],
        "has_quorum": True,
        "under_replicated": False,
        "log_bytes": number,
        "commit_position": number,
    }
    return {**made, **fields}


@pytest.fixture(scope="module")
def many() -> list[dict[str, Any]]:
    made = [group(number) for number in range(MANY)]
    made[17] = group(17, has_quorum=False, leader=None)
    made[23] = group(23, leader=None)
    made[42] = group(42, under_replicated=True, lag=[{"raft_id": "2", "node_id": "NODE-0", "entries": 5}])
    made[99] = group(99, lag=[{"raft_id": "2", "node_id": "NODE-1", "entries": 70}])
    return made


def ids(page: dict[str, Any]) -> list[int]:
    return [int(one["id"]) for one in page["groups"]]


def test_what_is_in_trouble_comes_first_then_what_lags(many: list[dict[str, Any]]) -> None:
    page = page_of_groups(many, "", "all", "trouble", 0, 5)
    assert ids(page) == [42, 17, 23, 99, 0]
    assert [one["trouble"] for one in page["groups"][:4]] == ["under-replicated", "no quorum", "no leader", None]
    assert (page["matched"], page["total"], page["troubled"], page["led"]) == (MANY, MANY, 3, MANY // 4)


def test_every_group_is_on_one_page_whatever_the_order(many: list[dict[str, Any]]) -> None:
    for sort in ("trouble", "id", "lag", "log", "position"):
        found = [
            one for offset in range(0, MANY, 200) for one in ids(page_of_groups(many, "", "all", sort, offset, 200))
        ]
        assert sorted(found) == list(range(MANY)), sort
    assert ids(page_of_groups(many, "", "all", "id", MANY, 200)) == []
    assert ids(page_of_groups(many, "", "all", "log", 0, 2)) == [MANY - 1, MANY - 2]


def test_groups_are_found_by_their_id_and_by_their_nodes(many: list[dict[str, Any]]) -> None:
    assert ids(page_of_groups(many, "9876", "all", "id", 0, 10)) == [9876]
    assert page_of_groups(many, "node-3", "all", "id", 0, 1)["matched"] == sum(n % 7 == 3 for n in range(MANY))
    assert ids(page_of_groups(many, "", "troubled", "id", 0, 10)) == [17, 23, 42]
    with pytest.raises(UsageError):
        page_of_groups(many, "", "nonsense", "id", 0, 10)


def test_members_are_in_the_order_of_their_places() -> None:
    named = ("node_id", "address", "state", "data_center", "rack")
    rows = [("n1", "h1:1", "alive", "b", "r"), ("n3", "h3:1", "dead", "a", "r2"), ("n2", "h2:1", "alive", "a", "r1")]
    members = [dict(zip(named, row, strict=True)) for row in rows]
    assert [one["node_id"] for one in page_of_members(members, "", 0, 10)["members"]] == ["n2", "n3", "n1"]
    assert page_of_members(members, "DEAD", 0, 10)["matched"] == 1


class Node:
    """Has groups, and hands them out as a node does."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.asked = 0

    def look(self, what: str, timeout: float = 0.0, after: str = "", limit: int = 0) -> Any:
        assert what == "groups"
        if timeout <= 0.0:
            raise Timeout("looking at the groups took longer than 0 s")
        self.asked += 1
        behind = [one for one in self.groups if one["id"] > after]
        page = behind[:limit]
        return {"groups": page, "next": page[-1]["id"] if len(page) < len(behind) else None}


def test_all_groups_are_fetched_in_pages_that_an_engine_can_bear(many: list[dict[str, Any]]) -> None:
    node = Node(many[:1001])
    assert all_groups(node, PATIENCE_S) == many[:1001]  # type: ignore[arg-type]
    assert node.asked == 6
    with pytest.raises(Timeout):
        all_groups(node, 0.0)  # type: ignore[arg-type]


def test_many_who_ask_at_once_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "FRESH_S", 3600.0)
    asked: list[int] = []
    kept: Kept[int] = Kept(lambda: asked.append(1) or len(asked))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(kept.get())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (found, asked) == ([1] * 16, [1])


def test_a_value_is_fetched_again_when_it_is_old_and_later_when_that_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(looks.time, "monotonic", lambda: clock[0])
    asked: list[float] = []

    def fetch() -> int:
        asked.append(clock[0])
        clock[0] += 2.0  # seconds that it takes
        return len(asked)

    kept: Kept[int] = Kept(fetch)
    kept.get()
    clock[0] = 102.0 + 2.0 / looks.SHARE_MAX - 0.1
    assert kept.get() == 1
    clock[0] += 0.2
    assert kept.get() == 2


def test_a_wave_of_elections_does_not_wash_away_what_became_of_members() -> None:
    happenings = Happenings()
    happenings.member(1.0, "died", "NODE-A")
    for number in range(10 * EVENTS_MAX):
        happenings.leader(2.0, "NODE-B", number.to_bytes(16, "big"), 7)
    found = happenings.since(0)
    assert (found[0].kind, found[0].node_id) == ("died", "NODE-A")
    assert len(found) == EVENTS_MAX + 1
    assert [one.number for one in found] == sorted(one.number for one in found)
    assert found[-1].number == happenings.last == 10 * EVENTS_MAX + 1
    assert happenings.since(happenings.last - 3) == found[-3:]
