"""Local health: how far this node may trust its own view of others (Lifeguard, section IV-A).

The score counts signs that this node is the slow one: probes that fail, helpers whose nack did not come, accusations
it had to refute, turns that came late. At 0 all is well; a score of n makes the node wait n + 1 times as long.
"""

from __future__ import annotations


class Awareness:
    __slots__ = ("_score_max", "score")

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def add(self, delta: int) -> None:
        """Count good (negative) or bad (positive) signs; the score stays within 0 and its maximum."""
        self.score = min(self._score_max, max(0, self.score + delta))

    def scale(self, seconds: float) -> float:
        """A period stretched to what this node can be trusted to keep."""
        return seconds * (self.score + 1)
