"""How long a suspect has to defend itself (SWIM, section 4.2; Lifeguard, section IV-B).

A lone accuser may itself be the slow one, so its suspicion starts with the longest timeout; each further member that
accuses independently shortens it, on a logarithmic scale, down to the minimum.
"""

from __future__ import annotations

import math


def suspicion_timeout_min(multiplier: float, members: int, probe_interval_s: float) -> float:
    """The shortest timeout, in seconds: ``multiplier x max(1, log10 members) x probe interval``."""
    return multiplier * max(1.0, math.log10(max(1, members))) * probe_interval_s


def remaining_suspicion(
    confirmations: int, confirmations_needed: int, elapsed_s: float, minimum_s: float, maximum_s: float
) -> float:
    """Seconds until a suspect counts as dead; zero or less: now (Lifeguard, formula for LHA-Suspicion).

    ``timeout = max(min, max - (max - min) x log(C + 1) / log(K + 1))``, less the time that has passed since the first
    accusation. With ``confirmations_needed`` 0 nobody else could confirm, and the minimum applies.
    """
    if confirmations_needed < 1:
        return minimum_s - elapsed_s
    share = math.log(confirmations + 1.0) / math.log(confirmations_needed + 1.0)
    return max(minimum_s, maximum_s - (maximum_s - minimum_s) * share) - elapsed_s


class Suspicion:
    """One running suspicion. Each accuser counts once, and only the first ``confirmations_needed`` of them."""

    __slots__ = ("_accusers", "_confirmations_needed", "_maximum_s", "_minimum_s", "_since")

    def __init__(self, now: float, accuser: str, confirmations_needed: int, minimum_s: float, maximum_s: float) -> None:
        self._since = now
        self._accusers = {accuser}
        self._confirmations_needed = confirmations_needed
        self._minimum_s = minimum_s
        self._maximum_s = maximum_s

    def confirm(self, accuser: str) -> bool:
        """Count an accusation; False if this accuser, or enough of them, have been counted before."""
        if len(self._accusers) > self._confirmations_needed or accuser in self._accusers:
            return False
        self._accusers.add(accuser)
        return True

    def deadline(self) -> float:
        """When the suspect counts as dead, as things stand."""
        confirmations = len(self._accusers) - 1
        return self._since + remaining_suspicion(
            confirmations, self._confirmations_needed, 0.0, self._minimum_s, self._maximum_s
        )
