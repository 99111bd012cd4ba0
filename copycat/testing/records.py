"""What several consumers wrote down, put together: was it one sequence, exactly once, in order, with nothing lost?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

EMPTY_DIGEST = bytes(32)


def next_digest(digest: bytes, item: bytes) -> bytes:
    """Of a sequence and one more item."""
    return hashlib.sha256(digest + item).digest()


@dataclass(slots=True)
class Record:
    """What one process wrote; see :mod:`copycat.testing.recorder`."""

    name: str
    items: dict[int, str] = field(default_factory=dict)
    loads: dict[int, str] = field(default_factory=dict)
    confirmed: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    last_position: int = 0

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises AssertionError if the process itself was handed a gap or a repetition."""
        record = cls(path.name.removesuffix(".record"))
        text = path.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():  # the last one may be cut by a kill
            head, _, rest = line.partition(" ")
            if head[0] == "+":
                record.confirmed[int(head[1:])] = int(rest)
            elif head[0] == "-":
                record.failed[int(head[1:])] = rest
            elif head[0] == "@":
                position = int(head[1:])
                assert position >= record.last_position, f"{record.name} was sent back to {position}"
                record.loads[position] = rest
                record.last_position = position
            else:
                position = int(head)
                assert position == record.last_position + 1, (
                    f"{record.name} was handed {position} after {record.last_position}"
                )
                record.items[position] = rest
                record.last_position = position
        return record


@dataclass(slots=True)
class Summary:
    """Counts over all records."""

    items: int
    confirmed: int
    failed: int
    loads: int


def check(records: list[Record], survivors: list[str]) -> Summary:
    """Compare all records. ``survivors``: those processes that stopped in good order, with everything settled.

    Raises AssertionError, saying what does not fit.
    """
    sequence: dict[int, str] = {}
    for record in records:
        for position, item in record.items.items():
            known = sequence.setdefault(position, item)
            assert known == item, f"position {position} is {item} for {record.name}, and was {known} before"
    last = max(record.last_position for record in records)
    missing = [position for position in range(1, last + 1) if position not in sequence]
    assert not missing, f"nobody was handed {len(missing)} positions, the first {missing[0]}"
    digests = [EMPTY_DIGEST]
    proposals: dict[str, int] = {}
    places: dict[str, int] = {}
    for position in range(1, last + 1):
        digests.append(next_digest(digests[-1], sequence[position].encode()))
        item = sequence[position].partition(" ")[0]  # the register that it sets follows, if it sets one
        proposer, _, count = item.rpartition(":")
        assert int(count) == proposals.get(proposer, 0) + 1, f"{item} comes after {proposals.get(proposer, 0)}"
        proposals[proposer] = int(count)
        places[item] = position
    for record in records:
        for position, digest in record.loads.items():
            assert digest == digests[position].hex(), (
                f"the snapshot at {position} for {record.name} is of another sequence"
            )
        for number, position in record.confirmed.items():
            assert places.get(f"{record.name}:{number}") == position, (
                f"{record.name}:{number} was confirmed at {position}"
            )
    for record in records:
        if record.name in survivors:
            assert record.last_position == last, f"{record.name} stopped at {record.last_position} of {last}"
            sent = len(record.confirmed) + len(record.failed)
            unknown = sum(f"{record.name}:{number}" not in places for number in record.failed)
            assert proposals.get(record.name, 0) + unknown == sent, f"{record.name} sent {sent}"
    return Summary(
        last,
        sum(len(record.confirmed) for record in records),
        sum(len(record.failed) for record in records),
        sum(len(record.loads) for record in records),
    )
