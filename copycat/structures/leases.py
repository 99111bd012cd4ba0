"""What one copy at a time may hold: a lock, an office. Leases and fencing tokens.

Rules:

* The log says who holds it. Each holding has a token, larger than all before it. Whoever is asked to act for a holder can
  refuse tokens below the largest it has seen: nothing else protects from a holder that was paused and does not know that its
  time is over (Gray & Cheriton, "Leases", 1989; Burrows, "The Chubby lock service", 2006, section 2.4).
* The end of a lease is an operation like any other: ``expire`` names the token and the renewal that it has seen, and does
  nothing if there was another renewal since. So all copies agree, whatever their clocks say.
* Whoever wants the lock may ask for that once it has itself seen the same renewal for the lease and a tenth, by its own monotonic
  clock. The holder counts its lease from before it asked for it. It asked before anybody could see it, so it stops first.

The assumption is on rates alone: no two monotonic clocks run apart by more than a tenth. What the clocks show doesn't matter.
The holder's copy renews by itself, at a third of the lease, for as long as the structure is open.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from copycat.errors import CopyCatError, LeaseLost, Timeout, UsageError
from copycat.structures.operations import operation, query
from copycat.structures.packing import fresh, refuse_unless
from copycat.structures.replicated import Replicated
from copycat.structures.verbs import Begin, Until, Verb

DEFAULT_LEASE_S = 10.0
PATIENCE = 1.1


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds it: the client's id, the fencing token, how often it was renewed, the lease, and what the holder says."""

    owner: bytes | None = None
    token: int = 0
    renewal: int = 0
    lease_s: float = 0.0
    value: Any = None


@dataclass(frozen=True, slots=True)
class Own:
    """What this copy holds. ``until`` is on its monotonic clock."""

    token: int
    until: float
    renew_at: float


class Leased(Replicated):
    """The common part of :class:`Lock` and :class:`Election`. ``lease_s`` is how long a holder may be silent."""

    def __init__(self, *args: Any, lease_s: float = DEFAULT_LEASE_S, **named: Any) -> None:
        super().__init__(*args, **named)
        if not lease_s > 0:
            raise UsageError(f"lease_s must be more than 0, not {lease_s!r}")
        self.lease_s = lease_s
        self._holding = Holding()
        self._own: Own | None = None
        self._seekers = 0
        self._renewing = False

    def snapshot(self) -> Any:
        """Who holds it."""
        holding = self._holding
        return [holding.owner, holding.token, holding.renewal, holding.lease_s, holding.value]

    def restore(self, state: Any) -> None:
        """Hold this."""
        self._holding = Holding(*state)

    # --- operations ---

    @operation
    def seize(self, owner: bytes, lease_s: float, value: Any) -> int:
        """Give it to ``owner`` if it is free: the token, or 0."""
        refuse_unless(isinstance(owner, bytes), "an owner is a client's id, in bytes")
        refuse_unless(isinstance(lease_s, (int, float)) and lease_s > 0, "a lease is a number of seconds above 0")
        if self._holding.owner is not None:
            return 0
        self._holding = Holding(owner, self._holding.token + 1, 0, lease_s, value)
        return self._holding.token

    @operation
    def renew(self, owner: bytes, token: int) -> bool:
        """The holder is alive; whether it is still the holder."""
        held = self._holding
        if held.owner != owner or held.token != token:
            return False
        self._holding = Holding(owner, token, held.renewal + 1, held.lease_s, held.value)
        return True

    @operation
    def give_up(self, owner: bytes, token: int) -> bool:
        """The holder doesn't want it any more; whether it still was the holder."""
        if self._holding.owner != owner or self._holding.token != token:
            return False
        self._holding = Holding(token=token)
        return True

    @operation
    def expire(self, token: int, renewal: int) -> bool:
        """Take it from a holder that was silent since this renewal; whether it was."""
        if self._holding.owner is None or self._holding.token != token or self._holding.renewal != renewal:
            return False
        self._holding = Holding(token=token)
        return True

    # --- holding it ---

    @property
    def token(self) -> int:
        """The largest fencing token given out so far, as this copy knows it; 0: none."""
        return self._read().token

    @property
    def held(self) -> bool:
        """Whether this copy holds it for certain, now. It may be over as soon as this has returned: use the token."""
        own = self._own
        return own is not None and time.monotonic() < own.until

    @query
    def _read(self) -> Holding:
        return self._holding

    def _seizing(self, timeout: float | None, value: Any) -> Verb[int]:
        """Wait for it, and take it: the token. Raises :class:`~copycat.errors.Timeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.held:
            raise UsageError("this copy holds it already")
        self._seekers += 1
        try:
            while True:
                asked = time.monotonic()
                token: int = yield Begin(Leased.seize, self._client, self.lease_s, value)
                if token:
                    self._own = Own(token, asked + self.lease_s, asked + self.lease_s / 3)
                    self._prod()
                    return token
                yield from self._waiting(deadline)
        finally:
            self._seekers -= 1

    def _waiting(self, deadline: float | None) -> Verb[None]:
        """Until it is free, or made free since its holder was silent for too long."""
        while (seen := self._holding).owner is not None:
            silent_at = time.monotonic() + seen.lease_s * PATIENCE
            until = silent_at if deadline is None else min(deadline, silent_at)
            if (yield Until(lambda seen=seen: self._holding != seen, until)):  # type: ignore[misc]
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise Timeout("somebody else held it all the time")
            yield Begin(Leased.expire, seen.token, seen.renewal)

    def _giving_up(self) -> Verb[None]:
        own, self._own = self._own, None
        if own is None:
            raise UsageError("this copy does not hold it")
        if not (yield Begin(Leased.give_up, self._client, own.token)):
            raise LeaseLost(f"token {own.token} was not held any more: its lease was not renewed in time")

    def close(self) -> None:
        """Give up what is held, and detach."""
        own, self._own = self._own, None
        if own is not None and self._ended is None:
            try:
                self._begin(Leased.give_up, [self._client, own.token])
            except CopyCatError:
                pass  # the lease ends by itself
        super().close()

    # --- on the copy's own thread ---

    def _idle(self, now: float) -> float | None:
        self._drop_unwanted()
        own = self._own
        if own is None:
            return None if self._holding.owner != self._client else now + self.lease_s / 3
        if self._holding.token > own.token or (self._holding.token == own.token and self._holding.owner is None):
            self._own = None
            return None
        if now >= own.renew_at and not self._renewing:
            self._send_renewal(own, now)
        return max(own.renew_at, now + self.lease_s / 20)

    def _prod(self) -> None:
        """Have the copy's own thread look at the clock: it sleeps until something is committed."""
        own = self._own
        assert own is not None
        self._send_renewal(own, time.monotonic())

    def _send_renewal(self, own: Own, now: float) -> None:
        try:
            sent = self._begin(Leased.renew, [self._client, own.token])
        except CopyCatError:
            return
        if sent is None:
            return
        self._renewing = True

        def renewed(done: Future[Any]) -> None:
            self._renewing = False
            if self._own is None or self._own.token != own.token:
                return
            if done.exception() is None and done.result():
                self._own = Own(own.token, now + self.lease_s, now + self.lease_s / 3)
            elif done.exception() is None:
                self._own = None

        sent.add_done_callback(renewed)

    def _drop_unwanted(self) -> None:
        """A call that ran out of time may have seized it nevertheless: nobody knows, so nobody would give it up."""
        held = self._holding
        if held.owner == self._client and self._own is None and not self._seekers:
            try:
                self._begin(Leased.give_up, [self._client, held.token])
            except CopyCatError:
                pass


class Lock(Leased):
    """A lock that one copy at a time holds, with a lease and a fencing token. Not reentrant."""

    def acquire(self, timeout: float | None = None) -> int:
        """Wait for it, and hold it: the fencing token. Raises :class:`~copycat.errors.Timeout`."""
        return self._run(self._seizing(timeout, None))

    async def aacquire(self, timeout: float | None = None) -> int:
        """:meth:`acquire`, for tasks."""
        return await self._arun(self._seizing(timeout, None))

    def release(self) -> None:
        """Hold it no more. Raises :class:`~copycat.errors.LeaseLost` if it had been lost before."""
        self._run(self._giving_up())

    async def arelease(self) -> None:
        """:meth:`release`, for tasks."""
        await self._arun(self._giving_up())

    @contextmanager
    def hold(self, timeout: float | None = None) -> Iterator[int]:
        """``with lock.hold() as token:`` acquires, and releases."""
        token = self.acquire(timeout)
        try:
            yield token
        finally:
            self.release()

    @property
    def owner(self) -> bytes | None:
        """The client id of the copy that holds it, as this copy knows it; see :attr:`client`."""
        return self._read().owner

    @property
    def client(self) -> bytes:
        """This copy's client id: new with each object."""
        return self._client

    @property
    def locked(self) -> bool:
        """Whether anybody holds it, as this copy knows it."""
        return self.owner is not None

    def _describe(self) -> str:
        held = self._holding
        return f"{'free' if held.owner is None else 'held'}, token {held.token}, {super()._describe()}"


@dataclass(frozen=True, slots=True)
class Leader:
    """Who was elected: what the candidate said of itself, and the term, which is a fencing token."""

    candidate: Any
    term: int


class Election(Leased):
    """One of many candidates leads, for as long as it is alive. ``candidate`` is what this one says of itself."""

    def __init__(self, *args: Any, candidate: Any = None, **named: Any) -> None:
        super().__init__(*args, **named)
        self.candidate = candidate

    def campaign(self, timeout: float | None = None) -> int:
        """Wait until this copy is elected: its term. Raises :class:`~copycat.errors.Timeout`."""
        return self._run(self._seizing(timeout, self.candidate))

    async def acampaign(self, timeout: float | None = None) -> int:
        """:meth:`campaign`, for tasks."""
        return await self._arun(self._seizing(timeout, self.candidate))

    def resign(self) -> None:
        """Lead no more. Raises :class:`~copycat.errors.LeaseLost` if the office had been lost before."""
        self._run(self._giving_up())

    async def aresign(self) -> None:
        """:meth:`resign`, for tasks."""
        await self._arun(self._giving_up())

    @property
    def leads(self) -> bool:
        """Whether this copy leads for certain, now. It may be over as soon as this has returned: use the term."""
        return self.held

    @property
    def leader(self) -> Leader | None:
        """Who leads, as this copy knows it."""
        held = self._read()
        return None if held.owner is None else Leader(fresh(held.value), held.token)

    def _describe(self) -> str:
        held = self._holding
        return f"{'nobody leads' if held.owner is None else held.value}, term {held.token}, {super()._describe()}"
