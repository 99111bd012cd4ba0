"""The demo's own judgement: it must see every way in which copies can differ."""

from __future__ import annotations

import dataclasses
import json

import pytest

from copycat.cli.replicate import Copy, Line, compare, shares

TEXTS = ["first", "", "third", "fourth line", "fifth"]
NAMES = ["n1", "n2", "n3"]
LINES = [line for share in shares(TEXTS, NAMES) for line in share]


def change(line: Line) -> str:
    return json.dumps(["put", line.key, line.value])


def perfect(name: str = "n1", first_position: int = 1) -> Copy:
    handed = [change(line) for line in LINES]
    return Copy(name, first_position, handed[first_position - 1 :], {line.key: line.value for line in LINES})


def test_lines_are_dealt_in_turn_and_numbered_by_their_proposer() -> None:
    dealt = shares(TEXTS, NAMES)
    assert [[line.number for line in share] for share in dealt] == [[1, 4], [2, 5], [3]]
    assert [[line.sequence for line in share] for share in dealt] == [[1, 2], [1, 2], [1]]
    assert {line.proposer for line in dealt[1]} == {"n2"}


def test_equal_copies_have_no_differences() -> None:
    assert compare([perfect("n1"), perfect("n2"), perfect("n3")], LINES) == []


def test_a_copy_that_began_with_a_snapshot_is_compared_from_there() -> None:
    assert compare([perfect("n1"), perfect("n2", first_position=4)], LINES) == []


def test_a_copy_that_was_handed_everything_in_a_snapshot_is_equal() -> None:
    assert compare([perfect("n1"), perfect("n2", first_position=len(LINES) + 1)], LINES) == []


def test_a_missing_line_shows() -> None:
    items = dict(perfect().items)
    del items["3"]
    assert any(
        "map differs" in difference for difference in compare([dataclasses.replace(perfect(), items=items)], LINES)
    )


def test_a_line_too_many_shows() -> None:
    broken = dataclasses.replace(perfect("n2"), handed=[*perfect().handed, perfect().handed[-1]])
    differences = compare([perfect("n1"), broken], LINES)
    assert any("position 6, not 5" in difference for difference in differences)
    assert any("twice or out of order" in difference for difference in differences)


@pytest.mark.parametrize(("left", "right"), [(0, 1), (1, 2)])
def test_another_order_on_one_copy_shows(left: int, right: int) -> None:
    handed = list(perfect().handed)
    handed[left], handed[right] = handed[right], handed[left]
    differences = compare([perfect("n1"), dataclasses.replace(perfect("n2"), handed=handed)], LINES)
    assert any("n2: was handed another sequence than n1" in difference for difference in differences)


def test_a_line_twice_on_every_copy_shows() -> None:
    handed = list(perfect().handed)
    handed[1] = handed[0]
    copies = [dataclasses.replace(perfect(name), handed=handed) for name in NAMES]
    assert any("twice or out of order" in difference for difference in compare(copies, LINES))


def test_lines_of_one_proposer_out_of_order_on_every_copy_show() -> None:
    handed = list(perfect().handed)
    handed[0], handed[1] = handed[1], handed[0]
    copies = [dataclasses.replace(perfect(name), handed=handed) for name in NAMES]
    assert any("twice or out of order" in difference for difference in compare(copies, LINES))
