"""The memory storage: contents outlive the instance, by path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat.errors import StorageLocked
from copycat.ports import WriteBatch
from copycat.storage import sorted_map
from copycat.storage.memory import MemoryStorage, forget
from copycat.storage.sorted_map import SortedMap


def test_nothing_is_created_in_the_file_system(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.open(tmp_path / "data")
    storage.write(WriteBatch([(b"k", b"v")]), sync=True)
    storage.close()
    assert list(tmp_path.iterdir()) == []


def test_directories_are_apart_and_paths_to_one_are_one(tmp_path: Path) -> None:
    first, second = MemoryStorage(), MemoryStorage()
    first.open(tmp_path / "a")
    second.open(tmp_path / "b")
    first.write(WriteBatch([(b"k", b"v")]), sync=True)
    assert second.get(b"k") is None
    with pytest.raises(StorageLocked):
        MemoryStorage().open(tmp_path / "b" / ".." / "a")
    first.close()
    second.close()


def test_forgetting_wipes_a_closed_directory_only(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.open(tmp_path)
    storage.write(WriteBatch([(b"k", b"v")]), sync=True)
    with pytest.raises(StorageLocked):
        forget(tmp_path)
    storage.close()
    forget(tmp_path)
    storage.open(tmp_path)
    assert storage.get(b"k") is None
    storage.close()


keys = st.binary(min_size=1, max_size=2)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(keys, st.none() | st.binary(max_size=2)), max_size=60), st.tuples(st.binary(max_size=2), keys)
)
def test_the_sorted_map_matches_a_dict(
    operations: list[tuple[bytes, bytes | None]], bounds: tuple[bytes, bytes]
) -> None:
    full_blocks = sorted_map.BLOCK_KEYS_MAX
    sorted_map.BLOCK_KEYS_MAX = 4  # so that blocks split and vanish
    try:
        found = SortedMap()
        twin: dict[bytes, bytes] = {}
        for operation in operations:
            found.apply([operation])
            key, value = operation
            if value is None:
                twin.pop(key, None)
            else:
                twin[key] = value
            assert found.range(b"", b"\xff" * 3) == sorted(twin.items())
        start, stop = bounds
        assert found.range(start, stop) == sorted(pair for pair in twin.items() if start <= pair[0] < stop)
        assert len(found) == len(twin)
        assert all(found.get(key) == value for key, value in twin.items())
    finally:
        sorted_map.BLOCK_KEYS_MAX = full_blocks
