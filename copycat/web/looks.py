"""What the page is told, made of a node's own answers: searched, sorted and cut to pages, and kept for a moment.

However many browsers look, the node is asked once for all of them. A list of ten thousand groups is fetched in pages of two
hundred, so no turn of the engine is long, and again only when a while has passed that is long beside what it took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from copycat.errors import CopyCatError, UsageError
from copycat.metrics import Sample
from copycat.status import Health

FRESH_S = 1.0
SHARE_MAX = 0.05
"""Of the time, spent on fetching one list."""
PAGE_MAX = 200
SEARCH_CHARACTERS_MAX = 100

T = TypeVar("T")
Form = dict[str, Any]


class Looked(Protocol):
    """What is asked of a node: see :class:`copycat.CopyCat`."""

    def look(self, what: str, timeout: float = ..., **arguments: Any) -> Any: ...

    def health(self, timeout: float = ...) -> Health: ...

    def measure(self, groups_max: int = ..., timeout: float = ...) -> list[Sample]: ...


class Kept(Generic[T]):
    """A value that is fetched when it is asked for and old; by one thread at a time, for all that wait.

    That it could not be fetched is kept, too: else those who wait would wait for a silent node one after the other.
    """

    def __init__(self, fetch: Callable[[], T]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: CopyCatError | None = None
        self._until = 0.0

    def get(self) -> T:
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._value = self._error = None
                try:
                    self._value = self._fetch()
                except CopyCatError as error:
                    self._error = error
                now = time.monotonic()
                self._until = now + (FRESH_S if self._error else max(FRESH_S, (now - began) / SHARE_MAX))
            if self._error is not None:
                raise type(self._error)(str(self._error)) from self._error
            assert self._value is not None
            return self._value


def all_groups(node: Looked, timeout: float) -> list[Form]:
    """Every group that the node hosts, in the order of ids; all pages together within ``timeout``, or Timeout."""
    deadline = time.monotonic() + timeout
    found: list[Form] = []
    after = ""
    while True:
        page = node.look("groups", timeout=max(0.0, deadline - time.monotonic()), after=after, limit=PAGE_MAX)
        found += page["groups"]
        if page["next"] is None:
            return found
        after = page["next"]


def trouble_of(group: Form) -> str | None:
    """What is wrong with a group, in two words; None if nothing is."""
    if not group["has_quorum"]:
        return "no quorum"
    if group["leader"] is None:
        return "no leader"
    return "under-replicated" if group["under_replicated"] else None


def lag_of(group: Form) -> int:
    """Entries that the slowest replica is behind; 0 where the node does not lead, and so does not know."""
    return max((int(peer["entries"]) for peer in group["lag"]), default=0)


_ORDER: dict[str, Callable[[Form], Any]] = {
    "trouble": lambda group: (trouble_of(group) is None, -lag_of(group), group["id"]),
    "id": lambda group: group["id"],
    "lag": lambda group: (-lag_of(group), group["id"]),
    "log": lambda group: (-group["log_bytes"], group["id"]),
    "position": lambda group: (-group["commit_position"], group["id"]),
}
_SHOWN: dict[str, Callable[[Form], bool]] = {
    "all": lambda group: True,
    "led": lambda group: group["role"] == "leader",
    "troubled": lambda group: trouble_of(group) is not None,
}


def page_of_groups(groups: Sequence[Form], search: str, show: str, sort: str, offset: int, limit: int) -> Form:
    """Groups whose id, or a node's of theirs, has ``search`` in it. Raises :class:`~copycat.errors.UsageError`."""
    if show not in _SHOWN or sort not in _ORDER:
        raise UsageError(f"show is one of {', '.join(_SHOWN)}; sort is one of {', '.join(_ORDER)}")
    wanted = search.upper()
    matching = [group for group in groups if _SHOWN[show](group) and (not wanted or _has(group, wanted))]
    matching.sort(key=_ORDER[sort])
    return {
        "groups": [{**group, "trouble": trouble_of(group)} for group in matching[offset : offset + limit]],
        "matched": len(matching),
        "total": len(groups),
        "led": sum(group["role"] == "leader" for group in groups),
        "troubled": sum(trouble_of(group) is not None for group in groups),
    }


def _has(group: Form, wanted: str) -> bool:
    peers = (*group["voters"], *group["learners"])
    return wanted in group["id"] or any(wanted in peer["node_id"].upper() for peer in peers)


def nodes_of(groups: Sequence[Form], members: Sequence[Form]) -> Form:
    """Address and state of each node that these groups name, by its id, as far as it is known."""
    named = {peer["node_id"] for group in groups for peer in (*group["voters"], *group["learners"])}
    named |= {group["leader"] for group in groups}
    return {
        one["node_id"]: {"address": one["address"], "state": one["state"]} for one in members if one["node_id"] in named
    }


def page_of_members(members: Sequence[Form], search: str, offset: int, limit: int) -> Form:
    """Members by data centre, rack and id, of those that have ``search`` in what they are called."""
    wanted = search.upper()
    named = ("node_id", "address", "data_center", "rack", "state")
    matching = [one for one in members if not wanted or any(wanted in str(one[name]).upper() for name in named)]
    matching.sort(key=lambda one: (one["data_center"], one["rack"], one["node_id"]))
    return {"members": matching[offset : offset + limit], "matched": len(matching), "total": len(members)}
