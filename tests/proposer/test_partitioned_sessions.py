"""A session that is expired while its node is only cut off: what that subscription is told when it is back, in virtual time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from copycat.config import Config
from copycat.errors import CopyCatError, SessionExpired
from copycat.subscription import Subscription
from copycat.testing.world import GOSSIP_PORT, SimulatedNode, World

HOSTS = ("n1", "n2", "n3")
GROUP = bytes(range(16))
CUT_S = 20.0


class Consumer:
    """A subscription that keeps what it is handed, driven by virtual time."""

    def __init__(self, node: SimulatedNode) -> None:
        self.items: list[bytes | None] = []
        self.loads = 0
        self.futures: dict[bytes, Future[int]] = {}
        self._opened: Future[Subscription] = Future()
        assert node.engine is not None
        engine = node.engine
        node.post(lambda: engine.consumers.subscribe(GROUP, self._pack, 30.0, self._opened))

    @property
    def sub(self) -> Subscription:
        return self._opened.result(0)

    def _pack(self) -> bytes:
        return b" ".join(item or b"" for item in self.items)

    def submit(self, item: bytes) -> None:
        self.futures[item] = self.sub.propose.submit(item, 0)

    def receive(self) -> None:
        while got := self.sub.commits.receive_many(100, 0):
            for item in got:
                if item is None:
                    self.items = list(self.sub.snapshot_consumer().split(b" "))
                    self.loads += 1
                else:
                    self.items.append(item)

    def failures(self) -> dict[bytes, CopyCatError]:
        """What the futures were told, the only ones that can be told anything."""
        assert all(future.done() for future in self.futures.values()), "a proposal that is never settled"
        told = {item: future.exception(0) for item, future in self.futures.items()}
        return {item: error for item, error in told.items() if isinstance(error, CopyCatError)}


def run_for(world: World, consumers: list[Consumer], seconds: float) -> None:
    end = world.now + seconds
    while world.now < end:
        world.run_for(0.05)
        for consumer in consumers:
            consumer.receive()


def session_count(node: SimulatedNode) -> int:
    assert node.engine is not None
    return len(node.engine.hosting.groups[GROUP].sequencer.sessions.sessions)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("log_reaches_back", [True, False], ids=["log", "snapshot"])
def test_a_session_expired_while_its_node_was_cut_off_loses_nothing_without_a_word(
    seed: int, log_reaches_back: bool
) -> None:
    world = World(seed)
    world.network.conditions.holds_when_cut = seed != 1  # what was under way when the cut came arrives after it
    small = {} if log_reaches_back else {"snapshot_log_bytes": 2_000, "follower_log_bytes_max": 1}
    for host in HOSTS:
        peers = [f"{HOSTS[0]}:{GOSSIP_PORT}"] if host != HOSTS[0] else []
        config = Config(
            peers_to_contact=peers,
            gossip_profile="local",
            session_expiry_s=3.0,
            repair_delay_s=600.0,
            batch_proposals_max=4,
            **small,  # type: ignore[arg-type]
        )
        world.add_node(host, config).start()
        world.run_for(2.0)
    consumers = [Consumer(world.nodes[host]) for host in HOSTS]
    world.run_for(10.0)
    for number in range(30):
        for at, consumer in enumerate(consumers):
            consumer.submit(b"%s:%d" % (HOSTS[at].encode(), number))
    run_for(world, consumers, 5.0)
    assert session_count(world.nodes["n1"]) == 3
    cut_off = seed
    lone = consumers[cut_off]
    others = [consumer for consumer in consumers if consumer is not lone]
    for number in range(30, 40):  # some of these leave before the cut
        lone.submit(b"%s:%d" % (HOSTS[cut_off].encode(), number))
    run_for(world, consumers, 0.001)
    for at in range(3):
        if at != cut_off:
            world.network.cut(HOSTS[at], HOSTS[cut_off])
            world.network.cut(HOSTS[cut_off], HOSTS[at])
    for number in range(40, 60):
        lone.submit(b"%s:%d" % (HOSTS[cut_off].encode(), number))
    for number in range(30, 230):
        for consumer in others:
            at = consumers.index(consumer)
            consumer.submit(b"%s:%d" % (HOSTS[at].encode(), number))
        run_for(world, others, CUT_S / 200)
    assert session_count(world.nodes[HOSTS[cut_off - 1]]) == 2, "it was expired meanwhile"
    world.network.mend_all()
    run_for(world, consumers, 40.0)

    sequence = consumers[0].items
    assert all(consumer.items == sequence for consumer in consumers)
    assert len(sequence) == len(set(sequence)), "something came twice"
    for at, consumer in enumerate(consumers):
        mine = [item for item in sequence if item is not None and item.startswith(HOSTS[at].encode() + b":")]
        failures = consumer.failures()
        assert mine == sorted(mine, key=lambda item: int(item.split(b":")[1])), "out of order"
        missing = set(consumer.futures) - set(mine)
        assert missing <= set(failures), "lost without a word"
        if consumer is lone and not log_reaches_back:
            assert consumer.loads == 1
            assert {type(error) for error in failures.values()} <= {SessionExpired}
            assert len(failures) <= 4 * 4, "only what was under way can be unknown"
        else:
            assert not failures
        consumer.submit(b"%s:end" % HOSTS[at].encode())
    run_for(world, consumers, 5.0)
    assert all(len(consumer.items) == len(sequence) for consumer in consumers)
    assert len(sequence) == len(set(sequence))
    assert session_count(world.nodes["n1"]) == 3
