"""Keys for tests: files of a whole cluster, or credentials that exist in memory alone and can be changed at will."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import copycat
from copycat.ports import KeyPair
from copycat.security.certificates import new_key_pair, write_key_pair, write_public_key
from copycat.security.keyring import KeyRing
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until


@dataclass
class Table:
    """Whom everybody trusts."""

    owners: dict[bytes, str] = field(default_factory=dict)
    generation: int = 0


class MemoryCredentials:
    """:class:`copycat.ports.Credentials` without files."""

    def __init__(self, table: Table, key_pair: KeyPair | None = None, owner: str = "") -> None:
        self.table = table
        self.key_pair = key_pair or new_key_pair()
        self.changes = 0
        if owner:
            self.trust(owner)

    @property
    def generation(self) -> int:
        return self.table.generation + self.changes

    def owner_of(self, public_key: bytes) -> str | None:
        return self.table.owners.get(public_key)

    def trust(self, owner: str) -> None:
        """Let everybody trust this one's key of now."""
        self.table.owners[self.key_pair.public] = owner
        self.table.generation += 1

    def revoke(self) -> None:
        del self.table.owners[self.key_pair.public]
        self.table.generation += 1

    def use(self, key_pair: KeyPair) -> None:
        self.key_pair = key_pair
        self.changes += 1


class KeyFiles:
    """The key files of a cluster: one trusted directory and one ring for all, a secret key each."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.trusted = directory / "trusted"
        self.trusted.mkdir(mode=0o755)
        self.ring = directory / "gossip.keys"
        KeyRing.new().write(self.ring, replace=False)
        self.own_rings: dict[str, Path] = {}

    def secret(self, name: str) -> Path:
        return self.directory / f"{name}.key_secret"

    def own_ring(self, name: str) -> Path:
        """Let this one have a file of its own with the cluster's gossip keys, as if it were on a machine of its own."""
        file = self.directory / f"{name}.gossip.keys"
        KeyRing.read(self.ring).write(file, replace=False)
        self.own_rings[name] = file
        return file

    def make(self, name: str, trust: bool = True) -> dict[str, Any]:
        """Fields of the configuration of a node that has a key of its own."""
        pair = new_key_pair()
        write_key_pair(self.secret(name), pair, replace=False)
        if trust:
            write_public_key(self.trusted / f"{name}.key", pair.public, replace=False)
        return self.fields(name)

    def fields(self, name: str) -> dict[str, Any]:
        return {
            "key_file": str(self.secret(name)),
            "trusted_keys_dir": str(self.trusted),
            "gossip_keys_file": str(self.own_rings.get(name, self.ring)),
        }


def start_keyed(cluster: NodeCluster, keys: KeyFiles, *names: str) -> list[copycat.CopyCat]:
    fields = [keys.make(name) for name in names]
    nodes = [cluster.node(**one) for one in fields]
    wait_until(
        lambda: all(sum(m.state == "alive" for m in node.members()) == len(cluster.nodes) for node in cluster.nodes),
        "every node sees every other",
    )
    return nodes


class Load:
    """Proposes all the time, and knows what must have been committed."""

    def __init__(self, copy: ListCopy) -> None:
        self.sent: list[bytes] = []
        self._copy = copy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            item = b"%d" % len(self.sent)
            self._copy.sub.propose.send(item, timeout=PATIENCE_S)
            self.sent.append(item)
            self._stop.wait(0.002)

    def passes(self, count: int = 20) -> None:
        """Wait until that many more are committed."""
        goal = len(self._copy.items) + count
        wait_until(lambda: len(self._copy.items) >= goal, "proposals are committed")

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._copy.sub.flush(PATIENCE_S)
