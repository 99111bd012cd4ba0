"""What lies between real processes: networks that can be cut in one direction, on one machine.

:class:`Namespaces` gives each process a network namespace of its own, as root may, and joins them by a bridge in yet another
one, so nothing of the machine's own network is touched. :class:`Relay` is for everybody else: all that nodes say to each
other passes through sockets of this process on addresses of the loopback network, which delay it, lose some datagrams, and
hold what is cut off. :class:`Loopback` is no network at all.

Closing takes away all that was made, also when half of it could not be made.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import Protocol

import psutil

COMMAND_S_MAX = 20.0
CHUNK_BYTES = 1 << 16


class Wires(Protocol):
    """Between the processes on seats 0 to n - 1."""

    def host(self, seat: int) -> str:
        """The name under which others reach the seat."""

    def bind(self, seat: int) -> str:
        """Where the seat's process listens; empty: at its host."""

    def command(self, seat: int) -> list[str]:
        """What comes in front of the command that runs there."""

    def seated(self, seat: int, pid: int) -> None:
        """This process has sat down."""

    def cut(self, source: int, target: int) -> None:
        """Let nothing pass from one to another."""

    def mend(self) -> None:
        """End all cuts."""

    def close(self) -> None: ...


class Loopback:
    """Everything passes."""

    def host(self, seat: int) -> str:
        return "127.0.0.1"

    def bind(self, seat: int) -> str:
        return ""

    def command(self, seat: int) -> list[str]:
        return []

    def seated(self, seat: int, pid: int) -> None: ...

    def cut(self, source: int, target: int) -> None:
        raise NotImplementedError("nothing can be cut here")

    def mend(self) -> None: ...

    def close(self) -> None: ...


def why_no_namespaces() -> str | None:
    """Why this process can't have any; None if it can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no ip command (Debian: iproute2)"
    name = f"copycat-{os.getpid()}-try"
    made = _ip("netns", "add", name)
    _ip("netns", "del", name)
    return None if made.returncode == 0 else f"no network namespaces here: {made.stderr.strip()}"


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["ip", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False)  # noqa: S603


def _must(*words: str) -> None:
    done = _ip(*words)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Namespaces:
    """A cut gives the source a false hardware address of the target: what it sends is lost without a word."""

    def __init__(self, seats: int, delay_ms: float = 0.0, loss_percent: float = 0.0) -> None:
        """``delay_ms`` and ``loss_percent`` where the kernel has netem; else :attr:`shaped` stays False."""
        self._hub = f"copycat-{os.getpid()}-hub"
        self._names = [f"copycat-{os.getpid()}-{seat}" for seat in range(seats)]
        self._cuts: set[tuple[int, int]] = set()
        self.shaped = False
        try:
            self._make(delay_ms, loss_percent)
        except BaseException:
            self.close()
            raise

    def _make(self, delay_ms: float, loss_percent: float) -> None:
        _must("netns", "add", self._hub)
        _must("-n", self._hub, "link", "add", "bridge0", "type", "bridge")
        _must("-n", self._hub, "link", "set", "bridge0", "up")
        for seat, name in enumerate(self._names):
            _must("netns", "add", name)
            _must(
                *("-n", name, "link", "add", "eth0", "address", self._hardware(seat)),
                *("type", "veth", "peer", "name", f"seat{seat}", "netns", self._hub),
            )
            _must("-n", self._hub, "link", "set", f"seat{seat}", "master", "bridge0", "up")
            _must("-n", name, "address", "add", f"{self.host(seat)}/24", "dev", "eth0")
            _must("-n", name, "link", "set", "lo", "up")
            _must("-n", name, "link", "set", "eth0", "up")
            if delay_ms or loss_percent:
                words = ["netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
                command = ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", "root", *words]
                done = subprocess.run(command, capture_output=True, timeout=COMMAND_S_MAX, check=False)  # noqa: S603
                self.shaped = done.returncode == 0
        for source in range(len(self._names)):
            for target in range(len(self._names)):
                if source != target:
                    self._point(source, target, self._hardware(target))

    @staticmethod
    def _hardware(seat: int) -> str:
        return f"02:00:00:00:00:{seat + 1:02x}"

    def _point(self, source: int, target: int, hardware: str) -> None:
        address = self.host(target)
        _must(
            *("-n", self._names[source], "neigh", "replace", address),
            *("lladdr", hardware, "dev", "eth0", "nud", "permanent"),
        )

    def host(self, seat: int) -> str:
        return f"10.77.0.{seat + 1}"

    def bind(self, seat: int) -> str:
        return ""

    def command(self, seat: int) -> list[str]:
        return ["ip", "netns", "exec", self._names[seat]]  # which becomes what it runs: the process id stays

    def seated(self, seat: int, pid: int) -> None: ...

    def cut(self, source: int, target: int) -> None:
        self._cuts.add((source, target))
        self._point(source, target, "02:00:00:00:ff:ff")

    def mend(self) -> None:
        for source, target in self._cuts:
            self._point(source, target, self._hardware(target))
        self._cuts.clear()

    def close(self) -> None:
        for name in (*self._names, self._hub):
            _ip("netns", "del", name)  # takes its interfaces along


class Relay:
    """One thread that passes on what nodes say to each other.

    Each seat has two addresses: one that the others know, where the relay listens, and one where its process listens. Who a
    connection comes from is asked of the operating system.
    """

    def __init__(self, seats: int, ports: tuple[int, int], delay_s: float, loss: float, seed: int) -> None:
        """``ports``: for Raft and gossip, the same on every seat. ``loss`` is the share of datagrams that are lost."""
        self._ports = ports
        self._delay_s = delay_s
        self._loss = loss
        self._rng = random.Random(seed)
        self._net = 1 + os.getpid() % 250
        self._seats = seats
        self._pids: dict[int, int] = {}
        self._cuts: set[tuple[int, int]] = set()
        self._datagrams: dict[int, asyncio.DatagramTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._mended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="copycat-relay", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(COMMAND_S_MAX)
        except BaseException:
            self.close()
            raise

    def host(self, seat: int) -> str:
        return f"127.77.{self._net}.{seat + 1}"

    def bind(self, seat: int) -> str:
        return f"127.78.{self._net}.{seat + 1}"

    def command(self, seat: int) -> list[str]:
        return []

    def seated(self, seat: int, pid: int) -> None:
        self._pids[pid] = seat

    def cut(self, source: int, target: int) -> None:
        self._cuts.add((source, target))

    def mend(self) -> None:
        def mend() -> None:
            self._cuts.clear()
            self._mended.set()
            self._mended = asyncio.Event()

        self._loop.call_soon_threadsafe(mend)

    def close(self) -> None:
        async def end() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for transport in self._datagrams.values():
                transport.close()
            for server in self._servers:
                server.close()
            await asyncio.sleep(0)

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(COMMAND_S_MAX)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(COMMAND_S_MAX)
            self._loop.close()

    # --- on the relay's thread ---

    async def _listen(self) -> None:
        self._servers: list[asyncio.Server] = []
        for seat in range(self._seats):
            for port in self._ports:
                self._servers.append(await asyncio.start_server(self._accept(seat, port), self.host(seat), port))
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda seat=seat: _Datagrams(lambda data, source: self._datagram(seat, data, source)),  # type: ignore[misc]
                local_addr=(self.host(seat), self._ports[1]),
            )
            self._datagrams[seat] = transport

    def _accept(self, seat: int, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connect(seat, port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accepted

    async def _connect(
        self, target: int, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers = [writer]
        try:
            source = await self._loop.run_in_executor(None, self._whose, writer.get_extra_info("peername"))
            far_reader, far_writer = await asyncio.open_connection(self.bind(target), port)
            writers.append(far_writer)
            ways = [self._pass(source, target, reader, far_writer), self._pass(target, source, far_reader, writer)]
            tasks = [self._loop.create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # nobody listens there now: the other side sees its connection end
        finally:
            for each in writers:
                each.close()

    async def _pass(self, source: int, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            while (source, target) in self._cuts:
                await self._mended.wait()
            writer.write(data)
            await writer.drain()

    def _whose(self, address: tuple[str, int]) -> int:
        """The seat whose process connects from there; -1: nobody's."""
        for pid, seat in reversed(list(self._pids.items())):
            try:
                connections = psutil.Process(pid).net_connections("tcp")
            except psutil.Error:
                continue
            if any(tuple(each.laddr) == address for each in connections):
                return seat
        return -1

    def _datagram(self, target: int, data: bytes, source: tuple[str, int]) -> None:
        seat = int(source[0].rpartition(".")[2]) - 1
        if (seat, target) in self._cuts or seat not in self._datagrams or self._rng.random() < self._loss:
            return
        where = (self.bind(target), self._ports[1])
        self._loop.call_later(self._delay_s, self._datagrams[seat].sendto, data, where)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.datagram_received = received  # type: ignore[method-assign,assignment]
