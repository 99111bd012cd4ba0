"""Clusters of recording processes that are killed with SIGKILL and started again, by a seeded plan.

Everybody proposes all the time. A *life* is one process on a seat; a seat keeps its ports and its data directory, so the next
life on it is the same node again. What all lives wrote down is put together by :mod:`copycat.testing.records`.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from copycat.testing.nodes import wait_until
from copycat.testing.records import Record, Summary, check
from copycat.testing.wires import Loopback, Wires

PATIENCE_S = 60.0


class Life:
    """One recording process. Whatever it does not answer in time is an error that holds its last words."""

    def __init__(self, directory: Path, name: str, spec: dict[str, Any], before: Sequence[str] = ()) -> None:
        """``before``: a command that runs the one behind it."""
        self.name = name
        self.doomed = False
        """Whether its disk was made to fail, so that it had to stop by itself."""
        self.record = directory / f"{name}.record"
        self._errors = directory / f"{name}.stderr"
        self.record.touch()
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 (this very interpreter, and our own module)
                [
                    *before,
                    sys.executable,
                    "-m",
                    "copycat.testing.recorder",
                    json.dumps({**spec, "record": str(self.record), "name": name}),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def hear(self, word: str) -> str:
        """The rest of the next line, which begins with ``word``."""
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline().strip()
        finally:
            watchdog.cancel()
        assert line.startswith(word), f"{self.name} said {line!r} instead of {word!r}: {self.last_words}"
        return line[len(word) :].strip()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def status(self) -> list[str]:
        """Role, term and position."""
        self.say("status")
        return self.hear("").split()

    def has_ended(self) -> bool:
        """Whether the process is gone; asking it for its status is what makes it notice that its node has stopped."""
        with contextlib.suppress(OSError, ValueError):
            self.say("status")
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def last_words(self) -> str:
        return self._errors.read_text(errors="replace")[-3000:]

    def written(self) -> int:
        """Bytes of its record."""
        return self.record.stat().st_size

    def kill(self) -> None:
        """SIGKILL. May be called twice."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        code = self._process.wait(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:  # an order was still in the buffer when the process went
                    pass
        return code


class Killing:
    """Seats, their present lives, and what happened. ``config`` is given to every node."""

    def __init__(
        self,
        directory: Path,
        ports: Sequence[int],
        group: str,
        config: dict[str, Any],
        ballast: int = 0,
        wires: Wires | None = None,
        histories: bool = False,
    ) -> None:
        self.lives: list[Life] = []
        self.seats: list[Life | None] = [None] * (len(ports) // 2)
        self._directory = directory
        self._ports = ports
        self._group = group
        self._config = config
        self._ballast = ballast
        self.wires = wires if wires is not None else Loopback()
        self._histories = histories

    def begin(self, seat: int, peers: bool = True) -> Life:
        """Start a process on the seat; it is not waited for."""
        life_number = sum(life.name.startswith(f"s{seat}.") for life in self.lives) + 1
        wires = self.wires
        others = [
            f"{wires.host(other)}:{self._ports[2 * other + 1]}" for other in range(len(self.seats)) if other != seat
        ]
        config = {
            "hostname": wires.host(seat),
            "bind_address": wires.bind(seat),
            "copycat_port": self._ports[2 * seat],
            "gossip_port": self._ports[2 * seat + 1],
            "data_dir": str(self._directory / f"seat-{seat}"),
            "peers_to_contact": others if peers else [],
            "gossip_profile": "local",
            "join_timeout_s": 30.0,
            **self._config,
        }
        name = f"s{seat}.{life_number}"
        spec: dict[str, Any] = {"group": self._group, "config": config, "ballast": self._ballast, "wave": 50}
        if self._histories:
            spec |= {"history": str(self.history_of(name)), "wave": 5}
        life = Life(self._directory, name, spec, wires.command(seat))
        wires.seated(seat, life.pid)
        self.lives.append(life)
        self.seats[seat] = life
        return life

    def history_of(self, name: str) -> Path:
        """Where a life writes what its clients called; see :mod:`copycat.testing.history`."""
        return self._directory / f"{name}.history"

    def start(self) -> None:
        """Fill every seat."""
        for seat in range(len(self.seats)):
            self.begin(seat, peers=seat > 0).hear("ready")
        for life in self._living():
            life.say(str(len(self.seats)))  # so that the group gets a replica on each
        for life in self._living():
            life.hear("subscribed")

    def settle(self, seat: int) -> None:
        """Wait until the process that begun on this seat takes part."""
        life = self.seats[seat]
        assert life is not None
        life.hear("ready")
        life.say("1")
        life.hear("subscribed")

    def leader(self) -> int:
        """The seat that leads now."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [
                seat for seat, life in enumerate(self.seats) if life is not None and life.status()[0] == "leader"
            ]
            return bool(found)

        wait_until(look, "somebody leads", PATIENCE_S)
        return found[0]

    def run_on(self, records_bytes: int) -> None:
        """Wait until somebody has written so much more."""
        living = self._living()
        goals = [life.written() + records_bytes for life in living]
        wait_until(
            lambda: any(life.written() >= goal for life, goal in zip(living, goals, strict=True)),
            "the living go on",
            PATIENCE_S,
        )

    def kill(self, seat: int) -> None:
        life = self.seats[seat]
        assert life is not None
        life.kill()
        self.seats[seat] = None

    def finish(self) -> Summary:
        """Let all that live come to rest, and check everything that was ever written."""
        living = self._living()
        for word, answer in (("stop", "quiet"), ("on", "position"), ("on", "ended")):
            for life in living:
                life.say(word)
            answers = [life.hear(answer) for life in living]
            assert len(set(answers)) == 1, f"they stopped at {answers}"
        for life in living:
            assert life.wait() == 0, life.last_words
        for life in self.lives:
            assert life.doomed or "Traceback" not in life.last_words, life.last_words
        return check([Record.read(life.record) for life in self.lives], [life.name for life in living])

    def close(self) -> None:
        """Kill all that still run."""
        for life in self.lives:
            life.kill()

    def __enter__(self) -> Killing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _living(self) -> list[Life]:
        return [life for life in self.seats if life is not None]


def kill_by_plan(cluster: Killing, rng: random.Random, rounds: int, record_bytes: int = 20_000) -> list[str]:
    """Kill leaders, followers and receivers of snapshots at random moments, under load; tell what was done.

    Every killed node is back before the next one is killed, but for the receivers, which are killed a second time while
    they come back.
    """
    done = []
    pause = threading.Event()
    for number in range(rounds):
        cluster.run_on(rng.randrange(record_bytes))
        leader = cluster.leader()
        role = ("leader", "follower", "receiver")[number % 3]
        followers = [seat for seat in range(len(cluster.seats)) if seat != leader]
        victim = leader if role == "leader" else rng.choice(followers)
        cluster.kill(victim)
        cluster.run_on(record_bytes * (10 if role == "receiver" else 1))
        cluster.begin(victim)
        if role == "receiver":
            delay = rng.uniform(0.2, 2.0)
            pause.wait(delay)  # no wait for something: the moment is part of the plan
            cluster.kill(victim)
            cluster.begin(victim)
            role += f" again after {delay:.2f} s"
        cluster.settle(victim)
        done.append(f"{role} on seat {victim}")
    return done
