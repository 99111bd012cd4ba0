"""The README's map, on real nodes in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import copycat
from copycat.errors import Closed
from copycat.examples.hash_map import HashMap

TIMEOUT_S = 20.0


@pytest.fixture
def cat(make_config: Callable[..., copycat.Config]) -> Iterator[copycat.CopyCat]:
    with copycat.CopyCat(make_config()) as made:
        yield made


@pytest.fixture
def map_id(cat: copycat.CopyCat) -> copycat.DataStructureId:
    allocation = cat.allocate_new_data_structure(replicas=1)
    allocation.wait(timeout=TIMEOUT_S)
    return allocation.id


def test_what_was_put_can_be_read_after_a_sync(cat: copycat.CopyCat, map_id: copycat.DataStructureId) -> None:
    with HashMap(cat, map_id) as copy:
        copy.put("color", "green")
        copy.put("empty", "")
        copy.flush(TIMEOUT_S)
        copy.sync(TIMEOUT_S)
        assert copy.get("color") == "green"
        assert copy.get("empty") == ""
        assert copy.get("absent") is None


def test_a_later_change_of_a_key_wins_and_a_delete_removes_it(
    cat: copycat.CopyCat, map_id: copycat.DataStructureId
) -> None:
    with HashMap(cat, map_id) as copy:
        copy.update({"a": "1", "b": "1", "c": "1"})
        copy.put("a", "2")
        copy.delete("b")
        copy.delete("never there")
        copy.flush(TIMEOUT_S)
        copy.sync(TIMEOUT_S)
        assert copy.items() == {"a": "2", "c": "1"}


def test_two_copies_on_one_node_are_equal(cat: copycat.CopyCat, map_id: copycat.DataStructureId) -> None:
    with HashMap(cat, map_id) as one, HashMap(cat, map_id) as other:
        one.put("from one", "1")
        other.put("from other", "2")
        for copy in (one, other):
            copy.flush(TIMEOUT_S)
        for copy in (one, other):
            copy.sync(TIMEOUT_S)
            assert copy.items() == {"from one": "1", "from other": "2"}


def test_a_copy_that_is_made_later_has_what_was_there(cat: copycat.CopyCat, map_id: copycat.DataStructureId) -> None:
    with HashMap(cat, map_id) as early:
        early.update({str(number): "x" for number in range(1_000)})
        early.flush(TIMEOUT_S)
    with HashMap(cat, map_id) as late:
        late.sync(TIMEOUT_S)
        assert len(late.items()) == 1_000


def test_snapshots_replace_the_log_and_lose_nothing(make_config: Callable[..., copycat.Config]) -> None:
    config = make_config(snapshot_log_entries=5)
    with copycat.CopyCat(config) as cat:
        allocation = cat.allocate_new_data_structure(replicas=1)
        allocation.wait(timeout=TIMEOUT_S)
        with HashMap(cat, allocation.id) as copy:
            for number in range(50):  # an entry each
                copy.put(f"key {number}", str(number))
                copy.flush(TIMEOUT_S)
            copy.sync(TIMEOUT_S)
            expected = copy.items()
        with HashMap(cat, allocation.id) as late:
            late.sync(TIMEOUT_S)
            assert late.items() == expected
            assert len(expected) == 50


def test_a_closed_map_takes_no_more(cat: copycat.CopyCat, map_id: copycat.DataStructureId) -> None:
    copy = HashMap(cat, map_id)
    copy.close()
    copy.close()
    with pytest.raises(Closed):
        copy.put("late", "1")
