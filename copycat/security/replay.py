"""Which datagrams were seen before. No clock is asked: numbers alone decide.

Each sender numbers what it sends from 1, and each of its starts has a number too, which its disk keeps. A later start
replaces an earlier one for good, so that nothing recorded before it is taken again; within a start a window tells what
was seen, and everything behind the window counts as seen. (RFC 4303, section 3.4.3, has the same window.)

A machine that lost power may give the same number to two starts, if its disk was told not to sync. Each process also draws
a random mark, so such two are told apart, and each keeps its own window.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

WINDOW = 1024
SENDERS_MAX = 8192
MARKS_MAX = 4
_MASK = (1 << WINDOW) - 1


@dataclass(slots=True)
class Window:
    """Numbers from 1: the highest that was seen, and which of the ``WINDOW`` up to it were."""

    highest: int = 0
    _seen: int = 0

    def take(self, number: int) -> bool:
        """Note ``number``; False if it was seen before, or may have been."""
        ahead = number - self.highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) & _MASK if ahead < WINDOW else 0) | 1
            self.highest = number
            return True
        if -ahead >= WINDOW or number <= 0:
            return False
        bit = 1 << -ahead
        if self._seen & bit:
            return False
        self._seen |= bit
        return True


@dataclass(slots=True)
class _Sender:
    start: int
    windows: OrderedDict[tuple[bytes, int], Window] = field(default_factory=OrderedDict)


class Replays:
    """What was seen of each sender. Bounded: of too many senders, the one longest silent is forgotten.

    ``starts`` is what :meth:`starts` returned in an earlier life.
    """

    def __init__(self, starts: dict[str, int] | None = None) -> None:
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self.changed = False
        """Whether :meth:`starts` has changed since somebody set this to False."""
        for sender, start in (starts or {}).items():
            self._senders[sender] = _Sender(start)

    def take(self, sender: str, start: int, mark: bytes, channel: int, number: int) -> bool:
        """Note what came, and has been authenticated; False if it was seen before, or may have been."""
        known = self._senders.get(sender)
        if known is None or start > known.start:
            known = self._senders[sender] = _Sender(start)
            self.changed = True
            if len(self._senders) > SENDERS_MAX:
                self._senders.popitem(last=False)
        elif start < known.start:
            return False
        self._senders.move_to_end(sender)
        window = known.windows.get((mark, channel))
        if window is None:
            window = known.windows[mark, channel] = Window()
            if len(known.windows) > MARKS_MAX * 2:
                known.windows.popitem(last=False)
        return window.take(number)

    def starts(self) -> dict[str, int]:
        """The last known start of each sender: what is worth keeping on disk."""
        return {name: sender.start for name, sender in self._senders.items()}
