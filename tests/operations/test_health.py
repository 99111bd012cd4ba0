"""What makes a node unhealthy, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from copycat.cli.health import judge

WELL: dict[str, Any] = {"write_age_s": 0.0, "stalled_disk_hand_over_s": 2.0}


def group(**fields: Any) -> dict[str, Any]:
    return {"id": "g", "has_quorum": True, "leader": "n", "lag": [], "under_replicated": False, **fields}


@pytest.mark.parametrize(
    ("status", "groups", "serious", "mentioned"),
    [
        ({}, [group()], [], []),
        ({}, [], [], []),
        ({"write_age_s": 2.5}, [group()], ["stalled_disk"], []),
        ({}, [group(has_quorum=False, leader=None)], ["no_quorum"], []),
        ({}, [group(leader=None)], ["no_leader"], []),
        ({}, [group(lag=[{"entries": 101}])], ["lag"], []),
        ({}, [group(lag=[{"entries": 100}])], [], []),
        ({}, [group(under_replicated=True)], [], ["under_replicated"]),
    ],
)
def test_what_is_wrong_is_named(
    status: dict[str, Any], groups: list[dict[str, Any]], serious: list[str], mentioned: list[str]
) -> None:
    problems = judge({**WELL, **status}, groups, lag_max=100)
    assert [problem.what for problem in problems if problem.serious] == serious
    assert [problem.what for problem in problems if not problem.serious] == mentioned


def test_thousands_of_groups_are_counted_and_some_named() -> None:
    (problem,) = judge(WELL, (group(id=f"g{number}", has_quorum=False) for number in range(5000)))
    assert problem.groups == 5000
    assert problem.examples == ("g0", "g1", "g2")
