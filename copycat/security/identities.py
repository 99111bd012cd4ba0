"""Which node ids the owner of a key may speak for.

Connections prove keys, and frames name nodes; this joins the two. The first owner to speak as a node is the only one who
ever may, for as long as this process lives. So a member with valid keys can't pass itself off as another one that is
known here. An owner may have several ids, one after the other: a machine whose directory was wiped is a new node. An
owner whose name is a node id itself has that one and no other.
"""

from __future__ import annotations

import re
from collections import OrderedDict

IDS_PER_OWNER_MAX = 64
OWNERS_MAX = 8192
_NODE_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Identities:
    """Bounded; an owner that claims too many ids loses its own oldest ones, nobody else's."""

    def __init__(self) -> None:
        self._owner_of: dict[str, str] = {}
        self._ids_of: dict[str, OrderedDict[str, None]] = {}

    def may_speak(self, owner: str, node_id: str) -> bool:
        """Whether ``owner`` may speak as ``node_id``; from now on nobody else may."""
        known = self._owner_of.get(node_id)
        if known is not None:
            return known == owner
        if _NODE_ID.fullmatch(owner) and owner != node_id:
            return False
        ids = self._ids_of.get(owner)
        if ids is None:
            if len(self._ids_of) >= OWNERS_MAX:
                return False
            ids = self._ids_of[owner] = OrderedDict()
        self._owner_of[node_id] = owner
        ids[node_id] = None
        if len(ids) > IDS_PER_OWNER_MAX:
            oldest, _ = ids.popitem(last=False)
            del self._owner_of[oldest]
        return True
